"""The kinds that metrics begin at 0 are those that the code can record."""

import re
from pathlib import Path

import payment_intake
from payment_intake.metrics import CONFLICTS


class TestConflicts:
    def test_are_all_counted_from_the_start(self):
        package = Path(payment_intake.__file__).parent
        recorded = {
            kind
            for path in package.rglob("*.py")
            for kind in re.findall(r'Conflict\(\s*kind="(\w+)"', path.read_text())
        }
        assert recorded == set(CONFLICTS)

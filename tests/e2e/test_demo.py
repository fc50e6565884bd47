"""The demo as a newcomer runs it: one command, in a process of its own."""

import os
import subprocess
import sys

import pytest
from tests.support.processes import eventually, mentioning

TIMEOUT_SECONDS = 240


@pytest.mark.stack
class TestDemo:
    def test_holds_shows_what_happened_and_leaves_nothing_behind(self, tmp_path):
        ended = subprocess.run(
            [sys.executable, "-m", "paypost", "demo"],
            env=os.environ | {"PAYPOST_STATE_DIR": str(tmp_path), "PAYPOST_STACK": "e2e"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        for line in (
            "Paypost takes a city's payments from the processor to the ledger",
            "SIGKILL to cis-poster; the supervisor starts it again",
            "How long it took, by when the payment was accepted",
            "stated payment.delayed",
            "Su pago de $65.00",
            "Autopay: the notice before a charge",
            "Autopay: declined, and charged three days later",
            "SIGKILL to the scheduler, both are presented again",
            "cancelled: cancelled",
            "account_unknown",
            "311 / 25,493.35",
            "310 / 25,433.35",
            "verify: holds. lost 0, twice 0, invented 0",
            "The demo holds: everything is stopped again",
        ):
            assert line in ended.stdout, line
        assert "✗" not in ended.stdout
        eventually(lambda: mentioning(str(tmp_path)) == [])

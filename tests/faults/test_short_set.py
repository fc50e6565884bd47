"""The part of the campaign that every change has to pass; `make faults` runs all of it."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.campaign import run_faults
from tests.faults.journals import Journals
from tests.faults.load import Shape
from tests.faults.registry import Fault, Needs, load_catalogue
from tests.faults.stacks import stack_for

from paypost.stack.local import LocalStack

pytestmark = pytest.mark.stack

SEED = 5
LOAD = Shape(payments=70, tail=6, charges=10, accounts=25, lead_seconds=1.0, lag_seconds=0.5)
SHORT = [kind for kind in load_catalogue().values() if kind.declaration.short]


def _name(kind: type[Fault] | None) -> str:
    return "calm" if kind is None else f"fault-{kind.declaration.number}"


@pytest.fixture(scope="module")
def faults_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """One stack for all of them: each leaves it healthy."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    state_dir: Path = tmp_path_factory.mktemp("state")
    with stack_for(Needs(), name="faults-short", state_dir=state_dir) as running:
        yield running


class TestUnderFault:
    calm: Journals | None = None

    @pytest.mark.parametrize("kind", [None, *SHORT], ids=_name)
    async def test_nothing_is_lost_doubled_or_untold(
        self, faults_stack: LocalStack, tmp_path: Path, kind: type[Fault] | None
    ) -> None:
        outcome = await run_faults(
            [] if kind is None else [kind],
            name=_name(kind),
            seed=SEED,
            stack=faults_stack,
            folder=tmp_path / "journals",
            shape=LOAD,
            calm=TestUnderFault.calm,
        )
        if kind is None:
            TestUnderFault.calm = outcome.journals

        said = "\n".join(str(each) for each in outcome.violations)
        assert outcome.holds, f"seed {SEED}, journals in {outcome.folder}:\n{said}"

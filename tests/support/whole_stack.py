"""The whole system as separate processes: one for all end-to-end tests of a session."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.pipeline import Pipeline

from paypost.stack.local import LocalStack

SERVICES = ("payment-intake", "cis-poster", "autopay-scheduler", "notifier")
ACCOUNTS = tuple(f"E{number:04d}" for number in range(60))
IMPATIENT = {
    # What a city would wait half a minute for, a test waits seconds for.
    "PAYMENT_INTAKE_ANNOUNCE_AGAIN_AFTER_SECONDS": "3",
    "PAYMENT_INTAKE_CHARGES_PER_SECOND": "100",
    "PAYMENT_INTAKE_CHARGE_TIMEOUT_SECONDS": "3",
    "PAYMENT_INTAKE_CHARGE_LEASE_SECONDS": "13",
    "PAYMENT_INTAKE_CHARGE_BREAKER_PAUSE_SECONDS_MAX": "1",
    "AUTOPAY_SCHEDULER_REQUESTS_PER_SECOND": "50",
    "AUTOPAY_SCHEDULER_RESTATE_AFTER_SECONDS": "3",
    # From midnight and on any day, so that a test does not depend on when it is run.
    "AUTOPAY_SCHEDULER_CHARGE_TIME": "00:00",
    "AUTOPAY_SCHEDULER_BUSINESS_DAYS": "same",
    "CIS_POSTER_CIS_TIMEOUT_SECONDS": "2",
    "CIS_POSTER_LEASE_SECONDS": "8",
    "NOTIFIER_SEND_SECONDS_MAX": "5",
    "NOTIFIER_LEASE_SECONDS": "8",
    **{
        f"{prefix}_KAFKA_SESSION_TIMEOUT_SECONDS": "6"
        for prefix in ("PAYMENT_INTAKE", "CIS_POSTER", "AUTOPAY_SCHEDULER", "NOTIFIER")
    },
}


@pytest.fixture(scope="session")
def whole_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A running stack; a test that breaks it leaves it healthy."""
    state_dir: Path = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAYPOST_STATE_DIR", str(state_dir))
        environments = dict.fromkeys(SERVICES, IMPATIENT)
        with LocalStack(name="e2e", environments=environments, fresh=True) as running:
            yield running


@pytest.fixture
async def pipeline(whole_stack: LocalStack) -> AsyncIterator[Pipeline]:
    """What drives the stack, with its accounts open and their customers known."""
    async with Pipeline(stack=whole_stack) as driven:
        await driven.open_accounts(ACCOUNTS)
        yield driven

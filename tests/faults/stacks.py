"""The stacks that faults run on: settings that wait for less, and one stack for many faults."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.faults.registry import Environments, Needs
from tests.support.whole_stack import IMPATIENT, SERVICES

from paypost.stack.local import LocalStack

HASTY = IMPATIENT | {
    # A lost announcement is repeated soon, and never later than that.
    "PAYMENT_INTAKE_ANNOUNCE_AGAIN_CAP_SECONDS": "6",
    "PAYMENT_INTAKE_REQUEST_SECONDS_MAX": "3",
    "AUTOPAY_SCHEDULER_RESTATE_CAP_SECONDS": "6",
    "CIS_POSTER_CIS_TIMEOUT_SECONDS": "1.5",
    "CIS_POSTER_LEASE_SECONDS": "5",
    "CIS_POSTER_RETRY_CAP_SECONDS": "2",
    "CIS_POSTER_BREAKER_PAUSE_SECONDS_MAX": "1",
    "NOTIFIER_SMTP_REPLY_TIMEOUT_SECONDS": "2",
    "NOTIFIER_SEND_SECONDS_MAX": "3",
    "NOTIFIER_LEASE_SECONDS": "5",
    "NOTIFIER_RETRY_CAP_SECONDS": "2",
    "NOTIFIER_BREAKER_PAUSE_SECONDS_MAX": "1",
}
"""What a city waits half a minute for, the campaign waits seconds for; nothing else differs."""

SESSION_SECONDS = float(IMPATIENT["CIS_POSTER_KAFKA_SESSION_TIMEOUT_SECONDS"])
"""How long a silent consumer keeps its partitions."""


@contextlib.contextmanager
def stack_for(needs: Needs, *, name: str, state_dir: Path) -> Iterator[LocalStack]:
    """A fresh stack as a fault needs it, gone on leaving.

    Raises:
        ProcessFailedError and what else `LocalStack.up` raises: it does not start.
    """
    environments: Environments = {
        service: {
            **{key: value for key, value in HASTY.items() if key.startswith(_prefix(service))},
            **needs.environments.get(service, {}),
        }
        for service in SERVICES
    } | {name: values for name, values in needs.environments.items() if name not in SERVICES}
    before = os.environ.get("PAYPOST_STATE_DIR")
    os.environ["PAYPOST_STATE_DIR"] = str(state_dir)
    try:
        if needs.open is not None:
            with needs.open(name, environments) as stack:
                yield stack
        else:
            with LocalStack(name=name, environments=environments, fresh=True) as stack:
                yield stack
            _wipe(stack)
    finally:
        if before is None:
            del os.environ["PAYPOST_STATE_DIR"]
        else:
            os.environ["PAYPOST_STATE_DIR"] = before


def _wipe(stack: LocalStack) -> None:
    """What was to be kept of a run was copied; a stack's data are hundreds of megabytes."""
    lock = stack.directory.acquire()
    try:
        stack.directory.wipe()
    finally:
        lock.release()


def _prefix(service: str) -> str:
    return f"{service.replace('-', '_')}_".upper()

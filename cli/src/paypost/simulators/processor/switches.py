"""The processor's switches: how it is told to be slow, away, or to act and not say so.

| switch | what a caller meets | kept under its idempotency key |
|---|---|---|
| `latency_ms`, `jitter_ms` | time passes before anything is done | |
| `answer_delay_ms` | it is done, and the answer comes that much later | yes |
| `down` | 503 at the edge, nothing done | no |
| `rate_limited` | 429, nothing done | no |
| `connection_reset` | the connection is reset, nothing done | no |
| `connection_reset_after_effect` | it is done, then the connection is reset | yes |
| `timeout_before_effect` | never an answer, nothing done | no |
| `timeout_after_effect` | it is done, never an answer | yes |
| `error_before_effect` | 500 at the edge, nothing done | no |
| `error_instead_of_effect` | 500 by the endpoint, nothing done | yes: repeated for 24 hours |
| `error_after_effect` | it is done and answered 500 | yes: repeated for 24 hours |
| `webhooks_off` | its events are never sent | |
| `webhooks_first` | the answer waits until its events were sent | |

A switch is `true`, or an object that narrows it: `count`, `share`, `operations`, `subjects`.
Subjects are whatever stands in the metadata (account numbers, Paypost's charge ids), customers,
payment methods, and intents. What Stripe keeps under a key: its API reference, "Idempotent
requests".
"""

import asyncio
import random
from collections.abc import Collection, Mapping
from typing import Any

from paypost.simulators.faults import (
    Fault,
    MalformedSwitchError,
    parse_milliseconds,
    parse_scope,
)

CREATE = "create"
CONFIRM = "confirm"
MODIFY = "modify"
CANCEL = "cancel"
REFUND = "refund"
READ = "read"
SETUP = "setup"
"""Customers and payment methods."""

SETTLE = "settle"
"""What happens without a request: debits and refunds whose day has come."""

MUTATIONS = frozenset({CREATE, CONFIRM, MODIFY, CANCEL, REFUND})
REQUESTS = MUTATIONS | {READ, SETUP}
OPERATIONS = REQUESTS | {SETTLE}

# Which operations a switch meets unless it says so itself.
DEFAULT_OPERATIONS = {
    "down": REQUESTS,
    "rate_limited": REQUESTS,
    "connection_reset": REQUESTS,
    "connection_reset_after_effect": MUTATIONS,
    "timeout_before_effect": MUTATIONS,
    "timeout_after_effect": MUTATIONS,
    "error_before_effect": MUTATIONS,
    "error_instead_of_effect": MUTATIONS,
    "error_after_effect": MUTATIONS,
    "webhooks_off": OPERATIONS,
    "webhooks_first": OPERATIONS,
}
DURATIONS = {"latency_ms": 0.0, "jitter_ms": 0.0, "answer_delay_ms": 0.0, "hang_ms": 300_000.0}
HANGING = frozenset({"timeout_before_effect", "timeout_after_effect", "hang_ms"})


class Switches:
    """The state of all switches; `chance` decides shares and jitter, so a seed repeats a run."""

    def __init__(self, *, chance: random.Random) -> None:
        self._chance = chance
        self._faults: dict[str, Fault] = {}
        self._durations = dict(DURATIONS)
        # Set and replaced when a hanging switch changes: what hangs is let go then.
        self.let_go = asyncio.Event()

    @property
    def hang_seconds(self) -> float:
        """Return how long an answer is withheld from a caller that does not go."""
        return self._durations["hang_ms"] / 1000

    @property
    def answer_delay_seconds(self) -> float:
        """Return by how much answers are late."""
        return self._durations["answer_delay_ms"] / 1000

    def delay_seconds(self) -> float:
        """Return how long this request waits before anything is done."""
        latency_ms, jitter_ms = self._durations["latency_ms"], self._durations["jitter_ms"]
        if not latency_ms and not jitter_ms:
            return 0.0
        return max(0.0, latency_ms + self._chance.uniform(-jitter_ms, jitter_ms)) / 1000

    def meets(self, name: str, *, operation: str, subjects: Collection[str]) -> bool:
        """Decide whether the switch of this name hits a request; counts it if so."""
        fault = self._faults.get(name)
        if fault is None:
            return False
        hit = fault.meets(operation=operation, subjects=subjects, chance=self._chance)
        if fault.spent:
            del self._faults[name]
        return hit

    def reset(self) -> None:
        """Switch everything off and let go what hangs."""
        self._faults.clear()
        self._durations = dict(DURATIONS)
        self._announce()

    def change(self, wanted: object) -> None:
        """Set the switches that are named and leave the others; all or none.

        Raises MalformedSwitchError.
        """
        if not isinstance(wanted, Mapping):
            raise MalformedSwitchError(field="body", message="must be an object")
        faults, durations = dict(self._faults), dict(self._durations)
        for name, value in wanted.items():
            if name in DURATIONS:
                durations[name] = parse_milliseconds(value, field=name)
                continue
            if name not in DEFAULT_OPERATIONS:
                raise MalformedSwitchError(field=str(name), message="is not a switch")
            scope = parse_scope(
                value,
                field=name,
                subjects_as="subjects",
                operations_allowed=OPERATIONS,
                operations_default=DEFAULT_OPERATIONS[name],
            )
            faults.pop(name, None)
            if scope is not None and scope.count != 0:
                faults[name] = Fault(scope=scope)
        self._faults, self._durations = faults, durations
        if not HANGING.isdisjoint(wanted):
            self._announce()

    def describe(self) -> dict[str, Any]:
        """Return every switch as it stands; what is off is false or 0."""
        described: dict[str, Any] = dict(self._durations)
        for name in DEFAULT_OPERATIONS:
            fault = self._faults.get(name)
            described[name] = fault.describe(subjects_as="subjects") if fault else False
        return described

    def _announce(self) -> None:
        let_go, self.let_go = self.let_go, asyncio.Event()
        let_go.set()

"""The CIS's switches: how it is told to be slow, away, or wrong.

Each switch answers for one way in which real CISs fail; docs/cis-protocol.md lists them.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Mapping
from typing import Any

from paypost.simulators.faults import (
    Fault,
    MalformedSwitchError,
    parse_milliseconds,
    parse_scope,
)

POST = "post"
FIND = "find"
OPERATIONS = frozenset({POST, FIND})

# Which operations a switch meets unless it says so itself.
DEFAULT_OPERATIONS = {
    "down": OPERATIONS,
    "hang": OPERATIONS,
    "wrong_answer": OPERATIONS,
    "timeout_before_apply": frozenset({POST}),
    "timeout_after_apply": frozenset({POST}),
    "error_before_apply": frozenset({POST}),
    "error_after_apply": frozenset({POST}),
    "batch_closed": frozenset({POST}),
    "exists_other_amount": frozenset({POST}),
}

# In a batch call these meet single postings when the switch names accounts; others meet the call.
OF_SINGLE_POSTINGS = ("down", "batch_closed", "exists_other_amount")

HANGING = frozenset({"hang", "timeout_before_apply", "timeout_after_apply"})


class Switches:
    """The state of all switches; `chance` decides shares and jitter, so a seed repeats a run."""

    def __init__(self, *, chance: random.Random, monotonic: Callable[[], float]) -> None:
        self._chance = chance
        self._monotonic = monotonic
        self._faults: dict[str, Fault] = {}
        self._latency_ms = 0.0
        self._jitter_ms = 0.0
        self._flapping_ms = 0.0
        self._flapping_since = 0.0
        self.hang_seconds = 300.0
        self.quiet = True
        # Set and replaced when a hanging switch changes: what hangs is let go then.
        self.let_go = asyncio.Event()

    def delay_seconds(self) -> float:
        """Return how long this request is to be kept before anything else, in seconds."""
        if not self._latency_ms and not self._jitter_ms:
            return 0.0
        jitter_ms = self._chance.uniform(-self._jitter_ms, self._jitter_ms)
        return max(0.0, self._latency_ms + jitter_ms) / 1000

    def flapped_down(self) -> bool:
        """Say whether flapping has the CIS down now: the second half of each period."""
        if not self._flapping_ms:
            return False
        since_ms = (self._monotonic() - self._flapping_since) * 1000
        return since_ms % self._flapping_ms >= self._flapping_ms / 2

    def meets(self, name: str, *, operation: str, accounts: Collection[str]) -> bool:
        """Decide whether the switch of this name hits a request; counts it if so."""
        fault = self._faults.get(name)
        if fault is None:
            return False
        hit = fault.meets(operation=operation, subjects=accounts, chance=self._chance)
        if fault.spent:
            del self._faults[name]
            self._settle()
        return hit

    def names_accounts(self, name: str) -> bool:
        """Say whether the switch is on, and for certain accounts only."""
        fault = self._faults.get(name)
        return fault is not None and fault.scope.subjects is not None

    def reset(self) -> None:
        """Switch everything off and let go what hangs."""
        self._faults.clear()
        self._latency_ms = self._jitter_ms = self._flapping_ms = 0.0
        self.hang_seconds = 300.0
        self._settle()
        self._announce()

    def change(self, wanted: object) -> None:
        """Set the switches that are named and leave the others; all or none.

        Raises MalformedSwitchError.
        """
        if not isinstance(wanted, Mapping):
            raise MalformedSwitchError(field="body", message="must be an object")
        faults = dict(self._faults)
        durations: dict[str, float] = {}
        for name, value in wanted.items():
            if name in DEFAULT_OPERATIONS:
                scope = parse_scope(
                    value,
                    field=name,
                    subjects_as="accounts",
                    operations_allowed=OPERATIONS,
                    operations_default=DEFAULT_OPERATIONS[name],
                )
                faults.pop(name, None)
                if scope is not None and scope.count != 0:
                    faults[name] = Fault(scope=scope)
            elif name == "flapping":
                period = value.get("period_ms") if isinstance(value, Mapping) else value
                durations[name] = parse_milliseconds(period or 0, field="flapping.period_ms")
            elif name in {"latency_ms", "jitter_ms", "hang_ms"}:
                durations[name] = parse_milliseconds(value, field=name)
            else:
                raise MalformedSwitchError(field=str(name), message="is not a switch")
        self._faults = faults
        self._latency_ms = durations.get("latency_ms", self._latency_ms)
        self._jitter_ms = durations.get("jitter_ms", self._jitter_ms)
        self.hang_seconds = durations.get("hang_ms", self.hang_seconds * 1000) / 1000
        if "flapping" in durations:
            self._flapping_ms = durations["flapping"]
            self._flapping_since = self._monotonic()
        self._settle()
        if not HANGING.isdisjoint(wanted):
            self._announce()

    def describe(self) -> dict[str, Any]:
        """Return every switch as it stands; what is off is false or 0."""
        described: dict[str, Any] = {
            "latency_ms": self._latency_ms,
            "jitter_ms": self._jitter_ms,
            "hang_ms": self.hang_seconds * 1000,
            "flapping": {"period_ms": self._flapping_ms} if self._flapping_ms else False,
        }
        for name in DEFAULT_OPERATIONS:
            fault = self._faults.get(name)
            described[name] = fault.describe(subjects_as="accounts") if fault else False
        return described

    def _settle(self) -> None:
        self.quiet = not (self._faults or self._latency_ms or self._jitter_ms or self._flapping_ms)

    def _announce(self) -> None:
        let_go, self.let_go = self.let_go, asyncio.Event()
        let_go.set()

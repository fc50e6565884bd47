"""The mail sink's switches: how it is told to refuse, to hang, or to lose its answer."""

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

MAIL = "mail"

NAMES = (
    "temporary_failure",
    "permanent_failure",
    "refuse_recipient",
    "refuse_connection",
    "hang",
    "drop_answer",
)


class Switches:
    """The state of all switches; `chance` decides shares, so that a seed repeats a run."""

    def __init__(self, *, chance: random.Random) -> None:
        self._chance = chance
        self._faults: dict[str, Fault] = {}
        self.latency_ms = 0.0
        self.hang_seconds = 600.0
        # Set and replaced when the hang is changed: what hangs is let go then.
        self.let_go = asyncio.Event()

    def meets(self, name: str, *, addresses: Collection[str]) -> bool:
        """Decide whether the switch of this name hits a message; counts it if so."""
        fault = self._faults.get(name)
        if fault is None:
            return False
        hit = fault.meets(operation=MAIL, subjects=addresses, chance=self._chance)
        if fault.spent:
            del self._faults[name]
        return hit

    def reset(self) -> None:
        """Switch everything off and let go what hangs."""
        self._faults.clear()
        self.latency_ms = 0.0
        self.hang_seconds = 600.0
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
            if name in NAMES:
                scope = parse_scope(
                    value,
                    field=name,
                    subjects_as="addresses",
                    operations_allowed=frozenset({MAIL}),
                )
                faults.pop(name, None)
                if scope is not None and scope.count != 0:
                    faults[name] = Fault(scope=scope)
            elif name in {"latency_ms", "hang_ms"}:
                durations[name] = parse_milliseconds(value, field=name)
            else:
                raise MalformedSwitchError(field=str(name), message="is not a switch")
        self._faults = faults
        self.latency_ms = durations.get("latency_ms", self.latency_ms)
        self.hang_seconds = durations.get("hang_ms", self.hang_seconds * 1000) / 1000
        if "hang" in wanted:
            self._announce()

    def describe(self) -> dict[str, Any]:
        """Return every switch as it stands; what is off is false or 0."""
        described: dict[str, Any] = {
            "latency_ms": self.latency_ms,
            "hang_ms": self.hang_seconds * 1000,
        }
        for name in NAMES:
            fault = self._faults.get(name)
            described[name] = fault.describe(subjects_as="addresses") if fault else False
        return described

    def _announce(self) -> None:
        let_go, self.let_go = self.let_go, asyncio.Event()
        let_go.set()

"""What a fault has in its hands while it runs."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.controls import Controls
from tests.faults.load import Load

from paypost.stack.local import LocalStack


@dataclass(kw_only=True)
class Run:
    """One run of one fault, or of a mix of several.

    Attributes:
        seed: decides everything that is left to chance.
        chance: the fault's own source of it; the load has another.
        stack: what is being broken: its `supervisor`, `kafka`, `postgres` and `state`.
        controls: switches of the counterparts, SQL as superuser, Kafka's admin, usage of processes.
        load: what is sent; a fault may send more, which the oracles then expect.
        folder: where journals and logs of this run are kept.
        alone: whether the fault is the only one; in a mix others break things meanwhile.
        numbers: what the report is to say, by name.
        untold: references of payments whose customers cannot be told, as the fault will have it.
        poison: the records, by dead-letter stream, that must be there in the end and no others.
    """

    seed: int
    chance: random.Random
    stack: LocalStack
    controls: Controls
    load: Load
    folder: Path
    alone: bool = True
    numbers: dict[str, Any] = field(default_factory=dict)
    untold: set[str] = field(default_factory=set)
    poison: dict[str, list[bytes]] = field(default_factory=dict)

    def note(self, **numbers: Any) -> None:
        """Have the report say these numbers of the fault."""
        self.numbers |= numbers

    async def blocking(self, work: Any, *arguments: Any, **named: Any) -> Any:
        """Run what blocks (the supervisor's and servers' methods) beside the load."""
        return await asyncio.to_thread(work, *arguments, **named)

"""The processor's book: one fsynced JSON line for each request that changed anything.

Invariant: a line is on disk before its request is answered, so the book is the ground truth of how
often a customer was really charged, and the ledger is rebuilt from it after a crash. A line carries
the idempotency key with its answer, the records as they have become, and the events to be sent.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter

from paypost.simulators.append_log import AppendLog
from paypost.simulators.processor.records import Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the book."""

    at: datetime
    """By the processor's clock."""
    moved_seconds: float
    """How far the clock had been moved."""
    operation: str
    request_id: str | None = None
    path: str = ""
    key: str | None = None
    fingerprint: str = ""
    status: int = 200
    answer: Any = None
    """Kept under the key, so only where there is one."""
    silent: bool = False
    """Whether its events are never sent."""
    change: Change = field(default_factory=Change)


class Book:
    """The writer of a book; without a path nothing is kept."""

    def __init__(self, *, path: Path | None) -> None:
        self._log = AppendLog(path=path) if path else None
        if self._log is not None:
            self._log.open()

    @property
    def size_bytes(self) -> int:
        """Return how long the book is."""
        return self._log.size_bytes if self._log else 0

    async def append(self, *entries: Entry) -> None:
        """Return when these lines, and all handed over before, are on disk.

        With no lines: what was read is then sure to outlive a crash.
        """
        if self._log is not None:
            await self._log.append(b"".join(_render(entry) for entry in entries))

    async def close(self) -> None:
        """Write what is waiting, then close the file."""
        if self._log is not None:
            await self._log.close()


def read_book(path: Path) -> Iterator[Entry]:
    """Yield a book's lines in order; a last one still being written is left out.

    Raises OSError, pydantic.ValidationError on a line of another kind.
    """
    entries = TypeAdapter(Entry)
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield entries.validate_json(line)


def _render(entry: Entry) -> bytes:
    return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)

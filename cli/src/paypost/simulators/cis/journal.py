"""The CIS's journal: one fsynced JSON line per effect, the ground truth of every later proof.

Invariant: the journal's lines are exactly the ledger's postings, in the ledger's order. A line is
written after its effect was committed and before it is answered; a crash between the two leaves
lines missing at the end only, and `reconcile` adds these when the ledger is opened again.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from paypost.simulators.append_log import AppendLog
from paypost.simulators.cis.ledger import Entry

PAGE = 5_000


class JournalAheadError(Exception):
    """The journal holds effects that the ledger does not: the database was lost or exchanged."""

    def __init__(self, *, sequence: int, key: str) -> None:
        super().__init__(
            f"the journal's posting {key} (number {sequence}) is not on the ledger;"
            " give the journal of this database, or a new file for a new database"
        )
        self.sequence = sequence
        self.key = key


class Journal:
    """The journal's writer."""

    def __init__(self, *, path: Path) -> None:
        self._path = path
        self._log = AppendLog(path=path)
        self.last_sequence = 0
        self.last_key = ""

    def open(self) -> None:
        """Open the file and find where it ends. Raises OSError, ValueError on a foreign file."""
        self._log.open()
        for line in read_journal(self._path):
            self.last_sequence, self.last_key = line["sequence"], line["key"]

    async def append(self, entries: Sequence[Entry]) -> None:
        """Return when these entries, which must follow the last ones, are on disk."""
        if entries:
            self.last_sequence = entries[-1].sequence
            self.last_key = str(entries[-1].key)
        await self._log.append(render_lines(entries))

    async def reconcile(self, list_entries: Callable[[int, int], Awaitable[list[Entry]]]) -> int:
        """Append what the ledger holds and the journal does not; return how many lines that were.

        `list_entries(after, limit)` pages the ledger. Raises JournalAheadError.
        """
        if self.last_sequence:
            last = await list_entries(self.last_sequence - 1, 1)
            if not last or (last[0].sequence, str(last[0].key)) != (
                self.last_sequence,
                self.last_key,
            ):
                raise JournalAheadError(sequence=self.last_sequence, key=self.last_key)
        added = 0
        while entries := await list_entries(self.last_sequence, PAGE):
            await self.append(entries)
            added += len(entries)
        return added

    async def close(self) -> None:
        """Write what is waiting, then close the file."""
        await self._log.close()


def render_lines(entries: Iterable[Entry]) -> bytes:
    """Return the entries as journal lines."""
    return b"".join(
        orjson.dumps(
            {
                "sequence": entry.sequence,
                "key": entry.key,
                "kind": entry.kind.value,
                "account": entry.account,
                "amount_cents": entry.amount_cents,
                "currency": entry.currency,
                "payment_key": entry.payment_key,
                "cis_reference": entry.cis_reference,
                "posted_at": entry.posted_at,
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )
        for entry in entries
    )


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the journal's lines in order; a last one still being written is left out.

    Raises OSError, and ValueError on a line that is not JSON.
    """
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield orjson.loads(line)

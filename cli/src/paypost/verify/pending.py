"""Whether anything is still on its way: cheap enough to ask several times a second."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Any

import asyncpg

# Each count goes through a partial index that holds only what is unfinished.
_PENDING = """
SELECT
    (SELECT count(*) FROM payment_intake.outbox)
        + (SELECT count(*) FROM cis_poster.outbox)
        + (SELECT count(*) FROM notifier.outbox) AS outboxes,
    (SELECT count(*) FROM payment_intake.movements
        WHERE announce_at IS NOT NULL AND status IN ('announced', 'posted')) AS movements,
    (SELECT count(*) FROM cis_poster.postings WHERE status = 'waiting') AS waiting,
    (SELECT count(*) FROM cis_poster.postings
        WHERE status IN ('due', 'attempting', 'unknown')) AS postings,
    (SELECT count(*) FROM notifier.notifications WHERE status IN ('due', 'sending')) AS notices,
    (SELECT count(*) FROM cis_poster.postings p
        JOIN payment_intake.movements m ON m.id = p.id
        WHERE p.status IN ('suspended', 'conflicted') AND m.status = 'announced') AS unheard
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """What is on its way, by where it is."""

    outboxes: int
    """Facts that wait for Kafka."""
    movements: int
    """Accepted, and not yet posted and told."""
    waiting: int
    """Reversals that wait for a payment: at rest until that comes."""
    postings: int
    notices: int
    unheard: int
    """Suspended at the poster, which intake has not heard of."""

    @property
    def total(self) -> int:
        """How much is on its way; what waits for a payment or a person is not."""
        unposted = max(0, self.movements - self.waiting)
        return self.outboxes + unposted + self.postings + self.notices + self.unheard

    def as_json(self) -> dict[str, Any]:
        """All counts by name."""
        return asdict(self) | {"total": self.total}


async def read_pending(*, connection: asyncpg.Connection[Any]) -> Pending:
    """Count what is on its way now."""
    row = await connection.fetchrow(_PENDING)
    assert row is not None
    return Pending(**dict(row))


async def wait_until_settled(
    *, connection: asyncpg.Connection[Any], timeout_seconds: float, poll_seconds: float = 0.1
) -> Pending:
    """Wait until nothing is on its way, or the time is up; what was on its way at last.

    Asked twice in a row, since a fact between two services is in nobody's table for a moment.
    """
    deadline = time.monotonic() + timeout_seconds
    quiet = 0
    while True:
        pending = await read_pending(connection=connection)
        quiet = quiet + 1 if pending.total == 0 else 0
        if quiet == 2 or time.monotonic() >= deadline:
            return pending
        await asyncio.sleep(poll_seconds)

"""Whether anything is still on its way: cheap enough to ask several times a second."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import asyncpg

_HAS_AUTOPAY = """
SELECT to_regclass('autopay_scheduler.charges') IS NOT NULL
    AND to_regclass('payment_intake.charges') IS NOT NULL
"""
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
# While an operator has paused it, nothing is asked for, and what was asked for waits at rest.
_AUTOPAY_PENDING = """
WITH paused AS MATERIALIZED (
    SELECT
        EXISTS (SELECT FROM autopay_scheduler.switches
                WHERE name = 'requests' AND is_paused) AS asking,
        EXISTS (SELECT FROM payment_intake.switches
                WHERE name = 'charges' AND is_paused) AS charging
)
SELECT
    (SELECT count(*) FROM autopay_scheduler.outbox) AS outboxes,
    (SELECT count(*) FROM autopay_scheduler.plans_due WHERE due_at <= now() + $1::interval)
        + (SELECT count(*) FROM autopay_scheduler.charges
            WHERE status = 'planned' AND act_at <= now() + $1::interval) AS plans,
    (SELECT count(*) FROM autopay_scheduler.announcements
        WHERE restate_at IS NOT NULL) AS announcements,
    (SELECT count(*) FROM autopay_scheduler.charges, paused
        WHERE status IN ('announced', 'retrying') AND act_at <= now() + $1::interval AND NOT asking)
        + (SELECT count(*) FROM autopay_scheduler.charges c, paused
            WHERE c.status = 'requested' AND NOT (charging AND EXISTS (
                SELECT FROM payment_intake.charges i WHERE i.id = c.id AND i.status = 'due')))
        + (SELECT count(*) FROM payment_intake.charges, paused
            WHERE status IN ('due', 'charging', 'unknown', 'refund_due', 'refunding')
              AND NOT (charging AND status = 'due')) AS charges
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
    plans: int = 0
    """Accounts to be planned by autopay, and charges to be announced."""
    announcements: int = 0
    """Announcements of which nobody has said yet that the customer was told."""
    charges: int = 0
    """Charges of autopay that are due now, asked for, in hand, or being given back; a debit that
    the bank has is at rest until its day comes."""

    @property
    def total(self) -> int:
        """How much is on its way; what waits for a payment or a person is not."""
        unposted = max(0, self.movements - self.waiting)
        autopay = self.plans + self.announcements + self.charges
        return self.outboxes + unposted + self.postings + self.notices + self.unheard + autopay

    def as_json(self) -> dict[str, Any]:
        """All counts by name."""
        return asdict(self) | {"total": self.total}


async def has_autopay(*, connection: asyncpg.Connection[Any]) -> bool:
    """Whether the tables of autopay are here: a stack may have been made without it."""
    return bool(await connection.fetchval(_HAS_AUTOPAY))


NOT_AHEAD = timedelta()


async def read_pending(
    *, connection: asyncpg.Connection[Any], ahead: timedelta = NOT_AHEAD
) -> Pending:
    """Count what is on its way now; `ahead` is how far autopay-scheduler's clock was moved."""
    row = await connection.fetchrow(_PENDING)
    assert row is not None
    found = dict(row)
    if await has_autopay(connection=connection):
        autopay = await connection.fetchrow(_AUTOPAY_PENDING, ahead)
        assert autopay is not None
        found |= dict(autopay) | {"outboxes": row["outboxes"] + autopay["outboxes"]}
    return Pending(**found)


async def wait_until_settled(
    *,
    connection: asyncpg.Connection[Any],
    timeout_seconds: float,
    poll_seconds: float = 0.1,
    ahead: timedelta = NOT_AHEAD,
) -> Pending:
    """Wait until nothing is on its way, or the time is up; what was on its way at last.

    `ahead` is how far autopay-scheduler's clock was moved: what is due by it is on its way.
    Asked twice in a row, since a fact between two services is in nobody's table for a moment.
    """
    deadline = time.monotonic() + timeout_seconds
    quiet = 0
    while True:
        pending = await read_pending(connection=connection, ahead=ahead)
        quiet = quiet + 1 if pending.total == 0 else 0
        if quiet == 2 or time.monotonic() >= deadline:
            return pending
        await asyncio.sleep(poll_seconds)

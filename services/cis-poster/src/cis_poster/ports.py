"""What the use cases need of the world."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from cis_poster.domain import Answer, Attempt, Posting, Status
from shared.outbox.table import OutboxRow


class CisGateway(Protocol):
    """The CIS's ledger. Never raises for what the CIS or the network does: it answers."""

    async def post(self, postings: Sequence[Posting]) -> Sequence[Answer]:
        """Post in order and return one answer for each.

        After an answer of one account that is not final, the later ones of that account in the
        call have not taken effect.
        """
        ...

    async def find(self, postings: Sequence[Posting]) -> Sequence[Answer]:
        """Return what the CIS holds under each posting's key: EXISTS, NOT_FOUND or UNAVAILABLE."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of taking a batch."""

    attempts: Sequence[Attempt]
    """New and free to be sent now, in order."""
    inserted: int
    duplicates: int
    suspended: Sequence[Posting]
    """Payments that name no account: nothing was sent of them."""
    rows: Sequence[OutboxRow]
    """Committed facts: outcomes stated again, and what was suspended at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The outcome of one attempt, ready to be written."""

    attempt: Attempt
    answer: Answer
    status: Status
    reason: str | None
    due_at: datetime
    at: datetime
    duration_ms: int
    states_deferral: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended:
    """A posting in suspense, as an operator sees it."""

    id: UUID
    payment_id: UUID
    kind: str
    account_id: str | None
    amount_cents: int
    currency: str
    status: str
    reason: str | None
    processor: str
    reference: str
    accepted_at: datetime
    suspended_at: datetime


class Postings(Protocol):
    """The postings of this service; every method is one transaction."""

    async def take(
        self, postings: Sequence[Posting], *, now: datetime, hold: bool, lanes_held: "HeldLanes"
    ) -> Taken:
        """Keep what is new, lease what is free, and say again what is settled.

        With `hold` nothing is leased: all that is new stays due for the recovery job, and is
        stated to be deferred.
        """
        ...

    async def claim_due(self, *, now: datetime, limit: int) -> Sequence[Attempt]:
        """Lease what is due, or has lapsed, and has nothing unsettled before it."""
        ...

    async def release(self, attempts: Sequence[Attempt], *, now: datetime) -> None:
        """Give back what was leased and not sent."""
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[OutboxRow]:
        """Write outcomes, and the facts that state them, for what is still ours."""
        ...

    async def wake_waiting(self, *, now: datetime, limit: int) -> int:
        """Decide what waits for a payment that is decided; return how many that were.

        Due where the payment has reached the ledger, returned where it was returned.
        """
        ...

    async def suspense(self, *, limit: int) -> Sequence[Suspended]: ...

    async def release_suspended(
        self, *, posting_id: UUID, to_account: str | None, operator: str, note: str, now: datetime
    ) -> bool:
        """Make a suspended posting due again, with an audit entry; False when it is not there."""
        ...

    async def return_suspended(
        self, *, posting_id: UUID, operator: str, note: str, now: datetime
    ) -> Sequence[OutboxRow] | None:
        """Close a suspended posting for good, with an audit entry; None when it is not there."""
        ...

    async def backlog(self, *, now: datetime) -> Sequence[tuple[str, int, float]]:
        """Return status, count and age in seconds of the oldest, for what is not settled."""
        ...


class HeldLanes(Protocol):
    """What this process has in hand for each account."""

    def in_hand(self, lane: str) -> Sequence[Attempt]:
        """Return every attempt that is in hand for an account."""
        ...


class Announce(Protocol):
    """Takes committed outbox rows for announcement; never blocks."""

    def offer(self, rows: Sequence[OutboxRow]) -> None: ...

"""What the use cases need of the world."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from payment_intake.domain import (
    Conflict,
    Movement,
    MovementKind,
    MovementStatus,
    Observation,
    Payment,
    PaymentStatus,
)
from payment_intake.domain.charges import Answer, Charge, Hand
from shared.contracts.wire import OutboundRecord
from shared.outbox.table import OutboxRow

Reference = tuple[str, str]
"""A processor and one of its names for a payment."""


class Outcome(StrEnum):
    """What became of an event; said in the answer to whoever sent it."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"
    """Kept, and nothing follows from it: an unknown type, or one that moves no money."""
    UNTRUSTED = "untrusted"
    """Kept: it claims captured money, and its source is not trusted for that."""
    CONFLICT = "conflict"
    """Kept beside what it contradicts; recorded and alarmed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A verified, readable event, whoever brought it."""

    source: str
    event_id: str
    event_type: str
    body: bytes
    """As received, but for card numbers, which are masked."""
    digest: bytes
    """SHA-256 of the bytes as received: tells a repetition from a contradiction."""
    received_at: datetime
    observation: Observation | None = None
    about: Reference | None = None
    """Which payment an event speaks of that changes nothing: for its timeline."""
    relay: OutboundRecord | None = None
    """What to publish on behalf of a sender that does not speak Kafka."""
    is_untrusted: bool = False
    traceparent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A verified event that cannot be understood; kept as evidence."""

    id: UUID
    source: str
    reason: str
    field: str | None
    body: bytes
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedConflict:
    """A contradiction, with where it was found."""

    source: str
    event_id: str
    payment_id: UUID | None
    conflict: Conflict
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedMovement:
    """A movement as its owner follows it."""

    movement: Movement
    payment: Payment
    status: MovementStatus
    wait_reason: str | None
    posted_at: datetime | None
    confirmed_at: datetime | None
    delayed_at: datetime | None
    announcements: int
    traceparent: str | None
    cis_reference: str | None = None
    balance_after_cents: int | None = None
    notification: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What another service has stated about a movement."""

    movement_id: UUID
    at: datetime
    status: MovementStatus
    reason: str | None = None
    cis_reference: str | None = None
    balance_after_cents: int | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """That a customer was told, or cannot be."""

    payment_id: UUID
    movement_id: UUID | None
    kind: MovementKind
    at: datetime
    outcome: str
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeCall:
    """One call about a charge, as evidence: what was asked of the processor and what it said."""

    charge_id: UUID
    attempt: int
    operation: str
    outcome: str
    reason: str | None
    reference: str | None
    request_id: str | None
    at: datetime
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """Whether charges are paused, and who said so."""

    is_paused: bool
    operator: str | None = None
    note: str | None = None
    changed_at: datetime | None = None


class Permit(StrEnum):
    """Whether a charge in hand may be sent, asked right before it is."""

    GRANTED = "granted"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    LOST = "lost"
    """Somebody else has it: the lease has lapsed, or its payment was heard of."""


class Charges(Protocol):
    """The charges of one transaction."""

    async def insert(self, new: Sequence[Charge]) -> int:
        """Insert charges; return how many of them were new."""
        ...

    async def lock(self, charge_ids: Sequence[UUID]) -> Sequence[Charge]:
        """Return the charges that are known, locked until the end, in the order of their ids."""
        ...

    async def save(self, changed: Sequence[Charge]) -> None: ...

    async def record(self, calls: Sequence[ChargeCall]) -> None: ...

    async def claim(
        self, *, now: datetime, limit: int, owner: UUID, leased_until: datetime
    ) -> Sequence[Hand]:
        """Lease what is due or has lapsed, the longest due first.

        While charges are paused nothing that was never sent is leased; what may have taken
        effect is asked about, and what is owed is given back, all the same.
        """
        ...

    async def claim_expired(self, *, now: datetime, limit: int) -> Sequence[Charge]:
        """Return charges that were never sent and are asked for too long ago, locked."""
        ...

    async def release(self, hands: Sequence[Hand], *, owner: UUID, now: datetime) -> None:
        """Give back what was leased and not begun."""
        ...

    async def permit(self, charge_id: UUID, *, owner: UUID) -> Permit: ...

    async def switch(self) -> Switch: ...

    async def turn(self, switch: Switch) -> None:
        """Set the switch, with an audit entry."""
        ...


class ChargeGateway(Protocol):
    """The processor's way of charging.

    Never raises for what the processor or the network does: it answers.
    """

    @property
    def processor(self) -> str: ...

    async def charge(self, charge: Charge) -> Answer:
        """Make the charge's attempt; the same attempt again is the same one."""
        ...

    async def find(self, charge: Charge) -> Answer:
        """Return what the attempt has become, or NOT_FOUND; changes nothing."""
        ...

    async def refund(self, charge: Charge) -> Answer:
        """Give all of it back: REFUNDED, also when it already was."""
        ...

    async def cancel(self, charge: Charge) -> Answer:
        """Stop a debit under way: CANCELLED, or PROCESSING where it cannot be stopped."""
        ...


class UnitOfWork(Protocol):
    """One transaction of payment-intake."""

    @property
    def charges(self) -> Charges: ...

    async def movements_of(self, references: Sequence[Reference]) -> Sequence["OwnedMovement"]:
        """Return all that moves for the payments of these names, oldest first."""
        ...

    async def payments_of(self, references: Sequence[Reference]) -> Sequence[Payment]:
        """Return the payments of these names as they are, not locked."""
        ...

    async def keep_events(self, events: Sequence[Incoming]) -> Sequence[bool]:
        """Insert the events; say of each whether it is new."""
        ...

    async def digests(self, events: Sequence[Incoming]) -> Mapping[tuple[str, str], bytes]:
        """Return the kept digests of events, by source and id."""
        ...

    async def lock_payments(self, references: Sequence[Reference]) -> Sequence[Payment]:
        """Return the payments that any of the references names, locked until the end."""
        ...

    async def save(
        self,
        *,
        created: Sequence[Payment] = (),
        changed: Sequence[Payment] = (),
        removed: Sequence[tuple[Payment, Payment]] = (),
        movements: Sequence[tuple[Movement, Payment, str]] = (),
        conflicts: Sequence[RecordedConflict] = (),
        records: Sequence[OutboundRecord] = (),
    ) -> None:
        """Write what was decided; `removed` are payments merged into another one.

        Records become outbox rows, which are offered for announcement after the commit.

        Raises:
            ConcurrentTakeError: somebody else has just given one of the names to a payment.
        """
        ...

    async def announce(self, records: Sequence[OutboundRecord]) -> None:
        """Write outbox rows; they are offered for announcement after the commit."""
        ...

    async def claim_unfinished(
        self, *, now: datetime, limit: int, first_seconds: float, cap_seconds: float
    ) -> Sequence[OwnedMovement]:
        """Return movements that have not come through in time, and put off their next time."""
        ...

    async def claim_delayed(
        self,
        *,
        accepted_before: datetime,
        spared: tuple[datetime, datetime],
        now: datetime,
        limit: int,
    ) -> Sequence[OwnedMovement]:
        """Mark and return payments that are past the city's limit and not on the ledger.

        Those accepted after the first and until the second time of `spared`, of which nothing is
        known but that they were announced, are left for now.
        """
        ...


class Store(Protocol):
    """Where payment-intake keeps what it knows."""

    def transaction(self) -> AbstractAsyncContextManager[UnitOfWork]: ...

    async def hear(self, heard: Sequence[Heard]) -> Sequence[tuple[UUID, MovementKind, datetime]]:
        """Apply what was stated about movements; return those that are newly on the ledger.

        Broken off, it may have applied a part: the same again applies the rest.
        """
        ...

    async def tell(self, told: Sequence[Told]) -> Sequence[tuple[UUID, MovementKind, datetime]]:
        """Apply that customers were told; return the movements of which that is news."""
        ...

    async def keep_rejected(self, rejected: Rejected) -> None: ...

    async def rejections(self, *, limit: int) -> Sequence[Rejected]: ...

    async def payment(self, payment_id: UUID) -> "PaymentView | None": ...

    async def payment_by_reference(
        self, *, processor: str, reference: str
    ) -> "PaymentView | None": ...

    async def payments_of_account(
        self, *, account_id: str, before: UUID | None, limit: int
    ) -> Sequence["PaymentView"]:
        """Return an account's payments, newest first, from behind the payment `before`."""
        ...

    async def backlog(self, *, now: datetime) -> Sequence[tuple[str, int, float]]:
        """Return status, count and age in seconds of the oldest, for chains that have not ended."""
        ...

    async def charge(self, charge_id: UUID) -> "ChargeView | None": ...

    async def charge_backlog(self, *, now: datetime) -> Sequence[tuple[str, int, float]]:
        """Return status, count and age in seconds of the oldest, for unsettled charges."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentView:
    """A payment with everything that moves for it, as the portal and the clerks see it."""

    payment: Payment
    status: PaymentStatus
    movements: Sequence[OwnedMovement]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeView:
    """A charge with every call that was made for it."""

    charge: Charge
    payment_id: UUID | None
    calls: Sequence[ChargeCall]


class Announce(Protocol):
    """Takes committed outbox rows for announcement; never blocks."""

    def offer(self, rows: Sequence[OutboxRow]) -> None: ...

    def was_behind(self, *, within_seconds: float) -> bool: ...

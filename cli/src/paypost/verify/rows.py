"""One line of each book that is compared; only what the comparison needs."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """What payment-intake accepted, and how far it believes that to have come."""

    id: UUID
    payment_id: UUID
    kind: str
    account_id: str | None
    amount_cents: int
    currency: str | None
    status: str
    wait_reason: str | None = None
    notification: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """What cis-poster took, and what it says became of it."""

    id: UUID
    payment_id: UUID
    kind: str
    account_id: str | None
    amount_cents: int
    currency: str
    status: str
    reason: str | None = None
    released: bool = False
    """Whether an operator has released it, so that its account may be another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A posting in a book of the CIS: its ledger or its journal."""

    sequence: int
    key: UUID
    kind: str
    account: str
    amount_cents: int
    currency: str
    payment_key: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A payment on the ledger, by the name that its processor gave it."""

    processor: str
    reference: str
    posting_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What notifier was to tell a customer, and what became of that."""

    id: UUID
    kind: str
    payment_id: UUID
    posting_key: UUID | None
    account_id: str | None
    amount_cents: int
    currency: str
    status: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A mail that the mail server took; the Message-ID carries the notice's id."""

    number: int
    notice_id: UUID
    received_at: datetime

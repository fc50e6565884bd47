"""What is owed: bills as the CIS states them."""

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from uuid import UUID


class BillStatus(StrEnum):
    """Whether a bill counts."""

    OPEN = "open"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """One issue of a bill."""

    account_id: str
    bill_reference: str
    version: int
    amount_cents: int
    currency: str
    due_date: date
    stated_at: datetime
    balance_cents: int | None
    """The account's balance right after it, where the CIS says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BillCancellation:
    """A bill that is not owed any more."""

    account_id: str
    bill_reference: str
    version: int
    stated_at: datetime
    balance_cents: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One posting on an account, as cis-poster states it."""

    posting_key: UUID
    payment_id: UUID
    account_id: str
    signed_cents: int
    """What it takes off the balance: a payment is positive, a reversal negative."""
    balance_after_cents: int
    posted_at: datetime

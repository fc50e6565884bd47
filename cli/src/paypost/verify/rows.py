"""One line of each book that is compared; only what the comparison needs."""

from dataclasses import dataclass
from datetime import date, datetime
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
    payment_id: UUID | None
    """None where it tells of no payment, as an announcement does."""
    posting_key: UUID | None
    account_id: str | None
    amount_cents: int | None
    currency: str | None
    status: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A mail that the mail server took; the Message-ID carries the notice's id."""

    number: int
    notice_id: UUID
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedCharge:
    """A due date at autopay-scheduler: what it says that became of it."""

    id: UUID
    enrolment_id: UUID
    account_id: str
    due_date: date
    charge_on: date
    status: str
    currency: str
    reason: str | None = None
    attempt: int = 0
    act_on: date | None = None
    """The city's day on which it is to be looked at next; none at its end."""
    requested_cents: int | None = None
    requested_at: datetime | None = None
    """Of the last attempt."""
    first_attempt_on: date | None = None
    paid_cents: int | None = None
    owes_notice: bool = False
    """Whether the customer's rule, as it was when it was asked for, owes notice days."""
    cancelled_said_at: datetime | None = None
    """When the customer said that the enrolment ends, by the portal's own time."""
    stopped_at: datetime | None = None
    """When the enrolment was ended, by whomever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """One advance notice of a charge."""

    charge_id: UUID
    version: int
    amount_cents: int
    announced_at: datetime
    noticed_on: date | None
    """The city's day on which the customer was told; None while that is not known."""
    is_void: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeCharge:
    """A charge at payment-intake: its latest attempt."""

    id: UUID
    account_id: str
    attempt: int
    amount_cents: int
    currency: str
    status: str
    reason: str | None = None
    answered_at: datetime | None = None
    cancelled_at: datetime | None = None
    ended_at: datetime | None = None
    valid_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargePayment:
    """The payment that a charge of autopay became, as payment-intake holds it."""

    charge_id: UUID
    payment_id: UUID
    status: str
    amount_cents: int | None
    credited: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """One attempt in the processor's own book: the ground truth of what was taken."""

    charge_id: UUID
    """Paypost's, from the metadata."""
    name: str
    """The processor's own, `ch_…`."""
    amount_cents: int
    currency: str
    status: str
    """`succeeded`, `pending` (a bank debit under way) or `failed`."""
    refunded_cents: int = 0
    is_returned: bool = False
    """Whether the bank has taken it back after its success."""
    account: str | None = None

    @property
    def is_alive(self) -> bool:
        """Whether money was taken, or is being taken, and no bank has sent it back."""
        return self.status in {"succeeded", "pending"} and not self.is_returned

    @property
    def kept_cents(self) -> int:
        """What the city has, or will have, of it."""
        return self.amount_cents - self.refunded_cents if self.is_alive else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DueBill:
    """A due date of an account whose autopay was on from before it until after it."""

    enrolment_id: UUID
    due_date: date
    account_id: str
    bill_reference: str
    amount_cents: int
    waits_to_be_planned: bool = False
    """Whether something about the account has changed moments ago and is not considered yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDay:
    """A charge by what it is for; the id of its row."""

    enrolment_id: UUID
    due_date: date
    charge_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """The two halves of the kill switch."""

    is_asking_paused: bool = False
    """At autopay-scheduler."""
    is_charging_paused: bool = False
    """At payment-intake."""

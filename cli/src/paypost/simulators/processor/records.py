"""What the processor holds: customers, payment methods, intents, charges, refunds; all immutable.

A change makes a new record. Records are written to the journal as they are and read back from it,
so a field that is added needs a default.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from paypost.simulators.processor.tokens import Failure

ACCOUNT_FIELD = "account_number"
FEE_FIELD = "convenience_fee_cents"
CHARGE_FIELD = "paypost_charge_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """A customer."""

    id: str
    created: int
    email: str | None = None
    name: str | None = None
    description: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A payment method; of a card or account number only the last four digits exist."""

    id: str
    token: str
    """Whose behaviour it has: itself, or what it was made from."""
    type: str
    last4: str
    created: int
    customer: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    expires_month: int = 12
    expires_year: int = 2034
    """Of a card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mandate:
    """An authorisation of debits that is no longer good; of good ones nothing is kept."""

    id: str
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentError:
    """Why the last attempt of an intent failed."""

    failure: Failure
    charge: str | None
    method: Method


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A PaymentIntent; times are Unix seconds, amounts the currency's minor units."""

    id: str
    created: int
    amount_cents: int
    currency: str
    status: str
    method_types: tuple[str, ...]
    automatic: bool = False
    customer: str | None = None
    method: str | None = None
    description: str | None = None
    receipt_email: str | None = None
    setup_future_usage: str | None = None
    statement_descriptor: str | None = None
    statement_descriptor_suffix: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    attempts: int = 0
    latest_charge: str | None = None
    error: PaymentError | None = None
    cancelled_at: int | None = None
    cancellation_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One attempt to take an intent's money: `succeeded`, `pending` (ACH) or `failed`."""

    id: str
    intent: str
    created: int
    amount_cents: int
    currency: str
    status: str
    method: str
    method_type: str
    last4: str
    attempt: int
    customer: str | None = None
    description: str | None = None
    mandate: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    failure: Failure | None = None
    settles_at: int | None = None
    """When a pending one settles or comes back, by the processor's clock."""
    ended_at: int | None = None
    """When it came to its status."""
    refunded_cents: int = 0
    balance_transaction: str | None = None
    key: str | None = None
    """The idempotency key of the request that made it."""
    trace: str | None = None
    """The trace number under which a bank was handed it."""
    dispute: str | None = None
    """The dispute that a return after its success has become."""
    dispute_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BankFile:
    """A file of debits for the bank; what it holds is decided before it is sent."""

    number: int
    created: int
    charges: tuple[str, ...]
    taken: bool = False
    """Whether the bank has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """Money given back: `succeeded`, `pending` (ACH) or `failed`."""

    id: str
    charge: str
    intent: str
    created: int
    amount_cents: int
    currency: str
    status: str
    reason: str | None = None
    failure_reason: str | None = None
    balance_transaction: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    settles_at: int | None = None
    fails: bool = False
    """Whether it comes back at `settles_at`."""
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """An event to be sent, with its subject as it was then."""

    id: str
    type: str
    created: int
    intent: Intent | None = None
    charge: Charge | None = None
    refunds: tuple[Refund, ...] = ()
    """Of the charge, oldest first; or the one refund that the event is about."""
    method: Method | None = None
    mandate: Mandate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one request, or one day at the bank, has made of the records."""

    customers: tuple[Customer, ...] = ()
    methods: tuple[Method, ...] = ()
    intents: tuple[Intent, ...] = ()
    charges: tuple[Charge, ...] = ()
    refunds: tuple[Refund, ...] = ()
    files: tuple[BankFile, ...] = ()
    mandates: tuple[Mandate, ...] = ()
    announcements: tuple[Announcement, ...] = ()

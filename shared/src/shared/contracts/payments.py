"""`payments.v1`: what payment-intake states about a payment, from accepted to reversed."""

from datetime import date, datetime
from typing import ClassVar, Literal
from uuid import UUID

from shared.contracts.enrolments import PaymentMethod, ProcessorName, Token
from shared.contracts.fact import AccountId, Fact, Instant
from shared.money import AmountCents, Currency

ReversalReason = Literal["refund", "dispute", "ach_return"]
DeclineCategory = Literal["soft", "hard", "withdrawn", "action_required"]
"""What a decline means for the next attempt: it may succeed later; it never will; the customer
has withdrawn the authorisation; the customer has to confirm it in person."""


class _PaymentFact(Fact):
    """What every fact about a payment says of it."""

    payment_id: UUID
    account_id: AccountId | None
    """None where the processor's event named no account: the money was taken all the same."""
    processor: str
    reference: str
    amount_cents: AmountCents
    """What the ledger is to show: the charge without the convenience fee."""
    currency: Currency
    charge_id: UUID | None = None
    """The charge of autopay that this payment is, where it is one."""

    def partition_key(self) -> str:
        return self.account_id or str(self.payment_id)


class _LedgerFact(_PaymentFact):
    """A fact that asks for one posting under a key that never expires."""

    posting_key: UUID
    effective_date: date
    """The business day in the city's zone under its cutoff rule; late fees follow this date."""
    accepted_at: Instant

    def key(self) -> str:
        return str(self.posting_key)

    def happened_at(self) -> datetime:
        return self.accepted_at


class PaymentAccepted(_LedgerFact):
    """The processor took the money; it belongs on the customer's ledger."""

    TYPE: ClassVar[str] = "payment.accepted"
    fee_cents: int = 0
    """The convenience fee charged on top; never posted as payment."""
    method: str | None = None
    bill_reference: str | None = None


class PaymentReversed(_LedgerFact):
    """Money that was posted has gone back: this much more than what was reversed before."""

    TYPE: ClassVar[str] = "payment.reversed"
    reason: ReversalReason
    reason_code: str | None = None
    """The processor's or the bank's own code, such as `R01` or `fraudulent`."""
    category: DeclineCategory | None = None
    """What a bank's return means for a next attempt; None for what is no return."""


class PaymentReinstated(_LedgerFact):
    """A reversal was undone: a refund failed, or a dispute was won and its funds came back."""

    TYPE: ClassVar[str] = "payment.reinstated"
    reason: ReversalReason
    reason_code: str | None = None


class PaymentPending(_PaymentFact):
    """An ACH debit was submitted and has not settled; nothing is posted for it yet."""

    TYPE: ClassVar[str] = "payment.pending"
    pending_at: Instant
    method: str | None = None

    def key(self) -> str:
        return str(self.payment_id)

    def happened_at(self) -> datetime:
        return self.pending_at


class PaymentDelayed(_PaymentFact):
    """Accepted longer ago than the city's limit and still not on the ledger."""

    TYPE: ClassVar[str] = "payment.delayed"
    posting_key: UUID
    accepted_at: Instant
    delayed_at: Instant
    reason: str
    """Why it waits, as far as intake knows: `not_posted_yet`, or the poster's reason."""

    def key(self) -> str:
        return str(self.posting_key)

    def happened_at(self) -> datetime:
        return self.delayed_at


class ChargeDeclined(_PaymentFact):
    """The processor took no money."""

    TYPE: ClassVar[str] = "charge.declined"
    declined_at: Instant
    reason_code: str | None = None
    category: DeclineCategory | None = None
    attempt: str
    """What tells one decline of a payment from its next: the processor's id of the charge."""

    def key(self) -> str:
        return f"{self.payment_id}:{self.attempt}"

    def happened_at(self) -> datetime:
        return self.declined_at


class ChargeWithdrawn(Fact):
    """A charge that autopay asked for was not made, or was given back."""

    TYPE: ClassVar[str] = "charge.withdrawn"
    charge_id: UUID
    account_id: AccountId
    attempt: int
    reason: Literal["cancelled", "expired"]
    is_refunded: bool
    """Whether the money had been taken already, and goes back."""
    amount_cents: AmountCents
    currency: Currency
    withdrawn_at: Instant

    def key(self) -> str:
        return f"{self.charge_id}:{self.attempt}:{self.reason}"

    def partition_key(self) -> str:
        return self.account_id

    def happened_at(self) -> datetime:
        return self.withdrawn_at


class _MethodFact(Fact):
    processor: ProcessorName
    payment_method_token: Token

    def partition_key(self) -> str:
        return self.payment_method_token


class MethodUpdated(_MethodFact):
    """The processor knows a payment method's new particulars; its token stays the same."""

    TYPE: ClassVar[str] = "method.updated"
    method: PaymentMethod
    updated_at: Instant

    def key(self) -> str:
        return f"{self.processor}:{self.payment_method_token}:{self.updated_at.isoformat()}"

    def happened_at(self) -> datetime:
        return self.updated_at


class MandateWithdrawn(_MethodFact):
    """The bank or the customer has withdrawn the mandate for a payment method."""

    TYPE: ClassVar[str] = "mandate.withdrawn"
    mandate_token: Token
    withdrawn_at: Instant

    def key(self) -> str:
        return f"{self.processor}:{self.mandate_token}"

    def happened_at(self) -> datetime:
        return self.withdrawn_at

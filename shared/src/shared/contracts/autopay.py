"""`autopay.v1`: what autopay-scheduler states about enrolments and charges."""

from datetime import date, datetime
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import Field

from shared.contracts.enrolments import (
    AutopayRule,
    PaymentMethod,
    ProcessorName,
    Reference,
    Token,
)
from shared.contracts.fact import AccountId, Fact, Instant
from shared.contracts.payments import DeclineCategory
from shared.contracts.portal import EmailAddress, Locale
from shared.money import AmountCents, Currency

RefusalReason = Literal[
    "already_enrolled", "unknown_account", "unknown_processor", "foreign_token", "above_city_limit"
]
StopReason = Literal[
    "cancelled",
    "mandate_withdrawn",
    "declined_for_good",
    "declined_too_often",
    "disputed",
    "stopped_by_operator",
]
ChargeOutcome = Literal["paid", "skipped", "missed", "cancelled", "refunded"]
NextStep = Literal["retry", "give_up", "stop", "ask"]


class _EnrolmentFact(Fact):
    account_id: AccountId
    enrolment_id: UUID

    def key(self) -> str:
        return str(self.enrolment_id)

    def partition_key(self) -> str:
        return self.account_id


class EnrolmentActivated(_EnrolmentFact):
    """Autopay is on for the account, as authorised; stated anew when the authorisation changes."""

    TYPE: ClassVar[str] = "enrolment.activated"
    enrolment_reference: Reference
    method: PaymentMethod
    rule: AutopayRule
    authorisation_version: str
    authorised_at: Instant
    activated_at: Instant

    def key(self) -> str:
        return f"{self.enrolment_id}:{self.authorised_at.isoformat()}"

    def happened_at(self) -> datetime:
        return self.activated_at


class EnrolmentRefused(_EnrolmentFact):
    """Autopay was not turned on, with the reason; an enrolment that is on stays as it is."""

    TYPE: ClassVar[str] = "enrolment.refused"
    enrolment_reference: Reference
    reason: RefusalReason
    field: str
    """Which of the portal's fields stands in the way."""
    refused_at: Instant
    """The portal's own time of what is refused."""

    def key(self) -> str:
        return f"{self.enrolment_id}:{self.refused_at.isoformat()}"

    def happened_at(self) -> datetime:
        return self.refused_at


class EnrolmentStopped(_EnrolmentFact):
    """Autopay is off for the account, with the reason."""

    TYPE: ClassVar[str] = "enrolment.stopped"
    stopped_at: Instant
    reason: StopReason
    method: PaymentMethod

    def happened_at(self) -> datetime:
        return self.stopped_at


class EnrolmentInvited(Fact):
    """A customer who had autopay on the old portal is to be asked to enrol on the new one."""

    TYPE: ClassVar[str] = "enrolment.invited"
    account_id: AccountId
    invitation: Annotated[int, Field(ge=1)]
    """1 is the invitation, later ones are reminders."""
    name: str
    email: EmailAddress
    locale: Locale
    link: str
    """Where the customer enrols, on the city's portal."""
    due_date: date | None
    """The next due date that would be missed, where one is known."""
    amount_cents: int | None
    currency: Currency | None
    invited_at: Instant

    def key(self) -> str:
        return f"{self.account_id}:{self.invitation}"

    def partition_key(self) -> str:
        return self.account_id

    def happened_at(self) -> datetime:
        return self.invited_at


class MethodExpiring(_EnrolmentFact):
    """The enrolment's card is good for so many days only."""

    TYPE: ClassVar[str] = "method.expiring"
    method: PaymentMethod
    expires_on: date
    """The last day on which the card is good."""
    days_left: int
    """Which of the city's warnings this is, such as 60, 30 or 7."""
    warned_at: Instant

    def key(self) -> str:
        return f"{self.enrolment_id}:{self.expires_on.isoformat()}:{self.days_left}"

    def happened_at(self) -> datetime:
        return self.warned_at


class _ChargeFact(_EnrolmentFact):
    charge_id: UUID
    due_date: date
    currency: Currency
    bill_reference: str
    method: PaymentMethod

    def key(self) -> str:
        return str(self.charge_id)


class ChargeAnnounced(_ChargeFact):
    """The customer is to be told of a charge that is to come (12 CFR 1005.10(d))."""

    TYPE: ClassVar[str] = "charge.announced"
    version: Annotated[int, Field(ge=1)]
    """Counts the announcements of one charge: a bill that rose is announced anew."""
    amount_cents: AmountCents
    """The most that will be charged."""
    left_cents: Annotated[int, Field(ge=0)] = 0
    """What is owed beyond it and is not charged, since it could not be announced in time."""
    charge_on: date
    announced_at: Instant

    def key(self) -> str:
        return f"{self.charge_id}:{self.version}"

    def happened_at(self) -> datetime:
        return self.announced_at


class ChargeHeld(_ChargeFact):
    """More is owed than the customer's maximum: the customer is asked, nothing is charged."""

    TYPE: ClassVar[str] = "charge.held"
    amount_cents: AmountCents
    maximum_cents: AmountCents
    held_at: Instant

    def key(self) -> str:
        return f"{self.charge_id}:{self.amount_cents}:{self.maximum_cents}"

    def happened_at(self) -> datetime:
        return self.held_at


class ChargeRequested(_ChargeFact):
    """Intake is to charge the customer's payment method, once for each attempt of a charge."""

    TYPE: ClassVar[str] = "charge.requested"
    attempt: Annotated[int, Field(ge=1, le=9)]
    """1 charges; later ones present the same charge again after a decline."""
    amount_cents: AmountCents
    processor: ProcessorName
    payment_method_token: Token
    customer_token: Token | None
    mandate_token: Token | None
    requested_at: Instant
    valid_until: Instant
    """After it nothing is charged any more: the request was too long on its way."""

    def key(self) -> str:
        return f"{self.charge_id}:{self.attempt}"

    def happened_at(self) -> datetime:
        return self.requested_at


class ChargeCancelled(_ChargeFact):
    """A charge that was asked for is not wanted any more: withdraw it, or give it back."""

    TYPE: ClassVar[str] = "charge.cancelled"
    attempt: Annotated[int, Field(ge=1, le=9)]
    amount_cents: AmountCents
    """What was asked for."""
    cancelled_at: Instant
    """When the customer said so."""

    def happened_at(self) -> datetime:
        return self.cancelled_at


class ChargeFailed(_ChargeFact):
    """The processor declined, and this is what happens next."""

    TYPE: ClassVar[str] = "charge.failed"
    attempt: int
    amount_cents: AmountCents
    payment_id: UUID
    decline: str
    """The processor's id of the declined attempt."""
    reason_code: str | None
    category: DeclineCategory
    next_step: NextStep
    next_attempt_on: date | None
    failed_at: Instant

    def key(self) -> str:
        return f"{self.charge_id}:{self.decline}"

    def happened_at(self) -> datetime:
        return self.failed_at


class ChargeClosed(_ChargeFact):
    """A due date has come to its end here, with the reason."""

    TYPE: ClassVar[str] = "charge.closed"
    outcome: ChargeOutcome
    reason: str
    amount_cents: Annotated[int, Field(ge=0)]
    """What was charged, or given back; 0 where nothing was."""
    attempt: int
    closed_at: Instant

    def key(self) -> str:
        return f"{self.charge_id}:{self.outcome}:{self.attempt}"

    def happened_at(self) -> datetime:
        return self.closed_at

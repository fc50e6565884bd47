"""`portal.v1`: what the city's portal states, over Kafka or over HTTP."""

from datetime import date, datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.contracts.enrolments import (
    AutopayRule,
    PaymentMethod,
    ProcessorName,
    Reference,
    Token,
)
from shared.contracts.fact import NO_CONTROL_CHARACTERS, AccountId, Fact, Instant
from shared.money import AmountCents, Currency

Locale = Literal["en", "es"]
EmailAddress = Annotated[
    str, Field(max_length=254, pattern=r"^[^@\s<>,;:\"()\[\]\\]+@[A-Za-z0-9.-]+\.[A-Za-z0-9-]+$")
]
"""One mailbox. No header can be smuggled in: white space, commas and quotes are refused."""


class _PortalFact(Fact):
    account_id: AccountId

    def partition_key(self) -> str:
        return self.account_id


class _PortalPayment(_PortalFact):
    processor: ProcessorName
    reference: Reference
    """The processor's own reference; joins this fact to the processor's events."""
    amount_cents: AmountCents
    currency: Currency
    bill_reference: Annotated[str, Field(max_length=64, pattern=NO_CONTROL_CHARACTERS)] | None = (
        None
    )

    def key(self) -> str:
        return f"{self.processor}:{self.reference}"


class PaymentSubmitted(_PortalPayment):
    """The customer pressed pay. Shown as submitted; posts nothing by itself."""

    TYPE: ClassVar[str] = "payment.submitted"
    submitted_at: Instant

    def happened_at(self) -> datetime:
        return self.submitted_at


class PaymentCaptured(_PortalPayment):
    """A source took the money itself (a kiosk, a counter). Posts, if that source is trusted."""

    TYPE: ClassVar[str] = "payment.captured"
    captured_at: Instant
    method: Annotated[str, Field(max_length=32, pattern=NO_CONTROL_CHARACTERS)] | None = None

    def happened_at(self) -> datetime:
        return self.captured_at


class CustomerRegistered(_PortalFact):
    """A customer opened a portal login for an account."""

    TYPE: ClassVar[str] = "customer.registered"
    name: Annotated[str, Field(max_length=200, pattern=NO_CONTROL_CHARACTERS)] = ""
    email: EmailAddress | None = None
    locale: Locale = "en"
    registered_at: Instant

    def key(self) -> str:
        return f"{self.account_id}:{self.registered_at.isoformat()}"

    def happened_at(self) -> datetime:
        return self.registered_at


class ContactChanged(_PortalFact):
    """The customer changed how to be reached: states the whole contact, not a difference."""

    TYPE: ClassVar[str] = "contact.changed"
    name: Annotated[str, Field(max_length=200, pattern=NO_CONTROL_CHARACTERS)] = ""
    email: EmailAddress | None = None
    locale: Locale = "en"
    email_opted_out: bool = False
    changed_at: Instant

    def key(self) -> str:
        return f"{self.account_id}:{self.changed_at.isoformat()}"

    def happened_at(self) -> datetime:
        return self.changed_at


class _AutopayFact(_PortalFact):
    enrolment_reference: Reference
    """The portal's own name of the enrolment; the same for all that is said of it."""


class _Authorisation(_AutopayFact):
    """The whole of what the customer authorised: evidence of the mandate (12 CFR 1005.10(b))."""

    processor: ProcessorName
    payment_method_token: Token
    """The processor's token; a card or bank number is refused at the door."""
    customer_token: Token | None = None
    """The processor's token of the customer to whom the method belongs, such as `cus_…`."""
    mandate_token: Token | None = None
    """The processor's token of a bank debit's mandate."""
    method: PaymentMethod = PaymentMethod()
    rule: AutopayRule = AutopayRule()
    authorisation_version: Annotated[
        str, Field(min_length=1, max_length=64, pattern=NO_CONTROL_CHARACTERS)
    ]
    """Which text the customer agreed to."""
    authorised_at: Instant


class AutopayEnrolled(_Authorisation):
    """The customer authorised recurring charges on this account."""

    TYPE: ClassVar[str] = "autopay.enrolled"
    enrolled_at: Instant
    locale: Locale = "en"

    def key(self) -> str:
        return self.enrolment_reference

    def happened_at(self) -> datetime:
        return self.enrolled_at


class AutopayChanged(_Authorisation):
    """The customer authorised another method or rule: states the whole, not a difference."""

    TYPE: ClassVar[str] = "autopay.changed"
    changed_at: Instant

    def key(self) -> str:
        return f"{self.enrolment_reference}:{self.changed_at.isoformat()}"

    def happened_at(self) -> datetime:
        return self.changed_at


class AutopayPaused(_AutopayFact):
    """The customer wants no charges until a day, or until further notice."""

    TYPE: ClassVar[str] = "autopay.paused"
    paused_at: Instant
    resume_on: date | None = None

    def key(self) -> str:
        return f"{self.enrolment_reference}:{self.paused_at.isoformat()}"

    def happened_at(self) -> datetime:
        return self.paused_at


class AutopayResumed(_AutopayFact):
    """The customer ended a pause."""

    TYPE: ClassVar[str] = "autopay.resumed"
    resumed_at: Instant

    def key(self) -> str:
        return f"{self.enrolment_reference}:{self.resumed_at.isoformat()}"

    def happened_at(self) -> datetime:
        return self.resumed_at


class AutopayCancelled(_AutopayFact):
    """The customer withdrew the authorisation."""

    TYPE: ClassVar[str] = "autopay.cancelled"
    cancelled_at: Instant

    def key(self) -> str:
        return self.enrolment_reference

    def happened_at(self) -> datetime:
        return self.cancelled_at


class AutopayInvitationDeclined(_PortalFact):
    """The customer of an imported enrolment does not want autopay on the new portal."""

    TYPE: ClassVar[str] = "autopay.invitation_declined"
    declined_at: Instant

    def key(self) -> str:
        return f"{self.account_id}:{self.declined_at.isoformat()}"

    def happened_at(self) -> datetime:
        return self.declined_at

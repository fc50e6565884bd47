"""`portal.v1`: what the city's portal states, over Kafka or over HTTP."""

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.contracts.fact import NO_CONTROL_CHARACTERS, AccountId, Fact, Instant
from shared.money import AmountCents, Currency

Locale = Literal["en", "es"]
EmailAddress = Annotated[
    str, Field(max_length=254, pattern=r"^[^@\s<>,;:\"()\[\]\\]+@[A-Za-z0-9.-]+\.[A-Za-z0-9-]+$")
]
"""One mailbox. No header can be smuggled in: white space, commas and quotes are refused."""
Reference = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]


class _PortalFact(Fact):
    account_id: AccountId

    def partition_key(self) -> str:
        return self.account_id


class _PortalPayment(_PortalFact):
    processor: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
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


class AutopayEnrolled(_PortalFact):
    """The customer authorised recurring charges on this account."""

    TYPE: ClassVar[str] = "autopay.enrolled"
    enrolment_reference: Reference
    processor: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    payment_method_token: Reference
    """The processor's token; a card or bank number is refused at the door."""
    authorisation_version: Annotated[str, Field(max_length=64, pattern=NO_CONTROL_CHARACTERS)]
    enrolled_at: Instant
    locale: Locale = "en"

    def key(self) -> str:
        return self.enrolment_reference

    def happened_at(self) -> datetime:
        return self.enrolled_at


class AutopayCancelled(_PortalFact):
    """The customer withdrew the authorisation."""

    TYPE: ClassVar[str] = "autopay.cancelled"
    enrolment_reference: Reference
    cancelled_at: Instant

    def key(self) -> str:
        return self.enrolment_reference

    def happened_at(self) -> datetime:
        return self.cancelled_at

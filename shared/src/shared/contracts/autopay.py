"""`autopay.v1`: what autopay-scheduler states about enrolments and charges."""

from datetime import date, datetime
from typing import ClassVar
from uuid import UUID

from shared.contracts.fact import AccountId, Fact, Instant
from shared.money import AmountCents, Currency


class _EnrolmentFact(Fact):
    account_id: AccountId
    enrolment_id: UUID

    def key(self) -> str:
        return str(self.enrolment_id)

    def partition_key(self) -> str:
        return self.account_id


class _ChargeFact(_EnrolmentFact):
    charge_id: UUID
    due_date: date
    amount_cents: AmountCents
    currency: Currency

    def key(self) -> str:
        return str(self.charge_id)


class ChargeAnnounced(_ChargeFact):
    """The customer is to be told of a charge that is to come (12 CFR 1005.10(d))."""

    TYPE: ClassVar[str] = "charge.announced"
    announced_at: Instant

    def happened_at(self) -> datetime:
        return self.announced_at


class ChargeRequested(_ChargeFact):
    """Intake is to charge the customer's payment method, once under this charge id."""

    TYPE: ClassVar[str] = "charge.requested"
    processor: str
    payment_method_token: str
    requested_at: Instant

    def happened_at(self) -> datetime:
        return self.requested_at


class EnrolmentActivated(_EnrolmentFact):
    """Autopay is on for the account."""

    TYPE: ClassVar[str] = "enrolment.activated"
    activated_at: Instant

    def happened_at(self) -> datetime:
        return self.activated_at


class EnrolmentStopped(_EnrolmentFact):
    """Autopay is off for the account, with the reason."""

    TYPE: ClassVar[str] = "enrolment.stopped"
    stopped_at: Instant
    reason: str

    def happened_at(self) -> datetime:
        return self.stopped_at

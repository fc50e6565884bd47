"""`bills.v1`: what the CIS states about bills and disconnects, by its adapter or feed."""

from datetime import date, datetime
from typing import ClassVar

from shared.contracts.fact import AccountId, Fact, Instant
from shared.money import AmountCents, Currency


class _BillFact(Fact):
    account_id: AccountId
    bill_reference: str
    amount_cents: AmountCents
    currency: Currency
    due_date: date
    version: int
    """Which issue of the bill; a changed bill counts up."""
    stated_at: Instant

    def key(self) -> str:
        return f"{self.bill_reference}:{self.version}"

    def partition_key(self) -> str:
        return self.account_id

    def happened_at(self) -> datetime:
        return self.stated_at


class BillIssued(_BillFact):
    """A bill is owed."""

    TYPE: ClassVar[str] = "bill.issued"


class BillChanged(_BillFact):
    """A bill was issued anew with another amount or date."""

    TYPE: ClassVar[str] = "bill.changed"


class DisconnectScheduled(Fact):
    """The account is to be shut off on a day unless it is paid."""

    TYPE: ClassVar[str] = "disconnect.scheduled"
    account_id: AccountId
    disconnect_on: date
    stated_at: Instant

    def key(self) -> str:
        return f"{self.account_id}:{self.disconnect_on.isoformat()}"

    def partition_key(self) -> str:
        return self.account_id

    def happened_at(self) -> datetime:
        return self.stated_at

"""`bills.v1`: what the CIS states about bills and disconnects, by its adapter or feed."""

from datetime import date, datetime
from typing import Annotated, ClassVar

from pydantic import Field

from shared.contracts.fact import NO_CONTROL_CHARACTERS, AccountId, Fact, Instant
from shared.money import AMOUNT_CENTS_MAX, Currency

BalanceCents = Annotated[int, Field(strict=True, ge=-AMOUNT_CENTS_MAX, le=AMOUNT_CENTS_MAX)]
"""What is owed in minor units; zero or less where nothing is, or the account is in credit."""
BillReference = Annotated[str, Field(min_length=1, max_length=64, pattern=NO_CONTROL_CHARACTERS)]


class _AboutBill(Fact):
    account_id: AccountId
    bill_reference: BillReference
    version: Annotated[int, Field(ge=1)]
    """Which issue of the bill; a changed bill counts up."""
    stated_at: Instant
    balance_cents: BalanceCents | None = None
    """The account's balance right after, where the CIS says it."""

    def key(self) -> str:
        return f"{self.bill_reference}:{self.version}"

    def partition_key(self) -> str:
        return self.account_id

    def happened_at(self) -> datetime:
        return self.stated_at


class _BillFact(_AboutBill):
    amount_cents: BalanceCents
    """The total due by the due date, what was left from before included."""
    currency: Currency
    due_date: date


class BillIssued(_BillFact):
    """A bill is owed."""

    TYPE: ClassVar[str] = "bill.issued"


class BillChanged(_BillFact):
    """A bill was issued anew with another amount or date."""

    TYPE: ClassVar[str] = "bill.changed"


class BillCancelled(_AboutBill):
    """A bill is not owed any more."""

    TYPE: ClassVar[str] = "bill.cancelled"


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

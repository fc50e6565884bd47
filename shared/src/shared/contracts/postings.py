"""`postings.v1`: what cis-poster states about a posting on the CIS ledger."""

from datetime import date, datetime
from typing import ClassVar, Literal
from uuid import UUID

from shared.contracts.fact import AccountId, Fact, Instant
from shared.money import AmountCents, Currency

PostingKind = Literal["payment", "reversal", "reinstatement"]


class _PostingFact(Fact):
    posting_key: UUID
    payment_id: UUID
    account_id: AccountId | None
    kind: PostingKind
    amount_cents: AmountCents
    currency: Currency
    accepted_at: Instant

    def key(self) -> str:
        return str(self.posting_key)

    def partition_key(self) -> str:
        return self.account_id or str(self.payment_id)


class _OnLedger(_PostingFact):
    account_id: AccountId
    """The account it was posted to: an operator may have released it to another one."""
    effective_date: date
    posted_at: Instant
    cis_reference: str
    balance_after_cents: int
    """The account's balance right after, in minor units; negative is credit."""

    def happened_at(self) -> datetime:
        return self.posted_at


class PostingPosted(_OnLedger):
    """The CIS acknowledged a payment, or a reinstatement, on the account's ledger."""

    TYPE: ClassVar[str] = "posting.posted"


class PostingReversed(_OnLedger):
    """The CIS acknowledged a reversal on the account's ledger."""

    TYPE: ClassVar[str] = "posting.reversed"
    reason: str | None = None


class PostingDeferred(_PostingFact):
    """An attempt failed and another one is due: says why it waits. Stated on change of reason."""

    TYPE: ClassVar[str] = "posting.deferred"
    reason: str
    attempts: int
    deferred_at: Instant

    def key(self) -> str:
        return f"{self.posting_key}:{self.attempts}:{self.reason}"

    def happened_at(self) -> datetime:
        return self.deferred_at


class PostingSuspended(_PostingFact):
    """The CIS will not take it as it is; it waits in suspense for an operator."""

    TYPE: ClassVar[str] = "posting.suspended"
    reason: str
    suspension: int
    """Which suspension of this posting: it may be released and refused again."""
    suspended_at: Instant

    def key(self) -> str:
        return f"{self.posting_key}:{self.suspension}"

    def happened_at(self) -> datetime:
        return self.suspended_at


class PostingReturned(_PostingFact):
    """An operator gave a suspended payment back to its payer; it will never be posted."""

    TYPE: ClassVar[str] = "posting.returned"
    returned_at: Instant
    reason: str

    def happened_at(self) -> datetime:
        return self.returned_at

"""What the CIS decides about a posting. Pure: no clock, no database, no network.

Invariant: a key has at most one effect, for ever, and what is answered for it never changes.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

CLEARING_ACCOUNT = "ledger:processor-clearing"
OPENING_ACCOUNT = "ledger:opening-balances"


class Kind(enum.StrEnum):
    """What a posting does to the account's balance, which is what the customer owes."""

    PAYMENT = "payment"
    REVERSAL = "reversal"
    REINSTATEMENT = "reinstatement"


class Outcome(enum.StrEnum):
    """What became of a posting, or of the question for one."""

    APPLIED = "applied"
    EXISTS = "exists"
    CONFLICT = "conflict"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    NOT_ATTEMPTED = "not_attempted"
    NOT_FOUND = "not_found"


class Reason(enum.StrEnum):
    """Why a posting was refused, or could not be decided now."""

    ACCOUNT_UNKNOWN = "account_unknown"
    ACCOUNT_CLOSED = "account_closed"
    CASH_ONLY = "cash_only"
    CURRENCY_UNKNOWN = "currency_unknown"
    PAYMENT_UNKNOWN = "payment_unknown"
    AMOUNT_EXCEEDS_PAYMENT = "amount_exceeds_payment"
    BATCH_CLOSED = "batch_closed"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Posting:
    """A posting as asked for; `key` is its identity for ever."""

    key: UUID
    kind: Kind
    account: str
    amount_cents: int
    currency: str
    effective_date: date
    accepted_at: datetime
    payment_key: UUID
    reference: str
    memo: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A posting as it stands on the ledger."""

    sequence: int
    key: UUID
    kind: Kind
    account: str
    amount_cents: int
    currency: str
    payment_key: UUID
    posted_at: datetime

    @property
    def cis_reference(self) -> str:
        """Return the reference that the CIS gives out for this entry."""
        return f"CIS{self.sequence:010d}"


@dataclass(slots=True)
class Account:
    """An account as one batch sees it; `balance_cents` is what the customer owes."""

    account: str
    name: str
    status: str
    cash_only: bool
    currency: str
    balance_cents: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What is answered: `entry` is there for applied, exists and conflict."""

    key: UUID
    outcome: Outcome
    reason: Reason | None = None
    entry: Entry | None = None
    balance_cents: int | None = None


class Book:
    """The part of the ledger that one batch needs, and the rules of posting to it.

    `reversed_cents` holds, per payment, what was reversed and not reinstated. Postings are decided
    in the order given, each seeing the effects of those before it. `fresh` collects the effects;
    the balances of `accounts` are changed in place.
    """

    def __init__(
        self,
        *,
        accounts: dict[str, Account],
        entries: Iterable[Entry],
        reversed_cents: dict[UUID, int],
        next_sequence: int,
        now: datetime,
    ) -> None:
        self._accounts = accounts
        self._entries = {entry.key: entry for entry in entries}
        self._reversed_cents = reversed_cents
        self._next_sequence = next_sequence
        self._now = now
        self.fresh: list[tuple[Posting, Entry]] = []

    def post(self, posting: Posting) -> Decision:
        """Apply a posting, or say why not."""
        held = self._entries.get(posting.key)
        if held is not None:
            same = (
                held.amount_cents == posting.amount_cents
                and held.account == posting.account
                and held.kind == posting.kind
                and held.currency == posting.currency
                and held.payment_key == posting.payment_key
            )
            return self._stated(held, Outcome.EXISTS if same else Outcome.CONFLICT)
        reason = self._objection(posting)
        if reason is not None:
            return Decision(posting.key, Outcome.REFUSED, reason)
        return self._stated(self._apply(posting), Outcome.APPLIED)

    def find(self, key: UUID) -> Decision:
        """Say what stands on the ledger under a key."""
        held = self._entries.get(key)
        if held is None:
            return Decision(key, Outcome.NOT_FOUND)
        return self._stated(held, Outcome.EXISTS)

    def _stated(self, entry: Entry, outcome: Outcome) -> Decision:
        balance_cents = self._accounts[entry.account].balance_cents
        return Decision(entry.key, outcome, None, entry, balance_cents)

    def _objection(self, posting: Posting) -> Reason | None:
        account = self._accounts.get(posting.account)
        if account is None:
            return Reason.ACCOUNT_UNKNOWN
        if account.status == "closed":
            return Reason.ACCOUNT_CLOSED
        if posting.currency != account.currency:
            return Reason.CURRENCY_UNKNOWN
        if posting.kind is not Kind.PAYMENT:
            # A cash-only account still takes reversals: a returned payment is how it became one.
            return self._objection_to_change(posting)
        return Reason.CASH_ONLY if account.cash_only else None

    def _objection_to_change(self, posting: Posting) -> Reason | None:
        payment = self._entries.get(posting.payment_key)
        if (
            payment is None
            or payment.kind is not Kind.PAYMENT
            or payment.account != posting.account
        ):
            return Reason.PAYMENT_UNKNOWN
        possible_cents = self._reversed_cents.get(payment.key, 0)
        if posting.kind is Kind.REVERSAL:
            possible_cents = payment.amount_cents - possible_cents
        return Reason.AMOUNT_EXCEEDS_PAYMENT if posting.amount_cents > possible_cents else None

    def _apply(self, posting: Posting) -> Entry:
        entry = Entry(
            sequence=self._next_sequence,
            key=posting.key,
            kind=posting.kind,
            account=posting.account,
            amount_cents=posting.amount_cents,
            currency=posting.currency,
            payment_key=posting.payment_key,
            posted_at=self._now,
        )
        self._next_sequence += 1
        self._entries[entry.key] = entry
        account = self._accounts[entry.account]
        if entry.kind is Kind.REVERSAL:
            account.balance_cents += entry.amount_cents
            self._reversed_cents[entry.payment_key] = (
                self._reversed_cents.get(entry.payment_key, 0) + entry.amount_cents
            )
        else:
            account.balance_cents -= entry.amount_cents
            if entry.kind is Kind.REINSTATEMENT:
                self._reversed_cents[entry.payment_key] -= entry.amount_cents
        self.fresh.append((posting, entry))
        return entry


def debit_and_credit(*, kind: Kind, account: str) -> tuple[str, str]:
    """Return the debited and the credited account of a posting.

    Customer accounts are receivables: a debit raises what is owed, a credit lowers it.
    """
    if kind is Kind.REVERSAL:
        return account, CLEARING_ACCOUNT
    return CLEARING_ACCOUNT, account

"""Where autopay-scheduler keeps what it knows."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal, Protocol
from uuid import UUID

from autopay_scheduler.domain.amounts import Owed
from autopay_scheduler.domain.bills import Bill, BillCancellation, LedgerEntry
from autopay_scheduler.domain.enrolments import EnrolmentRecord
from autopay_scheduler.domain.notices import Announcement, NoticeStatus
from autopay_scheduler.domain.planning import ChargeRecord, Situation
from autopay_scheduler.domain.words import Word
from shared.contracts.wire import OutboundRecord
from shared.errors import TransientError
from shared.outbox.table import OutboxRow

Unbilled = Literal["bill_cancelled", "due_date_changed"]


class ConcurrentWordError(TransientError):
    """Somebody else has just turned autopay on for an account of this batch; do it all again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One word of the customer about autopay, as the portal stated it."""

    enrolment_id: UUID
    account_id: str
    event_source: str
    event_id: str
    type: str
    said_at: datetime
    authorisation_version: str | None
    authorised_at: datetime | None
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DueCharge:
    """A charge whose moment has come, with all that its decision needs."""

    record: ChargeRecord
    enrolment: EnrolmentRecord
    announcements: Sequence[Announcement]
    owed: Owed
    has_old_draft: bool
    unbilled: Unbilled | None
    """Why no bill asks for it any more, where none does."""
    is_undeliverable: bool
    """Whether no notice that counts can be delivered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAnnouncement:
    """An announcement, ready to be kept."""

    charge_id: UUID
    announcement: Announcement
    fact_id: UUID
    announced_at: datetime
    restate_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleAnnouncement:
    """An announcement of which nothing was heard, with its charge."""

    record: ChargeRecord
    enrolment: EnrolmentRecord
    announcement: Announcement
    announced_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Noticed:
    """What became of telling a customer of an announcement."""

    fact_id: UUID
    status: NoticeStatus
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What was stated of one decline of a charge, to be stated again where it was not heard."""

    charge_id: UUID
    decline: str
    document: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """What an operator did, and why."""

    at: datetime
    operator: str
    action: str
    subject: str
    note: str


class UnitOfWork(Protocol):
    """One transaction of autopay-scheduler."""

    # What is owed
    async def keep_bills(self, bills: Sequence[Bill], *, now: datetime) -> int:
        """Keep what is newer than what is known; return how many were. Accounts become due."""
        ...

    async def cancel_bills(self, bills: Sequence[BillCancellation], *, now: datetime) -> int: ...

    async def keep_postings(self, entries: Sequence[LedgerEntry], *, now: datetime) -> int:
        """Count postings that are new, each once; return how many were."""
        ...

    async def know_accounts(self, account_ids: Sequence[str], *, now: datetime) -> None:
        """Note that the portal or the CIS has named these accounts."""
        ...

    # Enrolments
    async def lock_accounts(self, account_ids: Sequence[str]) -> set[str]:
        """Lock the accounts that are known and return them: what is decided about one waits."""
        ...

    async def keep_evidence(self, words: Sequence[Evidence], *, now: datetime) -> Sequence[bool]:
        """Keep the customers' words for ever; say of each whether it is new."""
        ...

    async def pauses_of(
        self, enrolment_ids: Sequence[UUID], *, accounts: Sequence[str]
    ) -> Sequence[Word]:
        """Return, by the portal's time, each pause of these enrolments and each end of one."""
        ...

    async def lock_enrolments(
        self, *, ids: Sequence[UUID], account_ids: Sequence[str]
    ) -> Sequence[EnrolmentRecord]:
        """Return, locked, the named enrolments and those that are on for the accounts."""
        ...

    async def enrolments_by_method(
        self, *, processor: str, token: str
    ) -> Sequence[EnrolmentRecord]:
        """Return, locked, the enrolments that are on and charge this method."""
        ...

    async def save_enrolments(self, records: Sequence[EnrolmentRecord]) -> None:
        """Write them, new or changed.

        Raises:
            ConcurrentWordError: autopay was turned on for one of the accounts just now.
        """
        ...

    async def mark_reenrolled(self, account_ids: Sequence[str], *, at: datetime) -> None:
        """Note that imported enrolments of these accounts have been replaced by real ones."""
        ...

    # Charges
    async def plan_accounts(self, account_ids: Sequence[str], *, at: datetime) -> None:
        """Make accounts due for planning."""
        ...

    async def plan_charged(self, ids: Sequence[UUID], *, at: datetime) -> None:
        """Make the accounts of these charges due for planning; before the charges are locked."""
        ...

    async def claim_plans(
        self, *, now: datetime, today: date, limit: int
    ) -> tuple[int, Sequence[Situation]]:
        """Take accounts that are due off the queue; return how many, and those with autopay on."""
        ...

    async def claim_planned(self, *, now: datetime, limit: int) -> Sequence[DueCharge]:
        """Lock planned charges that are to be announced, with their enrolments."""
        ...

    async def claim_due(self, *, now: datetime, limit: int) -> Sequence[DueCharge]:
        """Lock charges whose day has come, with their enrolments; none while all are paused."""
        ...

    async def claim_held(self, *, now: datetime, limit: int) -> Sequence[DueCharge]:
        """Lock held charges whose bill's due date has passed."""
        ...

    async def claim_unheard(
        self, *, now: datetime, limit: int, first_seconds: float, cap_seconds: float
    ) -> Sequence[tuple[ChargeRecord, EnrolmentRecord]]:
        """Return requests of which nothing was heard for too long; put off their next time.

        While all are paused, only those that are cancelled.
        """
        ...

    async def claim_unnoticed(
        self, *, now: datetime, limit: int, first_seconds: float, cap_seconds: float
    ) -> Sequence[StaleAnnouncement]:
        """Return announcements of which nothing was heard; put off their next time.

        Only the last one of a charge that is still to be made.
        """
        ...

    async def lock_charges(
        self, ids: Sequence[UUID]
    ) -> Sequence[tuple[ChargeRecord, EnrolmentRecord]]:
        """Return these charges with their enrolments, all locked, enrolments first."""
        ...

    async def open_charges_of(
        self, enrolment_ids: Sequence[UUID], *, paid_since: datetime
    ) -> Sequence[ChargeRecord]:
        """Return, locked, what of these enrolments has not ended, or was paid since an instant."""
        ...

    async def add_charges(self, records: Sequence[ChargeRecord], *, now: datetime) -> None:
        """Insert charges that are new; one that is there already stays as it is."""
        ...

    async def save_charges(self, records: Sequence[ChargeRecord]) -> None:
        """Write changed charges, which this transaction has locked."""
        ...

    async def note_posted(self, payment_ids: Sequence[UUID]) -> None:
        """Note of charges' payments which of them were posted before they were heard of."""
        ...

    async def keep_failures(self, failures: Sequence[Failure]) -> None: ...

    async def failures(self, declines: Sequence[tuple[UUID, str]]) -> Sequence[str]:
        """Return what was stated of these declines, by charge and the processor's id."""
        ...

    async def announce_charges(self, announcements: Sequence[NewAnnouncement]) -> None: ...

    async def notice(self, noticed: Sequence[Noticed], *, now: datetime) -> int:
        """Note what became of announcements; return of how many that is news."""
        ...

    async def claim_expiring(
        self, *, until: str, after: UUID | None, limit: int
    ) -> Sequence[tuple[EnrolmentRecord, Sequence[int]]]:
        """Return enrolments whose card is good until a month at most, with the warnings given."""
        ...

    async def keep_warnings(
        self, warnings: Sequence[tuple[UUID, str, int]], *, now: datetime
    ) -> Sequence[bool]:
        """Keep that these warnings are given; say of each whether it is new."""
        ...

    # Operators
    async def switch(self, *, is_paused: bool, entry: AuditEntry) -> None: ...

    async def audit(self, entry: AuditEntry) -> None: ...

    async def state(self, records: Sequence[OutboundRecord]) -> None:
        """Write outbox rows; they are offered for announcement after the commit."""
        ...


class Store(Protocol):
    """Where autopay-scheduler keeps what it knows."""

    def transaction(self) -> AbstractAsyncContextManager[UnitOfWork]: ...

    async def switch_state(self) -> "SwitchState":
        """Return whether an operator has paused all requests, and since when it is so."""
        ...

    async def account(self, account_id: str) -> "AccountView | None": ...

    async def preview(
        self, *, day: date, after: tuple[str, str] | None, limit: int
    ) -> Sequence[DueCharge]:
        """Return the charges of a day, or of bills due on it, by account."""
        ...

    async def report(self, *, since: date, now: datetime) -> "Report": ...

    async def backlog(self, *, now: datetime) -> Sequence[tuple[str, int, float]]:
        """Return status, count and seconds of lateness of the latest, for what jobs have to do."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchState:
    """The switch of all requests; it was never turned where no instant is known."""

    is_paused: bool
    changed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountView:
    """Everything about one account's autopay."""

    account_id: str
    balance_cents: int | None
    open_cents: int
    enrolments: Sequence[EnrolmentRecord]
    """Newest first; at most the first is on."""
    evidence: Sequence[Evidence]
    charges: Sequence[tuple[ChargeRecord, Sequence[Announcement]]]
    """Newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures of autopay."""

    is_paused: bool
    enrolments: Mapping[str, int]
    charges: Mapping[str, int]
    """By status, of due dates since the day asked for."""
    charged_cents: int
    missed: Sequence[ChargeRecord]
    held: Sequence[ChargeRecord]
    failed: Sequence[ChargeRecord]
    stopped: Mapping[str, int]
    """By reason, since the day asked for."""
    to_plan: int


class Announce(Protocol):
    """Takes committed outbox rows for announcement; never blocks."""

    def offer(self, rows: Sequence[OutboxRow]) -> None: ...

    def was_behind(self, *, within_seconds: float) -> bool: ...

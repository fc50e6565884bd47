"""What the move from the old portal needs of the world."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Protocol
from uuid import UUID

from autopay_scheduler.domain.import_lines import DraftLine, EnrolmentLine, LineProblem, Reason
from autopay_scheduler.domain.reenrolment import ReenrolmentEvent, ReenrolmentStatus
from shared.contracts.enrolments import AutopayRule
from shared.contracts.portal import Locale
from shared.contracts.wire import OutboundRecord
from shared.outbox.table import OutboxRow


class ImportFiles(Protocol):
    """Reads uploaded lists, in batches, in bounded memory."""

    def enrolments(
        self, chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[Sequence[EnrolmentLine | LineProblem]]:
        """Yield what each line says, or what is wrong with it.

        Raises:
            FileRefusedError: the file as a whole is not what it should be.
        """
        ...

    def drafts(
        self, chunks: AsyncIterator[bytes], *, today: date
    ) -> AsyncIterator[Sequence[DraftLine | LineProblem]]:
        """Yield what each line says, or what is wrong with it.

        Raises:
            FileRefusedError: the file as a whole is not what it should be.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRun:
    """One import: who, what, when."""

    id: UUID
    file_name: str
    operator: str
    at: datetime
    is_dry: bool
    """Tell what would come of it, and keep nothing."""
    problems_max: int
    """How many problems to list in the report; all are counted, and kept with the import."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What came of an import."""

    id: UUID
    is_dry: bool
    lines: int
    """All but the header and empty ones."""
    imported: int
    changed: int
    unchanged: int
    refused: int
    """Lines with a problem; nothing of them is kept but that."""
    problems: Sequence[LineProblem]
    """The first ones, by line."""
    problems_by_reason: Mapping[Reason, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DueBill:
    """The first open bill from a day on that nobody has paid and no old draft covers."""

    bill_reference: str
    due_date: date
    amount_cents: int
    """What is left of it to pay."""
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaiting:
    """An imported enrolment that is looked at, with what its decision needs."""

    account_id: str
    name: str
    email: str | None
    locale: Locale
    imported_on: date
    invitations: int
    last_invited_on: date | None
    bill: DueBill | None
    is_known_to_portal: bool
    """Autopay is, or was, on for the account on the new portal: it was enrolled while imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was decided on looking at one."""

    awaiting: Awaiting
    status: ReenrolmentStatus
    event: ReenrolmentEvent | None
    """Invited, reminded, or the end; None where nothing happens today."""
    look_on: date
    """When to look again."""


class InvitationUnit(Protocol):
    """One transaction in which imported enrolments are looked at."""

    async def claim(self, *, today: date, limit: int) -> Sequence[Awaiting]:
        """Lock those that are to be looked at and that nobody else is looking at."""
        ...

    async def settle(
        self, looks: Sequence[Look], *, records: Sequence[OutboundRecord], at: datetime
    ) -> Sequence[OutboxRow]:
        """Write what was decided and the facts that state it; offer the rows after the commit."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reenrolment:
    """An imported enrolment, as an operator sees it."""

    account_id: str
    old_account: str
    name: str
    email: str | None
    locale: Locale
    rule: AutopayRule
    status: ReenrolmentStatus
    imported_at: datetime
    invitations: int
    last_invited_on: date | None
    settled_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One thing that happened to an imported enrolment."""

    at: datetime
    event: ReenrolmentEvent
    import_id: UUID | None = None
    line: int | None = None
    invitation: int | None = None
    due_date: date | None = None
    amount_cents: int | None = None
    before: Mapping[str, object] | None = None
    """What a change replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapsing:
    """A customer who would miss a due date, because autopay is not on again."""

    account_id: str
    old_account: str
    name: str
    email: str | None
    invitations: int
    last_invited_on: date | None
    bill: DueBill | None
    """None where no bill is known yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LapsingCursor:
    """Where a list of lapsing goes on: by due date and account, then those without a bill."""

    due_date: date | None
    account_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LapsingPage:
    """Some of those who lapse; there may be more although these are few, or none."""

    rows: Sequence[Lapsing]
    next: LapsingCursor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DayFigures:
    """The move on one day of the city."""

    day: date
    events: Mapping[ReenrolmentEvent, int] = field(default_factory=dict)
    would_lapse: int = 0
    """Accounts with a bill due on this day, unpaid, not drafted, and nobody enrolled by now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Where the move stands."""

    by_status: Mapping[ReenrolmentStatus, int]
    without_email: int
    """Awaiting, and nobody can write to them."""


class Reenrolments(Protocol):
    """The imported enrolments and the old portal's drafts; every method is one transaction."""

    async def import_enrolments(
        self, batches: AsyncIterator[Sequence[EnrolmentLine | LineProblem]], *, run: ImportRun
    ) -> ImportReport:
        """Take all good lines or, when anything fails, none; report the others line by line.

        What `batches` raises ends the import with nothing kept.
        """
        ...

    async def import_drafts(
        self, batches: AsyncIterator[Sequence[DraftLine | LineProblem]], *, run: ImportRun
    ) -> ImportReport:
        """Take all good lines or none; accounts with autopay on are planned anew."""
        ...

    async def problems(
        self, *, import_id: UUID, after_line: int, limit: int
    ) -> Sequence[LineProblem] | None:
        """Return an import's problems by line; None for an import that nobody made.

        `limit` is counted in lines, so that a line's problems come together.
        """
        ...

    def looking(self) -> AbstractAsyncContextManager[InvitationUnit]: ...

    async def mark_enrolled(self, account_ids: Sequence[str], *, at: datetime) -> int:
        """Note that these accounts have autopay on the new portal; return for how many it is news.

        For use by itself; within the transaction of the activation see the adapter's function.
        """
        ...

    async def mark_declined(self, account_ids: Sequence[str], *, at: datetime) -> int:
        """Note that these customers do not want it; return for how many that is news."""
        ...

    async def decline_by_operator(
        self, *, account_id: str, operator: str, note: str, at: datetime
    ) -> bool:
        """Note what a customer told a clerk, with an audit entry; False where nobody was asked."""
        ...

    async def withdraw_drafts(
        self, *, account_id: str, operator: str, note: str, at: datetime
    ) -> int:
        """Let an account's old drafts count no more, with an audit entry; return how many did."""
        ...

    async def lapsing(
        self, *, today: date, until: date, after: LapsingCursor | None, limit: int
    ) -> LapsingPage:
        """Return who awaits with a bill due by `until`, or with no bill yet, by due date."""
        ...

    async def page(
        self,
        *,
        status: ReenrolmentStatus,
        without_email: bool,
        after: str | None,
        limit: int,
    ) -> Sequence[Reenrolment]:
        """Return those of a status, by account; `without_email` only those nobody can write to."""
        ...

    async def find(self, account_id: str) -> tuple[Reenrolment, Sequence[HistoryEntry]] | None:
        """Return an account's imported enrolment and its history, oldest first."""
        ...

    async def figures(self, *, since: date, until: date) -> Sequence[DayFigures]:
        """Return the days of a span, both ends included, on which there is anything to tell."""
        ...

    async def totals(self) -> Totals: ...


class Announce(Protocol):
    """Takes committed outbox rows for announcement; never blocks."""

    def offer(self, rows: Sequence[OutboxRow]) -> None: ...


class ReenrolmentMetrics(Protocol):
    """What the move counts."""

    def reenrolment_imported(self, *, kind: str, outcome: str, lines: int) -> None:
        """Count lines of `enrolments` or `drafts`: imported, changed, unchanged, refused."""
        ...

    def reenrolment_happened(self, *, event: str, count: int) -> None:
        """Count invited, reminded, enrolled, declined, past."""
        ...

    def reenrolments(self, *, by_status: Mapping[str, int], without_email: int) -> None:
        """Set the gauges of where the move stands."""
        ...

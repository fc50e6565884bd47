"""What is decided about the move from the old portal: taken, asked, left alone, told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from uuid import UUID

from autopay_scheduler.domain.days import Calendar
from autopay_scheduler.domain.import_lines import LineProblem
from autopay_scheduler.domain.reenrolment import (
    REENROLMENT_TRANSITIONS,
    ReenrolmentEvent,
    ReenrolmentStatus,
    Rhythm,
    is_over,
    next_invitation,
)
from autopay_scheduler.ports.reenrolment import (
    Awaiting,
    DayFigures,
    HistoryEntry,
    ImportFiles,
    ImportReport,
    ImportRun,
    LapsingCursor,
    LapsingPage,
    Look,
    Reenrolment,
    ReenrolmentMetrics,
    Reenrolments,
    Totals,
)
from shared.clock import Clock
from shared.contracts.autopay import EnrolmentInvited
from shared.contracts.portal import AutopayInvitationDeclined
from shared.contracts.streams import AUTOPAY
from shared.contracts.wire import encode
from shared.errors import PermanentError, TransientError

PROBLEMS_LISTED_MAX = 1000
"""In the answer to an import; all of them can be read page by page."""
LOOKS_MAX = 50_000
"""In one run of the job: the next one goes on."""
LOOKED_AT_ONCE = 500
"""In one transaction."""
FIGURES_DAYS_MAX = 400


class ImportUnderWayError(TransientError):
    """This process is reading a list already; each may be as large as the city."""

    def __init__(self) -> None:
        super().__init__("another import is under way")


class ImportNotFoundError(PermanentError):
    """Nobody made this import, or it was a dry one."""

    def __init__(self, *, import_id: UUID) -> None:
        super().__init__(f"no import {import_id}")
        self.import_id = import_id


class ReenrolmentNotFoundError(PermanentError):
    """There is nothing of this kind for the account."""

    def __init__(self, *, account_id: str, what: str) -> None:
        super().__init__(f"{what} of this account is not there")
        self.account_id = account_id


class SpanTooLongError(PermanentError):
    """Figures were asked for more days than are told at once, or for none."""

    def __init__(self, *, days_max: int) -> None:
        super().__init__(f"from 1 to {days_max} days")
        self.days_max = days_max


@dataclass(frozen=True, kw_only=True)
class ImportLists:
    """Takes the old portal's lists: whole, or not at all; bad lines are told and left out."""

    files: ImportFiles
    reenrolments: Reenrolments
    calendar: Calendar
    new_id: Callable[[], UUID]
    clock: Clock
    metrics: ReenrolmentMetrics
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def enrolments(
        self, chunks: AsyncIterator[bytes], *, file_name: str, operator: str, is_dry: bool
    ) -> ImportReport:
        """Import old enrolments; they become awaiting re-enrolment, and charge nobody.

        Raises:
            FileRefusedError: the file is not such a list, or names payment data; nothing is kept.
            ImportUnderWayError: try again when it is done.
        """
        async with self._in_turn():
            run = self._run(file_name, operator, is_dry=is_dry)
            batches = self.files.enrolments(chunks)
            report = await self.reenrolments.import_enrolments(batches, run=run)
        self._count(report, "enrolments")
        return report

    async def drafts(
        self, chunks: AsyncIterator[bytes], *, file_name: str, operator: str, is_dry: bool
    ) -> ImportReport:
        """Import what the old portal still drafts; those due dates are not charged here.

        Raises:
            FileRefusedError: the file is not such a list, or names payment data; nothing is kept.
            ImportUnderWayError: try again when it is done.
        """
        async with self._in_turn():
            run = self._run(file_name, operator, is_dry=is_dry)
            batches = self.files.drafts(chunks, today=self.calendar.today(now=run.at))
            report = await self.reenrolments.import_drafts(batches, run=run)
        self._count(report, "drafts")
        return report

    async def problems(
        self, *, import_id: UUID, after_line: int, limit: int
    ) -> Sequence[LineProblem]:
        """Return an import's problems, line by line.

        Raises:
            ImportNotFoundError: nobody made it.
        """
        found = await self.reenrolments.problems(
            import_id=import_id, after_line=after_line, limit=limit
        )
        if found is None:
            raise ImportNotFoundError(import_id=import_id)
        return found

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """Hold the turn, or refuse at once, before a body is read."""
        if self._turn.locked():
            raise ImportUnderWayError
        async with self._turn:
            yield

    def _run(self, file_name: str, operator: str, *, is_dry: bool) -> ImportRun:
        return ImportRun(
            id=self.new_id(),
            file_name=file_name,
            operator=operator,
            at=self.clock(),
            is_dry=is_dry,
            problems_max=PROBLEMS_LISTED_MAX,
        )

    def _count(self, report: ImportReport, kind: str) -> None:
        if report.is_dry:
            return
        for outcome in ("imported", "changed", "unchanged", "refused"):
            lines: int = getattr(report, outcome)
            self.metrics.reenrolment_imported(kind=kind, outcome=outcome, lines=lines)


@dataclass(frozen=True, kw_only=True)
class InviteAwaiting:
    """Asks customers to enrol again, by the rhythm, until they have, decline, or it is over."""

    reenrolments: Reenrolments
    calendar: Calendar
    rhythm: Rhythm
    link: str
    """The city's portal."""
    metrics: ReenrolmentMetrics

    async def __call__(self, *, now: datetime, limit: int) -> int:
        """Invite and remind at most `limit` customers; return how many were.

        Each transaction takes some that are due to be looked at and states its invitations with
        it, so that a crash repeats none, and two of these share the work.
        """
        sent, looked = 0, 0
        today = self.calendar.today(now=now)
        while sent < limit and looked < LOOKS_MAX:
            async with self.reenrolments.looking() as unit:
                # Most are looked at without being written to: more are taken than may be sent to.
                at_once = min(LOOKED_AT_ONCE, 4 * (limit - sent))
                found = await unit.claim(today=today, limit=at_once)
                if not found:
                    break
                looks = self._looks(found, today=today, limit=limit - sent)
                facts = [self._fact(look, now) for look in looks if _is_sent(look)]
                records = [encode(fact, stream=AUTOPAY) for fact in facts]
                await unit.settle(looks, records=records, at=now)
            looked += len(looks)
            sent += len(facts)
            for event in sorted({look.event for look in looks if look.event}):
                count = sum(look.event is event for look in looks)
                self.metrics.reenrolment_happened(event=event, count=count)
        return sent

    def _looks(self, found: Sequence[Awaiting], *, today: date, limit: int) -> Sequence[Look]:
        """Return what is decided; whoever is above the limit stays to be looked at."""
        looks: list[Look] = []
        left = limit
        for awaiting in found:
            look = self._look(awaiting, today=today)
            left -= _is_sent(look)
            if left < 0:
                break
            looks.append(look)
        return looks

    def _look(self, awaiting: Awaiting, *, today: date) -> Look:
        if awaiting.is_known_to_portal:
            # It was activated while its import was under way: neither could see the other.
            return _settled(awaiting, ReenrolmentStatus.ENROLLED, today)
        imported_on = awaiting.imported_on
        if is_over(imported_on=imported_on, today=today, rhythm=self.rhythm):
            return _settled(awaiting, ReenrolmentStatus.PAST, today)
        if awaiting.email is None:
            # A clerk sees it; there is nobody to write to until an import brings an address.
            over_on = imported_on + timedelta(days=self.rhythm.until_days + 1)
            return _waiting(awaiting, None, over_on)
        due_on = next_invitation(
            imported_on=imported_on,
            last_sent_on=awaiting.last_invited_on,
            next_due_date=awaiting.bill.due_date if awaiting.bill else None,
            today=today,
            rhythm=self.rhythm,
        )
        event = None
        if due_on == today:
            is_first = awaiting.invitations == 0
            event = ReenrolmentEvent.INVITED if is_first else ReenrolmentEvent.REMINDED
        # Every day: a bill that comes meanwhile may bring a day of its own.
        return _waiting(awaiting, event, today + timedelta(days=1))

    def _fact(self, look: Look, now: datetime) -> EnrolmentInvited:
        awaiting, bill = look.awaiting, look.awaiting.bill
        return EnrolmentInvited(
            account_id=awaiting.account_id,
            invitation=awaiting.invitations + 1,
            name=awaiting.name,
            email=awaiting.email or "",
            locale=awaiting.locale,
            link=self.link,
            due_date=bill.due_date if bill else None,
            amount_cents=bill.amount_cents if bill else None,
            currency=bill.currency if bill else None,
            invited_at=now,
        )


@dataclass(frozen=True, kw_only=True)
class DeclineInvitations:
    """Leaves customers alone who do not want autopay any more."""

    reenrolments: Reenrolments
    clock: Clock
    metrics: ReenrolmentMetrics

    async def __call__(self, facts: Sequence[AutopayInvitationDeclined]) -> int:
        """Take what the portal states; return for how many accounts it is news."""
        account_ids = sorted({fact.account_id for fact in facts})
        declined = await self.reenrolments.mark_declined(account_ids, at=self.clock())
        self.metrics.reenrolment_happened(event=ReenrolmentEvent.DECLINED, count=declined)
        return declined

    async def by_operator(self, *, account_id: str, operator: str, note: str) -> None:
        """Take what a customer told a clerk.

        Raises:
            ReenrolmentNotFoundError: nobody is asked for this account, or the answer is known.
        """
        done = await self.reenrolments.decline_by_operator(
            account_id=account_id, operator=operator, note=note, at=self.clock()
        )
        if not done:
            raise ReenrolmentNotFoundError(
                account_id=account_id, what="an imported enrolment that awaits an answer"
            )
        self.metrics.reenrolment_happened(event=ReenrolmentEvent.DECLINED, count=1)


@dataclass(frozen=True, kw_only=True)
class FollowMove:
    """Tells where the move stands, who would lapse, and lets a clerk put it right."""

    reenrolments: Reenrolments
    calendar: Calendar
    clock: Clock
    metrics: ReenrolmentMetrics

    def today(self) -> date:
        return self.calendar.today(now=self.clock())

    async def lapsing(self, *, until: date, after: LapsingCursor | None, limit: int) -> LapsingPage:
        """Return who would miss a due date by a day, the most urgent first; see the port."""
        return await self.reenrolments.lapsing(
            today=self.today(), until=until, after=after, limit=limit
        )

    async def figures(self, *, since: date, until: date) -> Sequence[DayFigures]:
        """Return the figures of the days of a span.

        Raises:
            SpanTooLongError: of more than 400 days, or of none.
        """
        if not 0 <= (until - since).days < FIGURES_DAYS_MAX:
            raise SpanTooLongError(days_max=FIGURES_DAYS_MAX)
        return await self.reenrolments.figures(since=since, until=until)

    async def totals(self) -> Totals:
        return await self.reenrolments.totals()

    async def page(
        self, *, status: ReenrolmentStatus, without_email: bool, after: str | None, limit: int
    ) -> Sequence[Reenrolment]:
        return await self.reenrolments.page(
            status=status, without_email=without_email, after=after, limit=limit
        )

    async def find(self, account_id: str) -> tuple[Reenrolment, Sequence[HistoryEntry]]:
        """Return an account's imported enrolment and its history.

        Raises:
            ReenrolmentNotFoundError: none was imported.
        """
        found = await self.reenrolments.find(account_id)
        if found is None:
            raise ReenrolmentNotFoundError(account_id=account_id, what="an imported enrolment")
        return found

    async def withdraw_drafts(self, *, account_id: str, operator: str, note: str) -> int:
        """Let an account's old drafts count no more: it is charged here again.

        Raises:
            ReenrolmentNotFoundError: there is none that counts.
        """
        withdrawn = await self.reenrolments.withdraw_drafts(
            account_id=account_id, operator=operator, note=note, at=self.clock()
        )
        if not withdrawn:
            raise ReenrolmentNotFoundError(account_id=account_id, what="a draft that counts")
        return withdrawn

    async def measure(self) -> None:
        """Set the gauges."""
        totals = await self.reenrolments.totals()
        self.metrics.reenrolments(
            by_status={status: totals.by_status.get(status, 0) for status in ReenrolmentStatus},
            without_email=totals.without_email,
        )


def _settled(awaiting: Awaiting, status: ReenrolmentStatus, today: date) -> Look:
    event = REENROLMENT_TRANSITIONS[ReenrolmentStatus.AWAITING, status]
    return Look(awaiting=awaiting, status=status, event=event, look_on=today)


def _waiting(awaiting: Awaiting, event: ReenrolmentEvent | None, look_on: date) -> Look:
    return Look(awaiting=awaiting, status=ReenrolmentStatus.AWAITING, event=event, look_on=look_on)


def _is_sent(look: Look) -> bool:
    return look.event in (ReenrolmentEvent.INVITED, ReenrolmentEvent.REMINDED)

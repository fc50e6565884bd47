"""The move from the old portal in tests: files, a fake of its store, and what stands around it.

The suite under `tests/contract/autopay_scheduler` holds the fake to what PostgreSQL does.
"""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from autopay_scheduler.adapters.import_files import CsvImportFiles
from autopay_scheduler.domain.days import BusinessDays, Calendar
from autopay_scheduler.domain.import_lines import (
    ENROLMENT_COLUMNS,
    DraftLine,
    EnrolmentLine,
    LineProblem,
    Reason,
)
from autopay_scheduler.domain.payment_data import NumberShape, numbers_are_payment_data
from autopay_scheduler.domain.reenrolment import (
    OldDraft,
    ReenrolmentEvent,
    ReenrolmentStatus,
    has_old_draft,
    may_become,
)
from autopay_scheduler.ports.reenrolment import (
    Awaiting,
    DayFigures,
    DueBill,
    HistoryEntry,
    ImportReport,
    ImportRun,
    Lapsing,
    LapsingCursor,
    LapsingPage,
    Look,
    Reenrolment,
    Totals,
)
from shared.contracts.wire import OutboundRecord
from shared.ids import uuid7
from shared.outbox.table import OutboxRow

CITY = ZoneInfo("America/Chicago")
NOON = datetime(2026, 3, 2, 18, 0, 0, tzinfo=UTC)
"""Monday, 2 March 2026, noon in the city."""
TODAY = date(2026, 3, 2)
LIMIT_CENTS = 1_000_000
GRACE_DAYS = 3

HEADER = ",".join(ENROLMENT_COLUMNS)


def a_calendar() -> Calendar:
    return Calendar(
        zone=CITY,
        is_closed=lambda day: day.weekday() > 4,
        business_days=BusinessDays.BEFORE,
        charge_time=time(6, 0),
    )


def a_row(account: str = "A-1", /, **cells: str) -> str:
    """A line of a list of old enrolments."""
    given = {
        "old_account": f"OLD-{account}",
        "account": account,
        "name": "Ada Byron",
        "email": f"{account.lower()}@example.org",
    } | cells
    return ",".join(given.get(column, "") for column in ENROLMENT_COLUMNS)


def a_file(*rows: str, header: str = HEADER) -> bytes:
    return "".join(f"{line}\n" for line in (header, *rows)).encode()


async def in_chunks(content: bytes, *, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def a_reader(*, lines_max: int = 10_000) -> CsvImportFiles:
    return CsvImportFiles(lines_max=lines_max, limit_cents=LIMIT_CENTS)


def a_run(*, at: datetime = NOON, is_dry: bool = False, problems_max: int = 100) -> ImportRun:
    return ImportRun(
        id=uuid7(),
        file_name="old-portal.csv",
        operator="kim",
        at=at,
        is_dry=is_dry,
        problems_max=problems_max,
    )


@dataclass
class KnownBill:
    """A bill as the CIS stated it, and what was paid of it since."""

    account_id: str
    reference: str
    due_date: date
    amount_cents: int
    paid_cents: int
    status: str


@dataclass
class Surroundings:
    """What the rest of the service knows, in memory."""

    accounts: set[str] = field(default_factory=set)
    bills: list[KnownBill] = field(default_factory=list)
    enrolments: dict[str, set[str]] = field(default_factory=dict)
    planned: set[str] = field(default_factory=set)


@dataclass
class _Row:
    line: EnrolmentLine
    status: ReenrolmentStatus
    imported_at: datetime
    look_on: date
    invitations: int = 0
    last_invited_on: date | None = None
    settled_at: datetime | None = None
    history: list[HistoryEntry] = field(default_factory=list)


@dataclass
class _Draft:
    draft: OldDraft
    amount_cents: int
    withdrawn: bool = False


def _content(line: EnrolmentLine) -> dict[str, Any]:
    rule = line.rule.model_dump()
    rule["amount_rule"] = rule.pop("amount")
    shown = ("old_account", "name", "email", "locale")
    return {name: getattr(line, name) for name in shown} | rule


class InMemoryReenrolments:
    """See `autopay_scheduler.ports.reenrolment.Reenrolments`."""

    def __init__(self, surroundings: Surroundings) -> None:
        self.around = surroundings
        self.rows: dict[str, _Row] = {}
        self.drafts: dict[str, list[_Draft]] = {}
        self.imports: dict[UUID, list[LineProblem]] = {}
        self.audit: list[tuple[str, str, str]] = []
        self.outbox: list[OutboxRow] = []
        self._looked_at: set[str] = set()

    async def import_enrolments(
        self, batches: AsyncIterator[Sequence[EnrolmentLine | LineProblem]], *, run: ImportRun
    ) -> ImportReport:
        lines, problems = await _drained(batches, EnrolmentLine)
        total = len(lines) + len({each.line for each in problems})
        shapes = [line.number_shape for line in lines]
        if numbers_are_payment_data(
            fitting=sum(shape is NumberShape.FITTING for shape in shapes),
            shaped=sum(shape is not NumberShape.NONE for shape in shapes),
        ):
            bad = [line for line in lines if line.number_shape is NumberShape.FITTING]
            problems += [_problem(line.line, "old_account", Reason.PAYMENT_DATA) for line in bad]
            lines = [line for line in lines if line not in bad]
        lines = self._known(lines, problems)
        lines = _once(lines, problems, lambda line: line.account_id)
        good = []
        for line in lines:
            reason = self._settled_reason(line)
            if reason is None:
                good.append(line)
            else:
                problems.append(_problem(line.line, "account", reason))
        new = [line for line in good if line.account_id not in self.rows]
        changed = [
            line
            for line in good
            if line.account_id in self.rows
            and _content(self.rows[line.account_id].line) != _content(line)
        ]
        if not run.is_dry:
            self._take(new, changed, run)
            self.imports[run.id] = _sorted(problems)
        return _report(run, total, len(new), len(changed), len(good), problems)

    async def import_drafts(
        self, batches: AsyncIterator[Sequence[DraftLine | LineProblem]], *, run: ImportRun
    ) -> ImportReport:
        lines, problems = await _drained(batches, DraftLine)
        total = len(lines) + len({each.line for each in problems})
        lines = self._known(lines, problems)
        good = _once(lines, problems, lambda x: (x.account_id, x.draft_date, x.due_date))
        new = []
        for line in good:
            draft = OldDraft(draft_date=line.draft_date, due_date=line.due_date)
            held = self.drafts.get(line.account_id, [])
            if not any((d.draft, d.amount_cents) == (draft, line.amount_cents) for d in held):
                new.append((line.account_id, _Draft(draft, line.amount_cents)))
        if not run.is_dry:
            self.imports[run.id] = _sorted(problems)
            for account_id, kept in new:
                self.drafts.setdefault(account_id, []).append(kept)
                self._plan(account_id)
        return _report(run, total, len(new), 0, len(good), problems)

    async def problems(
        self, *, import_id: UUID, after_line: int, limit: int
    ) -> Sequence[LineProblem] | None:
        found = self.imports.get(import_id)
        if found is None:
            return None
        lines = sorted({each.line for each in found if each.line > after_line})[:limit]
        return [each for each in found if each.line in lines]

    @asynccontextmanager
    async def looking(self) -> AsyncIterator["_InMemoryUnit"]:
        unit = _InMemoryUnit(self)
        try:
            yield unit
            unit.commit()
        finally:
            self._looked_at -= unit.claimed

    async def mark_enrolled(self, account_ids: Sequence[str], *, at: datetime) -> int:
        return self._settle(account_ids, ReenrolmentStatus.ENROLLED, at)

    async def mark_declined(self, account_ids: Sequence[str], *, at: datetime) -> int:
        return self._settle(account_ids, ReenrolmentStatus.DECLINED, at)

    async def decline_by_operator(
        self, *, account_id: str, operator: str, note: str, at: datetime
    ) -> bool:
        done = self._settle([account_id], ReenrolmentStatus.DECLINED, at) == 1
        if done:
            self.audit.append(("reenrolment.decline", account_id, operator))
        return done

    async def withdraw_drafts(
        self, *, account_id: str, operator: str, note: str, at: datetime
    ) -> int:
        found = [each for each in self.drafts.get(account_id, []) if not each.withdrawn]
        for each in found:
            each.withdrawn = True
        if found:
            self._plan(account_id)
            self.audit.append(("old_drafts.withdraw", account_id, operator))
        return len(found)

    async def lapsing(
        self, *, today: date, until: date, after: LapsingCursor | None, limit: int
    ) -> LapsingPage:
        with_bill, without = [], []
        for account_id, row in self.rows.items():
            if row.status is not ReenrolmentStatus.AWAITING:
                continue
            bill = self.due_bill(account_id, today)
            if bill is not None and bill.due_date <= until:
                with_bill.append(_lapsing(row, bill))
            elif not self._has_bill(account_id, today):
                without.append(_lapsing(row, None))
        keyed = [((each.bill.due_date, each.account_id), each) for each in with_bill if each.bill]
        keyed += [((date.max, each.account_id), each) for each in without]
        keyed.sort(key=lambda pair: pair[0])
        start = ((after.due_date or date.max), after.account_id) if after else (date.min, "")
        left = [pair for pair in keyed if pair[0] > start]
        rows = left[:limit]
        if len(rows) < limit:
            return LapsingPage(rows=[each for _, each in rows], next=None)
        last_day, last_account = rows[-1][0]
        cursor = LapsingCursor(
            due_date=None if last_day == date.max else last_day, account_id=last_account
        )
        return LapsingPage(rows=[each for _, each in rows], next=cursor)

    async def page(
        self, *, status: ReenrolmentStatus, without_email: bool, after: str | None, limit: int
    ) -> Sequence[Reenrolment]:
        found = [
            _reenrolment(row)
            for account_id, row in sorted(self.rows.items())
            if row.status is status and account_id > (after or "")
        ]
        return [each for each in found if not without_email or each.email is None][:limit]

    async def find(self, account_id: str) -> tuple[Reenrolment, Sequence[HistoryEntry]] | None:
        row = self.rows.get(account_id)
        return None if row is None else (_reenrolment(row), list(row.history))

    async def figures(self, *, since: date, until: date) -> Sequence[DayFigures]:
        by_day: dict[date, Counter[ReenrolmentEvent]] = {}
        lapses: dict[date, set[str]] = {}
        for account_id, row in self.rows.items():
            for entry in row.history:
                day = entry.at.astimezone(CITY).date()
                by_day.setdefault(day, Counter())[entry.event] += 1
            if row.status is ReenrolmentStatus.AWAITING:
                for bill in self._missed(account_id):
                    lapses.setdefault(bill.due_date, set()).add(account_id)
        return [
            DayFigures(day=day, events=by_day.get(day, {}), would_lapse=len(lapses.get(day, ())))
            for day in sorted({*by_day, *lapses})
            if since <= day <= until
        ]

    async def totals(self) -> Totals:
        awaiting = [r for r in self.rows.values() if r.status is ReenrolmentStatus.AWAITING]
        return Totals(
            by_status=Counter(row.status for row in self.rows.values()),
            without_email=sum(row.line.email is None for row in awaiting),
        )

    def due_bill(self, account_id: str, today: date) -> DueBill | None:
        found = [bill for bill in self._missed(account_id) if bill.due_date >= today]
        if not found:
            return None
        bill = min(found, key=lambda each: (each.due_date, each.reference))
        return DueBill(
            bill_reference=bill.reference,
            due_date=bill.due_date,
            amount_cents=bill.amount_cents - bill.paid_cents,
            currency="USD",
        )

    def claimable(self, today: date, limit: int) -> list[str]:
        found = [
            (row.look_on, account_id)
            for account_id, row in self.rows.items()
            if row.status is ReenrolmentStatus.AWAITING
            and row.look_on <= today
            and account_id not in self._looked_at
        ]
        claimed = [account_id for _, account_id in sorted(found)[:limit]]
        self._looked_at.update(claimed)
        return claimed

    def _missed(self, account_id: str) -> list[KnownBill]:
        open_bills = [
            bill
            for bill in self.around.bills
            if bill.account_id == account_id and bill.status == "open"
        ]
        drafts = [d.draft for d in self.drafts.get(account_id, []) if not d.withdrawn]
        return [
            bill
            for bill in open_bills
            if bill.amount_cents > bill.paid_cents
            and not has_old_draft(
                bill.due_date,
                drafts=drafts,
                due_dates=[each.due_date for each in open_bills],
                late_grace_days=GRACE_DAYS,
            )
        ]

    def _has_bill(self, account_id: str, today: date) -> bool:
        return any(
            bill.account_id == account_id and bill.status == "open" and bill.due_date >= today
            for bill in self.around.bills
        )

    def _known(self, lines: list[Any], problems: list[LineProblem]) -> list[Any]:
        unknown = [line for line in lines if line.account_id not in self.around.accounts]
        problems += [_problem(line.line, "account", Reason.UNKNOWN_ACCOUNT) for line in unknown]
        return [line for line in lines if line.account_id in self.around.accounts]

    def _settled_reason(self, line: EnrolmentLine) -> Reason | None:
        row = self.rows.get(line.account_id)
        if row is None:
            statuses = self.around.enrolments.get(line.account_id, set())
            if statuses & {"active", "paused"}:
                return Reason.ALREADY_ENROLLED
            return Reason.AUTOPAY_STOPPED if "stopped" in statuses else None
        is_same = _content(row.line) == _content(line)
        if is_same or row.status is ReenrolmentStatus.AWAITING:
            return None
        return {
            ReenrolmentStatus.ENROLLED: Reason.ALREADY_ENROLLED,
            ReenrolmentStatus.DECLINED: Reason.ALREADY_DECLINED,
            ReenrolmentStatus.PAST: Reason.ALREADY_PAST,
        }[row.status]

    def _take(self, new: list[EnrolmentLine], changed: list[EnrolmentLine], run: ImportRun) -> None:
        today = run.at.astimezone(CITY).date()
        for line in new:
            self.rows[line.account_id] = _Row(line, ReenrolmentStatus.AWAITING, run.at, today)
        for line in changed:
            row = self.rows[line.account_id]
            row.history.append(_imported(run, line, "changed", before=_content(row.line)))
            row.line, row.look_on = line, today
        for line in new:
            self.rows[line.account_id].history.append(_imported(run, line, "imported"))

    def _settle(self, account_ids: Sequence[str], status: ReenrolmentStatus, at: datetime) -> int:
        rows = [self.rows[each] for each in set(account_ids) if each in self.rows]
        found = [row for row in rows if row.status in may_become(status)]
        for row in found:
            row.status, row.settled_at = status, at
            row.history.append(HistoryEntry(at=at, event=ReenrolmentEvent(status)))
        return len(found)

    def _plan(self, account_id: str) -> None:
        if self.around.enrolments.get(account_id, set()) & {"active", "paused"}:
            self.around.planned.add(account_id)


class _InMemoryUnit:
    def __init__(self, store: InMemoryReenrolments) -> None:
        self._store = store
        self._settled: list[tuple[Look, datetime]] = []
        self._rows: list[OutboxRow] = []
        self.claimed: set[str] = set()

    async def claim(self, *, today: date, limit: int) -> Sequence[Awaiting]:
        found = self._store.claimable(today, limit)
        self.claimed.update(found)
        return [self._awaiting(account_id, today) for account_id in found]

    async def settle(
        self, looks: Sequence[Look], *, records: Sequence[OutboundRecord], at: datetime
    ) -> Sequence[OutboxRow]:
        self._settled += [(look, at) for look in looks]
        self._rows += [
            OutboxRow(id=len(self._store.outbox) + n, record=record)
            for n, record in enumerate(records)
        ]
        return self._rows

    def commit(self) -> None:
        for look, at in self._settled:
            row = self._store.rows[look.awaiting.account_id]
            row.status, row.look_on = look.status, look.look_on
            if look.status is not ReenrolmentStatus.AWAITING:
                row.settled_at = at
            if look.event in (ReenrolmentEvent.INVITED, ReenrolmentEvent.REMINDED):
                row.invitations += 1
                row.last_invited_on = at.astimezone(CITY).date()
                bill = look.awaiting.bill
                row.history.append(
                    HistoryEntry(
                        at=at,
                        event=look.event,
                        invitation=row.invitations,
                        due_date=bill.due_date if bill else None,
                        amount_cents=bill.amount_cents if bill else None,
                    )
                )
            elif look.event is not None:
                row.history.append(HistoryEntry(at=at, event=look.event))
        self._store.outbox += self._rows

    def _awaiting(self, account_id: str, today: date) -> Awaiting:
        row = self._store.rows[account_id]
        statuses = self._store.around.enrolments.get(account_id, set())
        return Awaiting(
            account_id=account_id,
            name=row.line.name,
            email=row.line.email,
            locale=row.line.locale,
            imported_on=row.imported_at.astimezone(CITY).date(),
            invitations=row.invitations,
            last_invited_on=row.last_invited_on,
            bill=self._store.due_bill(account_id, today),
            is_known_to_portal=bool(statuses & {"active", "paused", "stopped"}),
        )


class CountedMove:
    """Counts what the use cases count; see `ports.reenrolment.ReenrolmentMetrics`."""

    def __init__(self) -> None:
        self.lines: Counter[tuple[str, str]] = Counter()
        self.events: Counter[str] = Counter()
        self.gauges: Mapping[str, int] = {}
        self.without_email = -1

    def reenrolment_imported(self, *, kind: str, outcome: str, lines: int) -> None:
        self.lines[kind, outcome] += lines

    def reenrolment_happened(self, *, event: str, count: int) -> None:
        self.events[str(event)] += count

    def reenrolments(self, *, by_status: Mapping[str, int], without_email: int) -> None:
        self.gauges = {str(status): count for status, count in by_status.items()}
        self.without_email = without_email


async def _drained(batches: AsyncIterator[Sequence[Any]], kind: type[Any]) -> Any:
    found = [each async for batch in batches for each in batch]
    lines = [each for each in found if isinstance(each, kind)]
    return lines, [each for each in found if isinstance(each, LineProblem)]


def _once(lines: list[Any], problems: list[LineProblem], key: Any) -> list[Any]:
    first: dict[Any, int] = {}
    for line in lines:
        first.setdefault(key(line), line.line)
    for line in lines:
        if first[key(line)] != line.line:
            detail = str(first[key(line)])
            problems.append(
                replace(_problem(line.line, "account", Reason.DUPLICATE), detail=detail)
            )
    return [line for line in lines if first[key(line)] == line.line]


def _problem(line: int, column: str, reason: Reason) -> LineProblem:
    return LineProblem(line=line, field=column, reason=reason)


def _sorted(problems: Sequence[LineProblem]) -> list[LineProblem]:
    return sorted(problems, key=lambda each: (each.line, each.field))


def _report(
    run: ImportRun,
    total: int,
    imported: int,
    changed: int,
    good: int,
    problems: Sequence[LineProblem],
) -> ImportReport:
    return ImportReport(
        id=run.id,
        is_dry=run.is_dry,
        lines=total,
        imported=imported,
        changed=changed,
        unchanged=good - imported - changed,
        refused=len({each.line for each in problems}),
        problems=_sorted(problems)[: run.problems_max],
        problems_by_reason=Counter(each.reason for each in problems),
    )


def _imported(
    run: ImportRun, line: EnrolmentLine, event: str, *, before: Any = None
) -> HistoryEntry:
    return HistoryEntry(
        at=run.at,
        event=ReenrolmentEvent(event),
        import_id=run.id,
        line=line.line,
        before=before,
    )


def _lapsing(row: _Row, bill: DueBill | None) -> Lapsing:
    return Lapsing(
        account_id=row.line.account_id,
        old_account=row.line.old_account,
        name=row.line.name,
        email=row.line.email,
        invitations=row.invitations,
        last_invited_on=row.last_invited_on,
        bill=bill,
    )


def _reenrolment(row: _Row) -> Reenrolment:
    line = row.line
    return Reenrolment(
        account_id=line.account_id,
        old_account=line.old_account,
        name=line.name,
        email=line.email,
        locale=line.locale,
        rule=line.rule,
        status=row.status,
        imported_at=row.imported_at,
        invitations=row.invitations,
        last_invited_on=row.last_invited_on,
        settled_at=row.settled_at,
    )

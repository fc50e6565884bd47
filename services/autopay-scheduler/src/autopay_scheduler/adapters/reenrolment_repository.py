"""The move from the old portal in PostgreSQL: one transaction a method, locks in account order."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Row, insert, select, text
from sqlalchemy.ext.asyncio.engine import AsyncConnection, AsyncEngine

from autopay_scheduler.adapters import reenrolment_imports
from autopay_scheduler.adapters.reenrolment_tables import (
    reenrolment_events,
    reenrolments,
)
from autopay_scheduler.adapters.reenrolment_tables import (
    reenrolment_imports as import_runs,
)
from autopay_scheduler.adapters.tables import audit_entries
from autopay_scheduler.domain.import_lines import DraftLine, EnrolmentLine, LineProblem, Reason
from autopay_scheduler.domain.reenrolment import (
    DRAFT_WINDOW_DAYS,
    REENROLMENT_TRANSITIONS,
    ReenrolmentEvent,
    ReenrolmentStatus,
    may_become,
)
from autopay_scheduler.ports.reenrolment import (
    Announce,
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
from shared.contracts.enrolments import AutopayRule
from shared.contracts.wire import OutboundRecord
from shared.db.bulk import arrays, insert_rows, update_rows
from shared.db.engine import transaction
from shared.outbox.table import Outbox, OutboxRow

_SCAN = 2000
"""How many rows of a list are looked at in one statement, to find some that belong on it."""
_SCANS_MAX = 20
"""After so many a page may be short: the next one goes on from there."""
_FIGURES_SECONDS_MAX = 60.0


def old_draft_condition(
    *,
    account: str = "b.account_id",
    due_date: str = "b.due_date",
    late_grace_days: str = ":late_grace_days",
) -> str:
    """Return the SQL condition that the old portal still drafts what is due on a day.

    Says the same as `autopay_scheduler.domain.reenrolment.has_old_draft`, by test. The arguments
    are SQL, and never input: columns, or parameters of the statement that it becomes a part of.
    """
    return f"""EXISTS (
        SELECT 1 FROM autopay_scheduler.old_drafts od
        WHERE od.account_id = {account} AND od.withdrawn_at IS NULL
          AND CASE WHEN od.due_date IS NOT NULL THEN od.due_date = {due_date}
              ELSE od.draft_date > {due_date} - {DRAFT_WINDOW_DAYS}
               AND od.draft_date <= {due_date} + CAST({late_grace_days} AS integer)
               AND NOT EXISTS (
                   SELECT 1 FROM autopay_scheduler.bills ob
                   WHERE ob.account_id = od.account_id AND ob.status = 'open'
                     AND ob.due_date < {due_date}
                     AND od.draft_date > ob.due_date - {DRAFT_WINDOW_DAYS}
                     AND od.draft_date <= ob.due_date + CAST({late_grace_days} AS integer)
               )
              END
    )"""  # noqa: S608


OLD_DRAFT_COVERS = old_draft_condition()
"""For a row `b` of `bills`, with the parameter `:late_grace_days`."""

_LEFT_CENTS = "(b.amount_cents - (ba.paid_cents - b.paid_before_cents))"
_DUE_BILL = f"""
    SELECT b.bill_reference, b.due_date, {_LEFT_CENTS} AS left_cents, b.currency
    FROM autopay_scheduler.bills b
    JOIN autopay_scheduler.accounts ba ON ba.account_id = b.account_id
    WHERE b.account_id = r.account_id AND b.status = 'open' AND b.due_date >= :today
      AND {_LEFT_CENTS} > 0 AND NOT {OLD_DRAFT_COVERS}
    ORDER BY b.due_date, b.bill_reference LIMIT 1
"""  # noqa: S608
_CLAIM = text(
    f"""
    WITH claimed AS MATERIALIZED (
        SELECT * FROM autopay_scheduler.reenrolments
        WHERE status = 'awaiting' AND look_on <= :today
        ORDER BY look_on, account_id LIMIT :limit
        FOR UPDATE SKIP LOCKED
    )
    SELECT r.*, d.bill_reference, d.due_date, d.left_cents, d.currency,
           EXISTS (
               SELECT 1 FROM autopay_scheduler.enrolments e
               WHERE e.account_id = r.account_id AND e.status IN ('active', 'paused', 'stopped')
           ) AS is_known_to_portal
    FROM claimed r LEFT JOIN LATERAL ({_DUE_BILL}) d ON true
    ORDER BY r.look_on, r.account_id
    """  # noqa: S608
)
_LOOKED_COLUMNS = ("status", "invitations", "last_invited_on", "look_on", "settled_at")
_LOOKED = update_rows(reenrolments, key="account_id", columns=_LOOKED_COLUMNS)
_EVENT_COLUMNS = ("account_id", "event", "at", "day", "invitation", "due_date", "amount_cents")
_KEEP_EVENTS = insert_rows(reenrolment_events, _EVENT_COLUMNS)

_SETTLE = text(
    """
    WITH locked AS MATERIALIZED (
        SELECT account_id FROM autopay_scheduler.reenrolments
        WHERE account_id = ANY(:account_ids) AND status = ANY(:from_statuses)
        ORDER BY account_id FOR UPDATE
    ), kept AS (
        INSERT INTO autopay_scheduler.reenrolment_events (account_id, event, at, day)
        SELECT account_id, :event, :at, :day FROM locked
    )
    UPDATE autopay_scheduler.reenrolments r SET status = :status, settled_at = :at
    FROM locked l WHERE r.account_id = l.account_id
    """
)
_WITHDRAW_DRAFTS = text(
    """
    UPDATE autopay_scheduler.old_drafts SET withdrawn_at = :at
    WHERE account_id = :account_id AND withdrawn_at IS NULL
    """
)
_PLAN = text(
    """
    INSERT INTO autopay_scheduler.plans_due (account_id, due_at)
    SELECT DISTINCT e.account_id, CAST(:at AS timestamptz) FROM autopay_scheduler.enrolments e
    WHERE e.account_id = :account_id AND e.status IN ('active', 'paused')
    ON CONFLICT (account_id) DO NOTHING
    """
)
# Whatever is due is looked at in its order; who does not lapse has no `due_date` of its own.
_LAPSING_WITH_BILL = text(
    f"""
    WITH due AS MATERIALIZED (
        SELECT DISTINCT due_date, account_id FROM autopay_scheduler.bills
        WHERE status = 'open' AND due_date BETWEEN :from_day AND :until
          AND (due_date > :from_day OR account_id > :after)
        ORDER BY due_date, account_id LIMIT :scan
    )
    SELECT due.due_date AS scanned_on, due.account_id AS scanned, r.*, d.bill_reference,
           d.due_date, d.left_cents, d.currency
    FROM due
    LEFT JOIN autopay_scheduler.reenrolments r
      ON r.account_id = due.account_id AND r.status = 'awaiting'
    LEFT JOIN LATERAL ({_DUE_BILL}) d ON r.account_id IS NOT NULL AND d.due_date = due.due_date
    ORDER BY due.due_date, due.account_id
    """  # noqa: S608
)
_LAPSING_WITHOUT_BILL = text(
    """
    WITH waiting AS MATERIALIZED (
        SELECT * FROM autopay_scheduler.reenrolments
        WHERE status = 'awaiting' AND account_id > :after
        ORDER BY account_id LIMIT :scan
    )
    SELECT r.*, r.account_id AS scanned, EXISTS (
        SELECT 1 FROM autopay_scheduler.bills b
        WHERE b.account_id = r.account_id AND b.status = 'open' AND b.due_date >= :today
    ) AS has_bill
    FROM waiting r ORDER BY r.account_id
    """
)
_PROBLEMS = text(
    """
    SELECT line, field, reason, detail FROM autopay_scheduler.reenrolment_problems
    WHERE import_id = :import_id AND line > :after AND line <= coalesce((
        SELECT max(line) FROM (
            SELECT DISTINCT line FROM autopay_scheduler.reenrolment_problems
            WHERE import_id = :import_id AND line > :after ORDER BY line LIMIT :limit
        ) lines
    ), 0)
    ORDER BY line, field
    """
)
_EVENTS_BY_DAY = """
    SELECT day, event, count(*) FROM autopay_scheduler.reenrolment_events
    WHERE day BETWEEN $1 AND $2 GROUP BY day, event ORDER BY day, event
"""
_LAPSING_BY_DAY = f"""
    SELECT b.due_date AS day, count(DISTINCT b.account_id)
    FROM autopay_scheduler.bills b
    JOIN autopay_scheduler.accounts ba ON ba.account_id = b.account_id
    JOIN autopay_scheduler.reenrolments r
      ON r.account_id = b.account_id AND r.status = 'awaiting'
    WHERE b.status = 'open' AND b.due_date BETWEEN $1 AND $2 AND {_LEFT_CENTS} > 0
      AND NOT {old_draft_condition(late_grace_days="$3")}
    GROUP BY b.due_date ORDER BY b.due_date
"""  # noqa: S608
_TOTALS = """
    SELECT status, count(*) AS count,
           count(*) FILTER (WHERE status = 'awaiting' AND email IS NULL) AS without_email
    FROM autopay_scheduler.reenrolments GROUP BY status
"""


async def mark_enrolled(
    connection: AsyncConnection, *, account_ids: Sequence[str], at: datetime, zone: ZoneInfo
) -> int:
    """Note, in the caller's transaction, that these accounts have autopay on the new portal.

    Nothing happens for accounts that were never imported. Returns for how many it is news.
    """
    return await _settle(connection, account_ids, ReenrolmentStatus.ENROLLED, at, zone)


async def mark_declined(
    connection: AsyncConnection, *, account_ids: Sequence[str], at: datetime, zone: ZoneInfo
) -> int:
    """Note, in the caller's transaction, that these customers do not want to enrol again."""
    return await _settle(connection, account_ids, ReenrolmentStatus.DECLINED, at, zone)


class SqlReenrolments:
    """See `autopay_scheduler.ports.reenrolment.Reenrolments`."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        outbox: Outbox,
        announce: Announce,
        zone: ZoneInfo,
        late_grace_days: int,
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._announce = announce
        self._zone = zone
        self._late_grace_days = late_grace_days

    async def import_enrolments(
        self, batches: AsyncIterator[Sequence[EnrolmentLine | LineProblem]], *, run: ImportRun
    ) -> ImportReport:
        return await reenrolment_imports.import_enrolments(
            self._engine, batches, run=run, today=_day(run.at, self._zone)
        )

    async def import_drafts(
        self, batches: AsyncIterator[Sequence[DraftLine | LineProblem]], *, run: ImportRun
    ) -> ImportReport:
        return await reenrolment_imports.import_drafts(self._engine, batches, run=run)

    async def problems(
        self, *, import_id: UUID, after_line: int, limit: int
    ) -> Sequence[LineProblem] | None:
        async with transaction(self._engine) as connection:
            known = select(import_runs.c.id).where(import_runs.c.id == import_id)
            if await connection.scalar(known) is None:
                return None
            found = await connection.execute(
                _PROBLEMS, {"import_id": import_id, "after": after_line, "limit": limit}
            )
            return [
                LineProblem(
                    line=row.line, field=row.field, reason=Reason(row.reason), detail=row.detail
                )
                for row in found
            ]

    @asynccontextmanager
    async def looking(self) -> AsyncIterator["SqlInvitationUnit"]:
        async with transaction(self._engine) as connection:
            unit = SqlInvitationUnit(
                connection=connection,
                outbox=self._outbox,
                zone=self._zone,
                late_grace_days=self._late_grace_days,
            )
            yield unit
        self._announce.offer(unit.rows)

    async def mark_enrolled(self, account_ids: Sequence[str], *, at: datetime) -> int:
        async with transaction(self._engine) as connection:
            return await mark_enrolled(connection, account_ids=account_ids, at=at, zone=self._zone)

    async def mark_declined(self, account_ids: Sequence[str], *, at: datetime) -> int:
        async with transaction(self._engine) as connection:
            return await mark_declined(connection, account_ids=account_ids, at=at, zone=self._zone)

    async def decline_by_operator(
        self, *, account_id: str, operator: str, note: str, at: datetime
    ) -> bool:
        async with transaction(self._engine) as connection:
            done = await mark_declined(connection, account_ids=[account_id], at=at, zone=self._zone)
            if done:
                await _audit(connection, "reenrolment.decline", account_id, operator, note, at)
            return done == 1

    async def withdraw_drafts(
        self, *, account_id: str, operator: str, note: str, at: datetime
    ) -> int:
        async with transaction(self._engine) as connection:
            parameters = {"account_id": account_id, "at": at}
            withdrawn = (await connection.execute(_WITHDRAW_DRAFTS, parameters)).rowcount
            if withdrawn:
                await connection.execute(_PLAN, parameters)
                await _audit(connection, "old_drafts.withdraw", account_id, operator, note, at)
            return withdrawn

    async def lapsing(
        self, *, today: date, until: date, after: LapsingCursor | None, limit: int
    ) -> LapsingPage:
        rows: list[Lapsing] = []
        cursor = after or LapsingCursor(due_date=today, account_id="")
        async with transaction(self._engine) as connection:
            for _ in range(_SCANS_MAX):
                found = await self._scan(connection, cursor, today=today, until=until)
                for row in found:
                    cursor = _after(row, cursor)
                    if (lapsing := _lapsing(row)) is not None:
                        rows.append(lapsing)
                    if len(rows) == limit:
                        return LapsingPage(rows=rows, next=cursor)
                if len(found) < _SCAN and cursor.due_date is None:
                    return LapsingPage(rows=rows, next=None)
                if len(found) < _SCAN:
                    cursor = LapsingCursor(due_date=None, account_id="")
        return LapsingPage(rows=rows, next=cursor)

    async def page(
        self,
        *,
        status: ReenrolmentStatus,
        without_email: bool,
        after: str | None,
        limit: int,
    ) -> Sequence[Reenrolment]:
        statement = (
            select(reenrolments)
            .where(reenrolments.c.status == status, reenrolments.c.account_id > (after or ""))
            .order_by(reenrolments.c.account_id)
            .limit(limit)
        )
        if without_email:
            statement = statement.where(reenrolments.c.email.is_(None))
        async with transaction(self._engine) as connection:
            return [_reenrolment(row) for row in await connection.execute(statement)]

    async def find(self, account_id: str) -> tuple[Reenrolment, Sequence[HistoryEntry]] | None:
        events = (
            select(reenrolment_events)
            .where(reenrolment_events.c.account_id == account_id)
            .order_by(reenrolment_events.c.id)
        )
        async with transaction(self._engine) as connection:
            row = (
                await connection.execute(
                    select(reenrolments).where(reenrolments.c.account_id == account_id)
                )
            ).one_or_none()
            if row is None:
                return None
            history = [_history(each) for each in await connection.execute(events)]
            return _reenrolment(row), history

    async def figures(self, *, since: date, until: date) -> Sequence[DayFigures]:
        async with (
            reenrolment_imports.driver(self._engine) as session,
            reenrolment_imports.scanning(session, seconds_max=_FIGURES_SECONDS_MAX),
        ):
            events = await session.fetch(_EVENTS_BY_DAY, since, until, timeout=_FIGURES_SECONDS_MAX)
            lapsing = await session.fetch(
                _LAPSING_BY_DAY,
                since,
                until,
                self._late_grace_days,
                timeout=_FIGURES_SECONDS_MAX,
            )
        by_day: dict[date, dict[ReenrolmentEvent, int]] = {}
        for day, event, count in events:
            by_day.setdefault(day, {})[ReenrolmentEvent(event)] = count
        would_lapse: dict[date, int] = {row["day"]: row["count"] for row in lapsing}
        return [
            DayFigures(day=day, events=by_day.get(day, {}), would_lapse=would_lapse.get(day, 0))
            for day in sorted({*by_day, *would_lapse})
        ]

    async def totals(self) -> Totals:
        async with (
            reenrolment_imports.driver(self._engine) as session,
            reenrolment_imports.scanning(session, seconds_max=_FIGURES_SECONDS_MAX),
        ):
            found = await session.fetch(_TOTALS, timeout=_FIGURES_SECONDS_MAX)
        return Totals(
            by_status={ReenrolmentStatus(row["status"]): row["count"] for row in found},
            without_email=sum(row["without_email"] for row in found),
        )

    async def _scan(
        self, connection: AsyncConnection, cursor: LapsingCursor, *, today: date, until: date
    ) -> Sequence[Row[Any]]:
        parameters = {"today": today, "after": cursor.account_id, "scan": _SCAN}
        if cursor.due_date is None:
            return (await connection.execute(_LAPSING_WITHOUT_BILL, parameters)).all()
        parameters |= {
            "from_day": cursor.due_date,
            "until": until,
            "late_grace_days": self._late_grace_days,
        }
        return (await connection.execute(_LAPSING_WITH_BILL, parameters)).all()


class SqlInvitationUnit:
    """See `autopay_scheduler.ports.reenrolment.InvitationUnit`."""

    def __init__(
        self,
        *,
        connection: AsyncConnection,
        outbox: Outbox,
        zone: ZoneInfo,
        late_grace_days: int,
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._zone = zone
        self._late_grace_days = late_grace_days
        self.rows: list[OutboxRow] = []
        """What was written, to be offered after the commit."""

    async def claim(self, *, today: date, limit: int) -> Sequence[Awaiting]:
        found = await self._connection.execute(
            _CLAIM,
            {"today": today, "limit": limit, "late_grace_days": self._late_grace_days},
        )
        return [
            Awaiting(
                account_id=row.account_id,
                name=row.name,
                email=row.email,
                locale=row.locale,
                imported_on=row.imported_on,
                invitations=row.invitations,
                last_invited_on=row.last_invited_on,
                bill=_bill(row),
                is_known_to_portal=row.is_known_to_portal,
            )
            for row in found
        ]

    async def settle(
        self, looks: Sequence[Look], *, records: Sequence[OutboundRecord], at: datetime
    ) -> Sequence[OutboxRow]:
        day = _day(at, self._zone)
        rows = [_looked(look, at=at, day=day) for look in looks]
        await self._connection.execute(_LOOKED, arrays(rows, ("account_id", *_LOOKED_COLUMNS)))
        events = [_event(look, at=at, day=day) for look in looks if look.event is not None]
        if events:
            await self._connection.execute(_KEEP_EVENTS, arrays(events, _EVENT_COLUMNS))
        written = await self._outbox.append(self._connection, records)
        self.rows.extend(written)
        return written


async def _settle(
    connection: AsyncConnection,
    account_ids: Sequence[str],
    status: ReenrolmentStatus,
    at: datetime,
    zone: ZoneInfo,
) -> int:
    result = await connection.execute(
        _SETTLE,
        {
            "account_ids": list(account_ids),
            "from_statuses": [str(before) for before in may_become(status)],
            "status": str(status),
            "event": str(REENROLMENT_TRANSITIONS[ReenrolmentStatus.AWAITING, status]),
            "at": at,
            "day": _day(at, zone),
        },
    )
    return result.rowcount


async def _audit(
    connection: AsyncConnection,
    action: str,
    account_id: str,
    operator: str,
    note: str,
    at: datetime,
) -> None:
    await connection.execute(
        insert(audit_entries).values(
            at=at, operator=operator, action=action, subject=account_id, note=note
        )
    )


def _day(at: datetime, zone: ZoneInfo) -> date:
    return at.astimezone(zone).date()


def _looked(look: Look, *, at: datetime, day: date) -> Mapping[str, Any]:
    awaiting = look.awaiting
    is_sent = look.event in (ReenrolmentEvent.INVITED, ReenrolmentEvent.REMINDED)
    return {
        "account_id": awaiting.account_id,
        "status": look.status,
        "invitations": awaiting.invitations + is_sent,
        "last_invited_on": day if is_sent else awaiting.last_invited_on,
        "look_on": look.look_on,
        "settled_at": None if look.status is ReenrolmentStatus.AWAITING else at,
    }


def _event(look: Look, *, at: datetime, day: date) -> Mapping[str, Any]:
    is_sent = look.event in (ReenrolmentEvent.INVITED, ReenrolmentEvent.REMINDED)
    bill = look.awaiting.bill if is_sent else None
    return {
        "account_id": look.awaiting.account_id,
        "event": look.event,
        "at": at,
        "day": day,
        "invitation": look.awaiting.invitations + 1 if is_sent else None,
        "due_date": bill.due_date if bill else None,
        "amount_cents": bill.amount_cents if bill else None,
    }


def _after(row: Row[Any], cursor: LapsingCursor) -> LapsingCursor:
    due_date = None if cursor.due_date is None else row.scanned_on
    return LapsingCursor(due_date=due_date, account_id=row.scanned)


def _lapsing(row: Row[Any]) -> Lapsing | None:
    """Return who lapses by a scanned row; None where nobody does."""
    with_bill = hasattr(row, "bill_reference")
    if row.account_id is None or (row.due_date is None if with_bill else row.has_bill):
        return None
    return Lapsing(
        account_id=row.account_id,
        old_account=row.old_account,
        name=row.name,
        email=row.email,
        invitations=row.invitations,
        last_invited_on=row.last_invited_on,
        bill=_bill(row) if with_bill else None,
    )


def _bill(row: Row[Any]) -> DueBill | None:
    if row.due_date is None:
        return None
    return DueBill(
        bill_reference=row.bill_reference,
        due_date=row.due_date,
        amount_cents=row.left_cents,
        currency=row.currency,
    )


def _reenrolment(row: Row[Any]) -> Reenrolment:
    return Reenrolment(
        account_id=row.account_id,
        old_account=row.old_account,
        name=row.name,
        email=row.email,
        locale=row.locale,
        rule=AutopayRule(
            charge_on=row.charge_on,
            days_before=row.days_before,
            day_of_month=row.day_of_month,
            amount=row.amount_rule,
            fixed_cents=row.fixed_cents,
            minimum_cents=row.minimum_cents,
            maximum_cents=row.maximum_cents,
        ),
        status=ReenrolmentStatus(row.status),
        imported_at=row.imported_at,
        invitations=row.invitations,
        last_invited_on=row.last_invited_on,
        settled_at=row.settled_at,
    )


def _history(row: Row[Any]) -> HistoryEntry:
    before = row.before
    return HistoryEntry(
        at=row.at,
        event=ReenrolmentEvent(row.event),
        import_id=row.import_id,
        line=row.line,
        invitation=row.invitation,
        due_date=row.due_date,
        amount_cents=row.amount_cents,
        before=json.loads(before) if isinstance(before, str) else before,
    )

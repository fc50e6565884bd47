"""The store of autopay-scheduler: transactions, and what operators and the portal read."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio.engine import AsyncConnection, AsyncEngine

from autopay_scheduler.adapters import statements
from autopay_scheduler.adapters.repositories import SqlUnitOfWork, due_charges
from autopay_scheduler.adapters.rows import (
    CHARGE_COLUMNS,
    ENROLMENT_COLUMNS,
    announcement,
    charge_record,
    enrolment_record,
    evidence,
    prefixed,
)
from autopay_scheduler.adapters.tables import accounts, charges, enrolments, mandates
from autopay_scheduler.domain.charges import Status
from autopay_scheduler.ports.store import (
    AccountView,
    Announce,
    DueCharge,
    Report,
    SwitchState,
)
from shared.db.engine import transaction
from shared.outbox.table import Outbox

LISTED_MAX = 200
"""Of each list in the report: a clerk works through them, and asks again."""
CHARGES_SHOWN_MAX = 60

_PREVIEW = text(
    f"""
    SELECT {prefixed("c", (*CHARGE_COLUMNS, "declines"), "c_")},
        {prefixed("e", ENROLMENT_COLUMNS, "e_")}
    FROM autopay_scheduler.charges c
    JOIN autopay_scheduler.enrolments e ON e.id = c.enrolment_id
    WHERE c.charge_on = :day
      AND (CAST(:account AS text) IS NULL OR (c.account_id, c.id::text) > (:account, :id))
    ORDER BY c.account_id, c.id::text LIMIT :limit
    """  # noqa: S608
)
_CHARGES_BY_STATUS = text(
    """
    SELECT status, count(*) AS n, coalesce(sum(paid_cents), 0)::bigint AS cents
    FROM autopay_scheduler.charges WHERE charge_on >= :since GROUP BY status
    """
)
_STOPPED = text(
    """
    SELECT reason, count(*) AS n FROM autopay_scheduler.enrolments
    WHERE status = 'stopped' AND ended_at >= :since GROUP BY reason
    """
)
_LISTED = text(
    """
    SELECT * FROM autopay_scheduler.charges
    WHERE charge_on >= :since AND status = :status
    ORDER BY charge_on DESC, account_id LIMIT :limit
    """
)
_BACKLOG = text(
    """
    SELECT s.status, count(c.id), coalesce(extract(epoch FROM :now - min(c.act_at)), 0)
    FROM unnest(CAST(:statuses AS text[])) AS s(status)
    LEFT JOIN LATERAL (
        SELECT id, act_at FROM autopay_scheduler.charges t
        WHERE t.status = s.status AND t.act_at <= :now LIMIT 10000
    ) c ON true
    GROUP BY s.status
    """
)
_TO_PLAN = text(
    """
    SELECT count(*), coalesce(extract(epoch FROM :now - min(due_at)), 0) FROM (
        SELECT due_at FROM autopay_scheduler.plans_due WHERE due_at <= :now
        ORDER BY due_at LIMIT 10000
    ) p
    """
)


class SqlStore:
    """See `autopay_scheduler.ports.store.Store`."""

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

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqlUnitOfWork]:
        async with transaction(self._engine) as connection:
            unit = SqlUnitOfWork(
                connection=connection,
                outbox=self._outbox,
                zone=self._zone,
                late_grace_days=self._late_grace_days,
            )
            yield unit
        self._announce.offer(unit.rows)

    async def switch_state(self) -> SwitchState:
        async with transaction(self._engine) as connection:
            return await _switch_state(connection)

    async def account(self, account_id: str) -> AccountView | None:
        async with transaction(self._engine) as connection:
            known = (
                await connection.execute(
                    select(accounts).where(accounts.c.account_id == account_id)
                )
            ).one_or_none()
            enrolled = await connection.execute(
                select(enrolments)
                .where(enrolments.c.account_id == account_id)
                .order_by(enrolments.c.taken_at.desc())
            )
            records = [enrolment_record(row) for row in enrolled]
            if known is None and not records:
                return None
            words = await connection.execute(
                select(mandates).where(mandates.c.account_id == account_id).order_by(mandates.c.id)
            )
            evidences = [evidence(row) for row in words]
            rows = (
                await connection.execute(
                    select(charges)
                    .where(charges.c.account_id == account_id)
                    .order_by(charges.c.due_date.desc(), charges.c.id)
                    .limit(CHARGES_SHOWN_MAX)
                )
            ).all()
            told = await connection.execute(
                statements.ANNOUNCEMENTS_OF, {"ids": [row.id for row in rows]}
            )
            announced = [(row.charge_id, announcement(row, zone=self._zone)) for row in told]
        return AccountView(
            account_id=account_id,
            balance_cents=known.balance_cents if known is not None else None,
            open_cents=sum(
                row.paid_cents or row.requested_cents or 0
                for row in rows
                if row.status in ("requested", "pending")
                or (row.status == "paid" and row.posted_at is None)
            ),
            enrolments=records,
            evidence=evidences,
            charges=[
                (charge_record(row), [each for key, each in announced if key == row.id])
                for row in rows
            ],
        )

    async def preview(
        self, *, day: date, after: tuple[str, str] | None, limit: int
    ) -> Sequence[DueCharge]:
        account_id, charge_id = after or (None, None)
        async with transaction(self._engine) as connection:
            result = await connection.execute(
                _PREVIEW, {"day": day, "account": account_id, "id": charge_id, "limit": limit}
            )
            return await due_charges(
                connection,
                result.all(),
                zone=self._zone,
                late_grace_days=self._late_grace_days,
            )

    async def report(self, *, since: date, now: datetime) -> Report:
        async with transaction(self._engine) as connection:
            enrolled = await connection.execute(
                select(enrolments.c.status, func.count().label("n")).group_by(enrolments.c.status)
            )
            by_status = (await connection.execute(_CHARGES_BY_STATUS, {"since": since})).all()
            stopped = await connection.execute(
                _STOPPED, {"since": now - timedelta(days=(now.date() - since).days)}
            )
            listed = {
                status: [
                    charge_record(row)
                    for row in await connection.execute(
                        _LISTED, {"since": since, "status": status, "limit": LISTED_MAX}
                    )
                ]
                for status in (Status.MISSED, Status.HELD, Status.FAILED)
            }
            to_plan = (await connection.execute(_TO_PLAN, {"now": now})).one()
            is_paused = (await _switch_state(connection)).is_paused
            return Report(
                is_paused=is_paused,
                enrolments={row.status: row.n for row in enrolled},
                charges={row.status: row.n for row in by_status},
                charged_cents=sum(row.cents for row in by_status if row.status == Status.PAID),
                missed=listed[Status.MISSED],
                held=listed[Status.HELD],
                failed=listed[Status.FAILED],
                stopped={row.reason: row.n for row in stopped},
                to_plan=to_plan[0],
            )

    async def backlog(self, *, now: datetime) -> Sequence[tuple[str, int, float]]:
        statuses = ["planned", "announced", "retrying", "requested", "pending", "held"]
        async with transaction(self._engine) as connection:
            found = await connection.execute(_BACKLOG, {"now": now, "statuses": statuses})
            late = [(row[0], int(row[1]), float(row[2])) for row in found]
            to_plan = (await connection.execute(_TO_PLAN, {"now": now})).one()
        return [*late, ("to_plan", int(to_plan[0]), float(to_plan[1]))]


async def _switch_state(connection: AsyncConnection) -> SwitchState:
    row = (await connection.execute(statements.SWITCH_STATE)).one_or_none()
    if row is None:
        return SwitchState(is_paused=False, changed_at=None)
    return SwitchState(is_paused=row.is_paused, changed_at=row.changed_at)

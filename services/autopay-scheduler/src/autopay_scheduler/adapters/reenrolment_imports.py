"""Imports into PostgreSQL: staged by COPY while they arrive, merged in one transaction.

Invariant: while a file arrives nothing is locked and nothing is kept but temporary tables of one
session, however slowly it comes. Then one transaction takes all good lines, the problems and the
import itself, or nothing. Imports take turns, so that what one decides is true when it commits.

The driver is spoken to directly: COPY has no other way, and these few statements look at whole
tables, for which the services' sessions are not planned (`shared.db.engine`).
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio.engine import AsyncConnection, AsyncEngine

from autopay_scheduler.domain.import_lines import DraftLine, EnrolmentLine, LineProblem, Reason
from autopay_scheduler.domain.payment_data import NumberShape, numbers_are_payment_data
from autopay_scheduler.ports.reenrolment import ImportReport, ImportRun
from shared.db.engine import DatabaseUnavailableError, database_errors

STATEMENT_SECONDS_MAX = 300.0
"""A million lines are merged in 30 s on two cores; ten times that is an outage."""

_RETRYABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InterfaceError,
)

Driver = Any
"""An `asyncpg.Connection`, as SQLAlchemy's pool hands it out."""
Line = TypeVar("Line", EnrolmentLine, DraftLine)

_PROBLEMS = """
    CREATE TEMPORARY TABLE import_problems (
        line integer NOT NULL, field text NOT NULL, reason text NOT NULL, detail text NOT NULL
    )
"""
_STAGED_ENROLMENTS = """
    CREATE TEMPORARY TABLE import_lines (
        line integer NOT NULL, old_account text NOT NULL, account_id text NOT NULL,
        name text NOT NULL, email text, locale text NOT NULL, charge_on text NOT NULL,
        days_before integer, day_of_month integer, amount_rule text NOT NULL, fixed_cents bigint,
        minimum_cents bigint, maximum_cents bigint, number_shape smallint NOT NULL
    )
"""
_STAGED_DRAFTS = """
    CREATE TEMPORARY TABLE import_lines (
        line integer NOT NULL, account_id text NOT NULL, draft_date date, due_date date,
        amount_cents bigint NOT NULL
    )
"""
_CONTENT = (
    "old_account",
    "name",
    "email",
    "locale",
    "charge_on",
    "days_before",
    "day_of_month",
    "amount_rule",
    "fixed_cents",
    "minimum_cents",
    "maximum_cents",
)
_ENROLMENT_COLUMNS = ("line", "account_id", *_CONTENT, "number_shape")
_DRAFT_COLUMNS = ("line", "account_id", "draft_date", "due_date", "amount_cents")
_IS_SAME = f"({', '.join('r.' + n for n in _CONTENT)}) IS NOT DISTINCT FROM" + (
    f" ({', '.join('s.' + n for n in _CONTENT)})"
)

# Each takes the lines that it finds out of the staged ones and keeps why.
_REFUSE = """
    WITH refused AS (
        DELETE FROM import_lines s USING ({found}) f WHERE s.line = f.line
        RETURNING s.line, f.field, f.reason, f.detail
    )
    INSERT INTO import_problems (line, field, reason, detail)
    SELECT line, field, reason, detail FROM refused
"""
_PAYMENT_NUMBERS = f"""
    SELECT line, 'old_account' AS field, 'payment_data' AS reason, '' AS detail
    FROM import_lines WHERE number_shape = {NumberShape.FITTING:d}
"""  # noqa: S608
_UNKNOWN = """
    SELECT line, 'account' AS field, 'unknown_account' AS reason, '' AS detail
    FROM import_lines l
    WHERE NOT EXISTS (
        SELECT 1 FROM autopay_scheduler.accounts a WHERE a.account_id = l.account_id
    )
"""
_DUPLICATES = """
    SELECT line, 'account' AS field, 'duplicate' AS reason, first_line::text AS detail
    FROM (
        SELECT line, min(line) OVER (PARTITION BY {key}) AS first_line FROM import_lines
    ) d
    WHERE line <> first_line
"""
_ON_NEW_PORTAL = """
    SELECT l.line, 'account' AS field,
           CASE WHEN bool_or(e.status <> 'stopped') THEN 'already_enrolled'
                ELSE 'autopay_stopped' END AS reason,
           '' AS detail
    FROM import_lines l
    JOIN autopay_scheduler.enrolments e
      ON e.account_id = l.account_id AND e.status IN ('active', 'paused', 'stopped')
    WHERE NOT EXISTS (
        SELECT 1 FROM autopay_scheduler.reenrolments r WHERE r.account_id = l.account_id
    )
    GROUP BY l.line
"""
_SETTLED = f"""
    SELECT s.line, 'account' AS field, 'already_' || r.status AS reason, '' AS detail
    FROM import_lines s JOIN autopay_scheduler.reenrolments r USING (account_id)
    WHERE r.status <> 'awaiting' AND NOT ({_IS_SAME})
"""  # noqa: S608
_COUNT_DRY = f"""
    SELECT count(*) FILTER (WHERE r.account_id IS NULL) AS imported,
           count(*) FILTER (WHERE r.status = 'awaiting' AND NOT ({_IS_SAME})) AS changed
    FROM import_lines s LEFT JOIN autopay_scheduler.reenrolments r USING (account_id)
"""  # noqa: S608
_CHANGE = f"""
    WITH before AS MATERIALIZED (
        SELECT r.*, s.line FROM autopay_scheduler.reenrolments r JOIN import_lines s
        USING (account_id)
        WHERE r.status = 'awaiting' AND NOT ({_IS_SAME})
        ORDER BY r.account_id FOR UPDATE OF r
    ), kept AS (
        INSERT INTO autopay_scheduler.reenrolment_events
            (account_id, event, at, day, import_id, line, before)
        SELECT account_id, 'changed', $1, $2, $3, line,
               jsonb_build_object({", ".join(f"'{n}', {n}" for n in _CONTENT)})
        FROM before ORDER BY line
    )
    UPDATE autopay_scheduler.reenrolments r
    SET ({", ".join(_CONTENT)}, look_on) = ({", ".join("s." + n for n in _CONTENT)}, $2)
    FROM before b JOIN import_lines s USING (account_id)
    WHERE r.account_id = b.account_id
"""  # noqa: S608
_INSERT = f"""
    WITH inserted AS (
        INSERT INTO autopay_scheduler.reenrolments
            (account_id, {", ".join(_CONTENT)}, status, imported_at, imported_on, look_on)
        SELECT s.account_id, {", ".join("s." + n for n in _CONTENT)}, 'awaiting', $1, $2, $2
        FROM import_lines s
        WHERE NOT EXISTS (
            SELECT 1 FROM autopay_scheduler.reenrolments r WHERE r.account_id = s.account_id
        )
        ORDER BY s.account_id
        RETURNING account_id
    )
    INSERT INTO autopay_scheduler.reenrolment_events
        (account_id, event, at, day, import_id, line)
    SELECT i.account_id, 'imported', $1, $2, $3, s.line
    FROM inserted i JOIN import_lines s USING (account_id)
"""  # noqa: S608
_KNOWN_DRAFTS = """
    SELECT 1 FROM autopay_scheduler.old_drafts d
    WHERE d.account_id = s.account_id AND d.amount_cents = s.amount_cents
      AND d.draft_date IS NOT DISTINCT FROM s.draft_date
      AND d.due_date IS NOT DISTINCT FROM s.due_date
"""
_COUNT_DRAFTS_DRY = f"""
    SELECT count(*) AS imported, 0 AS changed FROM import_lines s WHERE NOT EXISTS ({_KNOWN_DRAFTS})
"""  # noqa: S608
_INSERT_DRAFTS = f"""
    WITH inserted AS (
        INSERT INTO autopay_scheduler.old_drafts
            (account_id, draft_date, due_date, amount_cents, import_id, line, imported_at)
        SELECT account_id, draft_date, due_date, amount_cents, $2, line, $1
        FROM import_lines s WHERE NOT EXISTS ({_KNOWN_DRAFTS})
        ORDER BY account_id
        RETURNING account_id
    ), planned AS (
        INSERT INTO autopay_scheduler.plans_due (account_id, due_at)
        SELECT DISTINCT i.account_id, $1 FROM inserted i
        JOIN autopay_scheduler.enrolments e
          ON e.account_id = i.account_id AND e.status IN ('active', 'paused')
        ON CONFLICT (account_id) DO NOTHING
    )
    SELECT count(*) FROM inserted
"""  # noqa: S608
_KEEP_RUN = """
    INSERT INTO autopay_scheduler.reenrolment_imports
        (id, kind, file_name, operator, at, lines, imported, changed, unchanged, refused)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
_KEEP_PROBLEMS = """
    INSERT INTO autopay_scheduler.reenrolment_problems (import_id, line, field, reason, detail)
    SELECT $1, line, field, reason, detail FROM import_problems ORDER BY line
    ON CONFLICT DO NOTHING
"""


@dataclass(slots=True)
class _Counts:
    staged: int = 0
    broken: int = 0
    """Lines that could not be read; each has a problem or more."""
    imported: int = 0
    changed: int = 0


async def import_enrolments(
    engine: AsyncEngine,
    batches: AsyncIterator[Sequence[EnrolmentLine | LineProblem]],
    *,
    run: ImportRun,
    today: Any,
) -> ImportReport:
    """See `Reenrolments.import_enrolments`; `today` is the city's date."""
    async with driver(engine) as session:
        counts = await _stage(
            session, batches, _STAGED_ENROLMENTS, _ENROLMENT_COLUMNS, EnrolmentLine, _enrolment_row
        )
        async with _merging(session):
            await _refuse_payment_numbers(session)
            await _refuse(session, _UNKNOWN)
            await _refuse(session, _DUPLICATES.format(key="account_id"))
            await _refuse(session, _ON_NEW_PORTAL)
            await _refuse(session, _SETTLED)
            if run.is_dry:
                await _count(session, _COUNT_DRY, counts)
            else:
                about = (run.at, today, run.id)
                counts.changed = await _rows(session, _CHANGE, *about)
                counts.imported = await _rows(session, _INSERT, *about)
            return await _finish(session, counts, run=run, kind="enrolments")


async def import_drafts(
    engine: AsyncEngine,
    batches: AsyncIterator[Sequence[DraftLine | LineProblem]],
    *,
    run: ImportRun,
) -> ImportReport:
    """See `Reenrolments.import_drafts`."""
    async with driver(engine) as session:
        counts = await _stage(
            session, batches, _STAGED_DRAFTS, _DRAFT_COLUMNS, DraftLine, _draft_row
        )
        async with _merging(session):
            await _refuse(session, _UNKNOWN)
            await _refuse(session, _DUPLICATES.format(key="account_id, draft_date, due_date"))
            if run.is_dry:
                await _count(session, _COUNT_DRAFTS_DRY, counts)
            else:
                counts.imported = await session.fetchval(
                    _INSERT_DRAFTS, run.at, run.id, timeout=STATEMENT_SECONDS_MAX
                )
            return await _finish(session, counts, run=run, kind="drafts")


@asynccontextmanager
async def driver(engine: AsyncEngine) -> AsyncIterator[Driver]:
    """Lend the driver's own connection; one that something went wrong on is not used again.

    Raises:
        DatabaseUnavailableError: nothing was committed (or its answer was lost); do it again.
    """
    async with database_errors(), _living(engine) as connection:
        session = (await connection.get_raw_connection()).driver_connection
        try:
            yield session
        except _RETRYABLE as error:
            await connection.invalidate()
            raise DatabaseUnavailableError(type(error).__name__) from error
        except BaseException:
            # Temporary tables, or half a COPY, would be the next user's.
            await connection.invalidate()
            raise


@asynccontextmanager
async def _living(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a session that is known to answer: an upload cannot be done again on our side."""
    connection = await engine.connect()
    try:
        try:
            await connection.execute(text("SELECT 1"))
            await connection.rollback()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            # With this one, the pool has discarded all that are as old.
            await connection.close()
            connection = await engine.connect()
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def scanning(session: Driver, *, seconds_max: float) -> AsyncIterator[None]:
    """Open a transaction whose statements may look at whole tables, and take their time."""
    async with session.transaction():
        milliseconds = int(seconds_max * 1000)
        await session.execute(
            "SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on;"
            "SET LOCAL enable_mergejoin = on; SET LOCAL work_mem = '64MB';"
            f"SET LOCAL statement_timeout = {milliseconds};"
            f"SET LOCAL lock_timeout = {milliseconds};"
            f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}"
        )
        yield


@asynccontextmanager
async def _merging(session: Driver) -> AsyncIterator[None]:
    async with scanning(session, seconds_max=STATEMENT_SECONDS_MAX):
        await session.execute(
            "LOCK TABLE autopay_scheduler.reenrolment_imports IN SHARE ROW EXCLUSIVE MODE",
            timeout=STATEMENT_SECONDS_MAX,
        )
        yield
    await session.execute("DROP TABLE import_lines, import_problems")


async def _stage(
    session: Driver,
    batches: AsyncIterator[Sequence[Line | LineProblem]],
    table: str,
    columns: Sequence[str],
    kind: type[Line],
    row: Any,
) -> _Counts:
    counts, last_broken = _Counts(), 0
    await session.execute(table)
    await session.execute(_PROBLEMS)
    async for batch in batches:
        lines = [row(each) for each in batch if isinstance(each, kind)]
        problems = [each for each in batch if isinstance(each, LineProblem)]
        for problem in problems:
            counts.broken += problem.line != last_broken
            last_broken = problem.line
        counts.staged += len(lines)
        await _copy(session, "import_lines", columns, lines)
        await _copy(
            session,
            "import_problems",
            ("line", "field", "reason", "detail"),
            [(each.line, each.field, each.reason, each.detail) for each in problems],
        )
    await session.execute("ANALYZE import_lines", timeout=STATEMENT_SECONDS_MAX)
    return counts


async def _copy(
    session: Driver, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]
) -> None:
    if rows:
        await session.copy_records_to_table(
            table, records=rows, columns=columns, timeout=STATEMENT_SECONDS_MAX
        )


async def _refuse_payment_numbers(session: Driver) -> None:
    found = await session.fetchrow(
        f"SELECT count(*) FILTER (WHERE number_shape = {NumberShape.FITTING:d}) AS fitting,"  # noqa: S608
        f" count(*) FILTER (WHERE number_shape <> {NumberShape.NONE:d}) AS shaped"
        " FROM import_lines",
        timeout=STATEMENT_SECONDS_MAX,
    )
    if numbers_are_payment_data(fitting=found["fitting"], shaped=found["shaped"]):
        await _refuse(session, _PAYMENT_NUMBERS)


async def _refuse(session: Driver, found: str) -> None:
    await _rows(session, _REFUSE.format(found=found))


async def _rows(session: Driver, statement: str, *arguments: Any) -> int:
    """Return how many rows a statement wrote: the last word of its tag."""
    tag: str = await session.execute(statement, *arguments, timeout=STATEMENT_SECONDS_MAX)
    return int(tag.rpartition(" ")[2])


async def _count(session: Driver, statement: str, counts: _Counts) -> None:
    found = await session.fetchrow(statement, timeout=STATEMENT_SECONDS_MAX)
    counts.imported, counts.changed = found["imported"], found["changed"]


async def _finish(session: Driver, counts: _Counts, *, run: ImportRun, kind: str) -> ImportReport:
    left = await session.fetchval(
        "SELECT count(*) FROM import_lines", timeout=STATEMENT_SECONDS_MAX
    )
    report = ImportReport(
        id=run.id,
        is_dry=run.is_dry,
        lines=counts.staged + counts.broken,
        imported=counts.imported,
        changed=counts.changed,
        unchanged=left - counts.imported - counts.changed,
        refused=counts.staged - left + counts.broken,
        problems=[
            line_problem(row)
            for row in await session.fetch(
                "SELECT line, field, reason, detail FROM import_problems"
                " ORDER BY line, field LIMIT $1",
                run.problems_max,
                timeout=STATEMENT_SECONDS_MAX,
            )
        ],
        problems_by_reason={
            Reason(row["reason"]): row["count"]
            for row in await session.fetch(
                "SELECT reason, count(*) FROM import_problems GROUP BY reason ORDER BY reason",
                timeout=STATEMENT_SECONDS_MAX,
            )
        },
    )
    if not run.is_dry:
        figures = (report.lines, report.imported, report.changed, report.unchanged, report.refused)
        await session.execute(
            _KEEP_RUN, run.id, kind, run.file_name, run.operator, run.at, *figures
        )
        await session.execute(_KEEP_PROBLEMS, run.id, timeout=STATEMENT_SECONDS_MAX)
    return report


def line_problem(row: Mapping[str, Any]) -> LineProblem:
    """Return a problem out of its row."""
    return LineProblem(
        line=row["line"], field=row["field"], reason=Reason(row["reason"]), detail=row["detail"]
    )


def _enrolment_row(line: EnrolmentLine) -> tuple[Any, ...]:
    rule = line.rule
    return (
        line.line,
        line.account_id,
        line.old_account,
        line.name,
        line.email,
        line.locale,
        rule.charge_on,
        rule.days_before,
        rule.day_of_month,
        rule.amount,
        rule.fixed_cents,
        rule.minimum_cents,
        rule.maximum_cents,
        line.number_shape,
    )


def _draft_row(line: DraftLine) -> tuple[Any, ...]:
    return (line.line, line.account_id, line.draft_date, line.due_date, line.amount_cents)

"""The move from the old portal on real PostgreSQL: at once, broken off, by the hundred thousand."""

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import date, datetime, timedelta
from typing import Any

import asyncpg
import psutil
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from tests.support.asgi import call
from tests.support.backends import PostgresBackend, TestDatabase, create_database
from tests.support.reenrolment import (
    CITY,
    GRACE_DAYS,
    HEADER,
    NOON,
    TODAY,
    CountedMove,
    a_calendar,
    a_file,
    a_reader,
    a_row,
    a_run,
    in_chunks,
)
from tests.support.reenrolment_database import (
    ReenrolmentDatabase,
    migrate_scheduler,
    sqlalchemy_url,
)

from autopay_scheduler.adapters.reenrolment_repository import OLD_DRAFT_COVERS, mark_enrolled
from autopay_scheduler.adapters.reenrolment_tables import reenrolments
from autopay_scheduler.app import build_app
from autopay_scheduler.domain.reenrolment import OldDraft, Rhythm, has_old_draft
from autopay_scheduler.ports.reenrolment import ImportReport
from autopay_scheduler.settings import Settings
from autopay_scheduler.usecases.reenrolment import InviteAwaiting
from shared.db.engine import DatabaseUnavailableError, transaction

OURS = (
    *("reenrolments", "reenrolment_events", "reenrolment_imports", "reenrolment_problems"),
    "old_drafts",
)


@pytest.fixture(scope="module")
async def migrated(database: TestDatabase) -> AsyncIterator[ReenrolmentDatabase]:
    migrate_scheduler(database)
    found = ReenrolmentDatabase(database)
    yield found
    await found.close()


@pytest.fixture
async def rows(migrated: ReenrolmentDatabase) -> ReenrolmentDatabase:
    await migrated.empty()
    return migrated


async def imports(rows: ReenrolmentDatabase, *lines: str, at: datetime = NOON) -> ImportReport:
    batches = a_reader(lines_max=1_000_000).enrolments(in_chunks(a_file(*lines)))
    return await rows.store().import_enrolments(batches, run=a_run(at=at))


async def eventually(holds: Callable[[], Awaitable[bool]], *, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline, f"did not come true in {seconds:g} s"
        await asyncio.sleep(0.02)


def inviting(rows: ReenrolmentDatabase) -> InviteAwaiting:
    return InviteAwaiting(
        reenrolments=rows.store(),
        calendar=a_calendar(),
        rhythm=Rhythm(),
        link="https://pay.springfield.example/autopay",
        metrics=CountedMove(),
    )


class TestMigration:
    async def test_goes_up_down_and_up_again(self, postgres: PostgresBackend) -> None:
        rows = ReenrolmentDatabase(create_database(postgres=postgres))
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'autopay_scheduler'"
        found = []
        for revision in ("head", "base", "head"):
            migrate_scheduler(rows.database, revision=revision)
            names = {row["tablename"] for row in await rows.fetch(tables)}
            found.append(names & {*OURS, "accounts"})
        await rows.close()
        assert found == [{*OURS, "accounts"}, set(), {*OURS, "accounts"}]

    async def test_makes_what_the_tables_say(self, rows: ReenrolmentDatabase) -> None:
        def differences(connection: Connection) -> list[object]:
            def is_ours(name: str | None, kind: str, parents: Any) -> bool:
                if kind == "schema":
                    return name == "autopay_scheduler"
                return kind != "table" or name in OURS

            options = {
                "include_schemas": True,
                "include_name": is_ours,
                "include_object": lambda found, name, kind, *_: kind != "table" or name in OURS,
                "version_table_schema": "autopay_scheduler",
                "compare_server_default": True,
            }
            context = MigrationContext.configure(connection, opts=options)
            return list(compare_metadata(context, reenrolments.metadata))

        # As superuser: the service's own search path would hide the schema's name.
        url = rows.database.superuser_dsn.replace("postgresql://", "postgresql+asyncpg://", 1)
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            found = await connection.run_sync(differences)
        await engine.dispose()
        assert found == []

    async def test_keeps_the_checks_of_the_tables(self, rows: ReenrolmentDatabase) -> None:
        found = await rows.fetch(
            "SELECT conname, pg_get_constraintdef(oid) AS says FROM pg_constraint"
            " WHERE contype = 'c' AND connamespace = 'autopay_scheduler'::regnamespace"
        )
        checks = {row["conname"]: row["says"] for row in found}
        for name, values in (
            ("reenrolments_status_known", 4),
            ("reenrolments_charge_on_known", 3),
            ("reenrolments_amount_rule_known", 3),
            ("reenrolment_events_event_known", 7),
            ("reenrolment_problems_reason_known", 16),
            ("reenrolment_imports_kind_known", 2),
        ):
            assert checks[name].count("'::text") == values, name
        assert "old_drafts_have_a_date" in checks


class TestImportedRows:
    async def test_have_no_place_for_a_payment_method(self, rows: ReenrolmentDatabase) -> None:
        found = await rows.fetch(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_schema = 'autopay_scheduler' AND table_name = ANY($1)",
            list(OURS),
        )
        columns = {row["column_name"] for row in found}
        words = ("token", "method", "processor", "card", "bank", "last4", "mandate")
        assert columns
        assert not any(word in column for word in words for column in columns)

    async def test_never_charge(self, rows: ReenrolmentDatabase) -> None:
        """With a bill due, every job run every day of four months, and every account to plan."""
        await rows.know("A-1", "A-2", "A-3")
        await imports(rows, a_row("A-1", amount="fixed", fixed_cents="4000"), a_row("A-2"))
        # Beside them one who did enrol: what is run here does charge where it may.
        await rows.enrol("A-3")
        for account in ("A-1", "A-2", "A-3"):
            for month in (3, 4, 5, 6):
                await rows.bill(account, date(2026, month, 20))
        settings = Settings(
            environment="local",
            database_url=sqlalchemy_url(rows.database),
            kafka_bootstrap_servers="127.0.0.1:1",
            portal_url="https://pay.springfield.example",
        )
        app = build_app(settings)
        invite = inviting(rows)
        for day in range(125):
            now = NOON + timedelta(days=day)
            await rows.execute(
                "INSERT INTO plans_due SELECT account_id, $1 FROM accounts ON CONFLICT DO NOTHING",
                now,
            )
            await invite(now=now, limit=10)
            await app.jobs.plan_charges_once(now=now)
            await app.jobs.announce_charges_once(now=now)
            await app.jobs.request_charges_once(now=now)
            await app.jobs.restate_unheard_once(now=now)
            await app.jobs.close_held_once(now=now)
        for close in app.service.closes:
            await close()
        assert await rows.count("plans_due") == 0
        charged = await rows.fetch("SELECT DISTINCT account_id FROM charges")
        assert [row["account_id"] for row in charged] == ["A-3"]
        assert await rows.count("enrolments", "account_id <> 'A-3'") == 0
        facts = await rows.facts()
        assert {kind for kind, account, _ in facts if account != "A-3"} == {"enrolment.invited"}
        assert "charge.announced" in {kind for kind, account, _ in facts if account == "A-3"}
        assert await rows.count("reenrolments", "status = 'past'") == 2


class TestImporting:
    async def test_takes_turns_and_imports_each_account_once(
        self, rows: ReenrolmentDatabase
    ) -> None:
        accounts = [f"A-{n:05}" for n in range(5_000)]
        await rows.know(*accounts)
        lines = [a_row(each) for each in accounts]
        reports = await asyncio.gather(*(imports(rows, *lines) for _ in range(3)))
        assert sorted(report.imported for report in reports) == [0, 0, 5_000]
        assert sorted(report.unchanged for report in reports) == [0, 5_000, 5_000]
        assert await rows.count("reenrolments") == 5_000
        assert await rows.count("reenrolment_events") == 5_000

    async def test_holds_nothing_while_its_file_arrives(self, rows: ReenrolmentDatabase) -> None:
        await rows.know("A-1", "A-2")
        await imports(rows, a_row("A-1"))
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield a_file(a_row("A-1", name="Other"), a_row("A-2"))
            arrived.set()
            await go_on.wait()
            yield b""

        task = asyncio.create_task(
            rows.store().import_enrolments(a_reader().enrolments(slow()), run=a_run())
        )
        await arrived.wait()
        held = await rows.fetch(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'test'"
            " AND (xact_start IS NOT NULL OR state LIKE 'idle in%')"
        )
        assert held == []
        assert await rows.store().mark_enrolled(["A-1"], at=NOON) == 1
        go_on.set()
        report = await task
        assert (report.imported, report.refused) == (1, 1)

    async def test_waits_for_who_holds_a_row_and_sees_what_became_of_it(
        self, rows: ReenrolmentDatabase
    ) -> None:
        await rows.know("A-1")
        await imports(rows, a_row("A-1"))
        async with transaction(rows.engine) as connection:
            await mark_enrolled(connection, account_ids=["A-1"], at=NOON, zone=CITY)
            task = asyncio.create_task(imports(rows, a_row("A-1", name="Other")))

            async def waits() -> bool:
                return bool(
                    await rows.fetch(
                        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                        " AND application_name = 'test'"
                    )
                )

            await eventually(waits)
        report = await task
        assert (report.changed, report.imported) == (0, 0)
        [row] = await rows.fetch("SELECT name, status FROM reenrolments")
        assert tuple(row) == ("Ada Byron", "enrolled")

    @pytest.mark.parametrize("when", ["arriving", "merging"])
    async def test_keeps_nothing_when_its_session_is_lost(
        self, rows: ReenrolmentDatabase, when: str
    ) -> None:
        await rows.know("A-1", "A-2")
        killed = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'test' AND pid <> pg_backend_pid()"
        )
        blocker = await asyncpg.connect(rows.database.superuser_dsn)

        async def breaks_off() -> AsyncIterator[bytes]:
            yield a_file(a_row("A-1"), a_row("A-2"))
            if when == "arriving":
                await blocker.execute(killed)
            yield b""

        if when == "merging":
            # The import itself is the last thing that is written.
            await blocker.execute(
                "BEGIN; LOCK TABLE autopay_scheduler.reenrolment_problems IN EXCLUSIVE MODE"
            )
        task = asyncio.create_task(
            rows.store().import_enrolments(a_reader().enrolments(breaks_off()), run=a_run())
        )
        if when == "merging":

            async def waits() -> bool:
                return bool(
                    await rows.fetch(
                        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                        " AND query LIKE '%reenrolment_problems%' AND application_name = 'test'"
                    )
                )

            await eventually(waits)
            await blocker.execute(killed)
        with pytest.raises(DatabaseUnavailableError):
            await task
        await blocker.close()
        for table in ("reenrolments", "reenrolment_events", "reenrolment_imports"):
            assert await rows.count(table) == 0
        assert (await imports(rows, a_row("A-1"), a_row("A-2"))).imported == 2

    async def test_keeps_nothing_when_it_is_cancelled(self, rows: ReenrolmentDatabase) -> None:
        await rows.know("A-1")
        arrived = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield a_file(*(a_row("A-1") for _ in range(3_000)))
            arrived.set()
            await asyncio.sleep(60)
            raise AssertionError("nobody waited")

        task = asyncio.create_task(
            rows.store().import_enrolments(a_reader().enrolments(endless()), run=a_run())
        )
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await rows.count("reenrolments") == 0
        assert (await imports(rows, a_row("A-1"))).imported == 1

    async def test_leaves_its_session_as_it_was(self, rows: ReenrolmentDatabase) -> None:
        await rows.know("A-1")
        engine = rows.new_engine(pool_size=1)
        store = rows.store(engine=engine)
        await store.figures(since=TODAY, until=TODAY)
        async with transaction(engine) as connection:
            before = await connection.scalar(text("SELECT pg_backend_pid()"))
        for _ in range(2):
            batches = a_reader().enrolments(in_chunks(a_file(a_row("A-1"))))
            await store.import_enrolments(batches, run=a_run())
            await store.totals()
            async with transaction(engine) as connection:
                found = await connection.execute(
                    text(
                        "SELECT pg_backend_pid(), current_setting('enable_seqscan'),"
                        " current_setting('statement_timeout'), to_regclass('import_lines')"
                    )
                )
                assert tuple(found.one()) == (before, "off", "10s", None)
        await engine.dispose()

    async def test_keeps_who_imported_what_and_what_came_of_it(
        self, rows: ReenrolmentDatabase
    ) -> None:
        await rows.know("A-1")
        report = await imports(rows, a_row("A-1"), a_row("NO"), a_row("A-1"))
        [run] = await rows.fetch("SELECT * FROM reenrolment_imports")
        assert dict(run) == {
            "id": report.id,
            "kind": "enrolments",
            "file_name": "old-portal.csv",
            "operator": "kim",
            "at": NOON,
            "lines": 3,
            "imported": 1,
            "changed": 0,
            "unchanged": 0,
            "refused": 2,
        }

    async def test_needs_no_more_memory_for_more_lines(self, rows: ReenrolmentDatabase) -> None:
        lines = 60_000
        await rows.execute(
            "INSERT INTO accounts (account_id, heard_at)"
            " SELECT 'A-' || n, now() FROM generate_series(1, $1::int) n",
            lines,
        )
        process = psutil.Process()
        resident: list[int] = []

        async def generated() -> AsyncIterator[bytes]:
            yield f"{HEADER}\n".encode()
            for first in range(1, lines + 1, 500):
                yield a_file(*(a_row(f"A-{n}") for n in range(first, first + 500)), header="")
                resident.append(process.memory_info().rss)

        reader = a_reader(lines_max=lines)
        report = await rows.store().import_enrolments(reader.enrolments(generated()), run=a_run())
        assert (report.imported, report.refused) == (lines, 0)
        # All lines together are 5 MB as text and 60 MB as objects: half of them are not held.
        assert max(resident) - resident[20] < 16 * 1024**2


class TestInviting:
    async def test_reaches_everybody_once_with_two_at_it(self, rows: ReenrolmentDatabase) -> None:
        accounts = [f"A-{n:04}" for n in range(1_000)]
        await rows.know(*accounts)
        await imports(rows, *(a_row(each) for each in accounts))
        sent = await asyncio.gather(
            *(inviting(rows)(now=NOON, limit=1_000) for _ in range(2)),
        )
        assert sum(sent) == 1_000
        facts = await rows.facts()
        assert sorted(account for _, account, _ in facts) == accounts
        assert {(kind, each["invitation"]) for kind, _, each in facts} == {("enrolment.invited", 1)}
        assert await inviting(rows)(now=NOON, limit=1_000) == 0
        assert await rows.count("reenrolment_events", "event = 'invited'") == 1_000
        assert len(rows.offered.rows) == 1_000

    async def test_repeats_nothing_after_a_crash_and_leaves_nobody_out(
        self, rows: ReenrolmentDatabase
    ) -> None:
        await rows.know("A-1")
        await imports(rows, a_row("A-1"))
        invite = inviting(rows)
        real = rows.store()

        class Crashing:
            """The process ends just before its commit."""

            def looking(self) -> Any:
                from contextlib import asynccontextmanager

                @asynccontextmanager
                async def unit() -> AsyncIterator[Any]:
                    async with real.looking() as inner:
                        yield inner
                        raise RuntimeError("crash")

                return unit()

        broken: Any = Crashing()
        with pytest.raises(RuntimeError, match="crash"):
            await InviteAwaiting(
                reenrolments=broken,
                calendar=a_calendar(),
                rhythm=Rhythm(),
                link="https://pay.springfield.example",
                metrics=CountedMove(),
            )(now=NOON, limit=10)
        assert (await rows.facts(), rows.offered.rows) == ([], [])
        assert await invite(now=NOON, limit=10) == 1
        assert len(await rows.facts()) == 1

    async def test_marks_in_the_transaction_of_the_activation(
        self, rows: ReenrolmentDatabase
    ) -> None:
        await rows.know("A-1")
        await imports(rows, a_row("A-1"))
        with pytest.raises(RuntimeError, match="undone"):
            async with transaction(rows.engine) as connection:
                await mark_enrolled(connection, account_ids=["A-1"], at=NOON, zone=CITY)
                raise RuntimeError("undone")
        assert await rows.count("reenrolments", "status = 'awaiting'") == 1
        async with transaction(rows.engine) as connection:
            marked = await mark_enrolled(connection, account_ids=["A-1", "NO"], at=NOON, zone=CITY)
        assert marked == 1
        assert await rows.count("reenrolments", "status = 'enrolled'") == 1


class TestOldDraftCondition:
    @pytest.mark.parametrize("seed", range(4))
    async def test_says_what_the_pure_function_says(
        self, rows: ReenrolmentDatabase, seed: int
    ) -> None:
        chance = random.Random(seed)
        bills: dict[str, list[tuple[date, str]]] = {}
        drafts: dict[str, list[tuple[OldDraft, bool]]] = {}
        for number in range(150):
            account = f"A-{number:03}"
            day = date(2026, 1, 1) + timedelta(days=chance.randrange(40))
            stated = []
            for _ in range(chance.randrange(1, 5)):
                stated.append((day, chance.choice(("open", "open", "cancelled"))))
                day += timedelta(days=chance.choice((1, 14, 28, 30, 31)))
            bills[account] = stated
            drafts[account] = [
                (_a_draft(chance, [each for each, _ in stated]), chance.random() < 0.2)
                for _ in range(chance.randrange(3))
            ]
        await rows.know(*bills)
        for account, held in bills.items():
            for due_date, status in held:
                await rows.bill(account, due_date, status=status)
            for number, (draft, withdrawn) in enumerate(drafts[account]):
                await rows.execute(
                    "INSERT INTO old_drafts (account_id, draft_date, due_date, amount_cents,"
                    " import_id, line, imported_at, withdrawn_at)"
                    " VALUES ($1, $2, $3, $4, gen_random_uuid(), 2, $5, $6)",
                    account,
                    draft.draft_date,
                    draft.due_date,
                    100 + number,
                    NOON,
                    NOON if withdrawn else None,
                )
        async with transaction(rows.engine) as connection:
            found = await connection.execute(
                text(
                    f"SELECT b.account_id, b.due_date, {OLD_DRAFT_COVERS} AS covered"
                    " FROM autopay_scheduler.bills b WHERE b.status = 'open'"
                ),
                {"late_grace_days": GRACE_DAYS},
            )
            by_sql = {(row.account_id, row.due_date): row.covered for row in found}
        by_rule = {
            (account, due_date): has_old_draft(
                due_date,
                drafts=[draft for draft, withdrawn in drafts[account] if not withdrawn],
                due_dates=[day for day, status in held if status == "open"],
                late_grace_days=GRACE_DAYS,
            )
            for account, held in bills.items()
            for due_date, status in held
            if status == "open"
        }
        assert by_sql == by_rule
        assert {True, False} == set(by_sql.values())


def _a_draft(chance: random.Random, due_dates: list[date]) -> OldDraft:
    near = chance.choice(due_dates) + timedelta(days=chance.randrange(-30, 6))
    if chance.random() < 0.3:
        return OldDraft(draft_date=near, due_date=chance.choice(due_dates))
    return OldDraft(draft_date=near, due_date=None)


class TestApi:
    async def test_imports_through_the_service_as_it_is_put_together(
        self, rows: ReenrolmentDatabase
    ) -> None:
        await rows.know("A-1")
        key = "operators-write-with-this"
        app = build_app(
            Settings(
                environment="local",
                database_url=sqlalchemy_url(rows.database),
                kafka_bootstrap_servers="127.0.0.1:1",
                portal_url="https://pay.springfield.example",
                operator_key_sha256s=[hashlib.sha256(key.encode()).hexdigest()],
            )
        )
        answer = await call(
            app.api,
            "POST",
            "/reenrolment/imports?file_name=old.csv&operator=kim",
            headers={"authorization": f"Bearer {key}", "content-type": "text/csv"},
            body=a_file(a_row("A-1"), a_row("NO")),
        )
        for close in app.service.closes:
            await close()
        assert (answer.status, answer.json()["imported"], answer.json()["refused"]) == (200, 1, 1)
        assert await rows.count("reenrolments") == 1

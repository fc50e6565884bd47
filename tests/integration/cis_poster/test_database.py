"""The schema of cis-poster, what its statements read, and a database that goes away."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from tests.support.backends import (
    PostgresBackend,
    TestDatabase,
    create_database,
    start_postgres,
)
from tests.support.cis_poster import Poster, StubCisGateway, a_posting, a_reversal
from tests.support.lanes import NoLanes
from tests.support.poster_database import PosterDatabase, migrate_poster

from cis_poster.adapters.tables import metadata
from paypost.stack.ports import PortBlock
from paypost.stack.postgres import StopMode
from paypost.stack.watchdog import Watchdog
from shared.clock import utc_now

HISTORY = 20_000


@pytest.fixture(scope="module")
async def rows(database: TestDatabase) -> AsyncIterator[PosterDatabase]:
    migrate_poster(database)
    found = PosterDatabase(database)
    yield found
    await found.close()


class TestMigrations:
    async def test_go_up_down_and_up_again(self, postgres: PostgresBackend) -> None:
        rows = PosterDatabase(create_database(postgres=postgres))
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'cis_poster'"
        found = []
        for revision in ("head", "base", "head", "head"):
            migrate_poster(rows.database, revision=revision)
            found.append((await rows.fetch(tables))[0][0])
        await rows.close()
        assert found == [5, 1, 5, 5]

    async def test_make_what_the_tables_say(self, rows: PosterDatabase) -> None:
        def differences(connection: Connection) -> list[object]:
            options = {
                "include_schemas": True,
                "include_name": lambda name, kind, _: kind != "schema" or name == "cis_poster",
                "version_table_schema": "cis_poster",
                "compare_server_default": True,
            }
            context = MigrationContext.configure(connection, opts=options)
            return list(compare_metadata(context, metadata))

        # As superuser: the service's own search path would hide the schema's name.
        url = rows.database.superuser_dsn.replace("postgresql://", "postgresql+asyncpg://", 1)
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            found = await connection.run_sync(differences)
        await engine.dispose()
        assert found == []

    async def test_keep_the_checks_of_the_tables(self, rows: PosterDatabase) -> None:
        found = await rows.fetch(
            "SELECT conname, pg_get_constraintdef(oid) AS says FROM pg_constraint"
            " WHERE conrelid = 'postings'::regclass AND contype = 'c'"
        )
        checks = {row["conname"]: row["says"] for row in found}
        for status in (
            *("due", "attempting", "unknown", "waiting"),
            *("posted", "suspended", "conflicted", "returned"),
        ):
            assert f"'{status}'" in checks["postings_status_known"]
        assert checks["postings_status_known"].count("'::text") == 8
        assert checks["postings_kind_known"].count("'::text") == 3
        assert "amount_cents > 0" in checks["postings_amount_positive"]
        assert "cis_reference IS NOT NULL" in checks["postings_posted_has_reference"]


class TestStatements:
    async def test_read_what_they_work_on_and_no_history(self, rows: PosterDatabase) -> None:
        """Counted by the server, so that it is about the plans that really ran."""
        await rows.empty()
        await keep(rows, HISTORY, status="posted")
        # Neither VACUUM nor ANALYZE: plans must hold on a table that nobody has looked at.
        before = await reads(rows)
        await whole_life(rows)
        scans, read = (now - then for now, then in zip(await reads(rows), before, strict=True))
        assert scans == 0
        assert 0 < read < HISTORY / 2, f"{read} index entries for about 60 postings"

    async def test_are_not_slower_for_a_hot_account(self, rows: PosterDatabase) -> None:
        await rows.empty()
        store = rows.store()
        batch = [a_posting() for _ in range(3_000)]
        for first in range(0, 3_000, 500):
            await store.take(
                batch[first : first + 500], now=utc_now(), hold=True, lanes_held=NoLanes()
            )
        began = time.monotonic()
        claimed = await store.claim_due(now=utc_now(), limit=500)
        await store.take([a_posting()], now=utc_now(), hold=False, lanes_held=NoLanes())
        assert [attempt.posting.id for attempt in claimed] == [p.id for p in batch[:500]]
        assert await store.claim_due(now=utc_now(), limit=500) == []
        assert time.monotonic() - began < 2

    async def test_read_no_backlog_by_plans_of_a_time_without_one(
        self, rows: PosterDatabase
    ) -> None:
        await rows.empty()
        await keep(rows, 3_000, status="posted")
        await rows.execute("VACUUM ANALYZE postings")
        watched = PosterDatabase(rows.database)
        store = watched.store()

        async def take(count: int) -> None:
            batch = [a_posting(account_id=f"new-{uuid4()}") for _ in range(count)]
            await store.take(batch, now=utc_now(), hold=False, lanes_held=NoLanes())

        # More than five times: by then a generic plan may have been chosen.
        for _ in range(8):
            await take(1)
        await keep(rows, 5_000, status="due")
        _, before = await reads(rows)
        await take(100)
        await watched.close()
        _, after = await reads(rows)
        assert after - before < 5_000, "each of the hundred has read the backlog"


async def keep(rows: PosterDatabase, count: int, *, status: str) -> None:
    """So many postings of fifty accounts, as they are held with this status."""
    await rows.execute(
        "INSERT INTO postings (id, payment_id, kind, account_id, amount_cents, currency,"
        " effective_date, accepted_at, processor, reference, status, due_at, cis_reference,"
        " balance_after_cents, taken_at, settled_at)"
        " SELECT gen_random_uuid(), gen_random_uuid(), 'payment', 'A-' || n % 50, 1, 'USD',"
        f" '2026-01-01', now(), 'stripe', 'x', '{status}', now(), 'CIS', 0, now(), now()"
        f" FROM generate_series(1, {count}) n"
    )


async def whole_life(rows: PosterDatabase) -> None:
    """Every hot statement, on a few postings, with one connection that then leaves."""
    watched = PosterDatabase(rows.database)
    cis = StubCisGateway()
    cis.post_faults = ["down", "lost_after"]
    poster = watched.poster(
        gateway=cis,
        clock=utc_now,
        monotonic=time.monotonic,
        batch_size=10,
        retry_initial_seconds=0.01,
        # More than five times: by then a generic plan may have been chosen.
        connections=1,
    )
    batch = [a_posting(account_id=f"A-{n % 10}") for n in range(40)]
    for first in range(0, 40, 5):
        await poster.post_payments(batch[first : first + 5])
    await drained(watched, poster)
    await poster.post_payments([*batch[:5], *(a_reversal(payment) for payment in batch[:10])])
    await poster.post_payments([a_reversal(a_posting())])
    await drained(watched, poster)
    for _ in range(8):
        await poster.postings.wake_waiting(now=utc_now(), limit=100)
        await poster.postings.backlog(now=utc_now())
        await poster.postings.suspense(limit=10)
    await watched.close()


async def drained(rows: PosterDatabase, poster: Poster) -> None:
    deadline = time.monotonic() + 10
    while await rows.count("status IN ('due', 'attempting', 'unknown')"):
        assert time.monotonic() < deadline
        await poster.post_due(now=utc_now(), limit=500)
        await asyncio.sleep(0.02)


async def reads(rows: PosterDatabase) -> tuple[int, int]:
    """Scans of the whole table by the service's role, and index entries read, so far."""
    await asyncio.sleep(0.3)
    await rows.execute("SELECT pg_stat_force_next_flush()")
    await rows.execute("SELECT pg_stat_clear_snapshot()")
    [table] = await rows.fetch(
        "SELECT seq_scan, coalesce(idx_tup_fetch, 0) AS fetched FROM pg_stat_user_tables"
        " WHERE relid = 'postings'::regclass"
    )
    [index] = await rows.fetch(
        "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relid = 'postings'::regclass"
    )
    return int(table["seq_scan"]), int(index[0])


class TestRestart:
    async def test_of_the_database_loses_and_doubles_no_outcome(
        self, tmp_path_factory: pytest.TempPathFactory, watchdog: Watchdog
    ) -> None:
        with PortBlock.claim() as ports:
            server = start_postgres(
                directory=tmp_path_factory.mktemp("own"), ports=ports, watchdog=watchdog
            )
            try:
                backend = PostgresBackend(
                    superuser_dsn=server.dsn(database="postgres"), backend="native", server=server
                )
                database = create_database(postgres=backend)
                migrate_poster(database)
                rows = PosterDatabase(database)
                cis, accepted = (
                    StubCisGateway(),
                    [a_posting(account_id=f"A-{n % 30}") for n in range(600)],
                )
                poster = rows.poster(
                    gateway=cis, clock=utc_now, monotonic=time.monotonic, batch_size=20
                )

                begun = asyncio.Event()

                async def takes_a_while(operation: str, postings: object) -> None:
                    await asyncio.sleep(0.02)
                    if cis.journal:
                        begun.set()

                cis.before_call = takes_a_while
                await poster.post_payments(accepted)
                await asyncio.wait_for(begun.wait(), timeout=10)
                # Calls are in flight and outcomes are being settled while it goes away.
                await asyncio.to_thread(server.stop, mode=StopMode.IMMEDIATE)
                await asyncio.sleep(0.5)
                assert 0 < len(cis.journal) < 600
                await asyncio.to_thread(server.start)
                await drained(rows, poster)
                facts = await rows.facts()
                await rows.close()
            finally:
                server.stop()
        assert sorted(p.id for p in cis.journal) == sorted(p.id for p in accepted)
        for n in range(30):
            assert cis.posted(f"A-{n}") == [p.id for p in accepted[n::30]]
        # One fact each, whether or not the answer to its commit was heard.
        assert len([kind for kind, _ in facts if kind == "posting.posted"]) == 600
        assert len({key for _, key in facts}) == len(facts)

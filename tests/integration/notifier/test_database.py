"""What only PostgreSQL can show: concurrency, plans, migrations forth and back."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from tests.support.backends import TestDatabase
from tests.unit.notifier.fakes import NOON, NoLanes, a_contact, a_notification

from notifier.adapters.repositories import SqlContacts, SqlNotifications
from notifier.adapters.tables import metadata, outbox
from shared.db.engine import build_engine
from shared.db.migrations import migrate
from shared.outbox.table import Outbox


def run_migration(url: str, revision: str = "head") -> None:
    with ThreadPoolExecutor(1) as executor:
        executor.submit(migrate, url=url, package="notifier", revision=revision).result()


@pytest.fixture(scope="module")
def url(database: TestDatabase) -> Iterator[str]:
    url = database.dsns["notifier"].replace("postgresql://", "postgresql+asyncpg://")
    run_migration(url)
    yield url


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = build_engine(url=url, application_name="test", pool_size=6)
    yield engine
    await engine.dispose()


def instance(engine: AsyncEngine) -> SqlNotifications:
    return SqlNotifications(engine=engine, outbox=Outbox(table=outbox), lease_seconds=90.0)


class TestTwoInstances:
    async def test_take_one_fact_once(self, engine):
        account = f"A-{uuid4()}"
        await SqlContacts(engine=engine).keep([a_contact(account_id=account)])
        batch = [a_notification(account_id=account) for _ in range(200)]
        taken = await asyncio.gather(
            *(
                instance(engine).take(
                    list(reversed(batch)) if number % 2 else batch,
                    now=NOON,
                    hold=False,
                    lanes_held=NoLanes(),
                )
                for number in range(2)
            ),
            return_exceptions=True,
        )
        done = [each for each in taken if not isinstance(each, BaseException)]
        assert done
        assert sum(each.inserted for each in done) == 200

    async def test_claim_each_row_once(self, engine):
        accounts = [f"A-{uuid4()}" for _ in range(300)]
        await SqlContacts(engine=engine).keep([a_contact(account_id=each) for each in accounts])
        await instance(engine).take(
            [a_notification(account_id=account) for account in accounts],
            now=NOON,
            hold=True,
            lanes_held=NoLanes(),
        )
        claims = await asyncio.gather(
            *(instance(engine).claim_due(now=NOON, limit=80) for _ in range(5))
        )
        rest = await instance(engine).claim_due(now=NOON, limit=500)
        ids = [each.notification.id for found in [*claims, rest] for each in found.attempts]
        assert len(ids) == len(set(ids)) == 300


class TestClaimPlan:
    async def test_reads_by_the_partial_index(self, engine):
        async with engine.connect() as connection:
            rows = await connection.execute(
                text(
                    "EXPLAIN SELECT id FROM notifier.notifications "
                    "WHERE status IN ('due', 'sending') AND due_at <= :now "
                    "ORDER BY due_at, seq LIMIT 10"
                ),
                {"now": NOON + timedelta(days=1)},
            )
            assert "notifications_due_at" in "\n".join(rows.scalars())


class TestMigrations:
    async def test_make_what_the_tables_say(self, url, database):
        def differences(connection: Connection) -> list[object]:
            context = MigrationContext.configure(
                connection,
                opts={
                    "include_schemas": True,
                    "include_name": lambda name, kind, _: kind != "schema" or name == "notifier",
                    "include_object": lambda _, name, kind, *__: name != "alembic_version",
                },
            )
            return list(compare_metadata(context, metadata))

        # Alembic leaves out the name of the schema that a session looks in by itself.
        dsn = database.superuser_dsn.replace("postgresql://", "postgresql+asyncpg://")
        engine = create_async_engine(dsn)
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
        await engine.dispose()

    async def test_go_back_and_forth(self, engine, url):
        await engine.dispose()
        run_migration(url, "base")
        async with engine.connect() as connection:
            left = await connection.execute(
                text(
                    "SELECT table_name FROM information_schema.tables "
                    "WHERE table_schema = 'notifier' AND table_name <> 'alembic_version'"
                )
            )
            assert list(left) == []
        await engine.dispose()
        run_migration(url)
        async with engine.connect() as connection:
            assert (
                await connection.execute(text("SELECT count(*) FROM notifier.notifications"))
            ).scalar() == 0

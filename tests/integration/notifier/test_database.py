"""What only PostgreSQL can show: concurrency, plans, migrations forth and back."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import pytest
import structlog.testing
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from tests.support.backends import TestDatabase
from tests.support.lanes import NoLanes
from tests.unit.notifier import autopay_facts as autopay
from tests.unit.notifier.fakes import NOON, a_contact, a_notification

from notifier.adapters.repositories import SqlContacts, SqlNotifications
from notifier.adapters.tables import metadata, outbox
from notifier.consumers import to_notification
from notifier.domain import Notification
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


def an_announcement(account: str) -> Notification:
    fact = autopay.announced(account_id=account, charge_id=uuid4())
    notification = to_notification(autopay.received(fact))
    assert notification is not None
    return notification


async def hold(engine: AsyncEngine, *notifications: Notification) -> None:
    await instance(engine).take(notifications, now=NOON, hold=True, lanes_held=NoLanes())


async def change(engine: AsyncEngine, statement: str, **values: object) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(statement), values)


@asynccontextmanager
async def any_kind_allowed(engine: AsyncEngine) -> AsyncIterator[None]:
    """As if a later version had migrated the table already."""
    async with engine.connect() as connection:
        condition = await connection.scalar(
            text(
                "SELECT pg_get_constraintdef(oid) FROM pg_constraint "
                "WHERE conname = 'notifications_kind_known'"
            )
        )
    table, name = "notifier.notifications", "notifications_kind_known"
    await change(engine, f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    yield
    await change(engine, f"ALTER TABLE {table} ADD CONSTRAINT {name} {condition}")


class TestVersionsSideBySide:
    async def test_leave_alone_a_kind_that_only_the_other_knows(self, engine):
        account, other = f"A-{uuid4()}", f"A-{uuid4()}"
        await SqlContacts(engine=engine).keep([a_contact(account_id=account)])
        await SqlContacts(engine=engine).keep([a_contact(account_id=other)])
        later, known = an_announcement(account), an_announcement(other)
        await hold(engine, later, known)
        async with any_kind_allowed(engine):
            of_later = "UPDATE notifier.notifications SET kind = :kind WHERE id = :id"
            await change(engine, of_later, kind="not_known_yet", id=later.id)
            claimed = await instance(engine).claim_due(now=NOON, limit=1000)
            await change(engine, of_later, kind="charge_announced", id=later.id)
        ids = {each.notification.id for each in claimed.attempts}
        assert known.id in ids
        assert later.id not in ids

    async def test_fail_only_the_message_whose_fact_they_cannot_read(self, engine):
        account, other = f"A-{uuid4()}", f"A-{uuid4()}"
        await SqlContacts(engine=engine).keep([a_contact(account_id=account)])
        await SqlContacts(engine=engine).keep([a_contact(account_id=other)])
        unreadable, readable = an_announcement(account), an_announcement(other)
        await hold(engine, unreadable, readable)
        await change(
            engine,
            "UPDATE notifier.notifications SET fact = fact - 'charge_on' WHERE id = :id",
            id=unreadable.id,
        )
        with structlog.testing.capture_logs() as logs:
            claimed = await instance(engine).claim_due(now=NOON, limit=1000)
        held = {each.notification.id: each.notification for each in claimed.attempts}
        assert held[readable.id] == readable
        assert held[unreadable.id].fact is None
        assert [(log["event"], log["notification_id"]) for log in logs] == [
            ("notification.unreadable", str(unreadable.id))
        ]


class TestConstraints:
    @pytest.mark.parametrize(
        ("change_of", "constraint"),
        [
            ("fact = NULL", "notifications_autopay_has_fact"),
            ("currency = NULL", "notifications_amount_has_currency"),
            ("kind = 'posted', fact = NULL", "notifications_payment_named"),
            (
                "kind = 'posted', fact = NULL, payment_id = id, amount_cents = NULL, "
                "currency = NULL",
                "notifications_payment_has_amount",
            ),
            ("kind = 'charge_declined'", "notifications_payment_named"),
            ("kind = 'never_heard_of'", "notifications_kind_known"),
        ],
    )
    async def test_refuse_a_row_that_could_not_be_told(self, engine, change_of, constraint):
        notice = an_announcement(f"A-{uuid4()}")
        await hold(engine, notice)
        with pytest.raises(IntegrityError, match=constraint):
            await change(
                engine,
                f"UPDATE notifier.notifications SET {change_of} WHERE id = :id",
                id=notice.id,
            )


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
            assert "using notifications_due on" in "\n".join(rows.scalars())


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

    async def test_keep_what_was_told_of_payments_back_to_the_first_and_forth(self, engine, url):
        account = f"A-{uuid4()}"
        await SqlContacts(engine=engine).keep([a_contact(account_id=account)])
        posted, notice = a_notification(account_id=account), an_announcement(account)
        await hold(engine, posted, notice)
        await engine.dispose()
        run_migration(url, "-3")
        async with engine.connect() as connection:
            ids = await connection.execute(
                text("SELECT id FROM notifier.notifications WHERE account_id = :account"),
                {"account": account},
            )
            assert list(ids.scalars()) == [posted.id]
            required = await connection.execute(
                text(
                    "SELECT column_name FROM information_schema.columns "
                    "WHERE table_schema = 'notifier' AND table_name = 'notifications' "
                    "AND column_name IN ('payment_id', 'amount_cents', 'currency') "
                    "AND is_nullable = 'NO'"
                )
            )
            assert len(list(required)) == 3
        await engine.dispose()
        run_migration(url)
        async with engine.connect() as connection:
            unvalidated = await connection.execute(
                text(
                    "SELECT conname FROM pg_constraint WHERE NOT convalidated "
                    "AND conrelid = 'notifier.notifications'::regclass"
                )
            )
            assert list(unvalidated) == []
        await hold(engine, notice)

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

"""Which of PostgreSQL's errors are to be waited out, on real PostgreSQL."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.support.backends import TestDatabase

from shared.db.engine import (
    DatabaseUnavailableError,
    RowsLockedError,
    build_engine,
    driver_session,
    transaction,
)


def engine_for(dsn: str, *, lock_wait_seconds: float | None = None) -> AsyncEngine:
    url = dsn.replace("postgresql://", "postgresql+asyncpg://", 1)
    return build_engine(
        url=url, application_name="test", pool_size=2, lock_wait_seconds=lock_wait_seconds
    )


@pytest.fixture
async def engine(database: TestDatabase) -> AsyncIterator[AsyncEngine]:
    found = engine_for(database.dsns["notifier"])
    yield found
    await found.dispose()


async def raise_in_statement(engine: AsyncEngine, sqlstate: str) -> None:
    async with transaction(engine) as connection:
        await connection.execute(
            text(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{sqlstate}'; END $$")
        )


class TestTransaction:
    @pytest.mark.parametrize("sqlstate", ["53100", "53300", "55P03", "57014", "58030", "40P01"])
    async def test_waits_out_what_lies_in_the_server(
        self, engine: AsyncEngine, sqlstate: str
    ) -> None:
        with pytest.raises(DatabaseUnavailableError):
            await raise_in_statement(engine, sqlstate)

    @pytest.mark.parametrize("sqlstate", ["22001", "23505", "42601", "XX000"])
    async def test_tells_what_lies_in_the_batch_as_it_is(
        self, engine: AsyncEngine, sqlstate: str
    ) -> None:
        with pytest.raises(DBAPIError):
            await raise_in_statement(engine, sqlstate)

    @pytest.mark.parametrize("is_of_driver", [False, True])
    async def test_tells_that_another_session_holds_the_rows(
        self, database: TestDatabase, engine: AsyncEngine, is_of_driver: bool
    ) -> None:
        impatient = engine_for(database.dsns["notifier"], lock_wait_seconds=0.05)
        lock = "SELECT pg_advisory_xact_lock(7)"
        try:
            async with transaction(engine) as connection:
                await connection.execute(text(lock))
                with pytest.raises(RowsLockedError):
                    async with transaction(impatient) as other:
                        if is_of_driver:
                            await other.execute(text("SELECT 1"))
                            await (await driver_session(other)).execute(lock)
                        await other.execute(text(lock))
        finally:
            await impatient.dispose()

    async def test_waits_out_whatever_keeps_it_from_logging_in(
        self, database: TestDatabase
    ) -> None:
        # As a full disk does, or a password that is changed: nothing that was to be written is
        # at fault, so nothing of it may be given up.
        right = database.dsns["notifier"]
        user, _, rest = right.partition("@")
        wrong = engine_for(f"{user.rpartition(':')[0]}:wrong@{rest}")
        try:
            with pytest.raises(DatabaseUnavailableError):
                async with transaction(wrong):
                    pass
        finally:
            await wrong.dispose()

    async def test_waits_for_a_database_that_is_not_there_yet(self, database: TestDatabase) -> None:
        place = database.dsns["notifier"].rpartition("/")[0]
        missing = engine_for(f"{place}/not_there")
        try:
            with pytest.raises(DatabaseUnavailableError):
                async with transaction(missing):
                    pass
        finally:
            await missing.dispose()


# By the statistics eighty rows are due, all over the table; and then eight thousand are.
BACKLOG = (
    "CREATE TABLE notifier.backlog (id int, account int, due_at int, status text, body text)",
    "CREATE INDEX backlog_due ON notifier.backlog (due_at, id) WHERE status = 'due'",
    "CREATE INDEX backlog_account ON notifier.backlog (account, id) WHERE status = 'due'",
    "INSERT INTO notifier.backlog "
    "SELECT n, n % 900, n * 7919 % 8000, CASE WHEN n % 100 = 0 THEN 'due' END, repeat('x', 600) "
    "FROM generate_series(1, 8000) n",
    "ANALYZE notifier.backlog",
    "UPDATE notifier.backlog SET status = 'due'",
)
FIRST_OF_IT = text(
    """
    EXPLAIN SELECT * FROM notifier.backlog b
    WHERE status = 'due' AND due_at <= 8000 AND NOT EXISTS (
        SELECT FROM notifier.backlog e
        WHERE e.account = b.account AND e.id < b.id AND e.status = 'due' AND e.due_at > b.due_at
    )
    ORDER BY due_at, id LIMIT 500
    """
)


class TestPlansAnew:
    async def test_read_a_backlog_in_the_order_of_its_index(self, engine: AsyncEngine) -> None:
        for statement in BACKLOG:
            async with transaction(engine) as connection:
                await connection.execute(text(statement))

        async def plan(**how: bool) -> str:
            async with transaction(engine, **how) as connection:
                # PostgreSQL's own; what a server is tuned to should not decide.
                await connection.execute(text("SET LOCAL random_page_cost = 4"))
                return "\n".join((await connection.execute(FIRST_OF_IT)).scalars())

        # Sorted, all of it is read for the first few.
        assert "Sort" in await plan()
        assert "Sort" not in await plan(plans_anew=True)

"""Which of PostgreSQL's errors are to be waited out, on real PostgreSQL."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.support.backends import TestDatabase

from shared.db.engine import DatabaseUnavailableError, build_engine, transaction


def engine_for(dsn: str) -> AsyncEngine:
    url = dsn.replace("postgresql://", "postgresql+asyncpg://", 1)
    return build_engine(url=url, application_name="test", pool_size=2)


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

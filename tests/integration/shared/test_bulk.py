"""How PostgreSQL carries out what is done to whole batches."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from sqlalchemy import Column, MetaData, Table, Text, Uuid, text
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.support.backends import TestDatabase

from shared.db.bulk import arrays, update_rows
from shared.db.engine import build_engine, transaction

WORK = Table(
    "work",
    MetaData(schema="notifier"),
    Column("id", Uuid, primary_key=True),
    Column("status", Text),
)
# By the statistics ten rows are due; and then ten thousand are.
BACKLOG = (
    "DROP TABLE IF EXISTS notifier.work",
    "CREATE TABLE notifier.work (id uuid PRIMARY KEY, due_at int, status text)",
    "CREATE INDEX work_due_at ON notifier.work (due_at) WHERE status IN ('due', 'sending')",
    "INSERT INTO notifier.work SELECT lpad(to_hex(n), 32, '0')::uuid, n,"
    " CASE WHEN n % 1000 = 0 THEN 'sending' END FROM generate_series(1, 10000) n",
    "ANALYZE notifier.work",
    "UPDATE notifier.work SET status = 'sending'",
)
SETTLE = update_rows(WORK, key="id", columns=["status"], where="t.status = 'sending'")


@pytest.fixture
async def engine(database: TestDatabase) -> AsyncIterator[AsyncEngine]:
    url = database.dsns["notifier"].replace("postgresql://", "postgresql+asyncpg://", 1)
    found = build_engine(url=url, application_name="test", pool_size=1)
    for statement in BACKLOG:
        async with transaction(found) as connection:
            await connection.execute(text(statement))
    yield found
    await found.dispose()


class TestUpdateRows:
    async def test_find_rows_by_their_key_whatever_waits_beside_them(
        self, engine: AsyncEngine
    ) -> None:
        batch = arrays(
            [{"id": UUID(int=n), "status": "sent"} for n in range(1, 101)], WORK.c.keys()
        )
        async with transaction(engine) as connection:
            explain = text(f"EXPLAIN ANALYZE {SETTLE.text}")
            plan = "\n".join((await connection.execute(explain, batch)).scalars())
        assert "work_pkey" in plan, plan
        assert "work_due_at" not in plan

    async def test_leave_alone_what_is_not_to_be_changed(self, engine: AsyncEngine) -> None:
        ids = [UUID(int=n) for n in range(1, 4)]
        batch = arrays([{"id": each, "status": "sent"} for each in ids], WORK.c.keys())
        async with transaction(engine) as connection:
            await connection.execute(
                text("UPDATE notifier.work SET status = NULL WHERE id = :id"), {"id": ids[0]}
            )
            await connection.execute(
                text("UPDATE notifier.work SET status = 'skipped' WHERE id = :id"), {"id": ids[1]}
            )
            await connection.execute(SETTLE, batch)
            found = await connection.execute(
                text("SELECT status FROM notifier.work WHERE id = ANY(:ids) ORDER BY id"),
                {"ids": ids},
            )
        assert found.scalars().all() == [None, "skipped", "sent"]

"""The database of payment-intake in tests: migrated, emptied, looked into past the code."""

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.support.announcing import Offered
from tests.support.backends import TestDatabase

from payment_intake.adapters.repositories import SqlStore
from payment_intake.adapters.tables import outbox
from shared.db.engine import build_engine
from shared.db.migrations import migrate
from shared.outbox.table import Outbox

TABLES = (
    "events, rejections, conflicts, payments, payment_references, movements, outbox, "
    "charges, charge_attempts, switches, switch_changes"
)


def sqlalchemy_url(database: TestDatabase) -> str:
    return database.dsns["payment_intake"].replace("postgresql://", "postgresql+asyncpg://", 1)


def migrate_intake(database: TestDatabase, *, revision: str = "head") -> None:
    # Alembic's runner makes an event loop of its own.
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(
            migrate, url=sqlalchemy_url(database), package="payment_intake", revision=revision
        ).result()


class IntakeDatabase:
    """Engines on the service's schema, and a session of the superuser beside them."""

    def __init__(self, database: TestDatabase) -> None:
        self.database = database
        self.offered = Offered()
        self.engine = self.new_engine()
        self._watch: asyncpg.Connection[Any] | None = None

    def new_engine(self, *, pool_size: int = 8) -> AsyncEngine:
        return build_engine(
            url=sqlalchemy_url(self.database), application_name="test", pool_size=pool_size
        )

    def store(self, *, announce_again_seconds: float = 30.0) -> SqlStore:
        return SqlStore(
            engine=self.engine,
            outbox=Outbox(table=outbox),
            announce=self.offered,
            announce_again_seconds=announce_again_seconds,
        )

    async def empty(self) -> None:
        await self.execute(f"TRUNCATE {TABLES}")
        self.offered.rows.clear()

    async def count(self, table: str, condition: str = "true") -> int:
        [row] = await self.fetch(f"SELECT count(*) FROM {table} WHERE {condition}")
        return int(row[0])

    async def facts(self) -> list[tuple[str, str]]:
        """Type and account of every fact in the outbox, in its order."""
        rows = await self.fetch("SELECT headers FROM outbox ORDER BY id")
        headers = [dict(orjson.loads(row["headers"])) for row in rows]
        return [(each["ce_type"], each["ce_subject"]) for each in headers]

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        found: Sequence[asyncpg.Record] = await (await self._session()).fetch(statement, *arguments)
        return found

    async def execute(self, statement: str, *arguments: Any) -> None:
        await (await self._session()).execute(statement, *arguments)

    async def close(self) -> None:
        await self.engine.dispose()
        if self._watch is not None:
            await self._watch.close()

    async def _session(self) -> "asyncpg.Connection[Any]":
        if self._watch is None or self._watch.is_closed():
            self._watch = await asyncpg.connect(
                self.database.superuser_dsn, server_settings={"search_path": "payment_intake"}
            )
        return self._watch


@asynccontextmanager
async def intake_database(database: TestDatabase) -> AsyncIterator[IntakeDatabase]:
    """Migrate the schema, hand it out, close what was opened on it."""
    migrate_intake(database)
    found = IntakeDatabase(database)
    try:
        yield found
    finally:
        await found.close()

"""The database of cis-poster in tests: migrated, emptied, looked into past the code under test."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.support.backends import TestDatabase
from tests.support.cis_poster import Poster

from cis_poster.adapters.repositories import SqlPostings
from cis_poster.adapters.tables import outbox
from cis_poster.domain import Posting
from cis_poster.ports import CisGateway
from shared.clock import Clock
from shared.db.engine import build_engine
from shared.db.migrations import migrate
from shared.outbox.table import Outbox

TABLES = "postings, outbox, failed_attempts, audit_entries"


def sqlalchemy_url(database: TestDatabase) -> str:
    return database.dsns["cis_poster"].replace("postgresql://", "postgresql+asyncpg://", 1)


def migrate_poster(database: TestDatabase, *, revision: str = "head") -> None:
    # Alembic's runner makes an event loop of its own.
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(
            migrate, url=sqlalchemy_url(database), package="cis_poster", revision=revision
        ).result()


class PosterDatabase:
    """Engines on the service's schema, and a session of the superuser beside them."""

    def __init__(self, database: TestDatabase) -> None:
        self.database = database
        self.engine = self.new_engine()
        self._watch: asyncpg.Connection[Any] | None = None

    def new_engine(self, *, pool_size: int = 4) -> AsyncEngine:
        return build_engine(
            url=sqlalchemy_url(self.database), application_name="test", pool_size=pool_size
        )

    def store(
        self, *, lease_seconds: float = 30.0, engine: AsyncEngine | None = None
    ) -> SqlPostings:
        """One instance's view: each has its own name on its leases."""
        return SqlPostings(
            engine=engine or self.engine,
            outbox=Outbox(table=outbox),
            owner=uuid4(),
            lease_seconds=lease_seconds,
        )

    def poster(
        self, *, gateway: CisGateway, clock: Clock, lease_seconds: float = 30.0, **options: Any
    ) -> Poster:
        """One instance of the use cases on this database."""
        store = self.store(lease_seconds=lease_seconds)
        return Poster(postings=store, gateway=gateway, clock=clock, **options)

    async def empty(self) -> None:
        await self.execute(f"TRUNCATE {TABLES}")

    async def statuses(self, *postings: Posting) -> list[str]:
        rows = await self.fetch("SELECT id, status FROM postings")
        found = {row["id"]: row["status"] for row in rows}
        return [found[posting.id] for posting in postings]

    async def row(self, posting: Posting) -> dict[str, Any]:
        [row] = await self.fetch("SELECT * FROM postings WHERE id = $1", posting.id)
        return dict(row)

    async def count(self, condition: str = "true") -> int:
        [row] = await self.fetch(f"SELECT count(*) FROM postings WHERE {condition}")
        return int(row[0])

    async def facts(self) -> list[tuple[str, str]]:
        """Type and id of every fact in the outbox, in its order."""
        rows = await self.fetch("SELECT headers FROM outbox ORDER BY id")
        headers = [dict(orjson.loads(row["headers"])) for row in rows]
        return [(each["ce_type"], each["ce_id"]) for each in headers]

    async def make_due(self, *, now: datetime) -> None:
        await self.execute(
            "UPDATE postings SET due_at = $1 WHERE status IN ('due', 'unknown')", now
        )

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
                self.database.superuser_dsn,
                # Its own looking is not to count as the service's scans.
                server_settings={"search_path": "cis_poster", "enable_seqscan": "off"},
            )
        return self._watch

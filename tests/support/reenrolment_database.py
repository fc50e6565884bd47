"""The database of the move in tests: migrated, emptied, looked into past the code."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.support.backends import TestDatabase
from tests.support.reenrolment import CITY, GRACE_DAYS, NOON

from autopay_scheduler.adapters.reenrolment_repository import SqlReenrolments
from autopay_scheduler.adapters.tables import outbox
from shared.db.engine import build_engine
from shared.db.migrations import migrate
from shared.outbox.table import Outbox, OutboxRow

TABLES = (
    "reenrolments, reenrolment_events, reenrolment_imports, reenrolment_problems, old_drafts,"
    " accounts, bills, enrolments, plans_due, audit_entries, outbox, charges, announcements"
)


class Offered:
    """Keeps the rows that were offered for announcement."""

    def __init__(self) -> None:
        self.rows: list[OutboxRow] = []

    def offer(self, rows: Sequence[OutboxRow]) -> None:
        self.rows.extend(rows)


def sqlalchemy_url(database: TestDatabase) -> str:
    address = database.dsns["autopay_scheduler"]
    return address.replace("postgresql://", "postgresql+asyncpg://", 1)


def migrate_scheduler(database: TestDatabase, *, revision: str = "head") -> None:
    # Alembic's runner makes an event loop of its own.
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(
            migrate, url=sqlalchemy_url(database), package="autopay_scheduler", revision=revision
        ).result()


class ReenrolmentDatabase:
    """Engines on the service's schema, and a session of the superuser beside them."""

    def __init__(self, database: TestDatabase) -> None:
        self.database = database
        self.offered = Offered()
        self.engine = self.new_engine()
        self._watch: asyncpg.Connection[Any] | None = None

    def new_engine(self, *, pool_size: int = 4) -> AsyncEngine:
        return build_engine(
            url=sqlalchemy_url(self.database), application_name="test", pool_size=pool_size
        )

    def store(self, *, engine: AsyncEngine | None = None) -> SqlReenrolments:
        return SqlReenrolments(
            engine=engine or self.engine,
            outbox=Outbox(table=outbox),
            announce=self.offered,
            zone=CITY,
            late_grace_days=GRACE_DAYS,
        )

    async def empty(self) -> None:
        await self.execute(f"TRUNCATE {TABLES}")
        self.offered.rows.clear()

    async def know(self, *account_ids: str) -> None:
        await self.execute(
            "INSERT INTO accounts (account_id, heard_at) SELECT unnest($1::text[]), $2"
            " ON CONFLICT DO NOTHING",
            list(account_ids),
            NOON,
        )

    async def bill(
        self,
        account_id: str,
        due_date: date,
        *,
        amount_cents: int = 8_000,
        paid_cents: int = 0,
        status: str = "open",
    ) -> str:
        """A bill on a known account; what is paid counts for this bill and not for others."""
        reference = f"B-{account_id}-{due_date.isoformat()}"
        await self.execute(
            "INSERT INTO bills (account_id, bill_reference, version, amount_cents, currency,"
            " due_date, stated_at, paid_before_cents, status)"
            " SELECT $1, $2, 1, $3, 'USD', $4, $5, paid_cents - $6, $7"
            " FROM accounts WHERE account_id = $1",
            account_id,
            reference,
            amount_cents,
            due_date,
            NOON - timedelta(days=20),
            paid_cents,
            status,
        )
        return reference

    async def enrol(self, account_id: str, *, status: str = "active") -> None:
        is_on = status in ("active", "paused")
        await self.execute(
            "INSERT INTO enrolments (id, account_id, reference, status, processor,"
            " payment_method_token, charge_on, amount_rule, word_at, taken_at)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)",
            uuid4(),
            account_id,
            f"portal-{account_id}-{status}",
            status,
            "stripe" if is_on else None,
            "pm_1" if is_on else None,
            "due_date" if is_on else None,
            "full_balance" if is_on else None,
            NOON,
        )

    async def planned(self) -> set[str]:
        return {row["account_id"] for row in await self.fetch("SELECT * FROM plans_due")}

    async def audit(self) -> list[tuple[str, str, str]]:
        rows = await self.fetch("SELECT action, subject, operator FROM audit_entries ORDER BY id")
        return [(row["action"], row["subject"], row["operator"]) for row in rows]

    async def facts(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Type, account and content of every fact in the outbox, in its order."""
        rows = await self.fetch("SELECT headers, value FROM outbox ORDER BY id")
        found = []
        for row in rows:
            headers = dict(orjson.loads(row["headers"]))
            found.append((headers["ce_type"], headers["ce_subject"], orjson.loads(row["value"])))
        return found

    async def count(self, table: str, condition: str = "true") -> int:
        [row] = await self.fetch(f"SELECT count(*) FROM {table} WHERE {condition}")
        return int(row[0])

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
                server_settings={"search_path": "autopay_scheduler"},
            )
        return self._watch

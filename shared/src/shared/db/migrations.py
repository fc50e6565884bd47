"""Alembic, run from code: one schema and one history for each service.

Expand, then contract: a migration never breaks the version that runs beside it. A lock that
cannot be had soon is given up, so that a migration never stands in front of live traffic.
"""

import asyncio
from pathlib import Path
from typing import Any

from alembic import command, context
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from shared.db.engine import tls_options

LOCK_TIMEOUT_SECONDS = 5
_MIGRATION_LOCK = 7_240_193
"""One migration at a time for a database, whoever starts a second one."""


def migrate(
    *, url: str, package: str, revision: str = "head", tls_ca_file: Path | None = None
) -> None:
    """Bring the schema named like `package` to `revision`, forward or back, then ANALYZE it."""
    asyncio.run(_migrate(url, package, revision, tls_ca_file))


async def _migrate(url: str, package: str, revision: str, tls_ca_file: Path | None) -> None:
    engine = create_async_engine(url, connect_args=tls_options(ca_file=tls_ca_file))
    try:
        async with engine.connect() as connection:
            await connection.execute(text(f"SELECT pg_advisory_lock({_MIGRATION_LOCK})"))
            await connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"))
            # The role may own its schema without being allowed to make one.
            if await connection.scalar(text(f"SELECT to_regnamespace('{package}')")) is None:
                await connection.execute(text(f"CREATE SCHEMA {package}"))
            await connection.commit()
            await connection.run_sync(_run, package, revision)
            await connection.commit()
            # Without statistics the first plans would be guesses.
            await connection.execute(text("ANALYZE"))
            await connection.commit()
    finally:
        await engine.dispose()


def _run(connection: Connection, package: str, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", f"{package}:migrations")
    config.attributes["connection"] = connection
    config.attributes["schema"] = package
    if revision == "base" or revision.startswith("-"):
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)


def run_environment() -> None:
    """Run the migrations that Alembic has chosen; the whole of each service's `env.py`."""
    attributes: dict[str, Any] = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        version_table_schema=attributes["schema"],
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()

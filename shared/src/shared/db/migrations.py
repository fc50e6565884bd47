"""Alembic, run from code: one schema and one history for each service.

Expand, then contract: a migration never breaks the version that runs beside it. A lock that
cannot be had soon is given up, so that a migration never stands in front of live traffic.
"""

import asyncio
from pathlib import Path
from typing import Any

import structlog
from alembic import command, context
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio.engine import AsyncEngine, create_async_engine

from shared.db.engine import database_errors, tls_options
from shared.errors import TransientError

_log = structlog.get_logger(__name__)

LOCK_TIMEOUT_SECONDS = 5
_MIGRATION_LOCK = 7_240_193
"""One migration at a time for a database, whoever starts a second one."""
AWAIT_INTERVAL_SECONDS = 2.0


class SchemaBehindError(Exception):
    """The schema did not reach what this version needs within the time.

    Attributes:
        package: the service.
        found: the schema's revision; None where there is none, or the database did not answer.
        needed: this version's newest revision.
    """

    def __init__(self, *, package: str, found: str | None, needed: str) -> None:
        super().__init__(f"the schema of {package} is at {found}, and {needed} is needed")
        self.package = package
        self.found = found
        self.needed = needed


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


def await_schema(
    *,
    url: str,
    package: str,
    timeout_seconds: float,
    tls_ca_file: Path | None = None,
) -> None:
    """Return once the schema is at this version's newest revision or at one that it does not know.

    An unknown one is a later version's: migrations expand, so this version runs on it too. For
    what starts beside a migration: no service is to meet a schema that is not there yet.

    Raises:
        SchemaBehindError: it was not there within the time.
    """
    asyncio.run(_await_schema(url, package, timeout_seconds, tls_ca_file))


async def _await_schema(
    url: str, package: str, timeout_seconds: float, tls_ca_file: Path | None
) -> None:
    scripts = ScriptDirectory.from_config(_config(package))
    needed = scripts.get_current_head()
    if needed is None:
        raise AssertionError(f"{package} has no migrations")
    known = {script.revision for script in scripts.walk_revisions()}
    engine = create_async_engine(
        url, connect_args={**tls_options(ca_file=tls_ca_file), "timeout": 5}
    )
    found: str | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            while True:
                found = await _revision(engine, package)
                if found == needed or (found is not None and found not in known):
                    return
                _log.info("schema.awaited", package=package, found=found, needed=needed)
                await asyncio.sleep(AWAIT_INTERVAL_SECONDS)
    except TimeoutError:
        raise SchemaBehindError(package=package, found=found, needed=needed) from None
    finally:
        await engine.dispose()


async def _revision(engine: AsyncEngine, package: str) -> str | None:
    """Return the schema's revision; None without one, or while the database does not answer."""
    try:
        async with database_errors(), engine.connect() as connection:
            if await connection.scalar(text(f"SELECT to_regclass('{package}.alembic_version')")):
                found: str | None = await connection.scalar(
                    text(f"SELECT version_num FROM {package}.alembic_version")  # noqa: S608
                )
                return found
    except TransientError as error:
        _log.warning("database.unreachable", error=str(error))
    return None


def _config(package: str) -> Config:
    config = Config()
    config.set_main_option("script_location", f"{package}:migrations")
    return config


def _run(connection: Connection, package: str, revision: str) -> None:
    config = _config(package)
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

"""The engine, and the one place where driver errors become ours."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio.engine import AsyncConnection, AsyncEngine, create_async_engine

from shared.errors import ContendedError, TransientError

_RETRYABLE_CLASSES = ("08", "40", "53", "57", "58")
"""Connection, serialisation and deadlock, resources (full disk, too many clients), shutdown, and
what the operating system refused."""
_LOCK_NOT_AVAILABLE = "55P03"
_RETRYABLE_CODES = (_LOCK_NOT_AVAILABLE, "25006")
"""The last is a read-only transaction: of a primary that has just been demoted."""


class DatabaseUnavailableError(TransientError):
    """PostgreSQL could not be reached or refused for now; nothing was committed.

    Only a commit whose answer was lost may have happened: each unit of work is idempotent by its
    natural keys, so that the answer to this error is always to do the whole of it again.
    """


class RowsLockedError(DatabaseUnavailableError, ContendedError):
    """Another session held a row or table for longer than this one waits; nothing was committed."""


def build_engine(
    *,
    url: str,
    application_name: str,
    pool_size: int,
    statement_timeout_seconds: float = 10.0,
    lock_wait_seconds: float | None = None,
    tls_ca_file: Path | None = None,
) -> AsyncEngine:
    """Return an engine whose every statement is bounded and planned for keys.

    The services read and write by key only. A freshly migrated, never analysed table would be
    planned as a scan of the whole of it (measured: `UPDATE … FROM unnest()`), so plans that scan
    are switched off for these sessions.

    A statement waits for another session's lock for `lock_wait_seconds`; None waits as long as it
    may take at all.
    """
    milliseconds = str(int(statement_timeout_seconds * 1000))
    lock_milliseconds = str(int((lock_wait_seconds or statement_timeout_seconds) * 1000))
    connect_args: dict[str, Any] = {
        **tls_options(ca_file=tls_ca_file),
        "timeout": 5,
        "command_timeout": statement_timeout_seconds + 1,
        "server_settings": {
            "application_name": application_name,
            "statement_timeout": milliseconds,
            "lock_timeout": lock_milliseconds,
            "idle_in_transaction_session_timeout": milliseconds,
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
            "jit": "off",
            "timezone": "UTC",
        },
    }
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        # A session killed on the server is noticed by the first statement on it, which discards
        # all sessions of its age; every unit of work is done again on that error. Asking each
        # session before its use instead costs a round trip a transaction (6 % of intake's CPU).
        pool_pre_ping=False,
        pool_recycle=1800,
        connect_args=connect_args,
    )


def tls_options(*, ca_file: Path | None) -> dict[str, Any]:
    """Return asyncpg's option to verify the server against an authority; none without one."""
    return {"ssl": ssl.create_default_context(cafile=str(ca_file))} if ca_file else {}


_PLAN_ANEW = text(
    "SELECT set_config('plan_cache_mode', 'force_custom_plan', true), "
    "set_config('enable_sort', 'off', true)"
)


@asynccontextmanager
async def transaction(
    engine: AsyncEngine, *, plans_anew: bool = False
) -> AsyncIterator[AsyncConnection]:
    """Open one transaction: committed at the end of the block, rolled back on any error.

    `plans_anew` is for a job that looks for what is due first, by an index that is in this order. A
    plan kept from when the table was small reads all of an index that is larger now, until the
    table is next analysed (measured: 40 % of PostgreSQL's time under load); planning at each of a
    few calls a second costs nothing. Nor does it sort where an index gives the order: by statistics
    of a time when little was due, all of a backlog was read for each few hundred of it (measured
    after an outage: 120 ms of each claim).

    Raises:
        DatabaseUnavailableError: nothing was committed (or its answer was lost); do it again.
    """
    with_errors = database_errors()
    async with with_errors, engine.begin() as connection:
        if plans_anew:
            await connection.execute(_PLAN_ANEW)
        yield connection


@asynccontextmanager
async def one_statement(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a session in which each statement is a transaction by itself.

    It saves the round trips of BEGIN and COMMIT, which are two of three where a single statement
    does all. What has to hold together in several belongs into `transaction`.

    Raises:
        DatabaseUnavailableError: nothing was committed (or its answer was lost); do it again.
    """
    with_errors = database_errors()
    async with with_errors, engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        yield connection


async def driver_session(connection: AsyncConnection) -> Any:
    """Return asyncpg's own session, inside the transaction that a first statement has opened.

    For bulk work alone: it reads a row in a tenth of the time that SQLAlchemy takes, and can COPY.
    """
    return (await connection.get_raw_connection()).driver_connection


@asynccontextmanager
async def database_errors() -> AsyncIterator[None]:
    """Turn what the driver and the pool raise for an unreachable database into our error."""
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseUnavailableError("no free connection") from error
    except DBAPIError as error:
        if _is_retryable(error):
            raise _unavailable(error.orig) from error
        raise
    except asyncpg.PostgresError as error:
        # From the driver's own session.
        if _is_retryable_code(error.sqlstate):
            raise _unavailable(error) from error
        raise
    except (OSError, TimeoutError, asyncpg.InternalClientError) as error:
        # asyncpg raises the last one when a session was ended between two statements.
        raise DatabaseUnavailableError(str(error) or type(error).__name__) from error


def _is_retryable(error: DBAPIError) -> bool:
    if error.connection_invalidated or isinstance(error, InterfaceError | OperationalError):
        return True
    if error.statement is None and not isinstance(error, IntegrityError):
        # Of the way in or out (a full disk fails a login as an internal error, a changed password
        # as one of authorisation): no statement was at fault, so nothing that was to be written.
        return True
    return _is_retryable_code(getattr(error.orig, "sqlstate", None))


def _is_retryable_code(code: object) -> bool:
    return isinstance(code, str) and (code[:2] in _RETRYABLE_CLASSES or code in _RETRYABLE_CODES)


def _unavailable(said: BaseException | None) -> DatabaseUnavailableError:
    """Say what the driver said without the statement's parameters, which can hold personal data."""
    code = getattr(said, "sqlstate", None)
    kind = RowsLockedError if code == _LOCK_NOT_AVAILABLE else DatabaseUnavailableError
    return kind(f"{code or 'no sqlstate'}: {type(said).__name__}")

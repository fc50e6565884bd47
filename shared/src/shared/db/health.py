"""Whether the database answers, as a readiness check."""

import asyncio
from collections.abc import Awaitable, Callable

from sqlalchemy import text
from sqlalchemy.ext.asyncio.engine import AsyncEngine

from shared.db.engine import one_statement
from shared.errors import TransientError

CHECK_SECONDS_MAX = 2.0


def database_check(engine: AsyncEngine) -> Callable[[], Awaitable[str | None]]:
    """Return a check that asks the database for one row, within two seconds."""

    async def check() -> str | None:
        try:
            async with asyncio.timeout(CHECK_SECONDS_MAX), one_statement(engine) as connection:
                await connection.execute(text("SELECT 1"))
        except (TransientError, TimeoutError) as error:
            return f"the database does not answer: {type(error).__name__}"
        return None

    return check

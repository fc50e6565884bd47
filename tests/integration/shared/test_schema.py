"""What starts beside a migration waits for the schema, and needs only the database's settings."""

import asyncio
import os
import subprocess
import sys
import time

import asyncpg
import pytest
from tests.support.backends import TestDatabase, create_database
from tests.support.poster_database import migrate_poster, sqlalchemy_url

from shared.db.migrations import SchemaBehindError, await_schema, migrate


@pytest.fixture
def empty(postgres):
    return create_database(postgres=postgres)


async def wait(database: TestDatabase, *, seconds: float = 0.5) -> None:
    await asyncio.to_thread(
        await_schema,
        url=sqlalchemy_url(database),
        package="cis_poster",
        timeout_seconds=seconds,
    )


def environment(database: TestDatabase) -> dict[str, str]:
    """As a migration's Job has it: no Kafka, no CIS, no key."""
    kept = {name: value for name, value in os.environ.items() if "CIS_POSTER" not in name}
    return kept | {
        "CIS_POSTER_ENVIRONMENT": "local",
        "CIS_POSTER_DATABASE_URL": sqlalchemy_url(database),
    }


def command(database: TestDatabase, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cis_poster", *arguments],
        check=False,
        env=environment(database),
        capture_output=True,
        text=True,
        timeout=60,
    )


class TestAwaiting:
    async def test_goes_on_at_once_where_the_schema_is_there(self, empty) -> None:
        await asyncio.to_thread(migrate_poster, empty)
        began = time.monotonic()
        await wait(empty, seconds=30)
        assert time.monotonic() - began < 10

    async def test_waits_for_the_migration(self, empty) -> None:
        waiting = asyncio.create_task(wait(empty, seconds=60))
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.to_thread(migrate_poster, empty)
        await waiting

    async def test_gives_up_in_time_and_says_what_is_missing(self, empty) -> None:
        with pytest.raises(SchemaBehindError) as given_up:
            await wait(empty)
        assert given_up.value.package == "cis_poster"
        assert given_up.value.found is None
        assert given_up.value.needed

    async def test_is_not_content_with_an_older_revision(self, empty) -> None:
        url = empty.dsns["notifier"].replace("postgresql://", "postgresql+asyncpg://", 1)
        for revision in ("head", "-1"):
            await asyncio.to_thread(migrate, url=url, package="notifier", revision=revision)
        with pytest.raises(SchemaBehindError) as given_up:
            await asyncio.to_thread(await_schema, url=url, package="notifier", timeout_seconds=0.5)
        assert given_up.value.found is not None
        assert given_up.value.found < given_up.value.needed

    async def test_goes_on_where_a_later_version_has_migrated(self, empty) -> None:
        await asyncio.to_thread(migrate_poster, empty)
        session = await asyncpg.connect(empty.superuser_dsn)
        await session.execute("UPDATE cis_poster.alembic_version SET version_num = '9999_later'")
        await session.close()
        await wait(empty, seconds=30)

    async def test_waits_for_a_database_that_is_away(self) -> None:
        with pytest.raises(SchemaBehindError) as given_up:
            await asyncio.to_thread(
                await_schema,
                url="postgresql+asyncpg://nobody@127.0.0.1:9/none",
                package="cis_poster",
                timeout_seconds=0.5,
            )
        assert given_up.value.found is None


class TestCommands:
    async def test_know_no_more_than_the_database(self, empty) -> None:
        behind = await asyncio.to_thread(command, empty, "await-schema", "--timeout-seconds", "0.1")
        assert behind.returncode == 1
        assert "the schema of cis_poster is at None" in behind.stderr
        migrated = await asyncio.to_thread(command, empty, "migrate")
        assert migrated.returncode == 0, migrated.stderr
        there = await asyncio.to_thread(command, empty, "await-schema", "--timeout-seconds", "30")
        assert there.returncode == 0, there.stderr

    async def test_still_refuse_a_default_secret_in_production(self, empty) -> None:
        told = environment(empty) | {
            "CIS_POSTER_ENVIRONMENT": "production",
            "CIS_POSTER_DATABASE_URL": "postgresql+asyncpg://cis_poster:changeme@db/paypost",
        }
        refused = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "cis_poster", "migrate"],
            env=told,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert refused.returncode == 78
        assert "database_url" in refused.stderr

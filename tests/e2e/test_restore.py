"""Backup and restore as docs/operating/backup-and-restore.md has them, on the whole stack.

What was accepted after the backup is there after the restore, once, to the cent.
"""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.pipeline import Pipeline, eventually_true, rewind
from tests.support.whole_stack import ACCOUNTS, IMPATIENT

from paypost.stack.local import LocalStack, process_spec
from paypost.stack.postgres import StopMode, find_binaries
from paypost.verify.report import Places, verify

pytestmark = pytest.mark.stack
TOOL_SECONDS_MAX = 60


def tool(stack: LocalStack, program: str, *arguments: str) -> None:
    """One of PostgreSQL's own tools, against the stack's server, as its superuser."""
    subprocess.run(
        [find_binaries().server.parent / program, *arguments],
        env=os.environ | {"PGPASSWORD": stack.state.secrets.postgres_superuser_password},
        check=True,
        capture_output=True,
        timeout=TOOL_SECONDS_MAX,
    )


def server(stack: LocalStack) -> tuple[str, ...]:
    return ("-h", "127.0.0.1", "-p", str(stack.state.postgres_port), "-U", "postgres")


@contextmanager
def receiving_wal(stack: LocalStack, into: Path) -> Iterator[None]:
    """Every commit from now on is on another disk as well, before the next one is looked at."""
    into.mkdir()
    child = subprocess.Popen(
        [
            find_binaries().server.parent / "pg_receivewal",
            *server(stack),
            *("-D", str(into), "--synchronous", "--no-loop"),
        ],
        env=os.environ | {"PGPASSWORD": stack.state.secrets.postgres_superuser_password},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        child.wait(timeout=TOOL_SECONDS_MAX)


async def pay(pipeline: Pipeline, count: int) -> None:
    trains = [
        pipeline.card(account=ACCOUNTS[n % len(ACCOUNTS)], amount_cents=2_000 + n)
        for n in range(count)
    ]
    await pipeline.send(trains)


async def assert_books_hold(stack: LocalStack) -> None:
    report = await verify(places=Places.of(state=stack.state), wait_seconds=60)
    assert report.holds, report.as_json()


class TestRestore:
    async def test_of_an_old_base_and_its_log_brings_back_all_that_was_accepted_since(
        self, pipeline: Pipeline, whole_stack: LocalStack, tmp_path: Path
    ) -> None:
        base, log = tmp_path / "base", tmp_path / "log"
        await pay(pipeline, 30)
        # The log's receiver runs before the backup begins: a base without its log is nothing.
        with receiving_wal(whole_stack, log):
            await eventually_true(
                lambda: asyncio.to_thread(lambda: any(log.iterdir())),
                timeout_seconds=20,
                what="the log arrives",
            )
            await asyncio.to_thread(
                tool,
                whole_stack,
                "pg_basebackup",
                *server(whole_stack),
                *("-D", str(base), "-X", "none", "--checkpoint=fast", "--no-sync"),
            )
            # The hour after the backup: some of it through, some of it still under way.
            await pay(pipeline, 60)
            postgres = whole_stack.postgres
            # In order: the receiver has all of it when the server is gone.
            await asyncio.to_thread(postgres.stop, mode=StopMode.FAST)

        postgres.wipe()
        shutil.copytree(base, postgres.data_dir.resolve())
        for segment in log.glob("*.partial"):
            segment.rename(segment.with_suffix(""))
        (postgres.data_dir / "recovery.signal").touch()
        with (postgres.data_dir / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"restore_command = 'cp {log}/%f %p'\n")
        postgres.data_dir.resolve().chmod(0o700)
        await asyncio.to_thread(postgres.start)

        await pipeline.settled(timeout_seconds=90)
        await pipeline.assert_exactly_once()
        await assert_books_hold(whole_stack)

    async def test_of_a_service_that_others_feed_to_an_older_state_is_made_good_by_reading_again(
        self, pipeline: Pipeline, whole_stack: LocalStack, tmp_path: Path
    ) -> None:
        dump = tmp_path / "cis_poster.dump"
        address = ("--dbname", whole_stack.state.superuser_dsn)
        await pay(pipeline, 20)
        await pipeline.settled()
        await asyncio.to_thread(
            tool,
            whole_stack,
            "pg_dump",
            *address,
            *("--schema", "cis_poster", "-Fc", "-f", str(dump)),
        )
        await pay(pipeline, 40)
        await pipeline.settled()

        name = "cis-poster"
        await asyncio.to_thread(whole_stack.supervisor.stop, name=name)
        await asyncio.to_thread(
            tool, whole_stack, "pg_restore", *address, "--clean", "--if-exists", str(dump)
        )
        known = await pipeline.value("SELECT count(*) FROM cis_poster.postings")
        accepted = await pipeline.value(
            "SELECT count(*) FROM payment_intake.movements WHERE kind <> 'decline'"
        )
        assert isinstance(known, int)
        assert isinstance(accepted, int)
        assert known <= accepted - 40
        await rewind(bootstrap=whole_stack.state.kafka_bootstrap, group=name)
        spec = process_spec(
            name=name, state=whole_stack.state, environ=os.environ, overrides=IMPATIENT
        )
        await asyncio.to_thread(whole_stack.supervisor.start, spec)

        deadline = time.monotonic() + 60
        while await pipeline.value("SELECT count(*) FROM cis_poster.postings") != accepted:
            assert time.monotonic() < deadline, "not all was read again"
            await asyncio.sleep(0.2)
        await assert_books_hold(whole_stack)
        await pipeline.assert_exactly_once()

"""Faults of a database server that is there, and has not what is asked of it."""

from __future__ import annotations

import asyncio
import contextlib
import time

import asyncpg
from tests.faults.evidence import false_yes, sent_between
from tests.faults.registry import Environments, Fault, Needs, fault
from tests.faults.run import Run
from tests.faults.tools.disk import SmallDisk
from tests.faults.tools.machine import reason_against
from tests.faults.tools.stacks import SmallDiskStack
from tests.faults.violations import Violation

from paypost.stack.local import LocalStack
from paypost.stack.supervisor import ProcessFailedError

STARVED_SECONDS = 5.0
LOCKED_SECONDS = 11.5
"""Longer than any statement of a service may take (10 s): a longer lock changes nothing more."""
SPARE_SESSIONS = 3
"""Reserved for superusers by the server: those who watch need one."""


@fault(
    14,
    title="Postgres out of connections; hot rows and a table locked; statements timed out",
    how="sessions ended and all free ones taken for 5 s; rows of payments and accounts under way "
    "and the whole of notifier's table locked by another session for 11.5 s (statements may take "
    "10)",
    oracles="LDAH",
    touches=("postgres",),
    repeats_mails=True,
    recovery_seconds_max=45.0,
    mixes=False,
)
class ExhaustedPostgres(Fault):
    hold_seconds = 0.5
    unwell = ("payment-intake",)

    async def inject(self, run: Run) -> None:
        async with contextlib.AsyncExitStack() as taken:
            self.began = time.time()
            await self._take_all(run, taken)
        run.note(sessions_taken=self.sessions)
        await asyncio.sleep(0.5)
        await self._lock(run)

    async def _take_all(self, run: Run, taken: contextlib.AsyncExitStack) -> None:
        """End the services' sessions, and be quicker than they to take the free ones."""
        most = int(await run.controls.value("SHOW max_connections"))
        self.sessions = 0
        end = time.monotonic() + STARVED_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(asyncpg.TooManyConnectionsError):
                await run.controls.rows(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE usename <> 'postgres' AND backend_type = 'client backend'"
                )
            with contextlib.suppress(asyncpg.TooManyConnectionsError):
                while self.sessions < most - SPARE_SESSIONS:
                    session = await asyncpg.connect(run.stack.state.superuser_dsn, timeout=5)
                    taken.push_async_callback(session.close)
                    self.sessions += 1
            await asyncio.sleep(0.2)

    async def _lock(self, run: Run) -> None:
        async with run.controls.database() as session, session.transaction():
            rows = await session.fetch(
                "SELECT id FROM payment_intake.payments ORDER BY id DESC LIMIT 20 FOR UPDATE"
            )
            accounts = await session.fetch(
                "SELECT account_id FROM autopay_scheduler.accounts"
                " WHERE account_id = ANY($1::text[]) FOR UPDATE",
                run.load.autopay_accounts,
            )
            await session.execute("LOCK TABLE notifier.notifications IN ACCESS EXCLUSIVE MODE")
            run.note(rows_locked=len(rows) + len(accounts))
            await asyncio.sleep(LOCKED_SECONDS)

    async def heal(self, run: Run) -> None:
        self.ended = time.time()
        await run.controls.until_ready()

    async def check(self, run: Run) -> list[Violation]:
        attempts = sent_between(run, self.began, self.ended)
        refused = [each for each in attempts if each.status == 503]
        run.note(answered_503=len(refused))
        violations = await false_yes(run)
        if not refused:
            violations.append(Violation(oracle="fault", what="no webhook was answered 503"))
        if wrong := {each.status for each in attempts} - {200, 503, None}:
            violations.append(Violation(oracle="fault", what=f"webhooks were answered {wrong}"))
        return violations


def _on_small_disks(name: str, environments: Environments) -> LocalStack:
    return SmallDiskStack(name=name, environments=environments)


@fault(
    15,
    title="disk full under Postgres, then under Kafka",
    how="each server's data on a tmpfs of its own, filled to the last byte for 6 s, freed; a "
    "server that ended over it is started",
    oracles="LDAH",
    touches=("disk", "postgres", "kafka"),
    repeats_mails=True,
    recovery_seconds_max=45.0,
    mixes=False,
)
class FullDisks(Fault):
    needs = Needs(key="small-disks", open=_on_small_disks)
    hold_seconds = 0.5

    def unavailable(self) -> str | None:
        return reason_against(SmallDisk.probe)

    async def inject(self, run: Run) -> None:
        stack = _stack(run)
        self.began = time.time()
        await run.blocking(stack.disks["postgres"].fill)
        await asyncio.sleep(6.0)
        self.ended = time.time()
        await run.blocking(stack.disks["postgres"].free)
        run.note(postgres_ended=not stack.postgres.running)
        await run.blocking(stack.postgres.start)
        await asyncio.sleep(1.5)
        await run.blocking(stack.disks["kafka"].fill)
        await asyncio.sleep(6.0)
        await run.blocking(stack.disks["kafka"].free)
        run.note(kafka_ended=not stack.kafka.running)

    async def heal(self, run: Run) -> None:
        stack = _stack(run)
        for disk in stack.disks.values():
            await run.blocking(disk.free)
        for server in (stack.postgres, stack.kafka):
            # A server that stumbled over its full disk may need a second start.
            with contextlib.suppress(ProcessFailedError):
                await run.blocking(server.start)
            await run.blocking(server.start)
        await run.controls.until_ready()

    async def check(self, run: Run) -> list[Violation]:
        attempts = sent_between(run, self.began, self.ended)
        refused = [each for each in attempts if each.status == 503]
        run.note(answered_503=len(refused))
        violations = await false_yes(run)
        if not refused:
            violations.append(Violation(oracle="fault", what="no webhook was answered 503"))
        if wrong := {each.status for each in attempts} - {200, 503, None}:
            violations.append(Violation(oracle="fault", what=f"webhooks were answered {wrong}"))
        return violations


def _stack(run: Run) -> SmallDiskStack:
    assert isinstance(run.stack, SmallDiskStack)
    return run.stack

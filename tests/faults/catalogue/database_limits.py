"""Faults of a database server that is there, and has not what is asked of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace

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
LOCKED_SECONDS = 14.0
"""Longer than any statement of a service may take (10 s), which a slow machine begins late."""
SPARE_SESSIONS = 3
"""Reserved for superusers by the server: those who watch need one."""
LEFT_SESSIONS = 10
"""For the services, until the fault begins."""
HOT_PAYMENTS = 3
BEGUN = 4
"""Steps of a payment that are sent before its row is locked: those of the charge itself."""


@fault(
    14,
    title="Postgres out of connections; hot rows and a table locked; statements timed out",
    how="sessions ended and all free ones taken for 5 s; rows of payments under way, of accounts, "
    "and the whole of notifier's table locked by another session for 14 s (statements may take "
    "10)",
    oracles="LDAH",
    touches=("postgres",),
    repeats_mails=True,
    recovery_seconds_max=45.0,
    mixes=False,
)
class ExhaustedPostgres(Fault):
    hold_seconds = 0.5
    breaking_seconds = 20.5

    async def prepare(self, run: Run) -> None:
        """Take what the services do not use: they are quick to take what becomes free."""
        self.taken = contextlib.AsyncExitStack()
        self.sessions = 0
        self.most = int(await run.controls.value("SHOW max_connections"))
        used = int(await run.controls.value("SELECT count(*) FROM pg_stat_activity"))
        await self._fill(run, self.most - used - LEFT_SESSIONS)

    async def inject(self, run: Run) -> None:
        self.began = time.time()
        try:
            async with run.controls.database() as session:
                end = time.monotonic() + STARVED_SECONDS
                while time.monotonic() < end:
                    await session.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE usename <> 'postgres' AND backend_type = 'client backend'"
                    )
                    await self._fill(run, self.most - SPARE_SESSIONS)
                    await asyncio.sleep(0.1)
        finally:
            await self.taken.aclose()
        run.note(sessions_taken=self.sessions)
        await asyncio.sleep(1.0)
        await self._lock(run)

    async def _fill(self, run: Run, most: int) -> None:
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while self.sessions < most:
                session = await asyncpg.connect(run.stack.state.superuser_dsn, timeout=5)
                self.taken.push_async_callback(session.close)
                self.sessions += 1

    async def _lock(self, run: Run) -> None:
        """Lock payments that have begun, and send what follows of them meanwhile."""
        trains = [run.load.extra(scenario="partial_refunds") for _ in range(HOT_PAYMENTS)]
        await run.load.send([replace(each, steps=each.steps[:BEGUN]) for each in trains])
        async with run.controls.database() as session, session.transaction():
            rows = await session.fetch(
                "SELECT p.id FROM payment_intake.payments p"
                " JOIN payment_intake.payment_references r ON r.payment_id = p.id"
                " WHERE r.reference = ANY($1::text[]) FOR UPDATE OF p",
                [each.reference for each in trains],
            )
            accounts = await session.fetch(
                "SELECT account_id FROM autopay_scheduler.accounts"
                " WHERE account_id = ANY($1::text[]) FOR UPDATE",
                run.load.autopay_accounts,
            )
            await session.execute("LOCK TABLE notifier.notifications IN ACCESS EXCLUSIVE MODE")
            run.note(rows_locked=len(rows) + len(accounts))
            self.locked = time.time()
            rest = [replace(each, steps=each.steps[BEGUN:]) for each in trains]
            self.sending = asyncio.create_task(run.load.send(rest))
            await asyncio.sleep(LOCKED_SECONDS)
            self.unlocked = time.time()
        await self.sending

    async def heal(self, run: Run) -> None:
        self.ended = time.time()
        await self.taken.aclose()
        await run.controls.until_ready()

    async def check(self, run: Run) -> list[Violation]:
        violations = await _answers(run, began=self.began, ended=self.ended)
        locked = sent_between(run, self.locked, self.unlocked)
        taken = sum(each.taken for each in locked)
        run.note(taken_while_locked=taken)
        if not taken:
            what = "no webhook of another payment was taken while some were locked"
            violations.append(Violation(oracle="fault", what=what))
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
    breaking_seconds = 16.0

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
        return await _answers(run, began=self.began, ended=self.ended)


async def _answers(run: Run, *, began: float, ended: float) -> list[Violation]:
    """Some webhooks are refused, all are answered before their senders give up, no yes is false."""
    attempts = sent_between(run, began, ended)
    refused = [each for each in attempts if each.status == 503]
    run.note(answered_503=len(refused))
    violations = await false_yes(run)
    if not refused:
        violations.append(Violation(oracle="fault", what="no webhook was answered 503"))
    if wrong := {each.status for each in attempts} - {200, 503}:
        violations.append(Violation(oracle="fault", what=f"webhooks were answered {wrong}"))
    return violations


def _stack(run: Run) -> SmallDiskStack:
    assert isinstance(run.stack, SmallDiskStack)
    return run.stack

"""Faults of the database server."""

from __future__ import annotations

import asyncio
import contextlib

from tests.faults.registry import Fault, fault
from tests.faults.run import Run
from tests.faults.violations import Violation

from paypost.stack.local import SERVICES
from paypost.stack.postgres import StopMode


@fault(
    13,
    title="Postgres stopped `immediate` and started; its sessions terminated; postmaster killed",
    how="SIGQUIT and start, pg_terminate_backend of every session, SIGKILL and start",
    oracles="LDANH",
    touches=("postgres",),
    short=True,
    repeats_mails=True,
)
class BrokenPostgres(Fault):
    """Services recover without a restart of their own."""

    hold_seconds = 1.0
    breaking_seconds = 6.0
    unwell = ("payment-intake",)

    async def inject(self, run: Run) -> None:
        postgres = run.stack.postgres
        self.starts = _starts(run)
        await run.blocking(postgres.stop, mode=StopMode.IMMEDIATE)
        await asyncio.sleep(2.0)
        await run.blocking(postgres.start)
        await asyncio.sleep(1.0)
        ended = await run.controls.value(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        run.note(sessions_ended=ended)
        await asyncio.sleep(1.0)
        await run.blocking(postgres.kill)
        await asyncio.sleep(0.5)
        await run.blocking(postgres.start)

    async def heal(self, run: Run) -> None:
        with contextlib.suppress(Exception):
            await run.blocking(run.stack.postgres.start)
        await run.controls.until_ready()

    async def check(self, run: Run) -> list[Violation]:
        now = _starts(run)
        if not run.alone or now == self.starts:
            return []
        return [Violation(oracle="H", what=f"starts were {self.starts}, and are {now}")]


def _starts(run: Run) -> dict[str, int]:
    return {each: run.stack.supervisor.starts(name=each) for each in SERVICES}

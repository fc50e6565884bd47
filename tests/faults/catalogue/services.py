"""Faults of our own processes: killed, restarted, told to stop in mid-call, frozen."""

from __future__ import annotations

import asyncio

from tests.faults.registry import Fault, fault
from tests.faults.run import Run
from tests.faults.stacks import SESSION_SECONDS
from tests.faults.violations import Violation

from paypost.stack.local import SERVICES


@fault(
    1,
    title="kill -9 of each service at random moments under load",
    how="SIGKILL, restarted by the supervisor; each service twice",
    oracles="LDANO",
    touches=SERVICES,
    short=True,
    repeats_mails=True,
)
class KilledServices(Fault):
    hold_seconds = 1.0
    breaking_seconds = 4.0

    async def inject(self, run: Run) -> None:
        victims = [*SERVICES, *SERVICES]
        run.chance.shuffle(victims)
        for victim in victims:
            await asyncio.sleep(run.chance.uniform(0.1, 0.9))
            await run.blocking(run.stack.supervisor.kill, name=victim)
        run.note(kills=len(victims))

    async def heal(self, run: Run) -> None:
        await run.controls.until_ready()


@fault(
    3,
    title="rolling restart under load, 20 rounds",
    how="SIGTERM, drain, start; one service after the other",
    oracles="LDANO",
    touches=SERVICES,
    mixes=False,
)
class RollingRestart(Fault):
    """Twenty restarts of each service; a restart that drained needs no repeated mail."""

    hold_seconds = 0.5
    rounds = 20
    breaking_seconds = 40.0

    async def inject(self, run: Run) -> None:
        for _ in range(self.rounds):
            async with asyncio.TaskGroup() as group:
                for service in SERVICES:
                    group.create_task(self._restart(run, service))
        run.note(restarts=self.rounds * len(SERVICES))

    async def _restart(self, run: Run, service: str) -> None:
        supervisor = run.stack.supervisor
        await asyncio.sleep(run.chance.uniform(0.0, 0.5))
        await run.blocking(supervisor.stop, name=service)
        await run.blocking(supervisor.resume, name=service)
        await run.blocking(supervisor.wait_ready, name=service, timeout_seconds=30)

    async def heal(self, run: Run) -> None:
        for service in SERVICES:
            await run.blocking(run.stack.supervisor.resume, name=service)
        await run.controls.until_ready()


@fault(
    4,
    title="SIGTERM while the CIS takes 30 s",
    how="reference CIS with a latency of 30 s, SIGTERM to cis-poster, start",
    oracles="LDAN",
    touches=("cis", "cis-poster"),
)
class StoppedInMidCall(Fault):
    hold_seconds = 1.0

    async def inject(self, run: Run) -> None:
        await run.controls.switch("cis", latency_ms=30_000)
        await asyncio.sleep(1.0)
        began = asyncio.get_running_loop().time()
        await run.blocking(run.stack.supervisor.stop, name="cis-poster")
        run.note(stopped_after_seconds=round(asyncio.get_running_loop().time() - began, 1))
        await run.blocking(run.stack.supervisor.resume, name="cis-poster")

    async def heal(self, run: Run) -> None:
        await run.controls.reset("cis")
        await run.blocking(run.stack.supervisor.resume, name="cis-poster")
        await run.controls.until_ready()

    async def check(self, run: Run) -> list[Violation]:
        seconds = run.numbers["stopped_after_seconds"]
        if seconds <= 21.0:
            return []
        return [Violation(oracle="H", what=f"cis-poster took {seconds} s to stop, not 20")]


@fault(
    5,
    title="a service frozen past its session, then thawed: two owners of one record",
    how="a second cis-poster and notifier; SIGSTOP of the first ones for a session and 3 s",
    oracles="LDANH",
    touches=("cis-poster", "notifier"),
    mixes=False,
    repeats_mails=True,
)
class FrozenService(Fault):
    hold_seconds = SESSION_SECONDS + 3.0
    frozen = ("cis-poster", "notifier")
    unwell = frozen
    unwell_within_seconds = 3.0

    async def prepare(self, run: Run) -> None:
        for service in self.frozen:
            await run.blocking(run.controls.add_instance, service, name=f"{service} second")
            await run.blocking(
                run.stack.supervisor.wait_ready, name=f"{service} second", timeout_seconds=30
            )

    async def inject(self, run: Run) -> None:
        pids = (run.stack.supervisor.pid(name=each) for each in self.frozen)
        self.pids = [each for each in pids if each is not None]
        run.controls.freeze(*self.pids)

    async def heal(self, run: Run) -> None:
        run.controls.thaw(*self.pids)
        await run.controls.until_ready()

    async def check(self, run: Run) -> list[Violation]:
        await asyncio.gather(
            *(
                run.blocking(run.stack.supervisor.stop, name=f"{each} second")
                for each in self.frozen
            )
        )
        return []

"""Crashes just where one step is done and the next is not: decision 0038."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.faults.registry import Fault, fault
from tests.faults.run import Run
from tests.faults.violations import Violation

from paypost.stack.local import SERVICES
from paypost.stack.supervisor import ProcessSpec
from shared.failpoints import VARIABLE, Seam

CROSSED_SECONDS_MAX = 60.0
"""A service has nothing to do while the one in front of it crashes at three seams and starts
again each time: on a slow machine that alone takes twenty seconds."""
PAYING_SECONDS = 0.5
SEAMS = {
    "payment-intake": (Seam.COMMITTED, Seam.PUBLISHED, Seam.TAKEN),
    "cis-poster": (Seam.COMMITTED, Seam.PUBLISHED, Seam.TAKEN, Seam.POSTED),
    "autopay-scheduler": (Seam.COMMITTED, Seam.PUBLISHED, Seam.TAKEN),
    "notifier": (Seam.COMMITTED, Seam.PUBLISHED, Seam.TAKEN, Seam.MAILED),
}


@fault(
    2,
    title="crash at the exact seams: committed, published, taken, posted, mailed",
    how="PAYPOST_FAILPOINT: each service ends itself by SIGKILL at each of its seams in turn, and "
    "is started again without it",
    oracles="LDAN",
    touches=SERVICES,
    mixes=False,
    short=True,
    repeats_mails=True,
)
class CrashedAtSeams(Fault):
    """A seam that nothing crosses proves nothing, and fails the run."""

    hold_seconds = 0.5
    breaking_seconds = 36.0

    async def prepare(self, run: Run) -> None:
        self.specs = {each: run.stack.supervisor._get(each).spec for each in SERVICES}
        self.uncrossed: list[str] = []
        self.crashes = 0

    async def inject(self, run: Run) -> None:
        crossed = asyncio.Event()
        paying = asyncio.create_task(self._pay(run, until=crossed))
        try:
            async with asyncio.TaskGroup() as group:
                for service, seams in SEAMS.items():
                    group.create_task(self._crash(run, service, seams))
        finally:
            crossed.set()
            await paying

    async def _pay(self, run: Run, *, until: asyncio.Event) -> None:
        """Send payments beside the plan's, which may be over before the last seam is crossed."""
        while not until.is_set():
            await asyncio.gather(run.load.send([run.load.extra()]), asyncio.sleep(PAYING_SECONDS))

    async def _crash(self, run: Run, service: str, seams: tuple[Seam, ...]) -> None:
        for seam in seams:
            # Few facts are autopay's own: the first of them has to do.
            nth = 1 if service == "autopay-scheduler" else run.chance.randint(1, 3)
            armed = replace(
                self.specs[service],
                env={**self.specs[service].env, VARIABLE: f"{seam}:{nth}"},
                restart=None,
            )
            await run.blocking(run.stack.supervisor.start, armed)
            if await self._ends(run, service):
                self.crashes += 1
            else:
                self.uncrossed.append(f"{service} {seam}")
            await self._start(run, self.specs[service])

    async def _ends(self, run: Run, service: str) -> bool:
        deadline = asyncio.get_running_loop().time() + CROSSED_SECONDS_MAX
        while run.stack.supervisor.running(name=service):
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    async def _start(self, run: Run, spec: ProcessSpec) -> None:
        await run.blocking(run.stack.supervisor.start, spec)

    async def heal(self, run: Run) -> None:
        for service, spec in self.specs.items():
            if VARIABLE in run.stack.supervisor._get(service).spec.env:
                await self._start(run, spec)
        await run.controls.until_ready()

    async def check(self, run: Run) -> list[Violation]:
        run.note(crashes=self.crashes)
        return [
            Violation(oracle="2", what=f"{each} was not crossed: nothing was proved of it")
            for each in self.uncrossed
        ]

"""Faults of the machine: no CPU, no memory; and what grows when nothing happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, replace

import psutil
from tests.faults.load import Shape
from tests.faults.registry import Fault, fault
from tests.faults.run import Run
from tests.faults.tools.burner import CpuBurner
from tests.faults.tools.cgroups import MemoryLimited
from tests.faults.tools.machine import reason_against
from tests.faults.violations import Violation

from paypost.stack.local import SERVICES
from paypost.stack.supervisor import ProcessSpec
from paypost.stack.watchdog import Watchdog

MIB = 1024 * 1024
MEMORY_MIB_MAX = 160
"""What a service may use, load and start included; its own goal is 120 of resident memory."""
BURN_SECONDS = 10.0
SQUEEZE_SECONDS = 5.0
STORM_MIN = 3
"""So many sessions of one group lost during one burn are a storm."""


@fault(
    31,
    title="both cores starved by a burner; memory limited, then to less than is needed",
    how="three busy loops for each core for 10 s; each service in a memory control group of 160 "
    "MiB all the while; then one of them, drawn by the seed, killed and started in 40 MiB for 5 s",
    oracles="LDAH",
    touches=SERVICES,
    repeats_mails=True,
    recovery_seconds_max=45.0,
    mixes=False,
)
class StarvedServices(Fault):
    hold_seconds = 0.5
    breaking_seconds = 16.0

    def unavailable(self) -> str | None:
        return reason_against(MemoryLimited.probe)

    async def prepare(self, run: Run) -> None:
        self.watchdog = Watchdog()
        self.opened = contextlib.ExitStack()
        self.opened.callback(self.watchdog.close)
        self.log_path = run.load.folder / "tools.log"
        self.groups: dict[str, MemoryLimited] = {}
        self.specs: dict[str, ProcessSpec] = {}
        for service in SERVICES:
            group = MemoryLimited(
                pids=(),
                watchdog=self.watchdog,
                log_path=self.log_path,
                bytes_max=MEMORY_MIB_MAX * MIB,
            )
            self.groups[service] = self.opened.enter_context(group)
            self.specs[service] = spec = run.stack.supervisor._get(service).spec
            inside = replace(spec, command=(*group.prefix, *spec.command))
            await run.blocking(run.stack.supervisor.start, inside)
        await run.controls.until_ready()

    async def inject(self, run: Run) -> None:
        watching = asyncio.create_task(self._sessions_lost(run))
        with CpuBurner(watchdog=self.watchdog, log_path=self.log_path):
            await asyncio.sleep(BURN_SECONDS)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        self.kills_within = {name: group.kills for name, group in self.groups.items()}
        most = max(group.usage_bytes_max for group in self.groups.values())
        self.victim = run.chance.choice(SERVICES)
        group = self.groups[self.victim]
        starts = run.stack.supervisor.starts(name=self.victim)
        # A running process is not ended by a limit below what it uses: the limit is refused.
        await run.blocking(run.stack.supervisor.kill, name=self.victim)
        await run.blocking(_squeeze, group)
        await asyncio.sleep(SQUEEZE_SECONDS)
        await run.blocking(group.limit, MEMORY_MIB_MAX * MIB)
        self.ended = run.stack.supervisor.starts(name=self.victim) - starts - 1
        run.note(
            memory_mib_most=most // MIB,
            squeezed=self.victim,
            ended_over_memory=group.kills - self.kills_within[self.victim],
            sessions_lost=dict(self.lost),
        )

    async def _sessions_lost(self, run: Run) -> None:
        """Watch the members of each group: a static one goes only when its session has run out."""
        self.lost: dict[str, int] = defaultdict(int)
        before: dict[str, int] = {}
        while True:
            for service in SERVICES:
                with contextlib.suppress(Exception):
                    members = await run.controls.members(service)
                    self.lost[service] += max(0, before.get(service, 0) - members)
                    before[service] = members
            await asyncio.sleep(1.0)

    async def heal(self, run: Run) -> None:
        for spec in self.specs.values():
            await run.blocking(run.stack.supervisor.start, spec)
        await run.blocking(self.opened.close)
        await run.controls.until_ready()

    async def check(self, run: Run) -> list[Violation]:
        violations = [
            Violation(oracle="H", what=f"{group} lost {count} sessions while starved")
            for group, count in self.lost.items()
            if count >= STORM_MIN
        ]
        violations += [
            Violation(oracle="H", what=f"{name} needs more than {MEMORY_MIB_MAX} MiB")
            for name, kills in self.kills_within.items()
            if kills
        ]
        if not self.ended:
            violations.append(
                Violation(oracle="fault", what=f"{self.victim} did not end for want of memory")
            )
        return violations


def _squeeze(group: MemoryLimited) -> None:
    deadline = time.monotonic() + SQUEEZE_SECONDS
    while True:
        try:
            group.limit(MEMORY_MIB_MAX // 4 * MIB)
            return
        except OSError:
            # What the killed one used is given back a moment later.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


SAMPLE_SECONDS = 2.0
GROWTH_MAX = {"resident_mib": 4.0, "descriptors": 3.0, "threads": 1.0, "sessions": 1.0}
"""By quantity, by how much the median of the last quarter may be above that of the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What one service holds at one moment."""

    resident_mib: float
    descriptors: int
    threads: int
    sessions: int


@fault(
    32,
    title="soak: a trickle of payments and idleness",
    how="a payment every few seconds; resident memory, descriptors, threads and database sessions "
    "of each service sampled; flat if the median of the last quarter is within 4 MiB, 3, 1 and 1 "
    "of that of the second quarter (the first is warm-up)",
    oracles="LDANOMT",
    mixes=False,
)
class Soak(Fault):
    shape = Shape(payments=60, tail=8, charges=5, accounts=20)

    def __init__(self) -> None:
        self.hold_seconds = float(os.environ.get("PAYPOST_SOAK_MINUTES", "5")) * 60
        self.samples: dict[str, list[Footprint]] = defaultdict(list)

    async def inject(self, run: Run) -> None:
        self.sampling = asyncio.create_task(self._sample(run))

    async def _sample(self, run: Run) -> None:
        while True:
            for service, footprint in (await _footprints(run)).items():
                self.samples[service].append(footprint)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def heal(self, run: Run) -> None:
        self.sampling.cancel()
        await asyncio.gather(self.sampling, return_exceptions=True)

    async def check(self, run: Run) -> list[Violation]:
        violations = []
        grown = {}
        for service, samples in self.samples.items():
            for quantity, most in GROWTH_MAX.items():
                growth = growth_of([getattr(each, quantity) for each in samples])
                grown[f"{service} {quantity}"] = round(growth, 1)
                if growth > most:
                    violations.append(
                        Violation(
                            oracle="flat",
                            what=f"{quantity} of {service} grew by {growth:.1f} in "
                            f"{self.hold_seconds / 2:.0f} s",
                        )
                    )
        run.note(
            minutes=round(self.hold_seconds / 60, 1),
            samples=min(len(each) for each in self.samples.values()),
            most_grown=max(grown, key=lambda name: grown[name]),
            resident_mib={
                service: round(statistics.median(each.resident_mib for each in samples[-20:]))
                for service, samples in self.samples.items()
            },
        )
        return violations


def growth_of(values: list[float]) -> float:
    """By how much the median of the last quarter is above that of the second.

    Raises:
        statistics.StatisticsError: fewer than four values.
    """
    quarter = len(values) // 4
    second, last = values[quarter : 2 * quarter], values[-quarter:] if quarter else []
    return statistics.median(last) - statistics.median(second)


async def _footprints(run: Run) -> dict[str, Footprint]:
    rows = await run.controls.rows(
        "SELECT application_name AS name, count(*) AS n FROM pg_stat_activity GROUP BY 1"
    )
    sessions = {row["name"]: row["n"] for row in rows}
    found = {}
    for service in SERVICES:
        pid = run.stack.supervisor.pid(name=service)
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found[service] = Footprint(
                resident_mib=process.memory_info().rss / MIB,
                descriptors=process.num_fds(),
                threads=process.num_threads(),
                sessions=sessions.get(service, 0),
            )
    return found

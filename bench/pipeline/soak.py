"""An hour of load at half the maximum, with the memory of each process watched.

Usage: python -m bench.pipeline.soak [--seconds N]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from bench.pipeline.bed import Bed
from bench.pipeline.command import EXIT_NO_RESULT, run_to_its_end
from bench.pipeline.frame import DRAIN_SECONDS_MAX, WARM_UP_MAX, Bench, Lengths, load_size
from bench.pipeline.generator import poisson_offsets
from bench.pipeline.goals import PRODUCT, SERVICE_MEMORY_MB, number
from bench.pipeline.machine import this_machine
from bench.pipeline.plots import draw
from bench.pipeline.report import write_report
from bench.pipeline.results import REPORT, SOAK, machine_as_json, replace_folder, to_bytes
from bench.pipeline.terminal import Voice
from bench.pipeline.trial import Trial
from paypost.stack.local import SERVICES

SECONDS = 3600.0
SAMPLES = 360
GROWTH_MAX = 0.05
"""Of the last quarter over the second; the first is warming up."""
BYTES_A_PAYMENT = 15_000
"""In Kafka, PostgreSQL, the journals and the mail store together."""
PAYMENTS_A_SECOND_MAX = 2_000
RESERVE_BYTES = 4_000_000_000


@dataclass(slots=True)
class Watch:
    """Resident memory over time, in MB by process."""

    sampled_seconds: list[float] = field(default_factory=list)
    resident_mb: dict[str, list[float]] = field(default_factory=dict)

    def add(self, *, at_seconds: float, resident_mb: Mapping[str, float]) -> None:
        """Take one sample."""
        self.sampled_seconds.append(at_seconds)
        for name, value in resident_mb.items():
            self.resident_mb.setdefault(name, []).append(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Of one process: the medians of the second and of the last quarter."""

    early_mb: float
    late_mb: float

    @property
    def share(self) -> float:
        """How much it grew."""
        return self.late_mb / self.early_mb - 1 if self.early_mb else 0.0

    @property
    def holds(self) -> bool:
        """Whether it stays flat, and below what a service may take."""
        return self.share < GROWTH_MAX and self.late_mb < SERVICE_MEMORY_MB


def growth_of(values: Sequence[float]) -> Growth | None:
    """The growth over a series of samples; None of fewer than four."""
    quarter = len(values) // 4
    if quarter == 0:
        return None
    return Growth(
        early_mb=statistics.median(values[quarter : 2 * quarter]),
        late_mb=statistics.median(values[-quarter:]),
    )


async def measure(*, bench: Bench, seconds: float) -> tuple[Trial, Watch]:
    """Find the maximum, then load it with half of that for so long."""
    async with bench.bed(yardstick=PRODUCT) as bed:
        per_second = await bed.warm_up(seconds=bench.lengths.warm_up, count_max=WARM_UP_MAX)
        load = bed.prepare(count=load_size(per_second=per_second, seconds=bench.lengths.load))
        found = await bed.send_closed(load)
        await bed.until_confirmed(timeout_seconds=DRAIN_SECONDS_MAX)
        per_second = len(load) / (time.time() - found.started_at) / 2
        offsets = poisson_offsets(
            per_second=per_second, seconds=seconds, seed=bench.chance.getrandbits(32)
        )
        bench.say(f"{per_second:.0f} payments a second for {seconds / 60:.0f} minutes")
        before = await bed.read()
        watch = Watch()
        watching = asyncio.create_task(_watch(bed, watch, seconds, bench.say))
        try:
            sending = await bed.send_open(bed.make(count=len(offsets)), offsets)
        finally:
            watching.cancel()
        await bed.until_confirmed(timeout_seconds=DRAIN_SECONDS_MAX)
        memory = bed.memory()
        after = await bed.read_when_idle()
        trial = await bed.finish(
            run="soak",
            turn=1,
            sending=sending,
            before=before,
            after=after,
            memory=memory,
            extra={"offered_per_second": per_second},
        )
        return trial, watch


async def _watch(bed: Bed, watch: Watch, seconds: float, say: Callable[[str], None]) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(seconds / SAMPLES)
        passed = time.monotonic() - began
        sample = {name: each.resident_mb for name, each in bed.memory().items()}
        watch.add(at_seconds=passed, resident_mb=sample)
        if len(watch.sampled_seconds) % (SAMPLES // 12) == 0:
            told = ", ".join(f"{name} {sample.get(name, 0.0):.0f}" for name in SERVICES)
            say(f"{passed / 60:.0f} minutes; MB: {told}")


def as_json(*, trial: Trial, watch: Watch, machine: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of it."""
    growths = {name: growth_of(values) for name, values in watch.resident_mb.items()}
    confirmed = trial.confirmed
    return {
        "machine": dict(machine),
        "at": machine["at"],
        "commit": machine["commit"],
        "seconds": watch.sampled_seconds[-1] if watch.sampled_seconds else 0.0,
        "payments": trial.payments,
        "offered_per_second": trial.extra["offered_per_second"],
        "confirmed_p50_ms": confirmed.p50_ms if confirmed else None,
        "confirmed_p99_ms": confirmed.p99_ms if confirmed else None,
        "memory": {
            name: {"early_mb": each.early_mb, "late_mb": each.late_mb}
            for name, each in growths.items()
            if each is not None
        },
        "sampled_seconds": watch.sampled_seconds,
        "resident_mb": watch.resident_mb,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it and add it to the report; 1 where a service does not stay flat below its limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.pipeline.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args(arguments)
    voice, machine = Voice(console=Console(stderr=True)), this_machine()
    bench = Bench(lengths=Lengths(), say=voice)
    needed = round(options.seconds * PAYMENTS_A_SECOND_MAX / 2 * BYTES_A_PAYMENT)
    trial, watch = run_to_its_end(
        lambda: measure(bench=bench, seconds=options.seconds),
        say=voice,
        space_bytes=RESERVE_BYTES + needed,
    )
    found = as_json(trial=trial, watch=watch, machine=machine_as_json(machine))

    def write(folder: Any) -> None:
        (folder / SOAK).write_bytes(to_bytes(found))
        write_report(folder=folder, results=None, draw=draw)

    replace_folder(folder=REPORT, fill=write)
    holds = True
    for service in SERVICES:
        growth = growth_of(watch.resident_mb.get(service, ()))
        if growth is None:
            continue
        holds = holds and growth.holds
        voice(
            f"{service}: {number(growth.early_mb)} MB, then {number(growth.late_mb)} MB: "
            f"{'met' if growth.holds else 'missed'} (flat, < {SERVICE_MEMORY_MB:g} MB)"
        )
    return 0 if holds else EXIT_NO_RESULT


if __name__ == "__main__":
    sys.exit(main())

"""The runs of the benchmark: what each does with a bed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.pipeline.bed import Bed
from bench.pipeline.load import (
    ONE_EVENT,
    Events,
    Payments,
    account_names,
    customers_of,
)
from bench.pipeline.trial import Trial
from bench.yardsticks.contract import CisCalls, Workload
from bench.yardsticks.registry import make_yardstick

PAYMENTS_MIN = 150
PAYMENTS_MAX = 20_000
DRAIN_SECONDS_MAX = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How long the parts of a trial last, in seconds."""

    warm_up: float = 4.0
    load: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all runs share.

    Attributes:
        lengths: of a trial's parts.
        say: hears what is being done.
        chance: where the seeds of loads come from.
    """

    lengths: Lengths = field(default_factory=Lengths)
    say: Callable[[str], None] = lambda _text: None
    chance: random.Random = field(default_factory=random.SystemRandom)

    def bed(
        self,
        *,
        yardstick: str,
        cis_calls: CisCalls = "many",
        event_types: tuple[str, ...] = ONE_EVENT,
        spread: Callable[[int], int] | None = None,
        intake_only: bool = False,
        instances: int = 1,
    ) -> Bed:
        """A bed with a yardstick of this name, not made yet."""
        accounts = account_names()
        return Bed(
            yardstick=make_yardstick(name=yardstick),
            workload=Workload(
                customers=customers_of(accounts=accounts),
                cis_calls=cis_calls,
                intake_only=intake_only,
                instances=instances,
            ),
            payments=Payments(accounts=accounts, spread=spread),
            events=Events(event_types=event_types, seed=self.chance.getrandbits(48)),
            say=lambda text: self.say(f"{yardstick}: {text}"),
        )


async def measure_maximum(
    bench: Bench, *, run: str, yardstick: str, turn: int, **bed_options: object
) -> Trial:
    """As many payments as take about `lengths.load` seconds, as fast as they are answered."""
    async with bench.bed(yardstick=yardstick, **bed_options) as bed:  # type: ignore[arg-type]
        per_second = await bed.warm_up(seconds=bench.lengths.warm_up, count_max=PAYMENTS_MAX // 4)
        load = bed.prepare(count=load_size(per_second=per_second, seconds=bench.lengths.load))
        bench.say(f"{yardstick}: {len(load)} payments as fast as they go")
        before = await bed.read()
        sending = await bed.send_closed(load)
        await bed.until_confirmed(timeout_seconds=DRAIN_SECONDS_MAX)
        memory = bed.memory()
        after = await bed.read_when_idle()
        return await bed.finish(
            run=run, turn=turn, sending=sending, before=before, after=after, memory=memory
        )


def load_size(*, per_second: float, seconds: float) -> int:
    """How many payments take about so long at this rate, within what is sensible."""
    return max(PAYMENTS_MIN, min(PAYMENTS_MAX, round(per_second * seconds)))


def total_cpu_us(trial: Trial, *, without: tuple[str, ...] = ("generator",)) -> float:
    """CPU µs per payment of everything but those processes."""
    return sum(used for name, used in trial.cpu_us.items() if name not in without)

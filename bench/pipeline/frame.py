"""What every run is made with: how long its parts last, and beds for its trials."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from bench.pipeline.bed import Bed
from bench.pipeline.goals import (
    CIS_CONNECTIONS,
    Trials,
)
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
WARM_UP_MAX = 8_000
DRAIN_SECONDS_MAX = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How long the parts of a trial last, in seconds."""

    warm_up: float = 8.0
    load: float = 8.0
    ack: float = 3.0
    open: float = 12.0
    before_outage: float = 20.0
    outage: float = 60.0
    after_outage: float = 60.0


QUICK = Lengths(warm_up=4.0, load=4.0, ack=2.0, open=4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all runs share.

    Attributes:
        lengths: of a trial's parts.
        say: hears what is being done.
        chance: where the seeds of loads come from.
        absent: what was found to be missing on this machine, and why, by its name.
    """

    lengths: Lengths = field(default_factory=Lengths)
    say: Callable[[str], None] = lambda _text: None
    chance: random.Random = field(default_factory=random.SystemRandom)
    absent: dict[str, str] = field(default_factory=dict)

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
                cis_connections_max=CIS_CONNECTIONS,
                intake_only=intake_only,
                instances=instances,
            ),
            payments=Payments(accounts=accounts, spread=spread),
            events=Events(event_types=event_types, seed=self.chance.getrandbits(48)),
            say=lambda text: self.say(f"{yardstick}: {text}"),
        )


class Measure(Protocol):
    """One trial of one run; raises what went wrong."""

    def __call__(
        self, bench: Bench, *, run: str, yardstick: str, turn: int, trials: Trials
    ) -> Awaitable[Trial]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run of the table.

    Attributes:
        name: as in `ONLY=`.
        what: for people.
        yardsticks: in the order of the first round; the next round takes them in reverse.
        measure: one trial.
        rounds_max: no more than that, where a round takes long or says little more.
        needs: runs whose maxima this one is made of.
        beside: the run that this one is measured against; they share their rounds.
    """

    name: str
    what: str
    yardsticks: tuple[str, ...]
    measure: Measure
    rounds_max: int = 99
    needs: tuple[str, ...] = ()
    beside: str | None = None


def load_size(*, per_second: float, seconds: float) -> int:
    """How many payments take about so long at this rate, within what is sensible."""
    return max(PAYMENTS_MIN, min(PAYMENTS_MAX, round(per_second * seconds)))

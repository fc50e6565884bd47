"""What each run is held against, and whether it reaches it. Pure.

A goal is a comparison with another yardstick of the same run, or a bound. Medians are compared.
What was not run is said to be so, never passed over; nothing is met for want of what it is held
against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from bench.pipeline.statistics import Middle, middle, ratio
from bench.pipeline.trial import Trial

PRODUCT, FLOOR, TUTORIAL = "paypost", "floor", "tutorial"
DBOS = "dbos"
CELERIES = ("celery-rabbitmq", "celery-redis")
EVEN = "even_per_second"
"""The maximum of the same trial, before something went wrong in it."""


class Verdict(StrEnum):
    """Whether a goal is reached."""

    MET = "met"
    MISSED = "missed"
    NOT_RUN = "not run"
    REPORTED = "reported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One goal with what was measured.

    Attributes:
        run: the run's name.
        what: what is compared, for people.
        goal: what is asked, for people.
        measured: what was found, for people.
        verdict: see there.
        value: the figure that was compared; None where there is none.
    """

    run: str
    what: str
    goal: str
    measured: str
    verdict: Verdict
    value: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


@dataclass(frozen=True)
class Trials:
    """All trials that are results."""

    all: Sequence[Trial]

    def of(self, *, run: str, yardstick: str) -> list[Trial]:
        """Those of one run and yardstick, in the order of their rounds."""
        return [each for each in self.all if (each.run, each.yardstick) == (run, yardstick)]

    def figure(
        self, *, run: str, yardstick: str, read: Callable[[Trial], float | None]
    ) -> Middle | None:
        """The middle of a figure over the rounds; None where there is no trial."""
        return middle([read(each) for each in self.of(run=run, yardstick=yardstick)])

    def rate(self, *, run: str, yardstick: str) -> Middle | None:
        """Payments a second."""
        return self.figure(run=run, yardstick=yardstick, read=lambda each: each.payments_per_second)

    def best_rate(self, *, run: str, yardsticks: Iterable[str]) -> tuple[str, Middle] | None:
        """The fastest of these by its median; None where none was run."""
        found = [
            (rate.median, name, rate)
            for name in yardsticks
            if (rate := self.rate(run=run, yardstick=name)) is not None
        ]
        if not found:
            return None
        _, name, rate = max(found)
        return name, rate


def extra(name: str) -> Callable[[Trial], float | None]:
    """Reads a figure that only some runs have."""
    return lambda trial: trial.extra.get(name)


def cpu_of(process: str) -> Callable[[Trial], float | None]:
    """Reads what a payment costs one process."""
    return lambda trial: trial.cpu_us.get(process)


def at_least(
    *, run: str, what: str, of: Middle | None, to: Middle | None, to_name: str, times: float
) -> Row:
    """One median is at least so many times another."""
    found = ratio(of.median if of else None, to.median if to else None)
    goal = f"≥ {times:g} × {to_name}"
    if found is None or of is None or to is None:
        return Row(
            run=run, what=what, goal=goal, measured=_lacks(of, to, to_name), verdict=Verdict.NOT_RUN
        )
    return Row(
        run=run,
        what=what,
        goal=goal,
        measured=f"{found:.2f} × ({spread_text(of)} to {spread_text(to)})",
        verdict=Verdict.MET if found >= times else Verdict.MISSED,
        value=found,
    )


def at_most_times(
    *,
    run: str,
    what: str,
    of: Middle | None,
    to: Middle | None,
    to_name: str,
    times: float,
    unit: str = " ms",
) -> Row:
    """One median is at most so many times another."""
    found = ratio(of.median if of else None, to.median if to else None)
    goal = f"≤ {times:g} × {to_name}"
    if found is None or of is None or to is None:
        return Row(
            run=run, what=what, goal=goal, measured=_lacks(of, to, to_name), verdict=Verdict.NOT_RUN
        )
    return Row(
        run=run,
        what=what,
        goal=goal,
        measured=f"{found:.2f} × ({spread_text(of)}{unit} to {spread_text(to)}{unit})",
        verdict=Verdict.MET if found <= times else Verdict.MISSED,
        value=found,
    )


def below(*, run: str, what: str, of: Middle | None, bound: float, unit: str) -> Row:
    """A median is below a bound."""
    goal = f"< {bound:g} {unit}"
    if of is None:
        return Row(run=run, what=what, goal=goal, measured="no result", verdict=Verdict.NOT_RUN)
    return Row(
        run=run,
        what=what,
        goal=goal,
        measured=f"{spread_text(of)} {unit}",
        verdict=Verdict.MET if of.median < bound else Verdict.MISSED,
        value=of.median,
    )


def reported(*, run: str, what: str, of: Middle | None, unit: str) -> Row:
    """A figure without a goal."""
    if of is None:
        return Row(
            run=run, what=what, goal="reported", measured="no result", verdict=Verdict.NOT_RUN
        )
    return Row(
        run=run,
        what=what,
        goal="reported",
        measured=f"{spread_text(of)} {unit}",
        verdict=Verdict.REPORTED,
        value=of.median,
    )


def spread_text(of: Middle) -> str:
    """A median with its least and greatest, as people read it: `856 (840–861)`."""
    if of.rounds == 1:
        return number(of.median)
    return f"{number(of.median)} ({number(of.least)}–{number(of.greatest)})"


def number(value: float) -> str:
    """A figure with as many digits as mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _lacks(of: Middle | None, to: Middle | None, to_name: str) -> str:
    if of is None and to is None:
        return "no result"
    if of is None:
        return f"no result of {PRODUCT}; {to_name} {spread_text(to)}" if to else "no result"
    return f"{spread_text(of)}; no result of {to_name}"


def rows_of_maximum(trials: Trials) -> list[Row]:
    """Row 1: the maximum with one CIS call per payment, and with many postings in a call."""
    run = "max"
    ours = trials.rate(run=run, yardstick=PRODUCT)
    what = "maximum end to end, one CIS call per payment"
    rows = [
        at_least(
            run=run,
            what=what,
            of=ours,
            to=trials.rate(run=run, yardstick=FLOOR),
            to_name=FLOOR,
            times=0.7,
        )
    ]
    peers = trials.best_rate(run=run, yardsticks=(DBOS, *CELERIES))
    rows.append(
        at_least(
            run=run,
            what=what,
            of=ours,
            to=peers[1] if peers else None,
            to_name=f"the best of dbos and celery ({peers[0]})"
            if peers
            else "the best of dbos and celery",
            times=9,
        )
    )
    rows.append(
        at_least(
            run=run,
            what=what,
            of=ours,
            to=trials.rate(run=run, yardstick=TUTORIAL),
            to_name=TUTORIAL,
            times=30,
        )
    )
    return rows


def rows_of_maximum_many(trials: Trials) -> list[Row]:
    """Row 2."""
    run = "max-many"
    return [
        at_least(
            run=run,
            what="maximum end to end, many postings in a CIS call",
            of=trials.rate(run=run, yardstick=PRODUCT),
            to=trials.rate(run=run, yardstick=FLOOR),
            to_name=FLOOR,
            times=0.7,
        )
    ]


def rows_of_ack(trials: Trials) -> list[Row]:
    """Row 3: answering webhooks, durably, with nothing behind it running."""
    run = "ack"

    def acks(yardstick: str) -> Middle | None:
        return trials.figure(run=run, yardstick=yardstick, read=lambda each: each.acks_per_second)

    rows = [
        at_least(
            run=run,
            what="webhooks acknowledged a second, durably",
            of=acks(PRODUCT),
            to=acks(FLOOR),
            to_name=FLOOR,
            times=0.7,
        ),
        below(
            run=run,
            what="p99 of the acknowledgement at half its maximum",
            of=trials.figure(run=run, yardstick=PRODUCT, read=extra("half_p99_ms")),
            bound=20,
            unit="ms",
        ),
    ]
    vegeta = trials.figure(run=run, yardstick=PRODUCT, read=extra("vegeta_p99_ms"))
    rows.append(
        reported(
            run=run,
            what="the same p99 by vegeta, at a constant rate, signed beforehand",
            of=vegeta,
            unit="ms",
        )
    )
    return rows


def rows_of_train(trials: Trials) -> list[Row]:
    """A card payment's usual four events."""
    run = "train"
    return [
        at_least(
            run=run,
            what="payments a second, each of four Stripe events",
            of=trials.rate(run=run, yardstick=PRODUCT),
            to=trials.rate(run=run, yardstick=FLOOR),
            to_name=FLOOR,
            times=0.7,
        )
    ]


def rows_of_latency(trials: Trials) -> list[Row]:
    """From acceptance to confirmation, at a quarter of the maximum."""
    run = "latency"
    rows = []
    for share, times in (("p50", 1.5), ("p99", 2.0)):

        def read(trial: Trial, share: str = share) -> float | None:
            return getattr(trial.confirmed, f"{share}_ms") if trial.confirmed else None

        rows.append(
            at_most_times(
                run=run,
                what=f"accepted → confirmed at a quarter of the maximum, {share}",
                of=trials.figure(run=run, yardstick=PRODUCT, read=read),
                to=trials.figure(run=run, yardstick=FLOOR, read=read),
                to_name=FLOOR,
                times=times,
            )
        )
    return rows


CIS_LATENCIES_MS = (5, 50, 200)
CIS_CONNECTIONS = 64


def cis_bound(*, latency_ms: float, cpu_bound: float) -> float:
    """The most that so many connections can post one by one, or the CPU, whichever is less."""
    return min(CIS_CONNECTIONS / (latency_ms / 1000), cpu_bound)


def rows_of_cis_latency(trials: Trials) -> list[Row]:
    """A CIS that takes its time."""
    rows = []
    for latency_ms in CIS_LATENCIES_MS:
        run = f"cis-{latency_ms}ms"
        cpu_bound = trials.figure(run=run, yardstick=PRODUCT, read=extra(EVEN))
        found = trials.rate(run=run, yardstick=PRODUCT)
        to = None
        name = "the bound"
        if cpu_bound is not None:
            bound = cis_bound(latency_ms=latency_ms, cpu_bound=cpu_bound.median)
            to = Middle(median=bound, least=bound, greatest=bound, rounds=1)
            name = "the CPU bound" if bound == cpu_bound.median else "connections ÷ latency"
        rows.append(
            at_least(
                run=run,
                what=f"CIS latency {latency_ms} ms, {CIS_CONNECTIONS} connections",
                of=found,
                to=to,
                to_name=name,
                times=0.9,
            )
        )
    return rows


def rows_of_others(trials: Trials) -> list[Row]:
    """Accounts that the CIS refuses, or never answers for: what the others lose."""
    rows = []
    for run, what in (
        ("refused", "10 % of accounts refused: the other payments a second"),
        ("timing-out", "one account that always times out: the other payments a second"),
    ):
        ours = trials.rate(run=run, yardstick=PRODUCT)
        share = trials.figure(run=run, yardstick=PRODUCT, read=extra("share_of_others"))
        even = trials.figure(run=run, yardstick=PRODUCT, read=extra(EVEN))
        to = _scaled(even, share.median) if share else None
        rows.append(
            at_least(
                run=run, what=what, of=ours, to=to, to_name="their part of the maximum", times=0.95
            )
        )
    return rows


def rows_of_hot(trials: Trials) -> list[Row]:
    """One account with a third of all payments."""
    return [
        at_least(
            run="hot",
            what="one account with a third of all payments",
            of=trials.rate(run="hot", yardstick=PRODUCT),
            to=trials.rate(run="max-many", yardstick=PRODUCT),
            to_name="the even spread",
            times=0.7,
        )
    ]


def rows_of_outages(trials: Trials) -> list[Row]:
    """Kafka or the CIS away for a minute."""
    rows = []
    for run, what in (("kafka-down", "Kafka"), ("cis-down", "CIS")):

        def figure(name: str, run: str = run) -> Middle | None:
            return trials.figure(run=run, yardstick=PRODUCT, read=extra(name))

        rows += [
            at_most_times(
                run=run,
                what=f"{what} down 60 s: webhook p99 meanwhile",
                of=figure("ack_p99_during_ms"),
                to=figure("ack_p99_before_ms"),
                to_name="before",
                times=1.5,
            ),
            below(
                run=run,
                what=f"{what} down 60 s: backlog drained after",
                of=figure("drain_seconds"),
                bound=60,
                unit="s",
            ),
        ]
        overtaken = figure("overtakings")
        rows.append(
            Row(
                run=run,
                what=f"{what} down 60 s: order within accounts",
                goal="kept",
                measured="no result"
                if overtaken is None
                else f"{overtaken.greatest:.0f} overtaken",
                value=None if overtaken is None else overtaken.greatest,
                verdict=Verdict.NOT_RUN
                if overtaken is None
                else Verdict.MET
                if overtaken.greatest == 0
                else Verdict.MISSED,
            )
        )
    return rows


def rows_of_two(trials: Trials) -> list[Row]:
    """Two processes of each service on the same cores."""
    return [
        at_least(
            run="two",
            what="two processes of each service",
            times=1.0,
            of=trials.rate(run="two", yardstick=PRODUCT),
            to=trials.rate(run="max-many", yardstick=PRODUCT),
            to_name="one of each",
        )
    ]


SERVICE_MEMORY_MB = 120.0


def rows_of_memory(trials: Trials, *, services: Sequence[str]) -> list[Row]:
    """What each service holds at the end of a maximum."""
    rows = []
    for service in services:

        def read(trial: Trial, service: str = service) -> float | None:
            memory = trial.memory.get(service)
            return memory.resident_mb if memory else None

        rows.append(
            below(
                run="max-many",
                what=f"resident memory of {service} under load",
                of=trials.figure(run="max-many", yardstick=PRODUCT, read=read),
                bound=SERVICE_MEMORY_MB,
                unit="MB",
            )
        )
    return rows


def rows_of_start(trials: Trials) -> list[Row]:
    """How long a warm start takes."""

    def figure(name: str) -> Middle | None:
        return trials.figure(run="start", yardstick=PRODUCT, read=extra(name))

    return [
        below(
            run="start",
            what="start of the stack when warm",
            of=figure("start_seconds"),
            bound=10,
            unit="s",
        ),
        below(
            run="start", what="`make demo` when warm", of=figure("demo_seconds"), bound=30, unit="s"
        ),
    ]


def _scaled(of: Middle | None, factor: float) -> Middle | None:
    if of is None:
        return None
    return Middle(
        median=of.median * factor,
        least=of.least * factor,
        greatest=of.greatest * factor,
        rounds=of.rounds,
    )

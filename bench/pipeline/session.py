"""A benchmark from its first round to its last: which trials, in which order, what came of them.

Rounds are interleaved: each round has one trial of every yardstick, and every other round takes
them in reverse, so that a machine that grows slower or faster meanwhile favours nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
import asyncpg

from bench.pipeline.bed import NotStartedError
from bench.pipeline.frame import Bench, Run
from bench.pipeline.goals import Trials
from bench.pipeline.trial import Failed, NotProvenError, Trial
from bench.yardsticks.contract import YardstickUnavailableError
from bench.yardsticks.registry import make_yardstick
from paypost.remote import RefusedRequestError
from paypost.stack.supervisor import ProcessFailedError

TRIAL_SECONDS_MAX = 900.0
"""A trial that hangs ends the waiting, not the benchmark."""

TRIAL_ERRORS = (
    NotProvenError,
    NotStartedError,
    ProcessFailedError,
    RefusedRequestError,
    TimeoutError,
    OSError,
    aiohttp.ClientError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
)
"""What makes a trial no result. Anything else is a defect of the benchmark, and ends it."""


@dataclass
class Session:
    """All that was found so far; `versions` of each yardstick that was made."""

    trials: list[Trial] = field(default_factory=list)
    failures: list[Failed] = field(default_factory=list)
    versions: dict[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def results(self) -> Trials:
        """Those that count."""
        return Trials(self.trials)

    @property
    def runs(self) -> frozenset[str]:
        """Those of which there is anything to be said."""
        return frozenset([each.run for each in self.trials] + [each.run for each in self.failures])

    def note_absent(self, absent: Mapping[str, str]) -> None:
        """Note tools that this machine lacks, and why, by their names."""
        self.failures.extend(
            Failed(run="", yardstick=name, turn=0, reason=reason, available=False)
            for name, reason in absent.items()
        )

    def is_absent(self, *, yardstick: str) -> bool:
        """Whether this machine was found to lack what a yardstick needs."""
        return any(each.yardstick == yardstick and not each.available for each in self.failures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One trial to be done."""

    run: Run
    yardstick: str
    turn: int


def plan(
    *, runs: Sequence[Run], rounds: int, yardsticks: Sequence[str] | None = None
) -> Iterator[Step]:
    """The trials in their order: run by run, round by round, each other round in reverse.

    Runs that are measured against one another share their rounds, as the yardsticks of one do.

    Args:
        runs: in their order.
        rounds: of each; a run may have fewer.
        yardsticks: none but these; all when absent.
    """
    names = {run.name for run in runs}
    for first in runs:
        if first.beside in names:
            continue
        together = [first, *(run for run in runs if run.beside == first.name)]
        for turn in range(1, rounds + 1):
            steps = [
                Step(run=run, yardstick=name, turn=turn)
                for run in together
                for name in run.yardsticks
                if turn <= run.rounds_max and (yardsticks is None or name in yardsticks)
            ]
            yield from steps if turn % 2 else reversed(steps)


def with_needed(*, wanted: Sequence[str], runs: Mapping[str, Run]) -> list[Run]:
    """The wanted runs in the order of the table; what they are made of goes before them."""
    names = set(wanted)
    for name in wanted:
        run = runs[name]
        names.update(run.needs)
        if run.beside is not None:
            names.add(run.beside)
    return [run for run in runs.values() if run.name in names]


async def check_all(
    *, yardsticks: Sequence[str], session: Session, say: Callable[[str], None]
) -> None:
    """Look beforehand which yardsticks this machine lacks something for."""
    for name in yardsticks:
        try:
            yardstick = make_yardstick(name=name)
            await yardstick.check()
            session.versions[name] = yardstick.versions
        except YardstickUnavailableError as error:
            say(f"{error}; reported as not run")
            session.failures.append(
                Failed(run="", yardstick=name, turn=0, reason=error.missing, available=False)
            )


async def go_through(*, bench: Bench, steps: Sequence[Step], session: Session) -> None:
    """Do the trials; each is proven and kept, or its reason is."""
    for place, step in enumerate(steps, start=1):
        if session.is_absent(yardstick=step.yardstick):
            continue
        bench.say(f"[{place}/{len(steps)}] {step.run.what}, round {step.turn}: {step.yardstick}")
        try:
            async with asyncio.timeout(TRIAL_SECONDS_MAX):
                trial = await step.run.measure(
                    bench,
                    run=step.run.name,
                    yardstick=step.yardstick,
                    turn=step.turn,
                    trials=session.results,
                )
            session.trials.append(trial)
            bench.say(f"{step.yardstick}: {_told(trial)}")
        except YardstickUnavailableError as error:
            bench.say(f"{error}; reported as not run")
            session.failures.append(_failed(step, error.missing, available=False))
        except TRIAL_ERRORS as error:
            reason = str(error) or type(error).__name__
            bench.say(f"{step.yardstick}: NO RESULT: {reason}")
            session.failures.append(_failed(step, reason.splitlines()[0]))


def _told(trial: Trial) -> str:
    if not trial.payments:
        return ", ".join(f"{name} {value:.1f}" for name, value in trial.extra.items())
    return (
        f"{trial.payments_per_second:,.1f} payments a second"
        f" ({trial.payments:,} in {trial.seconds:.1f} s)"
    )


def _failed(step: Step, reason: str, *, available: bool = True) -> Failed:
    return Failed(
        run=step.run.name,
        yardstick=step.yardstick,
        turn=step.turn,
        reason=reason,
        available=available,
    )

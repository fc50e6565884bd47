"""The campaign as a whole: which runs, on which stacks, and what is said of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults.campaign import Outcome, run_faults
from tests.faults.controls import Controls
from tests.faults.journals import Journals
from tests.faults.load import Shape
from tests.faults.registry import Fault, load_catalogue
from tests.faults.report import Report, write_mixes_report, write_report
from tests.faults.shares import run_shares, write_outcomes
from tests.faults.stacks import stack_for

from paypost.stack.local import LocalStack
from paypost.stack.ports import NoFreePortsError
from paypost.stack.postgres import NoUnprivilegedUserError, PostgresNotFoundError
from paypost.stack.state import StackRunningError
from paypost.stack.supervisor import ProcessFailedError

DISK_BYTES_MIN = 3 * 1024**3
"""Kafka, PostgreSQL and kept journals of a whole campaign took 1.6 GB."""
STACK_NAME = "faults"
MIX_SHAPE = Shape(payments=80, tail=8, charges=5, accounts=25, lead_seconds=1.0, lag_seconds=0.5)
MIXES_REPORTED_MIN = 50
"""So many mixes are a campaign of their own, of which docs/reliability-mixes.md is written."""
MIXES_OF_ONE_LOAD = 25
"""Mixes that send the same plan, and so are held against the same calm run."""
RUNS_OF_ONE_STACK_MAX = 60
"""Then a fresh one: what earlier runs left makes reading journals slower."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to run.

    Attributes:
        only: faults by number; None is all, none at all where only mixes are wanted.
        seed: of everything left to chance.
        mixes: how many random ones.
        jobs: on how many stacks at once the mixes are run, each by a process of its own.
        share: which of the mixes this process is to run: every so many-th from the first.
        folder: where journals and logs are kept.
        soak_minutes: how long fault 32 lasts.
        report: whether this is the whole campaign, of which docs/reliability.md is written.
    """

    only: tuple[int, ...] | None
    seed: int
    mixes: int
    folder: Path
    soak_minutes: float
    report: bool
    jobs: int = 1
    share: tuple[int, int] | None = None


async def run_campaign(wanted: Wanted) -> int:
    """Run it all; 0 if everything held, 1 if not, 2 if it could not be run."""
    problem = _problem(wanted)
    if problem is not None:
        _say(problem)
        return 2
    # A broker that is away is what this is about, and not worth a line each second.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    os.environ["PAYPOST_SOAK_MINUTES"] = str(wanted.soak_minutes)
    wanted.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    _say(f"seed {wanted.seed}; journals and logs of what fails are kept in {wanted.folder}")
    runner = Runner(wanted=wanted)
    try:
        try:
            await runner.run_alone()
            if wanted.jobs == 1:
                await runner.run_mixes()
        finally:
            await runner.close()
    except (
        NoFreePortsError,
        NoUnprivilegedUserError,
        PostgresNotFoundError,
        ProcessFailedError,
        StackRunningError,
    ) as error:
        _say(f"the stack could not be started: {error}")
        return 2
    outcomes = runner.outcomes
    if wanted.jobs > 1:
        shared = await run_shares(wanted)
        if shared is None:
            return 2
        outcomes += shared
    if wanted.share is not None:
        write_outcomes(outcomes, folder=wanted.folder)
    return _conclude(wanted, outcomes, seconds=time.monotonic() - began)


def _conclude(wanted: Wanted, outcomes: Sequence[Outcome], *, seconds: float) -> int:
    failed = [each for each in outcomes if each.violations]
    skipped = [each for each in outcomes if each.not_run]
    held = len(outcomes) - len(failed) - len(skipped)
    _say(f"{held} held, {len(failed)} failed, {len(skipped)} not run, in {seconds:.0f} s")
    report = Report(seed=wanted.seed, outcomes=tuple(outcomes), seconds=seconds, jobs=wanted.jobs)
    if wanted.report:
        _say(f"written: {write_report(report)}")
    elif wanted.only == () and wanted.share is None and wanted.mixes >= MIXES_REPORTED_MIN:
        _say(f"written: {write_mixes_report(report)}")
    return 1 if failed else 0


class Runner:
    """Runs faults one after the other, each on a stack as it needs it, which is kept warm."""

    def __init__(self, *, wanted: Wanted) -> None:
        self._wanted = wanted
        self._catalogue = load_catalogue()
        self._key: str | None = None
        self._stack: LocalStack | None = None
        self._opened = contextlib.ExitStack()
        self._runs = 0
        self._calm: dict[tuple[int, Shape], Journals] = {}
        self.outcomes: list[Outcome] = []

    async def run_alone(self) -> None:
        """Each wanted fault by itself."""
        only = self._wanted.only
        kinds = [kind for number, kind in self._catalogue.items() if only is None or number in only]
        # Those that share a stack one after the other, the plain one first.
        kinds.sort(key=lambda kind: (kind.needs.key != "plain", kind.needs.key))
        for kind in kinds:
            await self._one(kind)

    async def run_mixes(self) -> None:
        """Random mixes, each of two to four faults that a seed draws."""
        able = [
            kind
            for kind in self._catalogue.values()
            if kind.declaration.mixes and kind.needs.key == "plain" and kind().unavailable() is None
        ]
        first, step = self._wanted.share or (0, 1)
        for number in range(first, self._wanted.mixes, step):
            seed = self._wanted.seed * 1_000 + number
            chance = random.Random(f"mix {seed}")
            kinds = chance.sample(able, k=min(len(able), chance.randint(2, 4)))
            load_seed = self._wanted.seed * 1_000 + number // MIXES_OF_ONE_LOAD
            await self._run(
                kinds,
                name=f"mix {number + 1}",
                seed=seed,
                load_seed=load_seed,
                shape=MIX_SHAPE,
            )

    async def close(self) -> None:
        """Stop the stack."""
        await asyncio.to_thread(self._opened.close)
        self._stack = self._key = None

    async def _one(self, kind: type[Fault]) -> None:
        number = kind.declaration.number
        reason = kind().unavailable()
        if reason is not None:
            self._add(
                Outcome(
                    name=f"fault {number}",
                    numbers=(number,),
                    seed=self._wanted.seed,
                    oracles=kind.declaration.oracles,
                    not_run=reason,
                )
            )
            return
        await self._run(
            [kind],
            name=f"fault {number}",
            seed=self._wanted.seed,
            load_seed=self._wanted.seed,
            shape=kind.shape,
        )

    async def _run(
        self,
        kinds: Sequence[type[Fault]],
        *,
        name: str,
        seed: int,
        load_seed: int,
        shape: Shape,
    ) -> None:
        stack = await self._stack_for(kinds[0])
        calm = await self._calm_run(stack, load_seed=load_seed, shape=shape)
        outcome = await run_faults(
            kinds,
            name=name,
            seed=seed,
            load_seed=load_seed,
            stack=stack,
            folder=self._wanted.folder / f"{name.replace(' ', '-')}-seed-{seed}",
            shape=shape,
            calm=calm,
        )
        self._runs += 1
        self._add(outcome)
        if not outcome.holds or self._runs >= RUNS_OF_ONE_STACK_MAX:
            await self.close()

    async def _calm_run(
        self, stack: LocalStack, *, load_seed: int, shape: Shape
    ) -> Journals | None:
        """The same load without a fault, once; what it is to be equal to."""
        known = self._calm.get((load_seed, shape))
        if known is None:
            outcome = await run_faults(
                [],
                name="calm",
                seed=load_seed,
                stack=stack,
                folder=self._wanted.folder / f"calm-seed-{load_seed}",
                shape=shape,
            )
            self._add(outcome)
            if outcome.journals is None:
                return None
            known = self._calm[load_seed, shape] = outcome.journals
        return known

    async def _stack_for(self, kind: type[Fault]) -> LocalStack:
        if self._stack is not None and self._key == kind.needs.key:
            with contextlib.suppress(TimeoutError):
                await Controls(stack=self._stack).until_ready(timeout_seconds=30)
                return self._stack
        await self.close()
        opened = contextlib.ExitStack()
        name = STACK_NAME if kind.needs.key == "plain" else f"{STACK_NAME}-{kind.needs.key}"
        context = stack_for(kind.needs, name=name, state_dir=self._wanted.folder / "state")
        stack = await asyncio.to_thread(opened.enter_context, context)
        self._opened, self._stack, self._key, self._runs = opened, stack, kind.needs.key, 0
        return stack

    def _add(self, outcome: Outcome) -> None:
        # What it wrote down is judged by now, and too much to be kept of hundreds.
        self.outcomes.append(replace(outcome, journals=None))
        _say(_line(outcome, self._catalogue))
        for violation in outcome.violations[:12]:
            _say(f"    {violation}")
        if len(outcome.violations) > 12:
            _say(f"    … and {len(outcome.violations) - 12} more")
        if outcome.violations:
            _say(f"    seed {outcome.seed}; journals and logs in {outcome.folder}")
        elif outcome.folder is not None:
            shutil.rmtree(outcome.folder, ignore_errors=True)


def _line(outcome: Outcome, catalogue: dict[int, type[Fault]]) -> str:
    titles = " + ".join(catalogue[each].declaration.title for each in outcome.numbers)
    what = f"{outcome.name} ({titles})" if titles else outcome.name
    if outcome.not_run is not None:
        return f"not run  {what}: {outcome.not_run}"
    counts = ", ".join(
        f"{name.removesuffix('_seconds').replace('_', ' ')} {value}"
        for name, value in outcome.counts.items()
    )
    verdict = "held   " if outcome.holds else "FAILED "
    return f"{verdict}  {what} [{outcome.oracles}] {outcome.seconds:.0f} s: {counts}"


def _problem(wanted: Wanted) -> str | None:
    """Why it cannot be run here, in words for people; None if it can."""
    known = load_catalogue()
    unknown = sorted(set(wanted.only or ()) - set(known))
    if unknown:
        return f"no such fault: {unknown}; there are {sorted(known)}"
    place = wanted.folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < DISK_BYTES_MIN:
        return (
            f"{place} has {free / 1e9:.1f} GB free, the campaign needs "
            f"{DISK_BYTES_MIN / 1e9:.1f} GB; give another place with --folder"
        )
    return None


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()

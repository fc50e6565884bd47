"""One run: steady load, fault, heal, quiet, oracles. And the campaign: many of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import asyncpg
import orjson
from tests.faults import oracles
from tests.faults.controls import Controls, watch
from tests.faults.journals import (
    Journals,
    Sample,
    Times,
    charged_of,
    read_attempts,
    read_effects,
    read_letters,
    size_bytes,
)
from tests.faults.load import Load, Shape, plan_of
from tests.faults.registry import Fault
from tests.faults.run import Run
from tests.faults.stories import read_stories
from tests.faults.violations import Violation

from paypost.simulators.mail.store import FILE_NAME
from paypost.simulators.processor.book import read_book
from paypost.stack.local import SERVICES, LocalStack
from paypost.verify.pending import read_pending
from shared.contracts.streams import STREAMS


def _counter(name: str, **labels: str) -> re.Pattern[str]:
    wanted = "".join(f'(?=.*{label}="({value})")' for label, value in labels.items())
    return re.compile(rf"{name}\{{{wanted}")


QUIET_SECONDS_MAX = 75.0
HEAL_SECONDS_MAX = 60.0
COUNTED = {
    "cis-poster": {"posted": _counter("cis_poster_postings_total", outcome="posted")},
    "notifier": {"sent": _counter("notifier_notifications_total", outcome="sent")},
    "payment-intake": {
        "events": _counter(
            "payment_intake_events_total", source="stripe", outcome="accepted|ignored|conflict"
        )
    },
}
"""By service, what its metrics say that journals say as well."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one run.

    Attributes:
        name: `fault 22`, `mix 7`, `calm`.
        numbers: the faults in it.
        not_run: why it was not run, if so.
        violations: what did not hold; empty where everything did.
        counts: sent, posted, doubled, lost and whatever the faults noted.
        folder: where the journals are, kept where something did not hold.
    """

    name: str
    numbers: tuple[int, ...]
    seed: int
    oracles: str = ""
    not_run: str | None = None
    violations: tuple[Violation, ...] = ()
    counts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    folder: Path | None = None
    journals: Journals | None = field(default=None, repr=False)

    @property
    def holds(self) -> bool:
        """Whether it was run and everything held."""
        return self.not_run is None and not self.violations

    def as_json(self) -> dict[str, Any]:
        """Everything but the journals."""
        return {
            "name": self.name,
            "numbers": list(self.numbers),
            "seed": self.seed,
            "oracles": self.oracles,
            "not_run": self.not_run,
            "violations": [asdict(each) for each in self.violations],
            "counts": dict(self.counts),
            "seconds": round(self.seconds, 1),
            "folder": str(self.folder) if self.folder else None,
        }

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> Outcome:
        """What `as_json` gave."""
        return cls(
            **{
                **document,
                "numbers": tuple(document["numbers"]),
                "violations": tuple(Violation(**each) for each in document["violations"]),
                "folder": Path(document["folder"]) if document["folder"] else None,
            }
        )


_poisoned: WeakKeyDictionary[LocalStack, dict[str, list[bytes]]] = WeakKeyDictionary()
"""By stack, what was poisoned on it in earlier runs."""
_prefixes: Iterator[int] = iter(range(1, 1_000_000))


async def run_faults(
    kinds: Sequence[type[Fault]],
    *,
    name: str,
    seed: int,
    stack: LocalStack,
    folder: Path,
    shape: Shape,
    calm: Journals | None = None,
    load_seed: int | None = None,
) -> Outcome:
    """Break a running stack in these ways on one load, and judge what came of it.

    Args:
        kinds: none for a calm run; one at the middle of the load; several at moments of chance.
        name: of the run.
        seed: decides what is left to chance.
        stack: healthy; it is healthy again afterwards unless the outcome says otherwise.
        folder: kept where something does not hold, else deleted by the caller.
        shape: how much load.
        calm: the journals of a run of the same load without a fault, to be equal to.
        load_seed: of the plan; by default the seed.
    """
    began = time.monotonic()
    run = _prepared(name, seed, stack, folder, shape, load_seed)
    faults = [kind() for kind in kinds]
    run.alone = len(faults) < 2
    offsets = _Offsets.of(stack)
    violations: list[Violation] = []
    samples: list[Sample] = []
    times: dict[str, float] = {}
    watching = None
    journals = None
    try:
        before, pids = await _counters(run.controls)
        await run.load.open()
        for each in faults:
            await each.prepare(run)
        dead_before = await _dead_ends(run.controls)
        watching = asyncio.create_task(watch(run.controls, samples=samples))
        times["began"] = time.time()
        hold_seconds = max(
            (each.hold_seconds + each.breaking_seconds for each in faults), default=2.0
        )
        run.load.begin(seconds=shape.lead_seconds + hold_seconds + shape.lag_seconds)
        violations += await _break(run, faults, times)
        async with asyncio.timeout(300):
            await run.load.end()
        await run.controls.until_ready(timeout_seconds=HEAL_SECONDS_MAX)
        unquiet = await _quiet(run.controls, run.load)
        if unquiet:
            groups = await run.controls.describe_groups()
            (folder / "groups.json").write_bytes(
                orjson.dumps(groups, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
            )
        violations += unquiet
        times["ended"] = time.time()
        await _stop(watching)
        journals = await _gather(run, offsets, samples, times, before, pids, dead_before)
        violations += _judge(journals, run, faults, calm)
        for each in faults:
            violations += await _checked(each, run)
    except Exception as error:
        where = traceback.format_exc(limit=-4)
        violations.append(Violation(oracle="run", what=f"{type(error).__name__}: {error}\n{where}"))
    finally:
        await _stop(watching)
        await run.load.close()
    outcome = Outcome(
        name=name,
        numbers=tuple(each.declaration.number for each in faults),
        seed=seed,
        oracles=_letters(faults),
        violations=tuple(violations),
        counts=(_counts(journals) if journals else {}) | run.numbers,
        seconds=time.monotonic() - began,
        folder=folder,
        journals=journals,
    )
    _keep(outcome, stack, folder)
    return outcome


def _prepared(
    name: str, seed: int, stack: LocalStack, folder: Path, shape: Shape, load_seed: int | None
) -> Run:
    prefix = f"R{os.getpid() % 10_000}x{next(_prefixes)}"
    shutil.rmtree(folder, ignore_errors=True)
    plan = plan_of(seed=seed if load_seed is None else load_seed, shape=shape)
    return Run(
        seed=seed,
        chance=random.Random(f"{name} {seed}"),
        stack=stack,
        controls=Controls(stack=stack),
        load=Load(state=stack.state, plan=plan, shape=shape, folder=folder, prefix=prefix),
        folder=folder,
    )


async def _break(run: Run, faults: Sequence[Fault], times: dict[str, float]) -> list[Violation]:
    """Let each fault come and go; note when the first came and the last was gone."""
    violations: list[Violation] = []
    lead = run.load.shape.lead_seconds
    locks = {word: asyncio.Lock() for each in faults for word in each.declaration.touches}

    async def come_and_go(each: Fault, delay_seconds: float) -> None:
        await asyncio.sleep(delay_seconds)
        async with contextlib.AsyncExitStack() as held:
            for word in sorted(each.declaration.touches):
                await held.enter_async_context(locks[word])
            times.setdefault("injected", time.time())
            try:
                await each.inject(run)
                await asyncio.sleep(each.hold_seconds)
            except Exception as error:
                violations.append(
                    Violation(
                        oracle="run",
                        what=f"fault {each.declaration.number} could not be injected: {error!r}",
                    )
                )
            finally:
                await each.heal(run)
                times["healed"] = time.time()

    if not faults:
        await asyncio.sleep(lead)
        times["injected"] = times["healed"] = time.time()
        return violations
    alone = len(faults) == 1
    delays = [lead if alone else lead * run.chance.uniform(0.3, 2.0) for _ in faults]
    await asyncio.gather(
        *(come_and_go(each, delay) for each, delay in zip(faults, delays, strict=True))
    )
    return violations


async def _checked(each: Fault, run: Run) -> list[Violation]:
    found = each.check(run)
    if isinstance(found, AsyncIterator):
        return [violation async for violation in found]
    return list(await found)


async def _quiet(controls: Controls, load: Load) -> list[Violation]:
    """Wait until all is said and heard and nothing is due, or the time is up: what still is then.

    A charge's last events are waited for too: they ask for nothing, but are counted.
    """
    deadline = time.monotonic() + QUIET_SECONDS_MAX
    quiet, pending, unheard, unsaid = 0, None, 0, 0
    while quiet < 2:
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            async with controls.database() as connection:
                pending = await read_pending(connection=connection)
                unheard = await load.unheard_bills(connection)
            unsaid = await controls.deliveries_under_way()
            quiet = quiet + 1 if pending.total == unheard == unsaid == 0 else 0
        if time.monotonic() > deadline:
            left = pending.as_json() if pending else "the database does not answer"
            left = f"{unheard} bills unheard of, and {left}" if unheard else left
            left = f"{unsaid} payments' events not sent, and {left}" if unsaid else left
            return [
                Violation(oracle="L", what=f"after {QUIET_SECONDS_MAX:g} s there is still {left}")
            ]
        await asyncio.sleep(0.15)
    return []


@dataclass(frozen=True, kw_only=True)
class _Offsets:
    journal: int
    mails: int
    deliveries: int

    @classmethod
    def of(cls, stack: LocalStack) -> _Offsets:
        return cls(
            journal=size_bytes(stack.state.cis_journal_path),
            mails=size_bytes(stack.state.mail_store_path / FILE_NAME),
            deliveries=size_bytes(stack.state.processor_journal_path),
        )


async def _gather(
    run: Run,
    offsets: _Offsets,
    samples: list[Sample],
    times: dict[str, float],
    before: dict[str, dict[str, float]],
    pids: dict[str, int | None],
    dead_before: dict[str, dict[int, int]],
) -> Journals:
    load, state = run.load, run.stack.state
    accounts = load.known_accounts
    effects = read_effects(state.cis_journal_path, offset_bytes=offsets.journal)
    after, pids_after = await _counters(run.controls)
    journals = Journals(
        accounts=accounts,
        addresses=load.addresses,
        payments=tuple(
            replace(each, told=each.reference not in run.untold) for each in load.payments
        ),
        charges=tuple(load.charges),
        attempts=read_attempts(load.folder / "sent.jsonl"),
        deliveries=read_attempts(state.processor_journal_path, offset_bytes=offsets.deliveries),
        effects=[each for each in effects if each.account in accounts],
        strangers=[each for each in effects if each.account not in accounts],
        letters=read_letters(
            state.mail_store_path,
            offset_bytes=offsets.mails,
            addresses=frozenset(load.addresses.values()),
        ),
        charged=charged_of(read_book(state.charges_journal_path), accounts=accounts)
        if state.charges_journal_path.exists()
        else (),
        times=Times(**times),
        samples=tuple(samples),
        counters={
            service: {name: after[service][name] - before[service][name] for name in after[service]}
            for service in COUNTED
            if pids_after[service] == pids[service] and after[service] and before[service]
        },
        dead=await _dead(run.controls, dead_before),
    )
    stories = await read_stories(controls=run.controls, journals=journals, chance=run.chance)
    return Journals(**{**vars_of(journals), "stories": stories})


def vars_of(journals: Journals) -> dict[str, Any]:
    """The fields of journals by name."""
    return {name: getattr(journals, name) for name in Journals.__dataclass_fields__}


def _judge(
    journals: Journals, run: Run, faults: Sequence[Fault], calm: Journals | None
) -> list[Violation]:
    letters = _letters(faults)
    declared = [each.declaration for each in faults]
    found = [
        *oracles.lost(journals),
        *oracles.doubled(journals),
        *oracles.invented(journals),
        *oracles.told(journals, repeats_allowed=any(each.repeats_mails for each in declared)),
        *oracles.reversed_in_order(journals),
        *oracles.buried(journals, poison=run.poison, earlier=_poisoned.setdefault(run.stack, {})),
    ]
    if "N" in letters:
        recovery = max(each.recovery_seconds_max for each in declared) if declared else 0.0
        found += oracles.prompt(journals, recovery_seconds_max=recovery)
    if "O" in letters:
        found += oracles.in_order_of_acceptance(journals)
    if "H" in letters:
        found += oracles.no_hot_loop(journals)
        for each in faults:
            if "H" in each.declaration.oracles and each.unwell:
                found += oracles.unwell(
                    journals, processes=each.unwell, within_seconds=each.unwell_within_seconds
                )
    if "M" in letters:
        found += oracles.metrics(journals)
    if "T" in letters:
        found += oracles.timelines(journals)
    for stream, records in run.poison.items():
        _poisoned[run.stack].setdefault(stream, []).extend(records)
    if calm is not None:
        found += oracles.equal_ledgers(journals, calm)
    return found


def _letters(faults: Sequence[Fault]) -> str:
    """Which oracles are kept: of a calm run all; of a mix those that every fault of it keeps."""
    if not faults:
        return "LDANOQMT"
    sets = [set(each.declaration.oracles) for each in faults]
    kept = sets[0] if len(sets) == 1 else set.intersection(*sets)
    return "".join(letter for letter in "LDANOQHMT" if letter in kept | set("LDAQ"))


async def _counters(
    controls: Controls,
) -> tuple[dict[str, dict[str, float]], dict[str, int | None]]:
    """What the services have counted, and which processes have: a new one begins at nothing."""
    supervisor = controls.stack.supervisor
    pids = {service: supervisor.pid(name=service) for service in SERVICES}
    found = {}
    for service, names in COUNTED.items():
        samples = await controls.counters(service)
        found[service] = (
            {
                name: sum(value for label, value in samples.items() if pattern.match(label))
                for name, pattern in names.items()
            }
            if samples
            else {}
        )
    return found, pids


async def _dead_ends(controls: Controls) -> dict[str, dict[int, int]]:
    return {name: await controls.end_offsets(f"{name}.dead") for name in STREAMS}


async def _dead(controls: Controls, before: dict[str, dict[int, int]]) -> dict[str, list[bytes]]:
    found = {}
    for name, ends in before.items():
        records = await controls.read_stream(f"{name}.dead", after=ends)
        if records:
            found[f"{name}.dead"] = [value or b"" for _, value, _ in records]
    return found


async def _stop(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _counts(journals: Journals) -> dict[str, Any]:
    sent = [each for each in journals.attempts if each.taken]
    return {
        "events": len({each.event_id for each in sent}),
        "redelivered": sum(each.attempt > 1 for each in journals.attempts),
        "payments": len(journals.payments),
        "charges": len(journals.charges),
        "posted": len({each.key for each in journals.effects}),
        "doubled": len(oracles.doubled(journals)),
        "lost": len(oracles.lost(journals)),
        "mails": sum(each.kind != "other" for each in journals.letters),
        "repeated mails": oracles.repeats(journals),
        "recovery_seconds": round(oracles.recovery_seconds(journals), 1),
    }


def _keep(outcome: Outcome, stack: LocalStack, folder: Path) -> None:
    """Beside what the generator wrote: the outcome, samples, and if it does not hold everything."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "outcome.json").write_bytes(
        orjson.dumps(outcome.as_json(), option=orjson.OPT_INDENT_2, default=str)
    )
    if outcome.holds:
        return
    state = stack.state
    for path in (state.cis_journal_path, state.processor_journal_path, state.charges_journal_path):
        if path.exists():
            shutil.copy2(path, folder / path.name)
    for path in (state.mail_store_path, stack.directory.logs):
        if path.exists():
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
    if outcome.journals is not None:
        with (folder / "health.jsonl").open("wb") as file:
            file.writelines(
                orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE)
                for each in outcome.journals.samples
            )


Say = Callable[[str], None]

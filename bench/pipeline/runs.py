"""The runs of the benchmark: what each does with a bed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from bench.pipeline import vegeta
from bench.pipeline.bed import Bed, bed_directory
from bench.pipeline.books import overtakings
from bench.pipeline.generator import Sending, poisson_offsets
from bench.pipeline.goals import (
    CELERIES,
    CIS_CONNECTIONS,
    CIS_LATENCIES_MS,
    DBOS,
    FLOOR,
    PRODUCT,
    TUTORIAL,
    Trials,
)
from bench.pipeline.load import (
    ONE_EVENT,
    Events,
    Payments,
    account_names,
    customers_of,
    third_to_the_first,
    train_types,
)
from bench.pipeline.machine import ROOT
from bench.pipeline.outages import Outage, ack_p99_ms, drain_seconds
from bench.pipeline.statistics import Latencies
from bench.pipeline.trial import NotProvenError, Trial
from bench.yardsticks.contract import CisCalls, Workload
from bench.yardsticks.registry import make_yardstick
from paypost.remote import Remote
from paypost.stack.local import LocalStack
from paypost.stack.state import StackDirectory

PAYMENTS_MIN = 150
PAYMENTS_MAX = 20_000
WARM_UP_MAX = 4_000
DRAIN_SECONDS_MAX = 180.0
EVERY_TENTH = 10
DEMO_SECONDS_MAX = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How long the parts of a trial last, in seconds."""

    warm_up: float = 4.0
    load: float = 10.0
    ack: float = 3.0
    open: float = 12.0
    before_outage: float = 20.0
    outage: float = 60.0
    after_outage: float = 60.0


QUICK = Lengths(warm_up=2.0, load=4.0, ack=2.0, open=4.0)


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
    """

    name: str
    what: str
    yardsticks: tuple[str, ...]
    measure: Measure
    rounds_max: int = 99
    needs: tuple[str, ...] = ()


def load_size(*, per_second: float, seconds: float) -> int:
    """How many payments take about so long at this rate, within what is sensible."""
    return max(PAYMENTS_MIN, min(PAYMENTS_MAX, round(per_second * seconds)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Maximum:
    """As many payments as take some seconds, as fast as they are answered.

    Attributes:
        cis_calls, event_types, spread, instances: see `Bench.bed`.
        cis_latency_ms: how long the CIS takes over every call.
    """

    cis_calls: CisCalls = "many"
    event_types: tuple[str, ...] = ONE_EVENT
    spread: Callable[[int], int] | None = None
    instances: int = 1
    cis_latency_ms: float = 0.0

    async def __call__(
        self, bench: Bench, *, run: str, yardstick: str, turn: int, trials: Trials
    ) -> Trial:
        """See `Measure`."""
        del trials
        async with bench.bed(
            yardstick=yardstick,
            cis_calls=self.cis_calls,
            event_types=self.event_types,
            spread=self.spread,
            instances=self.instances,
        ) as bed:
            if self.cis_latency_ms:
                await bed.switch_cis({"latency_ms": self.cis_latency_ms})
            per_second = await bed.warm_up(seconds=bench.lengths.warm_up, count_max=WARM_UP_MAX)
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


ACK_WARM_UP = 1_000
ACK_MAX = 12_000
ACK_DRAIN_SECONDS_MAX = 400.0


async def measure_ack(
    bench: Bench, *, run: str, yardstick: str, turn: int, trials: Trials
) -> Trial:
    """Webhooks answered by the intake alone; then half of that at random times; then the rest.

    The other stages start after the measurement and work all of it off, so that it can be proven.
    """
    del trials
    async with bench.bed(yardstick=yardstick, intake_only=True) as bed:
        warm = await bed.send_closed(bed.prepare(count=ACK_WARM_UP))
        warm = await bed.send_closed(bed.prepare(count=ACK_WARM_UP))
        count = min(ACK_MAX, round(warm.events_per_second * bench.lengths.ack))
        load = bed.prepare(count=max(PAYMENTS_MIN, count))
        bench.say(f"{yardstick}: {len(load)} webhooks as fast as they are answered")
        before = await bed.read()
        sending = await bed.send_closed(load)
        memory = bed.memory()
        after = await bed.read()
        extra = await _at_half(bench, bed, per_second=sending.events_per_second / 2)
        if yardstick == PRODUCT and turn == 1:
            extra |= await _by_vegeta(bench, bed, per_second=sending.events_per_second / 2)
        bench.say(f"{yardstick}: working {len(bed.sent)} payments off")
        await bed.yardstick.start_rest()
        await bed.until_confirmed(timeout_seconds=ACK_DRAIN_SECONDS_MAX)
        trial = await bed.finish(
            run=run,
            turn=turn,
            sending=sending,
            before=before,
            after=after,
            memory=memory,
            extra=extra,
        )
        seconds = sending.ended_at - sending.started_at
        # What came after the answers was not there to be measured.
        return replace(
            trial,
            seconds=seconds,
            payments_per_second=trial.acks_per_second,
            posted=None,
            confirmed=None,
        )


async def _at_half(bench: Bench, bed: Bed, *, per_second: float) -> dict[str, float]:
    offsets = poisson_offsets(
        per_second=per_second, seconds=bench.lengths.ack + 1, seed=bench.chance.getrandbits(32)
    )
    bench.say(f"{bed.yardstick.name}: {per_second:.0f} webhooks a second at random times")
    sending = await bed.send_open(bed.prepare(count=len(offsets)), offsets)
    latencies = Latencies.of(sending.ack_seconds)
    assert latencies is not None
    return {
        "half_per_second": sending.events_per_second,
        "half_p50_ms": latencies.p50_ms,
        "half_p99_ms": latencies.p99_ms,
    }


async def _by_vegeta(bench: Bench, bed: Bed, *, per_second: float) -> dict[str, float]:
    try:
        program = await vegeta.build()
        load = bed.prepare(count=round(per_second * (bench.lengths.ack + 1)))
        bench.say(f"{bed.yardstick.name}: {per_second:.0f} webhooks a second by vegeta")
        found = await vegeta.attack(
            program=program,
            load=load,
            url=bed.yardstick.webhook_url,
            secret=bed.state.secrets.stripe_webhook_secret,
            per_second=per_second,
        )
    except vegeta.VegetaAbsentError as error:
        bench.say(f"vegeta: not run: {error}")
        bench.absent["vegeta"] = str(error)
        return {}
    # It rounds how many it sends: once more, so that each is certain to have been taken.
    await bed.send_closed(load)
    return {
        "vegeta_per_second": found.rate,
        "vegeta_p50_ms": found.p50_ms,
        "vegeta_p99_ms": found.p99_ms,
        "vegeta_success": found.success,
    }


async def measure_latency(
    bench: Bench, *, run: str, yardstick: str, turn: int, trials: Trials
) -> Trial:
    """Random arrivals at a quarter of the maximum: the product's or the floor's, the lesser."""
    maxima = [
        found.median
        for name in (PRODUCT, FLOOR)
        if (found := trials.rate(run="max-many", yardstick=name)) is not None
    ]
    per_second = min(maxima) / 4
    async with bench.bed(yardstick=yardstick) as bed:
        await bed.warm_up(seconds=bench.lengths.warm_up, count_max=WARM_UP_MAX)
        offsets = poisson_offsets(
            per_second=per_second, seconds=bench.lengths.open, seed=bench.chance.getrandbits(32)
        )
        load = bed.prepare(count=len(offsets))
        bench.say(f"{yardstick}: {per_second:.0f} payments a second at random times")
        before = await bed.read()
        sending = await bed.send_open(load, offsets)
        await bed.until_confirmed(timeout_seconds=DRAIN_SECONDS_MAX)
        memory = bed.memory()
        after = await bed.read_when_idle()
        return await bed.finish(
            run=run,
            turn=turn,
            sending=sending,
            before=before,
            after=after,
            memory=memory,
            extra={"offered_per_second": per_second},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """Some accounts go wrong; what is measured are the payments of the others.

    Attributes:
        refused: whether the CIS has closed the accounts; otherwise it never answers for them
            until the measurement is over.
    """

    refused: bool

    async def __call__(
        self, bench: Bench, *, run: str, yardstick: str, turn: int, trials: Trials
    ) -> Trial:
        """See `Measure`."""
        del trials
        accounts = account_names()
        wrong = frozenset(accounts[::EVERY_TENTH] if self.refused else accounts[:1])
        async with bench.bed(yardstick=yardstick) as bed:
            per_second = await bed.warm_up(seconds=bench.lengths.warm_up, count_max=WARM_UP_MAX)
            if self.refused:
                await _close(bed, wrong)
            else:
                await bed.switch_cis({"timeout_before_apply": {"accounts": sorted(wrong)}})
            warm = len(bed.sent)
            load = bed.prepare(count=load_size(per_second=per_second, seconds=bench.lengths.load))
            bench.say(f"{yardstick}: {len(load)} payments, {len(wrong)} accounts go wrong")
            before = await bed.read()
            sending = await bed.send_closed(load)
            unposted = frozenset(
                payment.number for payment in bed.sent[warm:] if payment.account in wrong
            )
            await bed.until_confirmed(timeout_seconds=DRAIN_SECONDS_MAX, without=unposted)
            memory = bed.memory()
            after = await bed.read_when_idle()
            if not self.refused:
                await bed.switch_cis({"timeout_before_apply": False})
                await bed.until_confirmed(timeout_seconds=DRAIN_SECONDS_MAX)
            kept = sending.without(numbers=unposted)
            return await bed.finish(
                run=run,
                turn=turn,
                sending=kept,
                before=before,
                after=after,
                memory=memory,
                without=unposted if self.refused else frozenset(),
                extra={"share_of_others": len(kept.payments) / len(sending.payments)},
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Down:
    """Something is away for a minute, while payments come at half the maximum.

    Attributes:
        what: `kafka` or `cis`: the process is stopped, and started again with what it had.
    """

    what: str

    async def __call__(
        self, bench: Bench, *, run: str, yardstick: str, turn: int, trials: Trials
    ) -> Trial:
        """See `Measure`."""
        maximum = trials.rate(run="max-many", yardstick=yardstick)
        if maximum is None:
            raise NotProvenError(why="the maximum, of which this is the half, is not known")
        lengths = bench.lengths
        async with bench.bed(yardstick=yardstick) as bed:
            await bed.warm_up(seconds=lengths.warm_up, count_max=WARM_UP_MAX)
            offsets = poisson_offsets(
                per_second=maximum.median / 2,
                seconds=lengths.before_outage + lengths.outage + lengths.after_outage,
                seed=bench.chance.getrandbits(32),
            )
            bench.say(
                f"{yardstick}: {maximum.median / 2:.0f} payments a second, then no {self.what}"
            )
            before = await bed.read()
            away = asyncio.create_task(self._take_away(bench, bed))
            try:
                sending = await bed.send_open(bed.make(count=len(offsets)), offsets)
                outage = await away
            finally:
                away.cancel()
            await bed.until_confirmed(timeout_seconds=DRAIN_SECONDS_MAX)
            memory = bed.memory()
            after = await bed.read_when_idle()
            extra = _outage_figures(bed=bed, sending=sending, outage=outage)
            return await bed.finish(
                run=run,
                turn=turn,
                sending=sending,
                before=before,
                after=after,
                memory=memory,
                extra=extra | {"offered_per_second": maximum.median / 2},
            )

    async def _take_away(self, bench: Bench, bed: Bed) -> Outage:
        stack, lengths = bed.stack, bench.lengths
        await asyncio.sleep(lengths.before_outage)
        bench.say(f"{self.what} is stopped")
        began_at = time.time()
        if self.what == "kafka":
            await asyncio.to_thread(stack.kafka.stop)
        else:
            await asyncio.to_thread(stack.supervisor.stop, name=self.what)
        await asyncio.sleep(max(0.0, began_at + lengths.outage - time.time()))
        bench.say(f"{self.what} is started")
        if self.what == "kafka":
            await asyncio.to_thread(stack.kafka.start)
        else:
            stack.supervisor.resume(name=self.what)
            await asyncio.to_thread(stack.supervisor.wait_ready, name=self.what, timeout_seconds=60)
        return Outage(began_at=began_at, ended_at=time.time())


def _outage_figures(*, bed: Bed, sending: Sending, outage: Outage) -> dict[str, float]:
    books = bed.read_books()
    mailed = [
        books.mailed[payment.account, payment.amount_cents][0] for payment in sending.payments
    ]
    drained = drain_seconds(
        accepted_at=list(sending.accepted_at.values()), confirmed_at=mailed, outage=outage
    )

    def p99(since: float, until: float) -> float | None:
        return ack_p99_ms(
            ack_seconds=sending.ack_seconds,
            ended_at=sending.ack_ended_at,
            since=since,
            until=until,
        )

    found = {
        "ack_p99_before_ms": p99(sending.started_at, outage.began_at),
        "ack_p99_during_ms": p99(outage.began_at, outage.ended_at),
        "ack_p99_after_ms": p99(outage.ended_at, sending.ended_at),
        "drain_seconds": drained,
        "outage_seconds": outage.ended_at - outage.began_at,
        "overtakings": overtakings(
            payments=sending.payments,
            left_at=sending.left_at,
            accepted_at=sending.accepted_at,
            books=books,
        ),
    }
    return {name: value for name, value in found.items() if value is not None}


async def measure_start(
    bench: Bench, *, run: str, yardstick: str, turn: int, trials: Trials
) -> Trial:
    """How long the whole stack takes to start with what it had, and `make demo` from end to end."""
    del trials
    stack_name = f"{bed_directory().name}-start"
    started = []
    for fresh in (True, False):
        bench.say("starting the whole stack" + ("" if fresh else " again"))
        at = time.monotonic()
        with LocalStack(name=stack_name, fresh=fresh):
            started.append(time.monotonic() - at)
    shutil.rmtree(StackDirectory.of(name=stack_name).path, ignore_errors=True)
    bench.say("make demo")
    at = time.monotonic()
    await _run_demo()
    return Trial(
        run=run,
        yardstick=yardstick,
        turn=turn,
        payments=0,
        seconds=0.0,
        payments_per_second=0.0,
        acks_per_second=0.0,
        ack=None,
        posted=None,
        confirmed=None,
        cpu_us={},
        memory={},
        wal_bytes=0.0,
        repeats=0,
        extra={
            "fresh_start_seconds": started[0],
            "start_seconds": started[1],
            "demo_seconds": time.monotonic() - at,
        },
    )


async def _run_demo() -> None:
    process = await asyncio.create_subprocess_exec(
        "make", "demo", cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(DEMO_SECONDS_MAX):
            _, said = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    if process.returncode:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise NotProvenError(why=f"make demo failed ({process.returncode}): {last}")


async def _close(bed: Bed, accounts: frozenset[str]) -> None:
    customers = bed.workload.customers
    body = {
        "accounts": [
            {"account": each, "name": customers[each].name, "status": "closed"}
            for each in sorted(accounts)
        ]
    }
    state = bed.state
    async with Remote(base_url=state.http_urls["cis"], bearer_key=state.secrets.cis_api_key) as cis:
        await cis.post("/v1/accounts", body)


def all_runs() -> Mapping[str, Run]:
    """Every run of `make bench` by its name, in the order of the table."""
    product = (PRODUCT,)
    both = (PRODUCT, FLOOR)
    runs = [
        Run(
            name="max",
            what="maximum end to end, one CIS call per payment",
            yardsticks=(PRODUCT, FLOOR, DBOS, *CELERIES, TUTORIAL),
            measure=Maximum(cis_calls="one"),
        ),
        Run(
            name="max-many",
            what="maximum end to end, many postings in a CIS call",
            yardsticks=both,
            measure=Maximum(),
        ),
        Run(
            name="ack",
            what="webhook acknowledgement alone, durable",
            yardsticks=both,
            measure=measure_ack,
        ),
        Run(
            name="train",
            what="a card payment's train of four Stripe events",
            yardsticks=both,
            measure=Maximum(event_types=train_types()),
        ),
        Run(
            name="latency",
            what="accepted → confirmed at a quarter of the maximum",
            yardsticks=both,
            measure=measure_latency,
            needs=("max-many",),
        ),
        *(
            Run(
                name=f"cis-{latency_ms}ms",
                what=f"CIS latency {latency_ms} ms, {CIS_CONNECTIONS} connections",
                yardsticks=product,
                measure=Maximum(cis_calls="one", cis_latency_ms=latency_ms),
                rounds_max=1,
                needs=("max",),
            )
            for latency_ms in CIS_LATENCIES_MS
        ),
        Run(
            name="refused",
            what="10 % of accounts refused",
            yardsticks=product,
            measure=Others(refused=True),
            rounds_max=2,
            needs=("max-many",),
        ),
        Run(
            name="timing-out",
            what="one account that always times out",
            yardsticks=product,
            measure=Others(refused=False),
            rounds_max=2,
            needs=("max-many",),
        ),
        Run(
            name="hot",
            what="one account with a third of all payments",
            yardsticks=product,
            measure=Maximum(spread=third_to_the_first(accounts=len(account_names()))),
            rounds_max=2,
            needs=("max-many",),
        ),
        Run(
            name="two",
            what="two processes of each service",
            yardsticks=product,
            measure=Maximum(instances=2),
            rounds_max=2,
            needs=("max-many",),
        ),
        *(
            Run(
                name=f"{what}-down",
                what=f"{what} down for a minute",
                yardsticks=product,
                measure=Down(what=what),
                rounds_max=1,
                needs=("max-many",),
            )
            for what in ("kafka", "cis")
        ),
        Run(
            name="start",
            what="start of the stack, and make demo",
            yardsticks=product,
            measure=measure_start,
            rounds_max=1,
        ),
    ]
    return {run.name: run for run in runs}


QUICK_RUNS = ("max", "max-many", "ack")

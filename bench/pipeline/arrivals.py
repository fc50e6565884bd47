"""Payments that arrive at random: at a quarter of the maximum, and at half through an outage."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from bench.pipeline.bed import Bed
from bench.pipeline.books import overtakings
from bench.pipeline.frame import (
    DRAIN_SECONDS_MAX,
    WARM_UP_MAX,
    Bench,
)
from bench.pipeline.generator import Sending, poisson_offsets
from bench.pipeline.goals import (
    FLOOR,
    PRODUCT,
    Trials,
)
from bench.pipeline.outages import Outage, ack_p99_ms, drain_seconds
from bench.pipeline.trial import NotProvenError, Trial


async def measure_latency(
    bench: Bench, *, run: str, yardstick: str, turn: int, trials: Trials
) -> Trial:
    """Random arrivals at a quarter of the maximum: the product's or the floor's, the lesser."""
    maxima = [
        found.median
        for name in (PRODUCT, FLOOR)
        if (found := trials.rate(run="max-many", yardstick=name)) is not None
    ]
    if not maxima:
        raise NotProvenError(why="the maximum, of which this is a quarter, is not known")
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

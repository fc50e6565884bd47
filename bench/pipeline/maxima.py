"""As many payments as go through: of all accounts, or of those that others do not hold up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from bench.pipeline.bed import Bed
from bench.pipeline.frame import (
    DRAIN_SECONDS_MAX,
    WARM_UP_MAX,
    Bench,
    load_size,
)
from bench.pipeline.goals import EVEN, Trials
from bench.pipeline.load import (
    ONE_EVENT,
    account_names,
)
from bench.pipeline.trial import Trial, seconds_until_confirmed
from bench.yardsticks.contract import CisCalls
from paypost.remote import Remote

EVERY_TENTH = 10

UNANSWERED_SECONDS = 6.0
"""cis-poster knows by then that a call was not answered (`cis_timeout_seconds`)."""

LATENCIES_MIN = 100
"""A load lasts for so many times the CIS's latency: its first and last payments, which have not all
connections with them, are to weigh little against what goes through in between."""


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
            extra = {}
            if self.cis_latency_ms:
                extra[EVEN] = await _even_rate(bench, bed)
                await bed.switch_cis({"latency_ms": self.cis_latency_ms})
            per_second = await bed.warm_up(seconds=bench.lengths.warm_up, count_max=WARM_UP_MAX)
            seconds = max(bench.lengths.load, LATENCIES_MIN * self.cis_latency_ms / 1000)
            load = bed.prepare(count=load_size(per_second=per_second, seconds=seconds))
            bench.say(f"{yardstick}: {len(load)} payments as fast as they go")
            before = await bed.read()
            sending = await bed.send_closed(load)
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
                extra=extra,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """Some accounts go wrong; what is measured are the payments of the others.

    Attributes:
        refused: whether the CIS has closed the accounts; otherwise it never answers for one of
            them until the measurement is over. It has timed out once before: those whose postings
            are in one call with its first wait as long as it does, once, and whether that is seen
            in a load of eight seconds depends on where in it they stand.
    """

    refused: bool

    async def __call__(
        self, bench: Bench, *, run: str, yardstick: str, turn: int, trials: Trials
    ) -> Trial:
        """See `Measure`."""
        del trials
        async with bench.bed(yardstick=yardstick) as bed:
            per_second = await _even_rate(bench, bed)
            warm = len(bed.sent)
            wrong = await _close_every_tenth(bed) if self.refused else await _time_out_once(bed)
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
                extra={
                    EVEN: per_second,
                    "share_of_others": len(kept.payments) / len(sending.payments),
                },
            )


async def _even_rate(bench: Bench, bed: Bed) -> float:
    """Warm up, and measure the maximum while all is well: what the trial is held against.

    On the same bed, right before: the machine is another one ten minutes later. Mail sink and
    generator were seen to take 1.4 times the CPU a payment within one benchmark.
    """
    per_second = await bed.warm_up(seconds=bench.lengths.warm_up, count_max=WARM_UP_MAX)
    load = bed.prepare(count=load_size(per_second=per_second, seconds=bench.lengths.load))
    bench.say(f"{bed.yardstick.name}: {len(load)} payments while all is well")
    sending = await bed.send_closed(load)
    books = await bed.until_confirmed(timeout_seconds=DRAIN_SECONDS_MAX)
    return len(load) / seconds_until_confirmed(sending=sending, books=books)


async def _close_every_tenth(bed: Bed) -> frozenset[str]:
    accounts = account_names()[::EVERY_TENTH]
    customers = bed.workload.customers
    body = {
        "accounts": [
            {"account": each, "name": customers[each].name, "status": "closed"} for each in accounts
        ]
    }
    state = bed.state
    async with Remote(base_url=state.http_urls["cis"], bearer_key=state.secrets.cis_api_key) as cis:
        await cis.post("/v1/accounts", body)
    return frozenset(accounts)


async def _time_out_once(bed: Bed) -> frozenset[str]:
    first = bed.prepare(count=1)
    accounts = [outgoing.payment.account for outgoing in first]
    await bed.switch_cis({"timeout_before_apply": {"accounts": accounts}})
    await bed.send_closed(first)
    await asyncio.sleep(UNANSWERED_SECONDS)
    return frozenset(accounts)

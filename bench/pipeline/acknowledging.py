"""Webhooks answered with nothing behind the intake, at the maximum and at half of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.pipeline import vegeta
from bench.pipeline.bed import Bed
from bench.pipeline.frame import (
    PAYMENTS_MIN,
    Bench,
)
from bench.pipeline.generator import poisson_offsets
from bench.pipeline.goals import (
    PRODUCT,
    Trials,
)
from bench.pipeline.statistics import Latencies
from bench.pipeline.trial import Trial

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
    is_checked = yardstick == PRODUCT and turn == 1
    program = await _vegeta(bench) if is_checked else None
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
        half = sending.events_per_second / 2
        extra = await _at_half(bench, bed, per_second=half)
        if program is not None:
            extra |= await _by_vegeta(bench, bed, program=program, per_second=half)
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


async def _vegeta(bench: Bench) -> Path | None:
    """The program, built before anything is measured that the compiler would take the cores of."""
    try:
        return await vegeta.build()
    except vegeta.VegetaAbsentError as error:
        _note_absent(bench, error)
        return None


def _note_absent(bench: Bench, error: vegeta.VegetaAbsentError) -> None:
    bench.say(f"vegeta: not run: {error}")
    bench.absent["vegeta"] = str(error)


async def _by_vegeta(
    bench: Bench, bed: Bed, *, program: Path, per_second: float
) -> dict[str, float]:
    load = bed.prepare(count=round(per_second * (bench.lengths.ack + 1)))
    bench.say(f"{bed.yardstick.name}: {per_second:.0f} webhooks a second by vegeta")
    try:
        found = await vegeta.attack(
            program=program,
            load=load,
            url=bed.yardstick.webhook_url,
            secret=bed.state.secrets.stripe_webhook_secret,
            per_second=per_second,
        )
    except vegeta.VegetaAbsentError as error:
        _note_absent(bench, error)
        return {}
    # It rounds how many it sends: once more, so that each is certain to have been taken.
    await bed.send_closed(load)
    return {
        "vegeta_per_second": found.rate,
        "vegeta_p50_ms": found.p50_ms,
        "vegeta_p99_ms": found.p99_ms,
        "vegeta_success": found.success,
    }

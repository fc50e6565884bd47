"""How fast the product is with millions of payments held, as far as the disk allows.

Usage: python -m bench.pipeline.size [--millions N …]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from bench.pipeline.bed import Bed, bed_directory
from bench.pipeline.command import EXIT_NO_RESULT, run_to_its_end
from bench.pipeline.filling import fill, size_bytes
from bench.pipeline.frame import DRAIN_SECONDS_MAX, WARM_UP_MAX, Bench, Lengths, load_size
from bench.pipeline.goals import PRODUCT, number
from bench.pipeline.machine import this_machine
from bench.pipeline.plots import draw
from bench.pipeline.report import write_report
from bench.pipeline.results import REPORT, SIZE, machine_as_json, replace_folder, to_bytes
from bench.pipeline.terminal import Voice
from bench.pipeline.trial import make_trial
from bench.yardsticks.paypost import PaypostYardstick

MILLION = 1_000_000
MILLIONS = (1.0, 10.0, 100.0)
LOADS = 3
LOSS_MAX = 0.15
BYTES_A_PAYMENT_AT_FIRST = 2_500
"""Until it is known; more than it was ever seen to be."""
WHILE_INDEXING = 1.5
"""Indexes are sorted on the disk, and WAL is kept meanwhile."""
RESERVE_BYTES = 8_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The rate with so many payments held.

    Attributes:
        payments: held, of which all but a few thousand are copies.
        rates: payments a second, of each load.
        bytes: of tables and indexes.
        wal_bytes: per payment.
    """

    payments: int
    rates: tuple[float, ...]
    bytes: int
    wal_bytes: float

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "payments": self.payments,
            "payments_per_second": statistics.median(self.rates),
            "rates": list(self.rates),
            "bytes": self.bytes,
            "wal_bytes": self.wal_bytes,
        }


def affordable(*, wanted: int, held: int, bytes_a_payment: float, free_bytes: int) -> int:
    """How many payments can be held: those wanted, or the whole millions that there is room for."""
    room = max(0.0, free_bytes - RESERVE_BYTES) / (bytes_a_payment * WHILE_INDEXING)
    if held + room >= wanted:
        return wanted
    return max(held, int((held + room) // MILLION) * MILLION)


def loss(points: Sequence[Point]) -> float | None:
    """Which share of the rate with the fewest payments is lost with the most; None of one point."""
    if len(points) < 2:
        return None
    first, last = statistics.median(points[0].rates), statistics.median(points[-1].rates)
    return 1 - last / first


async def measure(
    *, bench: Bench, wanted: Sequence[int], say: Callable[[str], None]
) -> tuple[list[Point], str]:
    """The points, fewest payments first, and what has to be said of them."""
    points: list[Point] = []
    async with bench.bed(yardstick=PRODUCT) as bed:
        product = bed.yardstick
        assert isinstance(product, PaypostYardstick)
        await bed.warm_up(seconds=bench.lengths.warm_up, count_max=WARM_UP_MAX)
        held, bytes_a_payment = 0, float(BYTES_A_PAYMENT_AT_FIRST)
        for target in wanted:
            free_bytes = shutil.disk_usage(bed_directory().path).free
            reached = affordable(
                wanted=target, held=held, bytes_a_payment=bytes_a_payment, free_bytes=free_bytes
            )
            if reached > held:
                await product.stop_services()
                await fill(bed.connection, held=held, wanted=reached, say=say)
                await product.resume_services()
                held = reached
                bytes_a_payment = await size_bytes(bed.connection) / held
                points.append(await _point(bench, bed, held=held))
                say(f"{held / MILLION:g} M held: {number(statistics.median(points[-1].rates))}/s")
            if reached < target:
                return points, (
                    f"The disk has no room for {target / MILLION:g} M: a payment takes "
                    f"{bytes_a_payment:,.0f} bytes, and {free_bytes / 1e9:.0f} GB were free."
                )
    return points, ""


async def _point(bench: Bench, bed: Bed, *, held: int) -> Point:
    per_second = await bed.warm_up(seconds=bench.lengths.warm_up, count_max=WARM_UP_MAX)
    rates, wal = [], []
    for turn in range(1, LOADS + 1):
        load = bed.prepare(count=load_size(per_second=per_second, seconds=bench.lengths.load))
        before = await bed.read()
        sending = await bed.send_closed(load)
        await bed.until_confirmed(timeout_seconds=DRAIN_SECONDS_MAX)
        after = await bed.read_when_idle()
        trial = make_trial(
            run="size",
            yardstick=PRODUCT,
            turn=turn,
            sending=sending,
            books=await bed.prove(by_product=False),
            before=before,
            after=after,
            memory={},
        )
        rates.append(trial.payments_per_second)
        wal.append(trial.wal_bytes)
    return Point(
        payments=held,
        rates=tuple(rates),
        bytes=await size_bytes(bed.connection),
        wal_bytes=statistics.median(wal),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and add the curve to the report; 1 where it falls by more than the goal allows."""
    parser = argparse.ArgumentParser(prog="python -m bench.pipeline.size", description=__doc__)
    parser.add_argument("--millions", nargs="+", type=float, default=MILLIONS, metavar="N")
    options = parser.parse_args(arguments)
    wanted = sorted(round(each * MILLION) for each in options.millions)
    voice, machine = Voice(console=Console(stderr=True)), this_machine()
    bench = Bench(lengths=Lengths(), say=voice)
    points, note = run_to_its_end(
        lambda: measure(bench=bench, wanted=wanted, say=voice),
        say=voice,
        space_bytes=RESERVE_BYTES + round(min(MILLION, wanted[0]) * BYTES_A_PAYMENT_AT_FIRST * 1.5),
    )
    lost = loss(points)
    verdict = (
        "one size only"
        if lost is None
        else f"{lost * 100:.1f} % lost, goal < {LOSS_MAX * 100:.0f} %"
    )
    found = {
        "machine": machine_as_json(machine),
        "at": machine.at.isoformat(),
        "commit": machine.commit,
        "points": [each.as_json() for each in points],
        "loss": lost,
        "note": f"{verdict}. {note}".strip(),
    }

    def write(folder: Any) -> None:
        (folder / SIZE).write_bytes(to_bytes(found))
        write_report(folder=folder, results=None, draw=draw)

    replace_folder(folder=REPORT, fill=write)
    voice(f"{verdict}; {note} {REPORT / SIZE}")
    return EXIT_NO_RESULT if lost is not None and lost >= LOSS_MAX else 0


if __name__ == "__main__":
    sys.exit(main())

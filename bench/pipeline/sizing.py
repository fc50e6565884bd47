"""What peaks take that no single machine carries, worked out of the measured costs. Pure.

The formulas are those of docs/scaling.md, by the same names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bench.pipeline.goals import PRODUCT, Trials
from paypost.stack.local import SERVERS, SERVICES

UTILISATION = 0.5
"""How busy a core may be at the peak: the other half is for what a restart left behind."""
SHARE_OF_BUSIEST_DAY = 0.1
SHARE_OF_BUSIEST_HOUR = 0.2
BURST = 5.0
"""How much more than the average of the busiest hour comes in its busiest seconds."""
CELL_WAL_BYTES_A_SECOND = 100e6
"""What one PostgreSQL server, with a standby, is given to write; beyond it accounts are split."""
SECONDS_A_YEAR = 365 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What one payment costs.

    Attributes:
        cpu_us: by service and server.
        wal_bytes: written by PostgreSQL, the part of the reference CIS's ledger included.
    """

    cpu_us: Mapping[str, float]
    wal_bytes: float

    @classmethod
    def of(cls, trials: Trials) -> Costs | None:
        """As measured at the maximum with many postings in a call; None where that was not run."""
        cpu_us = {}
        for name in (*SERVICES, *SERVERS):
            used = trials.figure(
                run="max-many",
                yardstick=PRODUCT,
                read=lambda each, name=name: each.cpu_us.get(name),  # type: ignore[misc]
            )
            if used is not None:
                cpu_us[name] = used.median
        wal = trials.figure(run="max-many", yardstick=PRODUCT, read=lambda each: each.wal_bytes)
        return None if wal is None else cls(cpu_us=cpu_us, wal_bytes=wal.median)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Who pays how much: `peak` is payments a second, `year` payments a year."""

    name: str
    peak: float
    year: float


def utility(*, accounts: int) -> Case:
    """A utility with one payment per account and month."""
    day = accounts * SHARE_OF_BUSIEST_DAY
    return Case(
        name=f"{accounts:,} accounts",
        peak=day * SHARE_OF_BUSIEST_HOUR / 3600 * BURST,
        year=accounts * 12,
    )


def processor(*, peak: float) -> Case:
    """A processor that keeps a tenth of its peak on average over the year."""
    return Case(name=f"{peak:,.0f} payments a second", peak=peak, year=peak / 10 * SECONDS_A_YEAR)


CASES = (utility(accounts=14_000), utility(accounts=5_000_000), processor(peak=50_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """What a case takes.

    Attributes:
        cores: busy at the peak, by service and server.
        processes: of each service; one process uses one core.
        partitions: of each stream: as many as the most processes of a service, at least 12.
        cells: installations that the accounts are split over, each with its own PostgreSQL.
        wal_bytes_a_second: at the peak, of all cells.
    """

    cores: Mapping[str, float]
    processes: Mapping[str, int]
    partitions: int
    cells: int
    wal_bytes_a_second: float


def size(*, case: Case, costs: Costs) -> Sizing:
    """Work out what a case takes."""
    cores = {name: case.peak * cpu_us / 1e6 for name, cpu_us in costs.cpu_us.items()}
    processes = {
        name: max(1, math.ceil(cores[name] / UTILISATION)) for name in SERVICES if name in cores
    }
    wal_bytes_a_second = case.peak * costs.wal_bytes
    cells = max(1, math.ceil(wal_bytes_a_second / CELL_WAL_BYTES_A_SECOND))
    return Sizing(
        cores=cores,
        processes=processes,
        partitions=max(12, *(math.ceil(each / cells) for each in processes.values())),
        cells=cells,
        wal_bytes_a_second=wal_bytes_a_second,
    )

"""How fast a day's autopay is planned, and in how much memory.

Usage: python -m bench.autopay_plan [--enrolments N] [--replicas N] [--planners N] [--json]

Starts a PostgreSQL of its own, puts into it as many enrolments as asked for, each with a bill that
is due on one day, and lets autopay-scheduler's own job plan them, in as many replicas as asked for,
each a process whose memory is measured. The yardstick is the fastest that the same rows can be put
into the same table on this machine: one COPY. Goals: 20,000 a second, 300 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import psutil

from autopay_scheduler.adapters.rows import CHARGE_COLUMNS
from autopay_scheduler.app import city_of
from autopay_scheduler.domain.charges import charge_id
from autopay_scheduler.domain.enrolments import enrolment_id
from autopay_scheduler.settings import Settings
from paypost.stack.local import LocalStack

GOAL_PER_SECOND = 20_000
GOAL_MEGABYTES = 300
PAGE = 20_000
DUE_IN_DAYS = 20


def account_of(number: int) -> str:
    """Return the account of an enrolment."""
    return f"A-{number:07d}"


def settings_for(dsn: str) -> Settings:
    """Return settings of a service that only plans."""
    return Settings(
        environment="local",
        database_url=dsn.replace("postgresql://", "postgresql+asyncpg://", 1),
        kafka_bootstrap_servers="localhost:1",
        portal_url="https://portal.city.example",
        database_pool_size=4,
    )


async def load(
    *, dsn: str, enrolments: int, due_date: date, now: datetime, is_queued: bool = True
) -> None:
    """Put accounts, enrolments and bills into the tables, by COPY; queued for planning or not."""
    connection = await asyncpg.connect(dsn)
    try:
        for first in range(0, enrolments, PAGE):
            numbers = range(first, min(first + PAGE, enrolments))
            for table, columns, rows in (
                (
                    "accounts",
                    ("account_id", "balance_cents", "balance_at", "heard_at"),
                    _accounts(numbers, now),
                ),
                ("bills", BILL_COLUMNS, _bills(numbers, due_date, now)),
                ("enrolments", ENROLLED_COLUMNS, _enrolments(numbers, now)),
                ("plans_due", ("account_id", "due_at"), _plans(numbers if is_queued else (), now)),
            ):
                await connection.copy_records_to_table(
                    table, schema_name="autopay_scheduler", columns=columns, records=rows
                )
        await connection.execute("VACUUM ANALYZE autopay_scheduler.plans_due")
        await connection.execute("ANALYZE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


BILL_COLUMNS = (
    "account_id",
    "bill_reference",
    "version",
    "amount_cents",
    "currency",
    "due_date",
    "stated_at",
    "paid_before_cents",
    "status",
)
ENROLLED_COLUMNS = (
    "id",
    "account_id",
    "reference",
    "status",
    "processor",
    "payment_method_token",
    "customer_token",
    "method_kind",
    "method_label",
    "method_last4",
    "method_expires",
    "charge_on",
    "amount_rule",
    "maximum_cents",
    "authorisation_version",
    "authorised_at",
    "locale",
    "word_at",
    "given_up",
    "taken_at",
)


def _cents(number: int) -> int:
    return 3_000 + number * 37 % 20_000


def _accounts(numbers: range, now: datetime) -> Iterator[tuple[Any, ...]]:
    return ((account_of(n), _cents(n), now, now) for n in numbers)


def _plans(numbers: Iterable[int], now: datetime) -> Iterator[tuple[Any, ...]]:
    return ((account_of(n), now) for n in numbers)


def _bills(numbers: range, due_date: date, now: datetime) -> Iterator[tuple[Any, ...]]:
    return (
        (account_of(n), f"B-{n}", 1, _cents(n), "USD", due_date, now, 0, "open") for n in numbers
    )


def _enrolments(numbers: range, now: datetime) -> Iterator[tuple[Any, ...]]:
    return (
        (
            enrolment_id(f"enr_{n}"),
            account_of(n),
            f"enr_{n}",
            "active",
            "stripe",
            f"pm_{n:09d}",
            f"cus_{n:09d}",
            "card",
            "Visa",
            "4242",
            "2031-12",
            "due_date",
            ("full_balance", "statement_balance")[n % 2],
            50_000 if n % 3 else None,
            "2026-01",
            now,
            "en",
            now,
            0,
            now,
        )
        for n in numbers
    )


async def yardstick(*, dsn: str, enrolments: int, due_date: date, now: datetime) -> float:
    """Return the seconds that a COPY of as many charges takes into a table of the same form."""
    connection = await asyncpg.connect(dsn)
    columns = (*CHARGE_COLUMNS, "created_at")
    today = now.date()

    def rows(numbers: range) -> Iterator[tuple[Any, ...]]:
        for n in numbers:
            enrolment: UUID = enrolment_id(f"enr_{n}")
            values: dict[str, Any] = {
                "id": charge_id(enrolment_id=enrolment, due_date=due_date),
                "enrolment_id": enrolment,
                "account_id": account_of(n),
                "bill_reference": f"B-{n}",
                "due_date": due_date,
                "planned_on": today,
                "chosen_on": due_date,
                "charge_on": due_date,
                "amount_cents": _cents(n),
                "currency": "USD",
                "status": "planned",
                "act_at": now,
                "attempt": 0,
                "created_at": now,
            }
            yield tuple(values.get(name) for name in columns)

    try:
        await connection.execute(
            "CREATE TABLE autopay_scheduler.yardstick"
            " (LIKE autopay_scheduler.charges INCLUDING ALL)"
        )
        began = time.perf_counter()
        for first in range(0, enrolments, PAGE):
            await connection.copy_records_to_table(
                "yardstick",
                schema_name="autopay_scheduler",
                columns=columns,
                records=rows(range(first, min(first + PAGE, enrolments))),
            )
        seconds = time.perf_counter() - began
        await connection.execute("DROP TABLE autopay_scheduler.yardstick")
        await connection.execute("CHECKPOINT")
        return seconds
    finally:
        await connection.close()


def plan_all(dsn: str, planners: int, batch_size: int, told: Any) -> None:
    """Plan until nothing is due; runs in a process of its own and says what it took."""
    import uvloop

    from autopay_scheduler.adapters.store import SqlStore
    from autopay_scheduler.adapters.tables import outbox
    from autopay_scheduler.metrics import Metrics
    from autopay_scheduler.usecases.planning import PlanCharges
    from shared.db.engine import build_engine
    from shared.outbox.table import Outbox
    from shared.runtime.service import spare_the_collector

    class Nowhere:
        def was_behind(self, *, within_seconds: float) -> bool:  # noqa: ARG002
            return False

        def offer(self, rows: object) -> None: ...

    async def run() -> int:
        settings = settings_for(dsn)
        city = city_of(settings)
        engine = build_engine(
            url=settings.database_url.get_secret_value(),
            application_name="bench",
            pool_size=planners + 1,
        )
        store = SqlStore(
            engine=engine,
            outbox=Outbox(table=outbox),
            announce=Nowhere(),
            zone=city.calendar.zone,
            late_grace_days=settings.late_grace_days,
        )
        plan = PlanCharges(store=store, city=city, metrics=Metrics())

        async def work() -> int:
            total = 0
            while found := await plan(now=datetime.now(UTC), limit=batch_size):
                total += found
            return total

        planned = sum(await asyncio.gather(*(work() for _ in range(planners))))
        await engine.dispose()
        return planned

    spare_the_collector()
    began_at = time.time()
    planned = uvloop.run(run())
    cpu_seconds = sum(psutil.Process().cpu_times()[:2])
    told.send((planned, began_at, time.time(), cpu_seconds))


def measured(
    dsn: str, replicas: int, planners: int, batch_size: int
) -> tuple[int, float, float, float]:
    """Run the planning in processes of its own.

    Returns what was planned, in how many seconds, with how many of CPU, and the highest resident
    set of one process in MB.
    """
    context = multiprocessing.get_context("spawn")
    started = []
    for _ in range(replicas):
        hears, tells = context.Pipe(duplex=False)
        process = context.Process(target=plan_all, args=(dsn, planners, batch_size, tells))
        process.start()
        started.append((process, hears))
    watched = [psutil.Process(process.pid) for process, _ in started]
    highest = 0
    while any(process.is_alive() and not hears.poll(0.05) for process, hears in started):
        for each in watched:
            with suppress(psutil.NoSuchProcess):
                highest = max(highest, each.memory_info().rss)
    told = [hears.recv() for _, hears in started]
    for process, _ in started:
        process.join()
    planned, began_at, ended_at, cpu_seconds = zip(*told, strict=True)
    return sum(planned), max(ended_at) - min(began_at), sum(cpu_seconds), highest / 1024**2


async def server_process(*, dsn: str) -> psutil.Process:
    """Return the process of which a PostgreSQL server's sessions are children."""
    connection = await asyncpg.connect(dsn)
    try:
        parent = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()")).parent()
        assert parent is not None
        return parent
    finally:
        await connection.close()


def database_cpu_seconds(server: psutil.Process) -> float:
    """Return the CPU time so far of a PostgreSQL server, with the sessions that have ended."""
    seconds = sum(server.cpu_times()[:4])
    for child in server.children():
        with suppress(psutil.NoSuchProcess):
            seconds += sum(child.cpu_times()[:2])
    return float(seconds)


def main() -> int:
    """Run the bench; exit code 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--enrolments", type=int, default=1_000_000)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--planners", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=2_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    now = datetime.now(UTC)
    due_date = now.date() + timedelta(days=DUE_IN_DAYS)
    with LocalStack(name=f"bench-{os.getpid()}", parts={"postgres"}, fresh=True) as stack:
        dsn = stack.state.dsns["autopay_scheduler"]
        superuser = stack.state.superuser_dsn
        from shared.db.migrations import migrate

        migrate(
            url=dsn.replace("postgresql://", "postgresql+asyncpg://", 1),
            package="autopay_scheduler",
        )
        asyncio.run(load(dsn=superuser, enrolments=options.enrolments, due_date=due_date, now=now))
        copied = asyncio.run(
            yardstick(dsn=superuser, enrolments=options.enrolments, due_date=due_date, now=now)
        )
        server = asyncio.run(server_process(dsn=superuser))
        database_before = database_cpu_seconds(server)
        planned, seconds, cpu_seconds, megabytes = measured(
            dsn, options.replicas, options.planners, options.batch_size
        )
        database_seconds = database_cpu_seconds(server) - database_before
        stack.directory.wipe()
    found = {
        "enrolments": options.enrolments,
        "replicas": options.replicas,
        "planned": planned,
        "seconds": round(seconds, 1),
        "planned_per_second": round(planned / seconds),
        "goal_per_second": GOAL_PER_SECOND,
        "cpu_microseconds_each": round(cpu_seconds / planned * 1e6, 1),
        "database_cpu_microseconds_each": round(database_seconds / planned * 1e6, 1),
        "resident_megabytes_highest": round(megabytes),
        "goal_megabytes": GOAL_MEGABYTES,
        "copy_per_second": round(options.enrolments / copied),
        "share_of_copy": round(copied / seconds, 3),
    }
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:32} {value}")
    fast = found["planned_per_second"] >= GOAL_PER_SECOND
    return 0 if fast and megabytes < GOAL_MEGABYTES and planned == options.enrolments else 1


if __name__ == "__main__":
    raise SystemExit(main())

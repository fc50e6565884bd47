"""How fast the old portal's enrolments are imported, and in how much memory.

Usage: python -m bench.autopay_import [--lines N] [--json]

Starts a PostgreSQL of its own, puts as many accounts into it as the file is to have lines, writes
the file (one line in a hundred is wrong), and imports it three times in a process of its own whose
memory is measured: anew, the same again, and with one line in ten changed. Then it is asked who
would lapse, for the figures, and for a minute's invitations. The yardstick is the fastest that
the same lines can be put into the same table on this machine: one COPY. Goal: 150 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from autopay_scheduler.app import city_of
from bench.autopay_plan import BILL_COLUMNS, account_of, settings_for
from paypost.stack.local import LocalStack

GOAL_MEGABYTES = 150
PAGE = 20_000
CHUNK_BYTES = 65_536
"""What an HTTP server hands on at once."""
HEADER = (
    "old_account,account,name,email,charge_on,days_before,day_of_month,amount,fixed_cents,"
    "minimum_cents,maximum_cents,locale\n"
)


def line(number: int, *, changed: bool) -> str:
    """Return one line of the file; every hundredth has an address that is none."""
    mail = "no address" if number % 100 == 7 else f"customer{number}@example.org"
    rule = ("due_date,,", "days_before_due,5,", "day_of_month,,15")[number % 3]
    maximum = 30_000 if changed and number % 10 == 0 else 25_000
    return (
        f"{number:012d},{account_of(number)},Customer Number{number},{mail},{rule},"
        f"full_balance,,,{maximum},{('en', 'es')[number % 2]}\n"
    )


def write(path: Path, *, lines: int, changed: bool) -> None:
    """Write the file, in bounded memory like its reader."""
    with path.open("w", encoding="utf-8") as file:
        file.write(HEADER)
        file.writelines(line(number, changed=changed) for number in range(lines))


async def load(*, dsn: str, accounts: int, due_date: date, now: datetime) -> None:
    """Put the accounts, each with a bill, into the tables, by COPY."""
    connection = await asyncpg.connect(dsn)
    try:
        for first in range(0, accounts, PAGE):
            numbers = range(first, min(first + PAGE, accounts))
            await connection.copy_records_to_table(
                "accounts",
                schema_name="autopay_scheduler",
                columns=("account_id", "heard_at"),
                records=((account_of(n), now) for n in numbers),
            )
            await connection.copy_records_to_table(
                "bills",
                schema_name="autopay_scheduler",
                columns=BILL_COLUMNS,
                records=(
                    (account_of(n), f"B-{n}", 1, 8_000, "USD", due_date, now, 0, "open")
                    for n in numbers
                ),
            )
        await connection.execute("ANALYZE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def yardstick(*, dsn: str, lines: int, now: datetime) -> float:
    """Return the seconds that a COPY of as many lines takes into a table of the same form."""
    columns = (
        *("account_id", "old_account", "name", "email", "locale", "charge_on", "amount_rule"),
        *("maximum_cents", "status", "imported_at", "imported_on", "look_on"),
    )

    def rows(numbers: range) -> Iterator[tuple[Any, ...]]:
        for n in numbers:
            who = (account_of(n), f"{n:012d}", f"Customer Number{n}", f"customer{n}@example.org")
            rule = ("en", "due_date", "full_balance", 25_000)
            yield (*who, *rule, "awaiting", now, now.date(), now.date())

    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "CREATE TABLE autopay_scheduler.yardstick"
            " (LIKE autopay_scheduler.reenrolments INCLUDING ALL)"
        )
        began = time.perf_counter()
        for first in range(0, lines, PAGE):
            await connection.copy_records_to_table(
                "yardstick",
                schema_name="autopay_scheduler",
                columns=columns,
                records=rows(range(first, min(first + PAGE, lines))),
            )
        seconds = time.perf_counter() - began
        await connection.execute("DROP TABLE autopay_scheduler.yardstick")
        await connection.execute("CHECKPOINT")
        return seconds
    finally:
        await connection.close()


def import_all(dsn: str, paths: list[str], due_date: date, told: Any) -> None:
    """Import the files one after the other; runs in a process of its own and says what it took."""
    import uvloop

    from autopay_scheduler.adapters.import_files import CsvImportFiles
    from autopay_scheduler.adapters.reenrolment_repository import SqlReenrolments
    from autopay_scheduler.adapters.tables import outbox
    from autopay_scheduler.domain.reenrolment import Rhythm
    from autopay_scheduler.metrics import Metrics
    from autopay_scheduler.usecases.reenrolment import FollowMove, ImportLists, InviteAwaiting
    from shared.clock import utc_now
    from shared.db.engine import build_engine
    from shared.ids import uuid7
    from shared.outbox.table import Outbox

    class Nowhere:
        def offer(self, rows: object) -> None: ...

    async def chunks(path: str) -> AsyncIterator[bytes]:
        with open(path, "rb") as file:  # noqa: ASYNC230, PTH123  a local file, as fast as a socket
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    async def run() -> dict[str, Any]:
        settings = settings_for(dsn)
        calendar = city_of(settings).calendar
        engine = build_engine(
            url=settings.database_url.get_secret_value(), application_name="bench", pool_size=2
        )
        reenrolments = SqlReenrolments(
            engine=engine,
            outbox=Outbox(table=outbox),
            announce=Nowhere(),
            zone=calendar.zone,
            late_grace_days=settings.late_grace_days,
        )
        lists = ImportLists(
            files=CsvImportFiles(lines_max=10_000_000, limit_cents=settings.limit_cents),
            reenrolments=reenrolments,
            calendar=calendar,
            new_id=uuid7,
            clock=utc_now,
            metrics=Metrics(),
        )
        move = FollowMove(
            reenrolments=reenrolments, calendar=calendar, clock=utc_now, metrics=Metrics()
        )
        invite = InviteAwaiting(
            reenrolments=reenrolments,
            calendar=calendar,
            rhythm=Rhythm(),
            link="https://portal.city.example",
            metrics=Metrics(),
        )
        found: dict[str, Any] = {"reports": []}
        for path in paths:
            began = time.perf_counter()
            report = await lists.enrolments(
                chunks(path), file_name=path, operator="bench", is_dry=False
            )
            seconds = time.perf_counter() - began
            counts = (report.imported, report.changed, report.unchanged, report.refused)
            found["reports"].append((*counts, seconds))
        for name, ask in (
            ("lapsing_page", move.lapsing(until=due_date, after=None, limit=1000)),
            ("figures", move.figures(since=calendar.today(now=utc_now()), until=due_date)),
            ("totals", move.totals()),
            ("invite_3000", invite(now=utc_now(), limit=3000)),
        ):
            began = time.perf_counter()
            await ask
            found[f"{name}_seconds"] = round(time.perf_counter() - began, 3)
        await engine.dispose()
        return found

    told.send(uvloop.run(run()))


def measured(dsn: str, paths: list[str], due_date: date) -> tuple[dict[str, Any], float]:
    """Run the imports in a process of its own; return also its highest resident set in MB."""
    context = multiprocessing.get_context("spawn")
    hears, tells = context.Pipe(duplex=False)
    process = context.Process(target=import_all, args=(dsn, paths, due_date, tells))
    process.start()
    highest = 0
    watched = psutil.Process(process.pid)
    while process.is_alive() and not hears.poll(0.05):
        try:
            highest = max(highest, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
    found = hears.recv()
    process.join()
    return found, highest / 1024**2


def main() -> int:
    """Run the bench; exit code 1 where a goal is missed or a line is miscounted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lines: int = options.lines
    now = datetime.now(UTC)
    due_date = now.date() + timedelta(days=20)
    with (
        tempfile.TemporaryDirectory() as directory,
        LocalStack(name=f"bench-{os.getpid()}", parts={"postgres"}, fresh=True) as stack,
    ):
        dsn, superuser = stack.state.dsns["autopay_scheduler"], stack.state.superuser_dsn
        from shared.db.migrations import migrate

        migrate(
            url=dsn.replace("postgresql://", "postgresql+asyncpg://", 1),
            package="autopay_scheduler",
        )
        first, second = Path(directory) / "first.csv", Path(directory) / "second.csv"
        write(first, lines=lines, changed=False)
        write(second, lines=lines, changed=True)
        asyncio.run(load(dsn=superuser, accounts=lines, due_date=due_date, now=now))
        copied = asyncio.run(yardstick(dsn=superuser, lines=lines, now=now))
        told, megabytes = measured(dsn, [str(first), str(first), str(second)], due_date)
        stack.directory.wipe()
    new, same, other = told.pop("reports")
    found = {
        "lines": lines,
        "imported": new[0],
        "refused": new[3],
        "first_seconds": round(new[4], 1),
        "first_lines_per_second": round(lines / new[4]),
        "same_again_seconds": round(same[4], 1),
        "same_again_unchanged": same[2],
        "tenth_changed_seconds": round(other[4], 1),
        "tenth_changed": other[1],
        "resident_megabytes_highest": round(megabytes),
        "goal_megabytes": GOAL_MEGABYTES,
        "copy_per_second": round(lines / copied),
        "share_of_copy": round(copied / new[4], 3),
        **told,
    }
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:28} {value}")
    wrong = sum(number % 100 == 7 for number in range(lines))
    is_right = new[:4] == (lines - wrong, 0, 0, wrong) and same[:3] == (0, 0, lines - wrong)
    return 0 if is_right and megabytes < GOAL_MEGABYTES else 1


if __name__ == "__main__":
    raise SystemExit(main())

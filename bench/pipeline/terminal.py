"""What people see while a benchmark runs, and at its end."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.pipeline.goals import Row, Verdict, number
from bench.pipeline.trial import Failed, Trial

STYLES = {
    Verdict.MET: "bold green",
    Verdict.MISSED: "bold red",
    Verdict.NOT_RUN: "yellow",
    Verdict.REPORTED: "",
}


class Voice:
    """Says on standard error what is being done, each line with the time since the start."""

    def __init__(self, *, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        passed = int(time.monotonic() - self._began)
        self._console.print(
            Text(f"{passed // 60:3d}:{passed % 60:02d}  {text}"), soft_wrap=True, highlight=False
        )


def verdict_table(*, rows: Sequence[Row]) -> Table:
    """Every goal with its verdict."""
    table = Table(title="Goals", title_justify="left", title_style="bold")
    for column in ("run", "what", "goal", "measured: median (min–max)", ""):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            row.run, row.what, row.goal, row.measured, Text(row.verdict, style=STYLES[row.verdict])
        )
    return table


def trial_table(*, trials: Sequence[Trial]) -> Table:
    """Every trial, short."""
    table = Table(title="Trials", title_justify="left", title_style="bold")
    numbers = (
        "payments/s",
        "acks/s",
        "ack p50/p99 ms",
        "posted p50/p99",
        "confirmed p50/p99",
        "CPU µs",
        "WAL B",
    )
    for column in ("run", "yardstick", "round", *numbers):
        table.add_column(column, justify="right" if column in numbers else "left")
    for each in trials:
        pairs = [
            "-" if found is None else f"{number(found.p50_ms)} / {number(found.p99_ms)}"
            for found in (each.ack, each.posted, each.confirmed)
        ]
        cpu_us = sum(used for name, used in each.cpu_us.items() if name != "generator")
        table.add_row(
            each.run,
            each.yardstick,
            str(each.turn),
            number(each.payments_per_second),
            number(each.acks_per_second),
            *pairs,
            number(cpu_us),
            number(each.wal_bytes),
        )
    return table


def cpu_table(*, trials: Sequence[Trial]) -> Table:
    """What a payment costs, by process."""
    names = list(dict.fromkeys(name for each in trials for name in each.cpu_us))
    title = f"{trials[0].run}: CPU µs per payment, by process" if trials else None
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("process")
    for each in trials:
        table.add_column(each.yardstick, justify="right")
    for name in names:
        table.add_row(
            name, *("" if name not in each.cpu_us else number(each.cpu_us[name]) for each in trials)
        )
    table.add_row("sum", *(number(sum(each.cpu_us.values())) for each in trials), style="bold")
    return table


def costs_by_run(*, trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """The trials of each run that have a cost, the first round of each yardstick."""
    found: dict[str, list[Trial]] = {}
    for each in trials:
        if each.cpu_us and each.turn == 1:
            found.setdefault(each.run, []).append(each)
    return found


def failure_lines(*, failures: Sequence[Failed]) -> list[str]:
    """What is no result, one line each."""
    return [
        f"{each.yardstick}: not run: {each.reason}"
        if not each.available
        else f"{each.run}, {each.yardstick}, round {each.turn}: no result: {each.reason}"
        for each in failures
    ]

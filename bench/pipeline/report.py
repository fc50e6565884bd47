"""The report that is committed: docs/benchmark, made of results.json, size.json and soak.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from bench.pipeline.goals import (
    CELERIES,
    DBOS,
    FLOOR,
    PRODUCT,
    TUTORIAL,
    Row,
    Trials,
    Verdict,
    cpu_of,
    number,
    spread_text,
)
from bench.pipeline.readings import GENERATOR
from bench.pipeline.results import RESULTS, SIZE, SOAK, Results, to_bytes
from bench.pipeline.sizing import CASES, Costs, size
from bench.pipeline.statistics import Latencies, Middle, middle
from bench.pipeline.terminal import failure_lines
from bench.pipeline.trial import Trial

EVERYBODY = (PRODUCT, FLOOR, DBOS, *CELERIES, TUTORIAL)
COUNTERPARTS = ("kafka", "postgres", "cis", "mail", GENERATOR)

Draw = Callable[[Results, Mapping[str, Any], Path], Sequence[str]]
"""Draws the plots into a folder; the names of the files that it made."""


def write_report(*, folder: Path, results: Results | None, draw: Draw) -> None:
    """Fill a folder with the report.

    Args:
        folder: may hold an earlier report, and the figures of the size curve and the soak.
        results: of a whole benchmark; None keeps those that are in the folder.
        draw: makes the plots.

    Raises:
        OSError: it cannot be written.
    """
    if results is not None:
        (folder / RESULTS).write_bytes(to_bytes(results.as_json()))
    else:
        results = read_results(folder=folder)
    if results is None:
        return
    beside = {name: read_json(folder / name) for name in (SIZE, SOAK)}
    for old in folder.glob("*.svg"):
        old.unlink()
    plots = draw(results, beside, folder)
    (folder / "README.md").write_text(render(results=results, beside=beside, plots=plots))


def read_results(*, folder: Path) -> Results | None:
    """The results that are kept in a folder; None where there are none."""
    found = read_json(folder / RESULTS)
    return None if found is None else Results.of_json(found)


def read_json(path: Path) -> Any:
    """What a file holds; None where there is none."""
    return orjson.loads(path.read_bytes()) if path.exists() else None


def render(*, results: Results, beside: Mapping[str, Any], plots: Sequence[str]) -> str:
    """The page as Markdown."""
    parts = [
        "# The benchmark",
        _where(results),
        "## Goals\n\n"
        + table(
            ("run", "what", "goal", "measured: median (min–max)", ""),
            [_goal(row) for row in results.rows],
        ),
        _counts(results.rows),
        _not_results(results),
        _throughput(results, plots),
        _latency(results, plots),
        _costs(results, plots),
        _memory(results),
        _outages(results.found),
        _two(results.found),
        _size(beside.get(SIZE), plots),
        _soak(beside.get(SOAK), plots),
        _sizing(results.found),
        _versions(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _where(results: Results) -> str:
    machine = results.machine
    at = datetime.fromisoformat(machine["at"])
    return (
        f"Written by `make bench` on {at:%Y-%m-%d} at {at:%H:%M} UTC, "
        f"commit `{machine['commit']}`, in {results.seconds / 60:.0f} minutes.\n"
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
        f"{machine['system']}.\n\n"
        "Everything runs on this one machine: Kafka, PostgreSQL (`fsync`, `full_page_writes` and "
        "`synchronous_commit` on), the yardstick, the reference CIS, the mail sink and the load "
        "generator share its cores. Each trial has fresh servers and data. A payment counts when "
        "the CIS's journal and the mail sink both hold it exactly once; a trial for which that is "
        f"not so is no result. {results.rounds} interleaved rounds; medians, with the least and "
        "the greatest in brackets. [How it is measured](../../bench/README.md); the figures are in "
        "[results.json](results.json)."
    )


def _goal(row: Row) -> tuple[str, ...]:
    verdict = {Verdict.MET: "**met**", Verdict.MISSED: "**missed**"}.get(row.verdict, row.verdict)
    return (f"`{row.run}`", row.what, row.goal, row.measured, str(verdict))


def _counts(rows: Sequence[Row]) -> str:
    counted = {verdict: sum(row.verdict is verdict for row in rows) for verdict in Verdict}
    return ", ".join(f"{count} {verdict}" for verdict, count in counted.items() if count) + "."


def _not_results(results: Results) -> str:
    lines = failure_lines(failures=results.failures)
    if not lines:
        return "Every trial is a result."
    return "No result:\n\n" + "\n".join(f"- {line}" for line in dict.fromkeys(lines))


def _throughput(results: Results, plots: Sequence[str]) -> str:
    trials = results.found
    rows = []
    for run, what in (
        ("max", "one CIS call per payment"),
        ("max-many", "many postings in a call"),
        ("train", "four Stripe events per payment"),
    ):
        for name in EVERYBODY:
            rate = trials.rate(run=run, yardstick=name)
            if rate is not None:
                rows.append((what, name, spread_text(rate), *_of_product(trials, run, name)))
    for name in (PRODUCT, FLOOR):
        acks = trials.figure(run="ack", yardstick=name, read=lambda each: each.acks_per_second)
        if acks is not None:
            rows.append(("webhooks alone", name, spread_text(acks), ""))
    return (
        "## Throughput\n\nPayments a second, from the first webhook to the last mail.\n\n"
        + _image(plots, "throughput.svg", "Throughput by yardstick")
        + table(("what", "yardstick", "a second", "paypost is"), rows)
    )


def _of_product(trials: Trials, run: str, name: str) -> tuple[str]:
    ours, theirs = trials.rate(run=run, yardstick=PRODUCT), trials.rate(run=run, yardstick=name)
    if name == PRODUCT or ours is None or theirs is None:
        return ("",)
    return (f"{ours.median / theirs.median:.2f} ×",)


def _latency(results: Results, plots: Sequence[str]) -> str:
    trials = results.found
    rows = []
    for run, what in (("latency", "a quarter of the maximum"), ("ack", "webhooks alone, maximum")):
        for name in (PRODUCT, FLOOR):
            found = trials.of(run=run, yardstick=name)
            if found:
                cells = [_pair(found, read) for read in ("ack", "posted", "confirmed")]
                rows.append((what, name, *cells))
    return (
        "## Latency\n\nMilliseconds, p50 / p99. Acknowledgement counts from the time at which the "
        "webhook was to leave; posted and confirmed from the acknowledgement.\n\n"
        + _image(plots, "latency.svg", "Latency at a quarter of the maximum")
        + table(("at", "yardstick", "acknowledged", "→ posted", "→ confirmed"), rows)
    )


def _pair(trials: Sequence[Trial], name: str) -> str:
    found: list[Latencies] = [
        value for each in trials if (value := getattr(each, name)) is not None
    ]
    p50, p99 = middle([each.p50_ms for each in found]), middle([each.p99_ms for each in found])
    return "" if p50 is None or p99 is None else f"{number(p50.median)} / {number(p99.median)}"


def cpu_by_process(trials: Trials, *, run: str, yardstick: str) -> dict[str, Middle]:
    """CPU µs per payment of each process, the generator last."""
    names = dict.fromkeys(
        name for each in trials.of(run=run, yardstick=yardstick) for name in each.cpu_us
    )
    found = {
        name: trials.figure(run=run, yardstick=yardstick, read=cpu_of(name))
        for name in sorted(names, key=lambda name: (name in COUNTERPARTS, name))
    }
    return {name: value for name, value in found.items() if value is not None}


def _costs(results: Results, plots: Sequence[str]) -> str:
    trials = results.found
    tables = []
    for run, what in (("max-many", "many postings in a call"), ("max", "one CIS call per payment")):
        found = {
            name: cpu_by_process(trials, run=run, yardstick=name)
            for name in EVERYBODY
            if trials.of(run=run, yardstick=name)
        }
        rows = [
            (name, process, spread_text(used))
            for name, processes in found.items()
            for process, used in processes.items()
        ]
        rows += [
            (name, "**all but the generator**", f"**{number(_sum(processes))}**")
            for name, processes in found.items()
        ]
        if rows:
            tables.append(f"{what}:\n\n" + table(("yardstick", "process", "CPU µs"), rows))
    wal = [
        (name, spread_text(value))
        for name in EVERYBODY
        if (value := trials.figure(run="max", yardstick=name, read=lambda each: each.wal_bytes))
    ]
    return (
        "## What a payment costs\n\nCPU µs per payment, from /proc.\n\n"
        + _image(plots, "cost.svg", "CPU per payment by process")
        + "\n\n".join(tables)
        + "\n\nWAL per payment, the ledger of the CIS included (`max`):\n\n"
        + table(("yardstick", "bytes"), wal)
    )


def _sum(processes: Mapping[str, Middle]) -> float:
    return sum(used.median for name, used in processes.items() if name != GENERATOR)


def _memory(results: Results) -> str:
    found = results.found.of(run="max-many", yardstick=PRODUCT)
    names = dict.fromkeys(name for each in found for name in each.memory)
    rows = []
    for name in names:
        cells = []
        for field in ("resident_mb", "peak_mb", "proportional_mb"):
            value = middle(
                [getattr(each.memory[name], field) for each in found if name in each.memory]
            )
            cells.append("" if value is None else number(value.median))
        rows.append((name, *cells))
    return (
        "## Memory\n\nMB (10⁶ bytes) at the end of a maximum (`max-many`), of each process and "
        "what it started. Of processes that share pages, PostgreSQL's above all, the proportional "
        "size says what they really take.\n\n"
        + table(("process", "resident", "peak", "proportional"), rows)
    )


def _outages(trials: Trials) -> str:
    rows = []
    for run in ("kafka-down", "cis-down"):
        for each in trials.of(run=run, yardstick=PRODUCT):
            names = (
                "offered_per_second",
                "outage_seconds",
                "ack_p99_before_ms",
                "ack_p99_during_ms",
                "ack_p99_after_ms",
                "drain_seconds",
                "overtakings",
            )
            cells = [number(each.extra[name]) if name in each.extra else "-" for name in names]
            rows.append((f"`{run}`", *cells))
    if not rows:
        return ""
    return "## Outages\n\n" + table(
        (
            "run",
            "payments/s",
            "outage s",
            "ack p99 before ms",
            "during",
            "after",
            "drained s",
            "overtaken",
        ),
        rows,
    )


def _two(trials: Trials) -> str:
    one = cpu_by_process(trials, run="max-many", yardstick=PRODUCT)
    two = cpu_by_process(trials, run="two", yardstick=PRODUCT)
    rates = [trials.rate(run=run, yardstick=PRODUCT) for run in ("max-many", "two")]
    if not one or not two or rates[0] is None or rates[1] is None:
        return ""
    rows = [("payments a second", spread_text(rates[0]), spread_text(rates[1]))]
    for name, used in one.items():
        both = sum(two[each].median for each in (name, f"{name}-2") if each in two)
        rows.append((f"{name}, CPU µs", number(used.median), number(both)))
    return (
        "## Two processes of each service\n\nOn the same cores, which one of each keeps busy: the "
        "second can add nothing here. What this shows is that nothing is lost or doubled, and what "
        "sharing the partitions costs.\n\n" + table(("", "one of each", "two of each"), rows)
    )


def _size(found: Any, plots: Sequence[str]) -> str:
    if not found:
        return "## Size\n\nNot measured on this machine yet: `make bench-size`."
    rows = [
        (
            f"{each['payments'] / 1e6:g} M",
            number(each["payments_per_second"]),
            f"{each['bytes'] / 1e9:.1f} GB",
            number(each["wal_bytes"]),
        )
        for each in found["points"]
    ]
    return (
        f"## Size\n\nPayments a second with so many already in the tables, {found['at'][:10]}, "
        f"commit `{found['commit']}`. {found['note']}\n\n"
        + _image(plots, "size.svg", "Throughput by number of payments held")
        + table(("payments held", "payments/s", "tables and indexes", "WAL B per payment"), rows)
    )


def _soak(found: Any, plots: Sequence[str]) -> str:
    if not found:
        return "## Soak\n\nNot measured on this machine yet: `make soak`."
    rows = [
        (
            name,
            number(each["early_mb"]),
            number(each["late_mb"]),
            f"{(each['late_mb'] / each['early_mb'] - 1) * 100:+.1f} %",
        )
        for name, each in found["memory"].items()
    ]
    return (
        f"## Soak\n\n{found['seconds'] / 60:.0f} minutes at {number(found['offered_per_second'])} "
        f"payments a second, {found['payments']:,} payments, {found['at'][:10]}, commit "
        f"`{found['commit']}`. Confirmed: p50 {number(found['confirmed_p50_ms'])} ms, "
        f"p99 {number(found['confirmed_p99_ms'])} ms.\n\n"
        + _image(plots, "soak.svg", "Resident memory over the soak")
        + table(("process", "second quarter MB", "last quarter MB", "growth"), rows)
    )


def _sizing(trials: Trials) -> str:
    costs = Costs.of(trials)
    if costs is None:
        return ""
    rows = []
    for case in CASES:
        found = size(case=case, costs=costs)
        processes = ", ".join(f"{count} {name}" for name, count in found.processes.items())
        rows.append(
            (
                case.name,
                number(case.peak),
                number(sum(found.cores.values())),
                processes,
                number(found.cores.get("postgres", 0.0)),
                number(found.cores.get("kafka", 0.0)),
                f"{number(found.wal_bytes_a_second / 1e6)} MB/s",
                str(found.cells),
                str(found.partitions),
            )
        )
    columns = (
        "case",
        "peak a second",
        "busy cores",
        "processes",
        "of these PostgreSQL",
        "Kafka",
        "WAL",
        "cells",
        "partitions",
    )
    return (
        "## Past one machine\n\nWhat the peaks of [docs/scaling.md](../scaling.md) take at the "
        "costs above, by the formulas there.\n\n" + table(columns, rows)
    )


def _versions(results: Results) -> str:
    rows = [("machine", ", ".join(f"{k} {v}" for k, v in results.machine["versions"].items()))]
    rows += [
        (name, ", ".join(f"{library} {version}" for library, version in versions.items()))
        for name, versions in results.versions.items()
    ]
    return "## Versions\n\n" + table(("of", "versions"), rows)


def _image(plots: Sequence[str], name: str, text: str) -> str:
    return f"![{text}]({name})\n\n" if name in plots else ""

"""The plots of the report, as SVG. matplotlib is imported only when something is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.pipeline.goals import FLOOR, PRODUCT
from bench.pipeline.report import EVERYBODY, cpu_by_process
from bench.pipeline.results import SIZE, SOAK, Results

WIDTH_INCHES, HEIGHT_INCHES = 8.0, 4.0
GREY, BLUE = "#9aa5b1", "#1f6feb"


def draw(results: Results, beside: Mapping[str, Any], folder: Path) -> Sequence[str]:
    """Draw everything there is data for; the names of the files."""
    import matplotlib

    matplotlib.use("svg")
    # The same figures give the same bytes.
    matplotlib.rcParams.update({"svg.hashsalt": "paypost", "font.size": 9})
    made = []
    for name, fill in (
        ("throughput.svg", lambda axes: _throughput(results, axes)),
        ("latency.svg", lambda axes: _latency(results, axes)),
        ("cost.svg", lambda axes: _cost(results, axes)),
        ("size.svg", lambda axes: _size(beside.get(SIZE), axes)),
        ("soak.svg", lambda axes: _soak(beside.get(SOAK), axes)),
    ):
        if _save(folder / name, fill):
            made.append(name)
    return made


def _save(path: Path, fill: Any) -> bool:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
    try:
        has_data = bool(fill(axes))
        if has_data:
            axes.spines[["top", "right"]].set_visible(False)
            figure.savefig(path, metadata={"Date": None})
        return has_data
    finally:
        pyplot.close(figure)


def _throughput(results: Results, axes: Any) -> bool:
    bars = []
    for run, what in (("max", "one call each"), ("max-many", "many in a call"), ("train", "train")):
        for name in EVERYBODY:
            rate = results.found.rate(run=run, yardstick=name)
            if rate is not None:
                bars.append((f"{name}\n{what}", rate, name))
    if not bars:
        return False
    for place, (_, rate, name) in enumerate(bars):
        low, high = rate.median - rate.least, rate.greatest - rate.median
        axes.bar(
            place,
            rate.median,
            color=BLUE if name == PRODUCT else GREY,
            yerr=[[low], [high]],
            capsize=3,
        )
        axes.annotate(
            f"{rate.median:,.0f}", (place, rate.greatest), ha="center", va="bottom", fontsize=8
        )
    # From 10 on for everybody, or the bars of a logarithmic scale would mean nothing.
    axes.set_yscale("log")
    axes.set_ylim(bottom=10)
    axes.set_xticks(range(len(bars)), [label for label, _, _ in bars], rotation=45, ha="right")
    axes.set_ylabel("payments a second (log)")
    return True


def _latency(results: Results, axes: Any) -> bool:
    groups = []
    for name in (PRODUCT, FLOOR):
        for field, what in (
            ("ack", "acknowledged"),
            ("posted", "→ posted"),
            ("confirmed", "→ confirmed"),
        ):
            found = [
                value
                for each in results.found.of(run="latency", yardstick=name)
                if (value := getattr(each, field)) is not None
            ]
            if found:
                middle = sorted(found, key=lambda each: each.p99_ms)[len(found) // 2]
                groups.append((f"{name}\n{what}", middle, name))
    if not groups:
        return False
    for place, (_, value, name) in enumerate(groups):
        color = BLUE if name == PRODUCT else GREY
        axes.bar(place - 0.2, value.p50_ms, width=0.4, color=color, alpha=0.6)
        axes.bar(place + 0.2, value.p99_ms, width=0.4, color=color)
        axes.annotate(f"{value.p50_ms:.0f}", (place - 0.2, value.p50_ms), ha="center", va="bottom")
        axes.annotate(f"{value.p99_ms:.0f}", (place + 0.2, value.p99_ms), ha="center", va="bottom")
    axes.set_xticks(range(len(groups)), [label for label, _, _ in groups])
    axes.set_ylabel("ms: p50 (light), p99 (dark)")
    return True


def _cost(results: Results, axes: Any) -> bool:
    columns = [
        (f"{name}\n{run}", cpu_by_process(results.found, run=run, yardstick=name))
        for run in ("max", "max-many")
        for name in (PRODUCT, FLOOR)
        if results.found.of(run=run, yardstick=name)
    ]
    if not columns:
        return False
    processes = list(dict.fromkeys(name for _, used in columns for name in used))
    bottoms = [0.0] * len(columns)
    for process in processes:
        heights = [used[process].median if process in used else 0.0 for _, used in columns]
        axes.bar(range(len(columns)), heights, bottom=bottoms, label=process)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    axes.set_xticks(range(len(columns)), [label for label, _ in columns])
    axes.set_ylabel("CPU µs per payment")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return True


def _size(found: Any, axes: Any) -> bool:
    if not found:
        return False
    held = [each["payments"] for each in found["points"]]
    axes.plot(held, [each["payments_per_second"] for each in found["points"]], "o-", color=BLUE)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("payments held (log)")
    axes.set_ylabel("payments a second")
    return True


def _soak(found: Any, axes: Any) -> bool:
    if not found:
        return False
    for name, values in found["resident_mb"].items():
        minutes = [at / 60 for at in found["sampled_seconds"]]
        axes.plot(minutes, values, label=name)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident MB")
    axes.legend(fontsize=7)
    return True

"""docs/reliability.md: what the campaign found, written by the campaign itself."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.faults.campaign import Outcome
from tests.faults.registry import load_catalogue

from paypost.stack.kafka import locked_artifacts
from paypost.stack.postgres import PostgresNotFoundError, find_binaries

ROOT = Path(__file__).resolve().parents[2]
REPORT_PATH = ROOT / "docs" / "reliability.md"
MIXES_PATH = ROOT / "docs" / "reliability-mixes.md"
LIMITS_PATH = Path(__file__).with_name("limits.md")
FAULTS_MAX = 32


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole campaign."""

    seed: int
    outcomes: tuple[Outcome, ...]
    seconds: float
    jobs: int = 1

    @property
    def mixes(self) -> list[Outcome]:
        """The random mixes, in their order."""
        found = [each for each in self.outcomes if each.name.startswith("mix ")]
        return sorted(found, key=lambda each: each.seed)


def write_report(report: Report, *, path: Path = REPORT_PATH) -> Path:
    """Write the report; where it is."""
    path.write_text(render(report, surroundings=surroundings()), encoding="utf-8")
    return path


def write_mixes_report(report: Report, *, path: Path = MIXES_PATH) -> Path:
    """Write the report of a campaign of mixes alone; where it is."""
    path.write_text(render_mixes(report, surroundings=surroundings()), encoding="utf-8")
    return path


def render_mixes(report: Report, *, surroundings: Sequence[tuple[str, str]]) -> str:
    """The report of mixes as Markdown: how often each fault was in one, and each of them."""
    catalogue, mixes = load_catalogue(), report.mixes
    times = Counter(number for each in mixes for number in each.numbers)
    lines = [
        "# Reliability in mixes",
        "",
        "Several faults at once, drawn by seeds. Written by `make faults MIXES=…`; the faults one "
        "by one, and the limits of the guarantees, are in [reliability.md](reliability.md).",
        "",
        f"**{sum(each.holds for each in mixes)} of {len(mixes)} mixes held; "
        f"{_sum(mixes, 'lost')} lost, {_sum(mixes, 'doubled')} doubled.**",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in surroundings),
        f"| seed | {report.seed} |",
        f"| stacks at once | {report.jobs} |",
        f"| took | {report.seconds / 60:.1f} min |",
        "",
        "## How often each fault was in one",
        "",
        "| # | fault | mixes |",
        "|---|---|---|",
        *(
            f"| {number} | {catalogue[number].declaration.title} | {count} |"
            for number, count in sorted(times.items())
        ),
        "",
        "## Mix by mix",
        "",
        *_table_of(mixes),
        *_not_held(report.outcomes),
    ]
    return "\n".join(lines) + "\n"


def render(report: Report, *, surroundings: Sequence[tuple[str, str]]) -> str:
    """The report as Markdown; limits come from `limits.md` beside this module, written by hand."""
    catalogue = load_catalogue()
    alone = {each.numbers[0]: each for each in report.outcomes if each.name.startswith("fault ")}
    mixes = report.mixes
    run = [each for each in alone.values() if each.not_run is None]
    every = [each for each in report.outcomes if each.not_run is None]
    lines = [
        "# Reliability",
        "",
        "What is broken on purpose, and what still held. Written by `make faults`; "
        "[the campaign](../tests/faults/README.md) says how, and how to run a part of it again.",
        "",
        f"**{len(run)} of {FAULTS_MAX} faults run, {sum(each.holds for each in run)} held; "
        f"{sum(each.holds for each in mixes)} of {len(mixes)} mixes held; "
        f"{_sum(every, 'lost')} lost, {_sum(every, 'doubled')} doubled.**",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in surroundings),
        f"| seed | {report.seed} |",
        f"| took | {report.seconds / 60:.1f} min |",
        "",
        "## Fault by fault",
        "",
        "Sent: payments and due charges. Posted: effects in the CIS's journal, reversals and "
        "reinstatements among them. Recovered: seconds from healing until the last payment "
        "accepted before was confirmed to its customer.",
        "",
        "| # | fault | oracles | sent | posted | lost | doubled | recovered | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for number in range(1, FAULTS_MAX + 1):
        outcome = alone.get(number)
        kind = catalogue.get(number)
        title = kind.declaration.title if kind else "not in the catalogue"
        if outcome is None or outcome.not_run is not None:
            reason = outcome.not_run if outcome else "nobody has written it"
            lines.append(f"| {number} | {title} | | | | | | | *not run*: {reason} |")
            continue
        counts = outcome.counts
        sent = counts.get("payments", 0) + counts.get("charges", 0)
        lines.append(
            f"| {number} | {title} | {outcome.oracles} | {sent} | {counts.get('posted', '-')} "
            f"| {counts.get('lost', '-')} | {counts.get('doubled', '-')} "
            f"| {counts.get('recovery_seconds', '-')} s | {_verdict(outcome)} |"
        )
    lines += ["", "How each was injected, and what else was counted:", ""]
    lines += [
        f"- **{number}**: {kind.declaration.how}{_noted(alone.get(number))}"
        for number, kind in catalogue.items()
    ]
    lines += ["", "## Mixes", "", *_table_of(mixes), *_not_held(report.outcomes)]
    if LIMITS_PATH.exists():
        lines += ["", LIMITS_PATH.read_text(encoding="utf-8").strip()]
    return "\n".join(lines) + "\n"


def _table_of(mixes: Sequence[Outcome]) -> list[str]:
    return [
        "| mix | seed | faults | sent | posted | lost | doubled | verdict |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {each.name.removeprefix('mix ')} | {each.seed} "
            f"| {', '.join(str(number) for number in each.numbers)} "
            f"| {each.counts.get('payments', 0) + each.counts.get('charges', 0)} "
            f"| {each.counts.get('posted', '-')} | {each.counts.get('lost', '-')} "
            f"| {each.counts.get('doubled', '-')} | {_verdict(each)} |"
            for each in mixes
        ),
    ]


def _not_held(outcomes: Sequence[Outcome]) -> list[str]:
    failed = [each for each in outcomes if each.violations]
    lines = ["", "## What did not hold", ""] if failed else []
    for each in failed:
        lines += [f"- **{each.name}** (seed {each.seed})"]
        lines += [f"  - {violation}" for violation in each.violations[:8]]
    return lines


def surroundings() -> list[tuple[str, str]]:
    """Machine, versions, date and commit."""
    kafka = next(
        (each.version for each in locked_artifacts() if each.artifact.startswith("kafka_")), "?"
    )
    try:
        postgres = str(find_binaries().major_version)
    except PostgresNotFoundError:
        postgres = "?"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    commit = _git("rev-parse", "--short", "HEAD")
    changed = " with changes" if _git("status", "--porcelain", "--untracked-files=no") else ""
    return [
        ("date", f"{datetime.now(UTC):%Y-%m-%d}"),
        ("commit", f"{commit}{changed}"),
        (
            "machine",
            f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}",
        ),
        (
            "versions",
            f"Python {platform.python_version()}, Kafka {kafka}, PostgreSQL {postgres}, "
            f"aiokafka {version('aiokafka')}, asyncpg {version('asyncpg')}",
        ),
    ]


def _git(*arguments: str) -> str:
    found = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def _verdict(outcome: Outcome) -> str:
    return "held" if outcome.holds else f"**failed** ({outcome.violations[0].oracle})"


def _sum(outcomes: Sequence[Outcome], name: str) -> int:
    return sum(int(each.counts.get(name, 0)) for each in outcomes)


KNOWN = frozenset({"payments", "charges", "posted", "doubled", "lost", "recovery_seconds"})


def _noted(outcome: Outcome | None) -> str:
    if outcome is None or not outcome.counts:
        return ""
    noted = {name: value for name, value in outcome.counts.items() if name not in KNOWN}
    return "; " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in noted.items())

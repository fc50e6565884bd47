"""Runs the benchmark of the whole pipeline. See bench/README.md.

Usage: python -m bench.pipeline [--quick] [--only RUN …] [--yardsticks NAME …] [--rounds N]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from bench.pipeline.command import EXIT_NO_RESULT, run_to_its_end
from bench.pipeline.frame import QUICK, Bench, Lengths
from bench.pipeline.machine import this_machine
from bench.pipeline.plots import draw
from bench.pipeline.report import write_report
from bench.pipeline.results import REPORT, Results, machine_as_json, replace_folder
from bench.pipeline.runs import QUICK_RUNS, all_runs
from bench.pipeline.session import Session, check_all, go_through, plan, with_needed
from bench.pipeline.terminal import (
    Voice,
    costs_by_run,
    cpu_table,
    failure_lines,
    trial_table,
    verdict_table,
)
from bench.pipeline.verdicts import rows_of
from bench.yardsticks.registry import YARDSTICKS, UnknownYardstickError

SPACE_BYTES = 6_000_000_000
ROUNDS = 3


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    runs = all_runs()
    parser = argparse.ArgumentParser(prog="python -m bench.pipeline", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short, the first three rows")
    parser.add_argument("--only", nargs="+", metavar="RUN", help=f"of {', '.join(runs)}")
    parser.add_argument(
        "--yardsticks", nargs="+", metavar="NAME", help=f"of {', '.join(YARDSTICKS)}"
    )
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}; with --quick 1")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    unknown = set(options.only or ()) - set(runs)
    if unknown:
        parser.error(f"no such run: {', '.join(sorted(unknown))}; there are: {', '.join(runs)}")
    for name in options.yardsticks or ():
        if name not in YARDSTICKS:
            parser.error(str(UnknownYardstickError(name=name)))
    return options


async def measure(options: argparse.Namespace, session: Session, voice: Voice) -> Bench:
    """Do all that was asked for."""
    runs = all_runs()
    names = options.only or (QUICK_RUNS if options.quick else tuple(runs))
    bench = Bench(lengths=QUICK if options.quick else Lengths(), say=voice)
    wanted = with_needed(wanted=names, runs=runs)
    steps = list(plan(runs=wanted, rounds=options.rounds, yardsticks=options.yardsticks))
    used = list(dict.fromkeys(step.yardstick for step in steps))
    await check_all(yardsticks=used, session=session, say=voice)
    await go_through(bench=bench, steps=steps, session=session)
    return bench


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code is 0 when every trial that could be run is a result."""
    options = parse(arguments)
    voice = Voice(console=Console(stderr=True))
    session, machine, began = Session(), this_machine(), time.monotonic()
    bench = run_to_its_end(
        lambda: measure(options, session, voice), say=voice, space_bytes=SPACE_BYTES
    )
    session.note_absent(bench.absent)
    is_whole = not (options.quick or options.only or options.yardsticks)
    results = Results(
        machine=machine_as_json(machine),
        seconds=time.monotonic() - began,
        rounds=options.rounds,
        lengths=asdict(bench.lengths),
        versions=session.versions,
        trials=session.trials,
        failures=session.failures,
        rows=rows_of(session.results, runs=None if is_whole else session.runs),
    )
    show(results, machine=str(machine))
    if is_whole:
        replace_folder(
            folder=REPORT,
            fill=lambda folder: write_report(folder=folder, results=results, draw=draw),
        )
        voice(f"report written: {REPORT / 'README.md'}")
    return EXIT_NO_RESULT if any(each.available for each in session.failures) else 0


def show(results: Results, *, machine: str) -> None:
    """Print it all."""
    out = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    out.print(f"{machine}; commit {results.machine['commit']}; {results.seconds / 60:.1f} minutes")
    out.print(trial_table(trials=results.trials))
    for trials in costs_by_run(trials=results.trials).values():
        out.print(cpu_table(trials=trials))
    out.print(verdict_table(rows=results.rows))
    for line in failure_lines(failures=results.failures):
        out.print(Text(line, style="red"))


if __name__ == "__main__":
    sys.exit(main())

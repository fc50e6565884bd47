"""Everything that a benchmark found, as it is kept in docs/benchmark/results.json."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from bench.pipeline.goals import Row, Trials, Verdict
from bench.pipeline.machine import ROOT, Machine
from bench.pipeline.readings import Memory
from bench.pipeline.statistics import Latencies
from bench.pipeline.trial import Failed, Trial

REPORT = ROOT / "docs" / "benchmark"
RESULTS = "results.json"
SIZE = "size.json"
SOAK = "soak.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """One benchmark.

    Attributes:
        machine: where, as JSON.
        seconds: how long it took.
        rounds: how many were asked for.
        lengths: of a trial's parts, in seconds.
        versions: of each yardstick, by its name.
        trials: those that count.
        failures: those that do not.
        rows: the goals.
    """

    machine: Mapping[str, Any]
    seconds: float
    rounds: int
    lengths: Mapping[str, float]
    versions: Mapping[str, Mapping[str, str]]
    trials: Sequence[Trial]
    failures: Sequence[Failed]
    rows: Sequence[Row]

    @property
    def found(self) -> Trials:
        """Its trials, to be asked."""
        return Trials(self.trials)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "machine": dict(self.machine),
            "seconds": round(self.seconds, 1),
            "rounds": self.rounds,
            "lengths": dict(self.lengths),
            "versions": {name: dict(each) for name, each in self.versions.items()},
            "rows": [each.as_json() for each in self.rows],
            "trials": [each.as_json() for each in self.trials],
            "failures": [each.as_json() for each in self.failures],
        }

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Results:
        """What `as_json` made.

        Raises:
            KeyError, TypeError: it is of another form.
        """
        return cls(
            machine=found["machine"],
            seconds=found["seconds"],
            rounds=found["rounds"],
            lengths=found["lengths"],
            versions=found["versions"],
            trials=[_trial(each) for each in found["trials"]],
            failures=[Failed(**each) for each in found["failures"]],
            rows=[Row(**{**each, "verdict": Verdict(each["verdict"])}) for each in found["rows"]],
        )


def _trial(found: Mapping[str, Any]) -> Trial:
    latencies = {
        name: None if found[name] is None else Latencies(**found[name])
        for name in ("ack", "posted", "confirmed")
    }
    memory = {name: Memory(**each) for name, each in found["memory"].items()}
    return Trial(**{**found, **latencies, "memory": memory})


def machine_as_json(machine: Machine) -> dict[str, Any]:
    """A machine with texts and numbers only."""
    return machine.as_json() | {"at": machine.at.isoformat()}


def to_bytes(value: Any) -> bytes:
    """JSON as it is committed."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def replace_folder(*, folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder anew, whole or not at all.

    Args:
        folder: what is replaced; need not exist.
        fill: writes into a copy of it, which takes its place when this returns.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        fresh, old = Path(scratch) / "new", Path(scratch) / "old"
        if folder.exists():
            shutil.copytree(folder, fresh)
        else:
            fresh.mkdir()
        fill(fresh)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)

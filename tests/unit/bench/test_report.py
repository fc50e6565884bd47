"""The report: what was found, whole or not at all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from bench.pipeline.goals import Trials
from bench.pipeline.machine import Machine
from bench.pipeline.readings import Memory
from bench.pipeline.report import read_results, render, table, write_report
from bench.pipeline.results import RESULTS, SIZE, SOAK, Results, machine_as_json, replace_folder
from bench.pipeline.statistics import Latencies
from bench.pipeline.trial import Failed, Trial
from bench.pipeline.verdicts import rows_of

LATENCY = Latencies(count=100, p50_ms=12.5, p99_ms=44.0, worst_ms=51.0)
MACHINE = Machine(
    processor="Example 9000",
    cores=2,
    memory_gib=24.0,
    system="Linux 6.1, Example 12",
    versions={"python": "3.11.7"},
    commit="abcdef123456",
    at=datetime(2025, 3, 14, 18, 22, tzinfo=UTC),
)


def trial(run: str, yardstick: str, rate: float, turn: int) -> Trial:
    return Trial(
        run=run,
        yardstick=yardstick,
        turn=turn,
        payments=8000,
        seconds=8000 / rate,
        payments_per_second=rate,
        acks_per_second=rate * 2,
        ack=LATENCY,
        posted=LATENCY,
        confirmed=LATENCY,
        cpu_us={"cis-poster": 111.0, "kafka": 222.0, "generator": 33.0},
        memory={"cis-poster": Memory(resident_mb=101.0, peak_mb=103.0, proportional_mb=90.0)},
        wal_bytes=9_000.0,
        repeats=0,
    )


def results(*, failures: Sequence[Failed] = ()) -> Results:
    trials = [
        trial("max", "paypost", rate, turn) for turn, rate in enumerate((700.0, 856.0, 900.0), 1)
    ] + [trial("max", "floor", 1111.0, turn) for turn in (1, 2, 3)]
    return Results(
        machine=machine_as_json(MACHINE),
        seconds=2000.0,
        rounds=3,
        lengths={"load": 10.0},
        versions={"paypost": {"python": "3.11.7"}},
        trials=trials,
        failures=list(failures),
        rows=rows_of(Trials(trials)),
    )


def draw_nothing(_results: Results, _beside: Mapping[str, Any], _folder: Path) -> Sequence[str]:
    return ()


class TestRendering:
    def test_tells_where_and_when_and_of_which_commit(self) -> None:
        page = render(results=results(), beside={}, plots=())
        for told in ("Example 9000", "2 cores", "2025-03-14", "abcdef123456", "3.11.7"):
            assert told in page

    def test_tells_medians_with_their_least_and_greatest(self) -> None:
        assert "856 (700–900)" in render(results=results(), beside={}, plots=())

    def test_says_of_each_goal_whether_it_is_met(self) -> None:
        page = render(results=results(), beside={}, plots=())
        [line] = [line for line in page.splitlines() if "≥ 0.7 × floor" in line and "`max`" in line]
        assert "0.77 ×" in line
        assert line.endswith("| **met** |")
        assert "not run" in page

    def test_names_every_trial_that_is_no_result(self) -> None:
        failed = Failed(run="max", yardstick="dbos", turn=2, reason="3 posted again")
        absent = Failed(
            run="", yardstick="celery-redis", turn=0, reason="redis-server", available=False
        )
        page = render(results=results(failures=[failed, absent]), beside={}, plots=())
        assert "max, dbos, round 2: no result: 3 posted again" in page
        assert "celery-redis: not run: redis-server" in page

    def test_sums_what_a_payment_costs_without_the_generator(self) -> None:
        page = render(results=results(), beside={}, plots=())
        assert "| paypost | **all but the generator** | **333** |" in page

    def test_shows_a_plot_only_where_it_was_drawn(self) -> None:
        assert "throughput.svg" not in render(results=results(), beside={}, plots=())
        assert "(throughput.svg)" in render(results=results(), beside={}, plots=("throughput.svg",))

    def test_adds_the_size_curve_and_the_soak_where_they_were_measured(self) -> None:
        size = {
            "at": "2025-03-15T00:00:00+00:00",
            "commit": "abc",
            "note": "4.0 % lost.",
            "points": [
                {
                    "payments": 10_000_000,
                    "payments_per_second": 815.0,
                    "bytes": 17e9,
                    "wal_bytes": 9_500.0,
                }
            ],
        }
        soak = {
            "at": "2025-03-16T00:00:00+00:00",
            "commit": "abc",
            "seconds": 3600.0,
            "payments": 1_500_000,
            "offered_per_second": 410.0,
            "confirmed_p50_ms": 20.0,
            "confirmed_p99_ms": 80.0,
            "memory": {"notifier": {"early_mb": 100.0, "late_mb": 102.0}},
        }
        page = render(results=results(), beside={SIZE: size, SOAK: soak}, plots=())
        assert "| 10 M | 815 | 17.0 GB | 9,500 |" in page
        assert "| notifier | 100 | 102 | +2.0 % |" in page

    def test_escapes_what_would_end_a_cell(self) -> None:
        assert table(("a",), [("b|c",)]).splitlines()[-1] == r"| b\|c |"


class TestResults:
    def test_come_back_from_json_as_they_were(self) -> None:
        found = results(failures=[Failed(run="max", yardstick="dbos", turn=1, reason="why")])
        assert Results.of_json(orjson.loads(orjson.dumps(found.as_json()))) == found

    def test_come_back_without_a_latency_that_was_not_measured(self) -> None:
        found = results()
        blind = replace(found, trials=[replace(found.trials[0], posted=None)])
        assert Results.of_json(orjson.loads(orjson.dumps(blind.as_json()))) == blind


class TestWriting:
    def test_keeps_the_results_for_the_next_page(self, tmp_path: Path) -> None:
        write_report(folder=tmp_path, results=results(), draw=draw_nothing)
        assert read_results(folder=tmp_path) == results()
        page = (tmp_path / "README.md").read_text()
        (tmp_path / "README.md").unlink()
        write_report(folder=tmp_path, results=None, draw=draw_nothing)
        assert (tmp_path / "README.md").read_text() == page

    def test_leaves_the_old_report_whole_when_it_fails(self, tmp_path: Path) -> None:
        folder = tmp_path / "benchmark"
        replace_folder(
            folder=folder,
            fill=lambda path: write_report(folder=path, results=results(), draw=draw_nothing),
        )
        before = {path.name: path.read_bytes() for path in folder.iterdir()}

        def break_off(path: Path) -> None:
            (path / RESULTS).write_bytes(b"half")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            replace_folder(folder=folder, fill=break_off)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert [path.name for path in tmp_path.iterdir()] == ["benchmark"]

    def test_keeps_what_the_other_commands_have_measured(self, tmp_path: Path) -> None:
        folder = tmp_path / "benchmark"
        folder.mkdir()
        (folder / SOAK).write_bytes(b"null")
        replace_folder(
            folder=folder,
            fill=lambda path: write_report(folder=path, results=results(), draw=draw_nothing),
        )
        assert (folder / SOAK).exists()
        assert (folder / "README.md").exists()

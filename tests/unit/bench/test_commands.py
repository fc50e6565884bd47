"""What a benchmark says when it cannot be run, and what its parts work out."""

from pathlib import Path

import orjson
import pytest
from bench.pipeline.__main__ import parse
from bench.pipeline.command import EXIT_INTERRUPTED, EXIT_NO_RESULT, run_to_its_end
from bench.pipeline.machine import DiskTooSmallError, require_space, this_machine
from bench.pipeline.size import MILLION, Point, affordable, loss
from bench.pipeline.soak import growth_of
from bench.pipeline.vegeta import read_report

from paypost.stack.state import StackRunningError


class TestSpace:
    def test_that_is_missing_is_told_before_anything_starts(self, tmp_path: Path) -> None:
        with pytest.raises(DiskTooSmallError, match="GB free; this needs 1000000"):
            require_space(path=tmp_path / "not" / "yet", needed_bytes=10**15)

    def test_that_is_there_is_enough(self, tmp_path: Path) -> None:
        require_space(path=tmp_path, needed_bytes=1)


class TestRunning:
    def end(self, error: BaseException | None, *, space_bytes: int = 1) -> tuple[object, list[str]]:
        said: list[str] = []

        async def work() -> str:
            if error is not None:
                raise error
            return "done"

        try:
            return run_to_its_end(work, say=said.append, space_bytes=space_bytes), said
        except SystemExit as left:
            return left.code, said

    def test_gives_back_what_was_found(self) -> None:
        assert self.end(None) == ("done", [])

    def test_says_what_keeps_it_from_being_run(self) -> None:
        code, said = self.end(StackRunningError(name="bench", owner_pid=7))
        assert code == EXIT_NO_RESULT
        assert said == ["no result: stack 'bench' is up already, run by process 7"]

    def test_says_that_the_disk_is_too_small(self) -> None:
        code, said = self.end(None, space_bytes=10**15)
        assert code == EXIT_NO_RESULT
        assert "GB free" in said[0]

    def test_that_is_interrupted_says_so_and_reports_nothing(self) -> None:
        code, said = self.end(KeyboardInterrupt())
        assert code == EXIT_INTERRUPTED
        assert "nothing is reported" in said[0]


class TestCommandLine:
    def test_refuses_a_run_that_there_is_not(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            parse(["--only", "maximum"])
        assert "no such run: maximum; there are: max, " in capsys.readouterr().err

    def test_refuses_a_yardstick_that_there_is_not(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            parse(["--yardsticks", "temporal"])
        assert "no yardstick 'temporal'" in capsys.readouterr().err

    def test_has_three_rounds_and_one_for_a_short_look(self) -> None:
        assert parse([]).rounds == 3
        assert parse(["--quick"]).rounds == 1
        assert parse(["--quick", "--rounds", "2"]).rounds == 2


class TestMachine:
    def test_is_told_with_what_its_figures_depend_on(self) -> None:
        machine = this_machine()
        assert machine.cores >= 1
        assert machine.memory_gib > 0
        assert {"python", "asyncpg", "aiokafka"} <= set(machine.versions)
        assert len(machine.commit) >= 7


class TestSize:
    def test_is_what_was_wanted_where_there_is_room(self) -> None:
        assert (
            affordable(wanted=MILLION, held=0, bytes_a_payment=2_000, free_bytes=100 * 10**9)
            == MILLION
        )

    def test_is_the_whole_millions_that_there_is_room_for(self) -> None:
        # 92 GB beyond the reserve, at 3,000 bytes a payment while indexes are made.
        found = affordable(
            wanted=100 * MILLION, held=10 * MILLION, bytes_a_payment=2_000, free_bytes=100 * 10**9
        )
        assert found == 40 * MILLION

    def test_never_falls_below_what_is_held(self) -> None:
        assert (
            affordable(wanted=MILLION * 9, held=MILLION, bytes_a_payment=2_000, free_bytes=0)
            == MILLION
        )

    def test_loses_from_the_fewest_to_the_most(self) -> None:
        points = [
            Point(payments=size, rates=rates, bytes=1, wal_bytes=1.0)
            for size, rates in ((1, (800.0, 900.0, 850.0)), (100, (680.0, 700.0, 600.0)))
        ]
        assert loss(points) == pytest.approx(0.2)
        assert loss(points[:1]) is None


class TestGrowth:
    def test_leaves_the_warm_up_out(self) -> None:
        growth = growth_of([50.0] * 10 + [100.0] * 10 + [101.0] * 10 + [104.0] * 10)
        assert growth is not None
        assert (growth.early_mb, growth.late_mb) == (100.0, 104.0)
        assert growth.holds

    @pytest.mark.parametrize("late_mb", [106.0, 121.0])
    def test_that_goes_on_or_is_above_the_limit_does_not_hold(self, late_mb: float) -> None:
        growth = growth_of([100.0] * 30 + [late_mb] * 10)
        assert growth is not None
        assert not growth.holds

    def test_of_too_few_samples_is_unknown(self) -> None:
        assert growth_of([1.0, 2.0, 3.0]) is None


class TestVegeta:
    def test_reports_nanoseconds(self) -> None:
        report = {
            "latencies": {"50th": 1_500_000, "95th": 2, "99th": 12_000_000, "max": 3},
            "requests": 4000,
            "rate": 1000.25,
            "success": 1,
        }
        found = read_report(orjson.dumps(report))
        assert (found.p50_ms, found.p99_ms, found.requests) == (1.5, 12.0, 4000)

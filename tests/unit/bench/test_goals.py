"""Whether a goal is reached: by medians, and never for want of what it is held against."""

from dataclasses import replace

import pytest
from bench.pipeline.goals import (
    Trials,
    Verdict,
    at_least,
    at_most_times,
    below,
    cis_bound,
    rows_of_cis_latency,
    rows_of_maximum,
    rows_of_others,
    rows_of_outages,
)
from bench.pipeline.statistics import Latencies, Middle
from bench.pipeline.trial import Trial
from bench.pipeline.verdicts import rows_of


def trial(run: str, yardstick: str, rate: float, *, turn: int = 1, **extra: float) -> Trial:
    latency = Latencies(count=100, p50_ms=10.0, p99_ms=40.0, worst_ms=50.0)
    return Trial(
        run=run,
        yardstick=yardstick,
        turn=turn,
        payments=1000,
        seconds=1000 / rate,
        payments_per_second=rate,
        acks_per_second=rate,
        ack=latency,
        posted=latency,
        confirmed=latency,
        cpu_us={"kafka": 100.0, "generator": 50.0},
        memory={},
        wal_bytes=9_000.0,
        repeats=0,
        extra=extra,
    )


def figure(median: float) -> Middle:
    return Middle(median=median, least=median, greatest=median, rounds=1)


class TestAtLeast:
    @pytest.mark.parametrize(
        ("of", "verdict"), [(70.0, Verdict.MET), (69.9, Verdict.MISSED), (100.0, Verdict.MET)]
    )
    def test_is_met_from_the_very_share_on(self, of: float, verdict: Verdict) -> None:
        row = at_least(
            run="r", what="w", of=figure(of), to=figure(100.0), to_name="floor", times=0.7
        )
        assert row.verdict is verdict

    def test_is_not_met_without_what_it_is_held_against(self) -> None:
        row = at_least(run="r", what="w", of=figure(900.0), to=None, to_name="floor", times=0.7)
        assert row.verdict is Verdict.NOT_RUN
        assert "no result of floor" in row.measured

    def test_is_not_met_without_a_result_of_its_own(self) -> None:
        row = at_least(run="r", what="w", of=None, to=figure(1.0), to_name="floor", times=0.7)
        assert row.verdict is Verdict.NOT_RUN


class TestAtMost:
    def test_is_missed_above_so_many_times(self) -> None:
        row = at_most_times(
            run="r", what="w", of=figure(15.1), to=figure(10.0), to_name="floor", times=1.5
        )
        assert row.verdict is Verdict.MISSED

    def test_is_met_at_that(self) -> None:
        row = at_most_times(
            run="r", what="w", of=figure(15.0), to=figure(10.0), to_name="floor", times=1.5
        )
        assert row.verdict is Verdict.MET


class TestBelow:
    def test_is_missed_at_the_bound_itself(self) -> None:
        assert below(run="r", what="w", of=figure(20.0), bound=20, unit="ms").verdict is (
            Verdict.MISSED
        )
        assert below(run="r", what="w", of=figure(19.9), bound=20, unit="ms").verdict is (
            Verdict.MET
        )

    def test_is_not_run_without_a_result(self) -> None:
        assert below(run="r", what="w", of=None, bound=20, unit="ms").verdict is Verdict.NOT_RUN


class TestMaximum:
    def test_compares_medians_and_tells_the_spread(self) -> None:
        trials = Trials(
            [trial("max", "paypost", rate, turn=turn) for turn, rate in enumerate((800, 850, 100))]
            + [
                trial("max", "floor", rate, turn=turn)
                for turn, rate in enumerate((1000, 1100, 1050))
            ]
        )
        row = rows_of_maximum(trials)[0]
        assert row.value == pytest.approx(800 / 1050)
        assert row.verdict is Verdict.MET
        assert "800 (100–850)" in row.measured

    def test_holds_itself_against_the_best_of_the_peers(self) -> None:
        trials = Trials(
            [
                trial("max", "paypost", 900.0),
                trial("max", "dbos", 80.0),
                trial("max", "celery-rabbitmq", 120.0),
                trial("max", "celery-redis", 90.0),
            ]
        )
        row = rows_of_maximum(trials)[1]
        assert "celery-rabbitmq" in row.goal
        assert row.value == pytest.approx(7.5)
        assert row.verdict is Verdict.MISSED

    def test_says_which_yardstick_is_not_there(self) -> None:
        rows = rows_of_maximum(Trials([trial("max", "paypost", 900.0)]))
        assert [row.verdict for row in rows] == [Verdict.NOT_RUN] * 3


class TestCisLatency:
    @pytest.mark.parametrize(("latency_ms", "bound"), [(200.0, 320.0), (50.0, 850.0), (5.0, 850.0)])
    def test_is_bound_by_connections_or_by_the_processor(
        self, latency_ms: float, bound: float
    ) -> None:
        assert cis_bound(latency_ms=latency_ms, cpu_bound=850.0) == pytest.approx(bound)

    def test_is_held_against_the_bound_of_each_latency(self) -> None:
        trials = Trials(
            [
                trial("cis-5ms", "paypost", 700.0, even_per_second=850.0),
                trial("cis-50ms", "paypost", 700.0, even_per_second=750.0),
                trial("cis-200ms", "paypost", 310.0, even_per_second=850.0),
            ]
        )
        assert [row.verdict for row in rows_of_cis_latency(trials)] == [
            Verdict.MISSED,
            Verdict.MET,
            Verdict.MET,
        ]


class TestOthers:
    def test_lose_nothing_where_they_keep_their_part_of_the_maximum(self) -> None:
        trials = Trials(
            [
                trial("max-many", "paypost", 2000.0),
                trial("refused", "paypost", 860.0, share_of_others=0.9, even_per_second=1000.0),
                trial("timing-out", "paypost", 940.0, share_of_others=1.0, even_per_second=1000.0),
            ]
        )
        refused, timing_out = rows_of_others(trials)
        assert (refused.verdict, timing_out.verdict) == (Verdict.MET, Verdict.MISSED)


class TestOutages:
    def down(self, **changed: float) -> list[Verdict]:
        figures = {
            "ack_p99_before_ms": 10.0,
            "ack_p99_during_ms": 12.0,
            "drain_seconds": 20.0,
            "overtakings": 0.0,
        } | changed
        trials = Trials([trial("cis-down", "paypost", 400.0, **figures)])
        return [row.verdict for row in rows_of_outages(trials) if row.run == "cis-down"]

    def test_are_met_where_nothing_but_the_backlog_grew(self) -> None:
        assert self.down() == [Verdict.MET] * 3

    def test_are_missed_each_by_itself(self) -> None:
        assert self.down(ack_p99_during_ms=16.0)[0] is Verdict.MISSED
        assert self.down(drain_seconds=61.0)[1] is Verdict.MISSED
        assert self.down(overtakings=1.0)[2] is Verdict.MISSED


class TestRows:
    def test_are_those_of_the_runs_that_were_asked_for(self) -> None:
        trials = Trials([trial("max", "paypost", 900.0)])
        assert {row.run for row in rows_of(trials, runs=frozenset({"max"}))} == {"max"}

    def test_without_any_result_meet_nothing(self) -> None:
        assert {row.verdict for row in rows_of(Trials([]))} == {Verdict.NOT_RUN}

    def test_do_not_read_a_latency_that_was_not_measured(self) -> None:
        blind = replace(trial("latency", "paypost", 200.0), confirmed=None)
        rows = rows_of(Trials([blind]), runs=frozenset({"latency"}))
        assert [row.verdict for row in rows] == [Verdict.NOT_RUN, Verdict.NOT_RUN]

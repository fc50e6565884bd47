"""Which trials are done in which order, and what becomes of those that are no result."""

from collections.abc import Awaitable, Callable

import pytest
from bench.pipeline import session as module
from bench.pipeline.bed import NotStartedError
from bench.pipeline.frame import Bench, Run
from bench.pipeline.goals import Trials
from bench.pipeline.runs import QUICK_RUNS, all_runs
from bench.pipeline.session import Session, check_all, go_through, plan, with_needed
from bench.pipeline.trial import NotProvenError, Trial
from bench.yardsticks.contract import YardstickUnavailableError
from bench.yardsticks.registry import YARDSTICKS, UnknownYardstickError, make_yardstick
from tests.unit.bench.test_goals import trial


async def unmeasured(bench: Bench, *, run: str, yardstick: str, turn: int, trials: Trials) -> Trial:
    raise AssertionError("nothing is measured here")


def run_of(name: str, *yardsticks: str, rounds_max: int = 99, beside: str | None = None) -> Run:
    return Run(
        name=name,
        what=name,
        yardsticks=yardsticks,
        measure=unmeasured,
        rounds_max=rounds_max,
        beside=beside,
    )


class TestPlan:
    def test_interleaves_the_yardsticks_and_turns_their_order_each_round(self) -> None:
        steps = plan(runs=[run_of("max", "a", "b")], rounds=3)
        assert [(step.turn, step.yardstick) for step in steps] == [
            (1, "a"),
            (1, "b"),
            (2, "b"),
            (2, "a"),
            (3, "a"),
            (3, "b"),
        ]

    def test_goes_run_by_run_and_keeps_to_what_a_run_allows(self) -> None:
        steps = plan(runs=[run_of("max", "a", rounds_max=1), run_of("ack", "a")], rounds=2)
        assert [(step.run.name, step.turn) for step in steps] == [
            ("max", 1),
            ("ack", 1),
            ("ack", 2),
        ]

    def test_interleaves_what_is_measured_against_one_another(self) -> None:
        runs = [run_of("max", "a", "b"), run_of("ack", "a"), run_of("hot", "a", beside="max")]
        steps = plan(runs=runs, rounds=2)
        assert [(step.run.name, step.turn, step.yardstick) for step in steps] == [
            ("max", 1, "a"),
            ("max", 1, "b"),
            ("hot", 1, "a"),
            ("hot", 2, "a"),
            ("max", 2, "b"),
            ("max", 2, "a"),
            ("ack", 1, "a"),
            ("ack", 2, "a"),
        ]

    def test_leaves_out_yardsticks_that_are_not_wanted(self) -> None:
        steps = plan(runs=[run_of("max", "a", "b")], rounds=1, yardsticks=["b"])
        assert [step.yardstick for step in steps] == ["b"]

    @pytest.mark.parametrize("wanted", ["latency", "hot"])
    def test_does_first_what_a_run_is_made_of_or_measured_against(self, wanted: str) -> None:
        names = [run.name for run in with_needed(wanted=[wanted], runs=all_runs())]
        assert names == ["max-many", wanted]


class TestRuns:
    def test_use_only_yardsticks_that_there_are(self) -> None:
        for run in all_runs().values():
            assert set(run.yardsticks) <= set(YARDSTICKS)
            assert set(run.needs) <= set(all_runs())

    def test_are_for_a_short_look_the_first_three_of_the_table(self) -> None:
        assert tuple(all_runs())[:3] == QUICK_RUNS


class TestGoingThrough:
    async def go(
        self, answer: Callable[[str, int], Awaitable[Trial]], *yardsticks: str, rounds: int = 1
    ) -> Session:
        async def measure(
            bench: Bench, *, run: str, yardstick: str, turn: int, trials: Trials
        ) -> Trial:
            return await answer(yardstick, turn)

        run = Run(name="max", what="max", yardsticks=yardsticks, measure=measure)
        found = Session()
        await go_through(bench=Bench(), steps=list(plan(runs=[run], rounds=rounds)), session=found)
        return found

    @pytest.mark.parametrize(
        "error",
        [
            NotProvenError(why="1 posted again"),
            NotStartedError(yardstick="a", reason="port in use"),
            TimeoutError(),
            ConnectionResetError("closed"),
        ],
    )
    async def test_notes_what_is_no_result_and_goes_on(self, error: Exception) -> None:
        async def answer(yardstick: str, _turn: int) -> Trial:
            if yardstick == "a":
                raise error
            return trial("max", yardstick, 100.0)

        found = await self.go(answer, "a", "b")
        assert [each.yardstick for each in found.trials] == ["b"]
        assert [(each.yardstick, each.available) for each in found.failures] == [("a", True)]

    async def test_does_not_try_again_what_is_not_there(self) -> None:
        asked = []

        async def answer(yardstick: str, turn: int) -> Trial:
            asked.append((yardstick, turn))
            raise YardstickUnavailableError(yardstick=yardstick, missing="rabbitmq-server")

        found = await self.go(answer, "a", rounds=3)
        assert asked == [("a", 1)]
        assert [each.available for each in found.failures] == [False]

    async def test_ends_with_a_defect_of_its_own(self) -> None:
        async def answer(_yardstick: str, _turn: int) -> Trial:
            raise KeyError("a defect")

        with pytest.raises(KeyError):
            await self.go(answer, "a")


class TestChecking:
    async def test_says_beforehand_which_yardstick_lacks_what(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lacking(*, name: str) -> object:
            raise YardstickUnavailableError(yardstick=name, missing="No module named 'dbos'")

        monkeypatch.setattr(module, "make_yardstick", lacking)
        said: list[str] = []
        found = Session()
        await check_all(yardsticks=["dbos"], session=found, say=said.append)
        assert found.is_absent(yardstick="dbos")
        assert "No module named 'dbos'" in said[0]

    def test_knows_no_yardstick_by_another_name(self) -> None:
        with pytest.raises(UnknownYardstickError, match="paypost"):
            make_yardstick(name="payposd")

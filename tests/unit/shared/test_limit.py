import random
from datetime import timedelta

import pytest

from shared.errors import PermanentError, TransientError
from shared.work.backoff import Backoff
from shared.work.limit import AdaptiveLimit, Breaker, FixedLimit, RateLimit
from shared.work.patience import patiently


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker(time: Time) -> Breaker:
    return Breaker(failures_max=3, pause_seconds=2, pause_seconds_max=8, monotonic=time)


def opened(time: Time) -> Breaker:
    found = breaker(time)
    for _ in range(3):
        found.failed()
    return found


class TestBreaker:
    def test_lets_calls_through_at_first(self):
        found = breaker(Time())
        assert found.state == "closed"
        assert not found.holds
        assert found.allow()
        assert found.wait_seconds == 0

    def test_opens_after_so_many_failures_in_a_row(self):
        found = breaker(Time())
        found.failed()
        found.failed()
        assert found.state == "closed"
        found.failed()
        assert found.state == "open"
        assert found.holds
        assert not found.allow()
        assert found.wait_seconds == 2

    def test_forgets_failures_at_a_success(self):
        found = breaker(Time())
        for _ in range(5):
            found.failed()
            found.failed()
            found.succeeded()
        assert found.state == "closed"

    def test_lets_one_probe_through_after_its_pause(self):
        time = Time()
        found = opened(time)
        time.now += 2
        assert found.state == "half_open"
        assert found.holds
        assert found.allow()
        assert not found.allow()

    def test_closes_when_the_probe_succeeds(self):
        time = Time()
        found = opened(time)
        time.now += 2
        found.allow()
        found.succeeded()
        assert found.state == "closed"
        assert found.allow()

    def test_pauses_longer_after_each_failed_probe_up_to_its_bound(self):
        time = Time()
        found = opened(time)
        pauses = []
        for _ in range(4):
            pauses.append(found.wait_seconds)
            time.now += found.wait_seconds
            assert found.allow()
            found.failed()
        assert pauses == [2, 4, 8, 8]

    def test_begins_with_the_short_pause_again_once_it_has_closed(self):
        time = Time()
        found = opened(time)
        time.now += 2
        found.allow()
        found.failed()
        time.now += 4
        found.allow()
        found.succeeded()
        for _ in range(3):
            found.failed()
        assert found.wait_seconds == 2

    def test_is_not_held_open_longer_by_calls_that_were_already_on_their_way(self):
        time = Time()
        found = opened(time)
        time.now += 1
        found.failed()
        assert found.wait_seconds == 1


class TestAdaptiveLimit:
    def test_doubles_with_each_round_of_answers_at_first(self):
        limit = AdaptiveLimit(minimum=1, initial=4, maximum=64)
        for _ in range(4):
            limit.succeeded()
        assert limit.now == 8

    def test_gains_one_a_round_above_half_of_what_was_too_much(self):
        limit = AdaptiveLimit(minimum=1, initial=8, maximum=64)
        limit.overloaded()
        for _ in range(5):
            limit.succeeded()
        assert limit.now == 5

    def test_comes_back_from_an_outage_as_fast_as_it_began(self):
        limit = AdaptiveLimit(minimum=1, initial=64, maximum=64)
        for _ in range(64):
            limit.overloaded()
        assert limit.now == 1
        for _ in range(31):
            limit.succeeded()
        assert limit.now == 32
        limit.succeeded()
        assert limit.now == 32

    def test_halves_when_the_system_is_overloaded(self):
        limit = AdaptiveLimit(minimum=1, initial=16, maximum=64)
        limit.overloaded()
        assert limit.now == 8

    def test_never_leaves_its_bounds(self):
        limit = AdaptiveLimit(minimum=2, initial=4, maximum=6)
        for _ in range(100):
            limit.succeeded()
        assert limit.now == 6
        for _ in range(100):
            limit.overloaded()
        assert limit.now == 2

    def test_comes_back_from_its_minimum(self):
        limit = AdaptiveLimit(minimum=1, initial=1, maximum=8)
        for _ in range(100):
            limit.succeeded()
        assert limit.now == 8


class TestFixedLimit:
    def test_does_not_move(self):
        assert FixedLimit(calls=7).now == 7


class Always(random.Random):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


class TestBackoff:
    @pytest.mark.parametrize(
        ("attempts", "shortest", "longest"),
        [(0, 0.25, 0.5), (1, 0.25, 0.5), (2, 0.5, 1), (3, 1, 2), (8, 30, 60), (50, 30, 60)],
    )
    def test_doubles_up_to_its_cap_between_half_and_all_of_the_step(
        self, attempts, shortest, longest
    ):
        delays = [
            Backoff().delay(attempts=attempts, randomness=Always(chance)) for chance in (0.0, 1.0)
        ]
        assert delays == [timedelta(seconds=shortest), timedelta(seconds=longest)]

    def test_still_answers_after_an_outage_of_days(self):
        assert Backoff().delay(attempts=100_000, randomness=Always(1.0)) == timedelta(seconds=60)


class TestRateLimit:
    def test_spaces_turns_evenly(self):
        found = RateLimit(per_second=4, monotonic=Time())
        assert [found.reserve() for _ in range(4)] == [0, 0.25, 0.5, 0.75]

    def test_lets_a_burst_through_and_no_more(self):
        found = RateLimit(per_second=4, burst=3, monotonic=Time())
        assert [found.reserve() for _ in range(5)] == [0, 0, 0, 0.25, 0.5]

    def test_saves_no_more_than_its_burst_while_idle(self):
        time = Time()
        found = RateLimit(per_second=4, burst=2, monotonic=time)
        found.reserve()
        time.now += 3600
        assert [found.reserve() for _ in range(3)] == [0, 0, 0.25]

    def test_keeps_to_its_rate_over_time(self):
        time = Time()
        found = RateLimit(per_second=10, monotonic=time)
        turns = 0
        while time.now < 110.0:
            if found.reserve() > 0.25:
                # Whoever comes now has to wait: the caller does.
                time.now += 0.25
            turns += 1
        assert turns <= 10 * 10 + 4

    async def test_waits_for_nothing_when_it_is_its_turn(self):
        await RateLimit(per_second=0.001, monotonic=Time()).wait()


class TestPatience:
    async def test_repeats_what_fails_for_now_until_it_passes(self):
        calls = []

        async def act() -> str:
            calls.append(1)
            if len(calls) < 3:
                raise TransientError("not yet")
            return "done"

        assert await patiently(act, patience_seconds=5) == "done"

    async def test_ends_with_the_last_failure(self):
        async def act() -> None:
            raise TransientError("away")

        with pytest.raises(TransientError, match="away"):
            await patiently(act, patience_seconds=0.1)

    async def test_passes_any_other_error_at_once(self):
        calls = []

        async def act() -> None:
            calls.append(1)
            raise PermanentError("never")

        with pytest.raises(PermanentError):
            await patiently(act, patience_seconds=5)
        assert calls == [1]

import pytest

from payment_intake.usecases import CatchingUp
from payment_intake.usecases.following import CAUGHT_UP_MIN, CAUGHT_UP_SECONDS

ALL_LATE = [31.0] * CAUGHT_UP_MIN


class TestCatchingUp:
    def test_is_not_under_way_before_anything_came_through(self):
        assert not CatchingUp(late_seconds=30).is_under_way

    @pytest.mark.parametrize("waited", [[], [*ALL_LATE, 30.0], ALL_LATE[1:]])
    def test_is_not_told_by_a_few_nor_where_one_was_in_time(self, waited):
        catching_up = CatchingUp(late_seconds=30)
        catching_up.came_through(waited)
        assert not catching_up.is_under_way

    def test_ends_some_seconds_after_the_last_of_such_batches(self):
        now = [100.0]
        catching_up = CatchingUp(late_seconds=30, monotonic=lambda: now[0])
        catching_up.came_through(ALL_LATE)
        now[0] += CAUGHT_UP_SECONDS - 1
        catching_up.came_through(ALL_LATE)
        now[0] += CAUGHT_UP_SECONDS - 1
        assert catching_up.is_under_way
        now[0] += 1
        assert not catching_up.is_under_way

from datetime import timedelta

import pytest
from tests.support.intake import NOW

from payment_intake.usecases import CatchingUp
from payment_intake.usecases.following import (
    CAUGHT_UP_MIN,
    CAUGHT_UP_SECONDS,
    NEXT_IN_TURN,
    Turn,
    Wait,
)


def waits(*seconds: float) -> list[Wait]:
    return [Wait(since=NOW - timedelta(seconds=each), until=NOW) for each in seconds]


ALL_LATE = waits(*[31.0] * CAUGHT_UP_MIN)


class TestCatchingUp:
    def test_is_not_under_way_before_anything_came_through(self):
        catching_up = CatchingUp(late_seconds=30)
        assert not catching_up.is_under_way
        assert catching_up.turn is None

    @pytest.mark.parametrize("came", [[], ALL_LATE + waits(30.0), ALL_LATE[1:]])
    def test_is_not_told_by_a_few_nor_where_one_was_in_time(self, came):
        catching_up = CatchingUp(late_seconds=30)
        catching_up.came_through(came, are_posted=True)
        assert not catching_up.is_under_way

    def test_ends_some_seconds_after_the_last_of_such_batches(self):
        now = [100.0]
        catching_up = CatchingUp(late_seconds=30, monotonic=lambda: now[0])
        catching_up.came_through(ALL_LATE, are_posted=True)
        now[0] += CAUGHT_UP_SECONDS - 1
        catching_up.came_through(ALL_LATE, are_posted=True)
        now[0] += CAUGHT_UP_SECONDS - 1
        assert catching_up.is_under_way
        assert catching_up.turn is not None
        now[0] += 1
        assert not catching_up.is_under_way
        assert catching_up.turn is None


class TestTurn:
    def test_is_around_what_was_late_and_is_posted_whatever_else_was_in_time(self):
        catching_up = CatchingUp(late_seconds=30)
        late = [40.0 + each for each in range(CAUGHT_UP_MIN)]
        catching_up.came_through(waits(1.0, *late, 29.0), are_posted=True)
        assert catching_up.turn == Turn(
            since=NOW - timedelta(seconds=late[-1]) - NEXT_IN_TURN,
            until=NOW - timedelta(seconds=late[0]) + NEXT_IN_TURN,
        )

    @pytest.mark.parametrize(("came", "are_posted"), [(ALL_LATE, False), (ALL_LATE[1:], True)])
    def test_is_nobodys_where_few_are_posted_late(self, came, are_posted):
        catching_up = CatchingUp(late_seconds=30)
        catching_up.came_through(came, are_posted=are_posted)
        assert catching_up.turn is None

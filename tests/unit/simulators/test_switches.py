import random

import pytest

from paypost.simulators.cis.switches import FIND, POST, Switches
from paypost.simulators.faults import MalformedSwitchError
from paypost.simulators.mail.switches import Switches as MailSwitches


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def switches(*, monotonic: Time | None = None) -> Switches:
    return Switches(chance=random.Random(7), monotonic=monotonic or Time())


class TestCisSwitches:
    def test_are_all_off_at_first(self) -> None:
        off = switches()
        assert off.quiet
        assert set(off.describe().values()) == {0.0, 300_000.0}

    def test_count_the_matches_and_then_go_off(self) -> None:
        on = switches()
        on.change({"error_before_apply": {"count": 2}})
        hits = [on.meets("error_before_apply", operation=POST, accounts={"A"}) for _ in range(4)]
        assert hits == [True, True, False, False]
        assert on.quiet

    def test_meet_only_the_accounts_and_operations_that_are_named(self) -> None:
        on = switches()
        on.change({"down": {"accounts": ["A"], "operations": ["post"]}})
        assert on.meets("down", operation=POST, accounts={"A", "B"})
        assert not on.meets("down", operation=POST, accounts={"B"})
        assert not on.meets("down", operation=FIND, accounts={"A"})

    def test_meet_a_share_by_chance(self) -> None:
        on = switches()
        on.change({"hang": {"share": 0.25}})
        hits = sum(on.meets("hang", operation=POST, accounts=()) for _ in range(4_000))
        assert 900 < hits < 1_100

    def test_flap_down_in_the_second_half_of_each_period(self) -> None:
        time = Time()
        on = switches(monotonic=time)
        on.change({"flapping": {"period_ms": 1_000}})
        seen = []
        for time.now in (0.1, 0.6, 1.1, 1.6):
            seen.append(on.flapped_down())
        assert seen == [False, True, False, True]

    def test_change_all_or_nothing(self) -> None:
        on = switches()
        with pytest.raises(MalformedSwitchError):
            on.change({"down": True, "dwon": True})
        assert on.quiet

    @pytest.mark.parametrize(
        "wanted",
        [
            {"down": {"shaer": 0.1}},
            {"down": {"share": 2}},
            {"down": {"count": -1}},
            {"down": 3},
            {"down": {"operations": ["pay"]}},
            {"latency_ms": -1},
            [],
        ],
    )
    def test_refuse_what_they_do_not_understand(self, wanted: object) -> None:
        with pytest.raises(MalformedSwitchError):
            switches().change(wanted)

    def test_let_go_what_hangs_when_reset(self) -> None:
        on = switches()
        on.change({"hang": True})
        waiting = on.let_go
        on.change({"latency_ms": 5})
        assert not waiting.is_set()
        on.reset()
        assert waiting.is_set()


class TestMailSwitches:
    def test_meet_only_the_addresses_that_are_named(self) -> None:
        on = MailSwitches(chance=random.Random(7))
        on.change({"temporary_failure": {"addresses": ["a@example.org"], "count": 1}})
        assert not on.meets("temporary_failure", addresses=["b@example.org"])
        assert on.meets("temporary_failure", addresses=["a@example.org"])
        assert not on.meets("temporary_failure", addresses=["a@example.org"])

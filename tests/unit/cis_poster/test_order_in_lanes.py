"""What could overtake in memory: each of these once did, or nearly."""

import asyncio
from collections.abc import Sequence

from tests.support.turns import turns

from shared.work.lanes import Lanes
from shared.work.limit import Breaker, FixedLimit

Item = tuple[str, int]


class Desk:
    """Lanes whose calls wait for the test, and what they did."""

    def __init__(self, *, items_max: int = 100) -> None:
        self.acted: list[Item] = []
        self.given_up: list[Item] = []
        self.failing: set[str] = set()
        self.gate = asyncio.Event()
        self.give_up_gate = asyncio.Event()
        self.give_up_gate.set()
        self.lanes: Lanes[Item] = Lanes(
            lane_of=lambda item: item[0],
            act=self._act,
            settle=self._settle,
            give_up=self._give_up,
            limit=FixedLimit(calls=8),
            batch_size_max=1,
            items_max=items_max,
        )

    async def _act(self, items: Sequence[Item]) -> Sequence[Item]:
        await self.gate.wait()
        self.acted.extend(items)
        return items

    async def _settle(self, items: Sequence[Item]) -> Sequence[bool]:
        return [lane not in self.failing for lane, _ in items]

    async def _give_up(self, items: Sequence[Item]) -> None:
        await self.give_up_gate.wait()
        self.given_up.extend(items)


class TestLanes:
    async def test_hold_back_what_a_stop_during_its_take_has_left_behind(self) -> None:
        desk = Desk()
        desk.failing = {"a"}
        await desk.lanes.put([("a", 1)], ticket=desk.lanes.ticket())
        ticket = desk.lanes.ticket()
        desk.gate.set()
        await turns()
        await desk.lanes.put([("a", 2), ("b", 1)], ticket=ticket)
        await turns()
        assert desk.acted == [("a", 1), ("b", 1)]
        assert desk.given_up == [("a", 2)]

    async def test_notice_a_stop_that_falls_into_the_giving_up_of_another_lane(self) -> None:
        desk = Desk()
        desk.failing = {"a", "b"}
        ticket = desk.lanes.ticket()
        await desk.lanes.put([("a", 1)], ticket=ticket)
        desk.gate.set()
        await turns()
        desk.gate.clear()
        await desk.lanes.put([("b", 1)], ticket=desk.lanes.ticket())
        # "a" has stopped since the ticket; giving up its item takes a while.
        desk.give_up_gate.clear()
        putting = asyncio.create_task(desk.lanes.put([("a", 2), ("b", 2)], ticket=ticket))
        await turns()
        desk.gate.set()
        await turns()
        desk.give_up_gate.set()
        await putting
        await turns()
        assert desk.acted == [("a", 1), ("b", 1)]
        assert sorted(desk.given_up) == [("a", 2), ("b", 2)]

    async def test_say_what_of_a_lane_is_in_hand_called_or_waiting(self) -> None:
        desk = Desk()
        assert desk.lanes.in_hand("a") == []
        await desk.lanes.put([("a", 1), ("b", 1), ("a", 2)], ticket=0)
        await turns()
        assert desk.lanes.in_hand("a") == [("a", 1), ("a", 2)]
        desk.gate.set()
        await turns()
        assert desk.lanes.in_hand("a") == []

    async def test_give_back_what_waits_for_room_when_they_close(self) -> None:
        desk = Desk(items_max=1)
        await desk.lanes.put([("a", 1)], ticket=0)
        putting = asyncio.create_task(desk.lanes.put([("b", 1)], ticket=0))
        await turns()
        closing = asyncio.create_task(desk.lanes.close())
        await turns()
        desk.gate.set()
        await asyncio.gather(putting, closing)
        assert desk.acted == [("a", 1)]
        assert desk.given_up == [("b", 1)]
        assert desk.lanes.held == 0
        assert desk.lanes.room == 0


class TestBreaker:
    def test_is_open_while_its_probe_is_under_way(self) -> None:
        now = 0.0
        breaker = Breaker(
            failures_max=1, pause_seconds=1, pause_seconds_max=4, monotonic=lambda: now
        )
        breaker.failed()
        now = 1.5
        assert breaker.state == "half_open"
        assert breaker.allow()
        assert breaker.state == "open"
        assert not breaker.allow()
        breaker.failed()
        now = 3.0
        assert breaker.state == "open"
        now = 3.6
        assert breaker.allow()
        breaker.succeeded()
        assert breaker.state == "closed"

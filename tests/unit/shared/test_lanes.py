import asyncio
from collections import defaultdict
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.turns import turns

from shared.work.lanes import Lanes
from shared.work.limit import FixedLimit

Item = tuple[str, int]
"""A lane and a number within it."""


class Act:
    """Settles what it gets, but for `unsettled`; each call waits until it is let go."""

    def __init__(self) -> None:
        self.calls: list[list[Item]] = []
        self.unsettled: set[Item] = set()
        self.defect: set[Item] = set()
        self.open = asyncio.Event()
        self.open.set()
        self.in_flight = 0
        self.in_flight_max = 0

    async def __call__(self, items: Sequence[Item]) -> Sequence[bool]:
        self.calls.append(list(items))
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            await self.open.wait()
            await asyncio.sleep(0)
        finally:
            self.in_flight -= 1
        if self.defect & set(items):
            raise RuntimeError("a defect")
        return [item not in self.unsettled for item in items]

    @property
    def items(self) -> list[Item]:
        return [item for call in self.calls for item in call]


class Settle:
    """Settles as `act` has found it, once it is let go."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, found: Sequence[bool]) -> Sequence[bool]:
        await self.open.wait()
        return found


class GivenUp:
    """Keeps what was given up; `while_giving` runs in the midst of it, as a database would."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.while_giving = None

    async def __call__(self, items: Sequence[Item]) -> None:
        if self.while_giving is not None:
            act, self.while_giving = self.while_giving, None
            await act()
        self.items.extend(items)


async def found_by_act(found: Sequence[bool]) -> Sequence[bool]:
    return found


def lanes(
    act, given_up=None, *, settle=None, calls=8, batch_size_max=1, items_max=1000, alone=None
) -> Lanes:
    return Lanes(
        lane_of=lambda item: item[0],
        act=act,
        settle=settle or found_by_act,
        give_up=given_up or GivenUp(),
        limit=FixedLimit(calls=calls),
        batch_size_max=batch_size_max,
        items_max=items_max,
        **({"alone": alone} if alone else {}),
    )


async def put(found: Lanes, *items: Item) -> None:
    await found.put(items, ticket=found.ticket())


async def settled(found: Lanes) -> None:
    async with asyncio.timeout(2):
        # Nothing tells of the end: the calls are tasks of the lanes themselves.
        while found.held:  # noqa: ASYNC110
            await asyncio.sleep(0)


class TestLanes:
    async def test_keep_order_within_a_lane(self):
        act = Act()
        found = lanes(act)
        await put(found, ("a", 1), ("a", 2), ("a", 3))
        await settled(found)
        assert act.items == [("a", 1), ("a", 2), ("a", 3)]
        assert act.in_flight_max == 1

    async def test_call_for_several_lanes_at_once(self):
        act = Act()
        found = lanes(act)
        await put(found, ("a", 1), ("b", 1), ("c", 1))
        await settled(found)
        assert act.in_flight_max == 3

    async def test_keep_to_the_limit_of_calls(self):
        act = Act()
        found = lanes(act, calls=2)
        await put(found, *((f"lane {n}", 1) for n in range(20)))
        await settled(found)
        assert act.in_flight_max == 2
        assert len(act.items) == 20

    async def test_begin_the_next_call_while_the_last_is_being_settled(self):
        act, settle = Act(), Settle()
        found = lanes(act, settle=settle, calls=1)
        await put(found, *((lane, n) for lane in "abcd" for n in (1, 2)))
        await turns()
        # One more than is called: what is called and not settled is bounded by the same limit.
        assert act.items == [("a", 1), ("b", 1)]
        settle.open.set()
        await settled(found)
        assert act.in_flight_max == 1
        assert sorted(act.items) == [(lane, n) for lane in "abcd" for n in (1, 2)]

    async def test_keep_a_lane_waiting_until_its_item_is_settled(self):
        act, settle, given_up = Act(), Settle(), GivenUp()
        act.unsettled = {("a", 1)}
        found = lanes(act, given_up, settle=settle)
        await put(found, ("a", 1), ("a", 2))
        await turns()
        assert act.items == [("a", 1)]
        assert found.in_hand("a")
        settle.open.set()
        await settled(found)
        assert given_up.items == [("a", 2)]

    async def test_take_a_defect_of_settle_as_not_settled(self):
        async def broken(found: Sequence[bool]) -> Sequence[bool]:
            raise RuntimeError("a defect")

        act, given_up = Act(), GivenUp()
        found = lanes(act, given_up, settle=broken, calls=1)
        await put(found, ("a", 1), ("a", 2), ("b", 1))
        await settled(found)
        assert act.items == [("a", 1), ("b", 1)]
        assert given_up.items == [("a", 2)]

    async def test_wait_for_what_is_being_settled_when_they_close(self):
        act, settle, given_up = Act(), Settle(), GivenUp()
        found = lanes(act, given_up, settle=settle, calls=1)
        await put(found, ("a", 1), ("a", 2))
        await turns()
        closing = asyncio.create_task(found.close())
        await turns()
        assert not closing.done()
        settle.open.set()
        await closing
        assert given_up.items == [("a", 2)]
        assert found.held == 0

    async def test_fill_a_call_from_several_lanes_up_to_its_bound(self):
        act = Act()
        found = lanes(act, calls=1, batch_size_max=4)
        await put(found, ("a", 1), ("a", 2), ("b", 1), ("c", 1), ("c", 2))
        await settled(found)
        assert act.calls == [[("a", 1), ("a", 2), ("b", 1), ("c", 1)], [("c", 2)]]

    async def test_do_not_let_one_lane_hold_up_another(self):
        act = Act()
        act.unsettled = {("a", 1)}
        found = lanes(act)
        await put(found, ("a", 1), ("a", 2), ("b", 1), ("b", 2))
        await settled(found)
        assert {("b", 1), ("b", 2)} <= set(act.items)
        assert ("a", 2) not in act.items

    async def test_give_up_the_rest_of_a_lane_whose_item_is_not_settled(self):
        act, given_up = Act(), GivenUp()
        act.unsettled = {("a", 2)}
        found = lanes(act, given_up)
        await put(found, *(("a", n) for n in range(1, 5)))
        await settled(found)
        assert act.items == [("a", 1), ("a", 2)]
        assert given_up.items == [("a", 3), ("a", 4)]
        assert not found.in_hand("a")

    async def test_take_a_defect_of_act_as_not_settled(self):
        act, given_up = Act(), GivenUp()
        act.defect = {("a", 1)}
        found = lanes(act, given_up)
        await put(found, ("a", 1), ("a", 2))
        await settled(found)
        assert given_up.items == [("a", 2)]

    async def test_take_an_answer_of_the_wrong_length_as_not_settled(self):
        async def forgetful(items: Sequence[Item]) -> Sequence[bool]:
            return [True][: len(items) - 1]

        given_up = GivenUp()
        found = lanes(forgetful, given_up, batch_size_max=2)
        await put(found, ("a", 1), ("a", 2), ("a", 3))
        await settled(found)
        assert given_up.items == [("a", 3)]
        assert not found.in_hand("a")

    async def test_hold_back_what_a_stop_has_overtaken(self):
        act, given_up = Act(), GivenUp()
        act.unsettled = {("a", 1)}
        found = lanes(act, given_up)
        ticket = found.ticket()
        await put(found, ("a", 1))
        await settled(found)
        await found.put([("a", 2), ("b", 1)], ticket=ticket)
        await settled(found)
        assert given_up.items == [("a", 2)]
        assert act.items == [("a", 1), ("b", 1)]

    async def test_take_items_with_a_ticket_from_after_the_stop(self):
        act, given_up = Act(), GivenUp()
        act.unsettled = {("a", 1)}
        found = lanes(act, given_up)
        await put(found, ("a", 1))
        await settled(found)
        act.unsettled = set()
        await put(found, ("a", 1))
        await settled(found)
        assert act.items == [("a", 1), ("a", 1)]
        assert given_up.items == []

    async def test_queue_what_they_take_before_they_give_anything_up(self):
        act, given_up = Act(), GivenUp()
        act.unsettled = {("a", 1), ("b", 2)}
        found = lanes(act, given_up)
        ticket = found.ticket()
        await put(found, ("a", 1))
        await settled(found)

        async def put_a_later_one() -> None:
            await put(found, ("b", 3))
            await settled(found)

        given_up.while_giving = put_a_later_one
        await found.put([("a", 2), ("b", 2)], ticket=ticket)
        await settled(found)
        assert act.items == [("a", 1), ("b", 2)]
        assert sorted(given_up.items) == [("a", 2), ("b", 3)]

    async def test_send_a_suspect_item_alone(self):
        act = Act()
        found = lanes(act, calls=1, batch_size_max=10, alone=lambda item: item[1] == 9)
        await put(found, ("a", 1), ("a", 9), ("a", 2), ("b", 1), ("b", 9), ("c", 1))
        await settled(found)
        assert [("a", 9)] in act.calls
        assert [("b", 9)] in act.calls
        assert [item for item in act.items if item[0] == "a"] == [("a", 1), ("a", 9), ("a", 2)]

    async def test_make_a_put_wait_while_they_are_full(self):
        act = Act()
        act.open.clear()
        found = lanes(act, items_max=2)
        await put(found, ("a", 1), ("b", 1))
        assert found.room == 0
        waiting = asyncio.create_task(put(found, ("c", 1)))
        await asyncio.sleep(0)
        assert not waiting.done()
        act.open.set()
        await waiting
        await settled(found)
        assert ("c", 1) in act.items
        assert found.room == 2

    async def test_finish_what_is_in_flight_and_give_up_the_rest_when_they_close(self):
        act, given_up = Act(), GivenUp()
        act.open.clear()
        found = lanes(act, given_up, calls=1)
        await put(found, ("a", 1), ("a", 2), ("b", 1))
        closing = asyncio.create_task(found.close())
        await asyncio.sleep(0)
        assert not closing.done()
        act.open.set()
        await closing
        assert act.items == [("a", 1)]
        assert sorted(given_up.items) == [("a", 2), ("b", 1)]
        assert found.held == 0

    async def test_give_up_at_once_what_comes_after_they_have_closed(self):
        act, given_up = Act(), GivenUp()
        found = lanes(act, given_up)
        await found.close()
        await put(found, ("a", 1))
        assert given_up.items == [("a", 1)]
        assert act.items == []
        assert found.held == 0

    async def test_know_what_they_have_in_hand(self):
        act = Act()
        act.open.clear()
        found = lanes(act)
        await put(found, ("a", 1))
        assert found.in_hand("a")
        assert not found.in_hand("b")
        act.open.set()
        await settled(found)
        assert not found.in_hand("a")

    async def test_go_on_when_giving_up_fails(self):
        async def broken(items: Sequence[Item]) -> None:
            raise OSError("the database is away")

        act = Act()
        act.unsettled = {("a", 1)}
        found = lanes(act, broken)
        await put(found, ("a", 1), ("a", 2), ("b", 1))
        await settled(found)
        await put(found, ("c", 1))
        await settled(found)
        assert {("b", 1), ("c", 1)} <= set(act.items)


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(
        st.tuples(st.sampled_from("abcd"), st.booleans(), st.booleans()), min_size=1, max_size=40
    ),
    calls=st.integers(1, 4),
    batch_size_max=st.integers(1, 5),
    puts=st.integers(1, 5),
)
def test_whatever_happens_nothing_overtakes_within_a_lane_and_nothing_is_lost(
    items, calls, batch_size_max, puts
):
    async def play() -> None:
        numbered = [(lane, n) for n, (lane, _, _) in enumerate(items)]
        act, given_up = Act(), GivenUp()
        act.unsettled = {one for one, (_, fails, _) in zip(numbered, items, strict=True) if fails}
        alone = {one for one, (_, _, apart) in zip(numbered, items, strict=True) if apart}
        found = lanes(
            act, given_up, calls=calls, batch_size_max=batch_size_max, alone=alone.__contains__
        )
        ticket = found.ticket()
        size = -(-len(numbered) // puts)
        for start in range(0, len(numbered), size):
            await found.put(numbered[start : start + size], ticket=ticket)
            await asyncio.sleep(0)
        await settled(found)

        assert sorted(act.items + given_up.items, key=lambda one: one[1]) == numbered
        assert all(len(call) == 1 for call in act.calls if alone & set(call))
        assert all(len(call) <= batch_size_max for call in act.calls)
        by_lane = defaultdict(list)
        for lane, number in act.items:
            by_lane[lane].append(number)
        for lane, acted in by_lane.items():
            assert acted == sorted(acted)
            later = [number for name, number in given_up.items if name == lane]
            assert not later or max(acted) < min(later)

    asyncio.run(play())

"""Runs work concurrently across lanes and in order within one; a lane is an account.

Invariant: of one lane at most one call is in flight, and a lane whose item could not be settled
gives up all that it holds, so that nothing overtakes. Trouble in one lane holds up no other.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import structlog

Item = TypeVar("Item")
Done = TypeVar("Done")

STOPS_REMEMBERED_MAX = 20_000

_log = structlog.get_logger(__name__)


class Limit(Protocol):
    """How many calls may be in flight now."""

    @property
    def now(self) -> int: ...


class Lanes(Generic[Item]):
    """A bounded set of in-memory lanes in front of one `act`.

    `act` gets up to `batch_size_max` items from any lanes, in order within each; that is the call
    which `limit` counts. `settle` gets what `act` has returned, and returns for each item whether
    it is settled: its lane waits for that, the next call for other lanes does not. An item that is
    to go `alone` shares its call with no other, so that one suspected of trouble spoils none. The
    rest of a lane that is not settled goes to `give_up`, as does everything that waits when the
    lanes are closed.
    """

    def __init__(
        self,
        *,
        lane_of: Callable[[Item], Hashable],
        act: Callable[[Sequence[Item]], Awaitable[Done]],
        settle: Callable[[Done], Awaitable[Sequence[bool]]],
        give_up: Callable[[Sequence[Item]], Awaitable[None]],
        limit: Limit,
        batch_size_max: int,
        items_max: int,
        alone: Callable[[Item], bool] = lambda _: False,
    ) -> None:
        self._lane_of = lane_of
        self._act: Callable[[Sequence[Item]], Awaitable[Any]] = act
        self._settle: Callable[[Any], Awaitable[Sequence[bool]]] = settle
        self._give_up = give_up
        self._limit = limit
        self._batch_size_max = batch_size_max
        self._items_max = items_max
        self._alone = alone
        self._waiting: dict[Hashable, deque[Item]] = {}
        self._in_call: dict[Hashable, Sequence[Item]] = {}
        self._ready: deque[Hashable] = deque()
        self._held = 0
        self._calls: set[asyncio.Task[None]] = set()
        self._settling = 0
        self._room = asyncio.Event()
        self._room.set()
        self._closing = False
        self._stops = 0
        self._stopped_at: dict[Hashable, int] = {}

    @property
    def held(self) -> int:
        """How many items wait or are in flight."""
        return self._held

    def in_hand(self, lane: Hashable) -> list[Item]:
        """Return what a lane holds, in its order: what is put now comes right behind it."""
        return [*self._in_call.get(lane, ()), *self._waiting.get(lane, ())]

    @property
    def room(self) -> int:
        """How many more items fit under the bound now; none once the lanes are closing."""
        return 0 if self._closing else max(0, self._items_max - self._held)

    def ticket(self) -> int:
        """Return what `put` needs to notice that a lane has stopped in the meantime.

        Taken before the database is asked what is unsettled: a lane that stops between that
        question and `put` holds back the items, since an earlier one now waits before them.
        """
        return self._stops

    async def put(self, items: Sequence[Item], *, ticket: int) -> None:
        """Queue items in their order; waits while the bound is reached.

        What comes after the closing is given up at once, not left under its lease.
        """
        while self._held >= self._items_max:
            self._room.clear()
            await self._room.wait()
        # Nothing is awaited from here to the last item: what stops meanwhile would be overtaken.
        held_back = []
        for item in items:
            lane = self._lane_of(item)
            if self._closing or self._stopped_at.get(lane, 0) > ticket:
                held_back.append(item)
                continue
            queue = self._waiting.get(lane)
            if queue is None:
                self._waiting[lane] = deque((item,))
                self._ready.append(lane)
            else:
                queue.append(item)
        self._held += len(items) - len(held_back)
        self._dispatch()
        if held_back:
            await self._give_up(held_back)

    async def close(self) -> None:
        """Stop starting calls, wait for those in flight, give up the rest."""
        self._closing = True
        while self._calls:
            await asyncio.wait(set(self._calls))
        left = [item for queue in self._waiting.values() for item in queue]
        self._waiting.clear()
        self._ready.clear()
        self._release(len(left))
        if left:
            await self._give_up(left)

    def _dispatch(self) -> None:
        while self._ready and self._may_call and not self._closing:
            task = asyncio.create_task(self._call(self._take()))
            self._calls.add(task)
            task.add_done_callback(self._called)

    @property
    def _may_call(self) -> bool:
        # What is called and not settled is bounded too: after a crash it is an open question.
        limit = self._limit.now
        return len(self._calls) - self._settling < limit and len(self._calls) < 2 * limit

    def _take(self) -> dict[Hashable, list[Item]]:
        taken: dict[Hashable, list[Item]] = {}
        room = self._batch_size_max
        while self._ready and room > 0:
            queue = self._waiting[self._ready[0]]
            if self._alone(queue[0]):
                if taken:
                    break
                taken[self._ready.popleft()] = [queue.popleft()]
                break
            batch = taken[self._ready.popleft()] = []
            while queue and room > 0 and not self._alone(queue[0]):
                batch.append(queue.popleft())
                room -= 1
        self._in_call |= taken
        return taken

    async def _call(self, taken: dict[Hashable, list[Item]]) -> None:
        items = [item for batch in taken.values() for item in batch]
        try:
            done = await self._act(items)
            settled = await self._settled(items, done)
        except Exception:
            # `act` maps every failure it knows to an outcome: this is a defect, and a loud one.
            _log.exception("lane.act_failed", size=len(items))
            settled = [False] * len(items)
        outcome = iter(settled)
        given_up: list[Item] = []
        for lane, batch in taken.items():
            del self._in_call[lane]
            verdicts = [next(outcome) for _ in batch]
            queue = self._waiting[lane]
            if not all(verdicts):
                given_up.extend(queue)
                queue.clear()
                self._stop(lane)
            if queue:
                self._ready.append(lane)
            else:
                del self._waiting[lane]
        self._release(len(items) + len(given_up))
        if given_up:
            await self._give_up(given_up)

    async def _settled(self, items: Sequence[Item], done: Any) -> list[bool]:
        self._settling += 1
        self._dispatch()
        try:
            settled = await self._settle(done)
        finally:
            self._settling -= 1
        return [each for _, each in zip(items, settled, strict=True)]

    def _called(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The rows keep their lease: the recovery job takes them up when it has run out.
            _log.error("lane.give_up_failed", error=repr(error))
        self._dispatch()

    def _stop(self, lane: Hashable) -> None:
        self._stops += 1
        self._stopped_at.pop(lane, None)
        self._stopped_at[lane] = self._stops
        if len(self._stopped_at) > STOPS_REMEMBERED_MAX:
            # The oldest stop is long over: no ticket is held for longer than one transaction.
            del self._stopped_at[next(iter(self._stopped_at))]

    def _release(self, count: int) -> None:
        self._held -= count
        if self._held < self._items_max:
            self._room.set()

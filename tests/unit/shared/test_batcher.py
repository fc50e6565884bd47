import asyncio

import pytest

from shared.errors import ContendedError, TransientError
from shared.work.batcher import (
    CONTENDED_MAX,
    PACE_SECONDS_EACH,
    PACE_SECONDS_MAX,
    MicroBatcher,
    QueueFullError,
)


class Flush:
    """Doubles each item; keeps its batches; waits for `open` and fails as it is told."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.poison: set[int] = set()
        self.held: set[int] = set()
        self.is_away = False

    async def __call__(self, items):
        self.batches.append(list(items))
        await self.open.wait()
        if self.is_away:
            raise TransientError("away")
        if self.held & set(items):
            raise ContendedError(f"held: {self.held & set(items)}")
        if self.poison & set(items):
            raise ValueError(f"poison in {list(items)}")
        return [item * 2 for item in items]


def batcher(flush, *, batch_size_max: int = 100, queue_size_max: int = 1000) -> MicroBatcher:
    return MicroBatcher(flush=flush, batch_size_max=batch_size_max, queue_size_max=queue_size_max)


async def submitted(taker: MicroBatcher, items) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(taker.submit(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


class TestMicroBatcher:
    async def test_flushes_a_single_item_at_once(self):
        flush = Flush()
        assert await batcher(flush).submit(3) == 6
        assert flush.batches == [[3]]

    async def test_makes_the_next_batch_of_what_came_while_one_was_in_flight(self):
        flush = Flush()
        flush.open.clear()
        taker = batcher(flush)
        first = await submitted(taker, [1])
        await asyncio.sleep(0)
        later = await submitted(taker, [2, 3, 4])
        flush.open.set()
        assert await asyncio.gather(*first, *later) == [2, 4, 6, 8]
        assert flush.batches == [[1], [2, 3, 4]]

    async def test_rests_after_a_batch_by_what_it_held_where_it_is_paced(self, monkeypatch):
        rests, rested = [], asyncio.Event()

        async def rest(seconds: float) -> None:
            rests.append(seconds)
            await rested.wait()

        monkeypatch.setattr(asyncio, "sleep", rest)
        flush = Flush()
        taker = MicroBatcher(flush=flush, batch_size_max=100, queue_size_max=1000, paced=True)
        assert await taker.submit(1) == 2
        later = [asyncio.create_task(taker.submit(n)) for n in range(2, 30)]
        asyncio.get_running_loop().call_soon(rested.set)
        await asyncio.gather(*later)
        await taker.drain()
        assert flush.batches == [[1], list(range(2, 30))]
        assert rests == [PACE_SECONDS_EACH, PACE_SECONDS_MAX]

    async def test_gives_each_caller_its_own_result(self):
        results = await asyncio.gather(*(batcher(Flush()).submit(n) for n in range(50)))
        assert results == [n * 2 for n in range(50)]

    async def test_never_makes_a_batch_larger_than_its_bound(self):
        flush = Flush()
        taker = batcher(flush, batch_size_max=4)
        await asyncio.gather(*(taker.submit(n) for n in range(10)))
        assert flush.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]

    async def test_lets_a_poison_item_fail_alone(self):
        flush = Flush()
        flush.poison = {2}
        taker = batcher(flush)
        results = await asyncio.gather(
            *(taker.submit(n) for n in (1, 2, 3)), return_exceptions=True
        )
        assert results[0] == 2
        assert isinstance(results[1], ValueError)
        assert results[2] == 6
        assert flush.batches == [[1, 2, 3], [1], [2], [3]]

    async def test_lets_an_item_that_somebody_else_holds_fail_alone(self):
        flush = Flush()
        flush.held = {2, 4}
        taker = batcher(flush)
        results = await asyncio.gather(*(taker.submit(n) for n in range(6)), return_exceptions=True)
        assert [isinstance(each, ContendedError) for each in results] == [
            n in (2, 4) for n in range(6)
        ]
        assert [results[n] for n in (0, 1, 3, 5)] == [0, 2, 6, 10]

    async def test_tries_no_more_of_a_batch_when_somebody_else_holds_many(self):
        flush = Flush()
        flush.held = set(range(1, 50))
        taker = batcher(flush)
        results = await asyncio.gather(
            *(taker.submit(n) for n in range(50)), return_exceptions=True
        )
        assert results[0] == 0
        assert all(isinstance(each, ContendedError) for each in results[1:])
        assert flush.batches == [list(range(50)), [0], *([n + 1] for n in range(CONTENDED_MAX))]

    async def test_fails_the_whole_batch_for_now_without_trying_each(self):
        flush = Flush()
        flush.is_away = True
        taker = batcher(flush)
        results = await asyncio.gather(*(taker.submit(n) for n in (1, 2)), return_exceptions=True)
        assert all(isinstance(result, TransientError) for result in results)
        assert flush.batches == [[1, 2]]

    async def test_goes_on_after_a_failure(self):
        flush = Flush()
        flush.is_away = True
        taker = batcher(flush)
        with pytest.raises(TransientError):
            await taker.submit(1)
        flush.is_away = False
        assert await taker.submit(2) == 4

    async def test_refuses_what_exceeds_its_queue_and_keeps_nothing_of_it(self):
        flush = Flush()
        flush.open.clear()
        taker = batcher(flush, queue_size_max=2)
        waiting = await submitted(taker, [1])
        await asyncio.sleep(0)
        waiting += await submitted(taker, [2, 3])
        with pytest.raises(QueueFullError):
            await taker.submit(4)
        assert len(taker) == 2
        flush.open.set()
        assert await asyncio.gather(*waiting) == [2, 4, 6]
        assert [4] not in flush.batches

    async def test_finishes_an_item_whose_caller_has_gone(self):
        flush = Flush()
        flush.open.clear()
        taker = batcher(flush)
        gone, stays = await submitted(taker, [1, 2])
        await asyncio.sleep(0)
        gone.cancel()
        flush.open.set()
        assert await stays == 4
        assert flush.batches == [[1, 2]]

    async def test_does_not_mind_when_every_caller_of_a_failing_batch_has_gone(self):
        flush = Flush()
        flush.open.clear()
        flush.is_away = True
        taker = batcher(flush)
        for task in await submitted(taker, [1, 2]):
            await asyncio.sleep(0)
            task.cancel()
        flush.open.set()
        await taker.drain()
        flush.is_away = False
        assert await taker.submit(3) == 6

    async def test_leaves_no_caller_waiting_when_flush_returns_too_few_results(self):
        async def forgetful(items):
            return [items[0]]

        taker = batcher(forgetful)
        results = await asyncio.wait_for(
            asyncio.gather(*(taker.submit(n) for n in (1, 2)), return_exceptions=True), 1
        )
        # Alone, each of them does get one result.
        assert results == [1, 2]

    async def test_fails_an_item_that_gets_no_result_even_alone(self):
        async def forgetful(items):
            return []

        with pytest.raises(ValueError, match="shorter"):
            await asyncio.wait_for(batcher(forgetful).submit(1), 1)

    async def test_drains_what_waits(self):
        flush = Flush()
        flush.open.clear()
        taker = batcher(flush, batch_size_max=1)
        tasks = await submitted(taker, [1, 2, 3])
        draining = asyncio.create_task(taker.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        flush.open.set()
        await draining
        assert [task.done() or await task for task in tasks]
        assert len(taker) == 0

    async def test_drains_at_once_when_nothing_waits(self):
        await batcher(Flush()).drain()

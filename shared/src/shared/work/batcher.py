"""Group commit: whoever waits at the same time shares one transaction.

A batch is what gathered while the previous one was in flight, never what a timer collected: an
idle system adds no delay, and a busy one grows its batches by itself. Where nobody waits for the
answer alone, a batch may also be followed by a pause: see `PACE_SECONDS_EACH`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from shared.errors import ContendedError, TransientError

PACE_SECONDS_EACH = 0.004
PACE_SECONDS_MAX = 0.040
"""A paced batcher rests for so long for each item of its last batch, and so long at most.

Outcomes that come one by one would otherwise be written in ones and twos, each with its statement
and its request to Kafka (measured with a CIS of 200 ms at 300 payments a second: a tenth of all
CPU). One that comes alone makes the next one wait for 4 ms.
"""

CONTENDED_MAX = 3
"""Of the items of a batch that are tried alone: so many wait for what somebody else holds; then it
is taken to hold everything, and the rest of the batch fails without having waited.
"""

Item = TypeVar("Item")
Result = TypeVar("Result")


class QueueFullError(TransientError):
    """More is waiting than the bound allows; the caller is to say so and come again later."""


class MicroBatcher(Generic[Item, Result]):
    """Collects single items into batches for one `flush` at a time.

    `flush` returns one result for each item, in order. When it fails for a reason that lies in
    the batch, each item is tried once more alone, so that one poison item fails only itself, and
    one that somebody else holds, too.
    `paced` is for whoever would rather wait for a moment than write in ones and twos.
    """

    def __init__(
        self,
        *,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        batch_size_max: int,
        queue_size_max: int,
        paced: bool = False,
    ) -> None:
        self._flush = flush
        self._batch_size_max = batch_size_max
        self._queue_size_max = queue_size_max
        self._paced = paced
        self._queue: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._queue)

    async def submit(self, item: Item) -> Result:
        """Return the item's own result once its batch has been flushed.

        Raises:
            QueueFullError: the bound is reached; nothing was kept.
            Exception: whatever `flush` raised for this item.
        """
        if len(self._queue) >= self._queue_size_max:
            raise QueueFullError(f"{len(self._queue)} items wait")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await future

    async def drain(self) -> None:
        """Return when nothing waits any more."""
        while self._task is not None:
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        try:
            while self._queue:
                size = min(len(self._queue), self._batch_size_max)
                await self._flush_batch([self._queue.popleft() for _ in range(size)])
                if self._paced:
                    await asyncio.sleep(min(size * PACE_SECONDS_EACH, PACE_SECONDS_MAX))
        finally:
            self._task = None

    async def _flush_batch(
        self, batch: list[tuple[Item, asyncio.Future[Result]]]
    ) -> Exception | None:
        """Answer each of a batch; return what failed all of it at once."""
        try:
            results = await self._flush([item for item, _ in batch])
            answered = list(zip(batch, results, strict=True))
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:
            may_be_of_one = isinstance(error, ContendedError) or not isinstance(
                error, TransientError
            )
            if may_be_of_one and len(batch) > 1:
                await self._flush_each(batch)
            else:
                _fail(batch, error)
                return error
        else:
            for (_, future), result in answered:
                if not future.done():
                    future.set_result(result)
        return None

    async def _flush_each(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        contended = 0
        for number, entry in enumerate(batch, start=1):
            error = await self._flush_batch([entry])
            if isinstance(error, ContendedError):
                contended += 1
                if contended == CONTENDED_MAX:
                    _fail(batch[number:], error)
                    return


def _fail(batch: Sequence[tuple[object, asyncio.Future[Result]]], error: Exception) -> None:
    for _, future in batch:
        # A caller that went away (a closed connection) has cancelled its future.
        if not future.done():
            future.set_exception(error)

"""Announces committed outbox rows: from memory while all is well, from the table otherwise.

Invariant: what is in the table is announced at least once, in the order of commit of one writer,
and is deleted only after the acknowledgement. While Kafka is away nothing is held in memory: the
table is the backlog, and it drains in order before rows are taken from memory again.

No NOTIFY tells of new rows: it takes a global lock at commit. The writer hands over what it has
just committed, and a sweep finds what a crash left behind.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio.engine import AsyncEngine

from shared.contracts.wire import OutboundRecord
from shared.db.engine import one_statement, transaction
from shared.errors import TransientError
from shared.outbox.table import Outbox, OutboxRow

_log = structlog.get_logger(__name__)

SWEEP_INTERVAL_SECONDS = 1.0
RETRY_SECONDS_MAX = 5.0
DELETE_INTERVAL_SECONDS = 0.2
"""Rows leave the table five times a second: a transaction a batch would be one in each round of
publishing, and a crash in between only announces again what every consumer recognises."""
STRAY_SECONDS = 10.0
"""A row of this age is in nobody's hands: announced even while rows come without a pause."""


class Publisher(Protocol):
    """What the announcer needs of a producer."""

    async def publish(self, records: Sequence[OutboundRecord]) -> None: ...


class AnnouncerMetrics(Protocol):
    """What the announcer counts."""

    def announced(self, count: int) -> None: ...
    def outbox(self, *, depth: int, oldest_age_seconds: float) -> None: ...


class Announcer:
    """Moves outbox rows to Kafka; one task a process, started with `run`."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        outbox: Outbox,
        publisher: Publisher,
        metrics: AnnouncerMetrics,
        batch_size_max: int = 500,
        queue_size_max: int = 20_000,
        stray_seconds: float = STRAY_SECONDS,
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._publisher = publisher
        self._metrics = metrics
        self._batch_size_max = batch_size_max
        self._queue_size_max = queue_size_max
        self._stray_seconds = stray_seconds
        self._queue: deque[OutboxRow] = deque()
        self._acknowledged: list[int] = []
        self._deleted_at = 0.0
        self._is_draining = False
        self._wake = asyncio.Event()
        # Rows of an earlier life may be waiting: they go first.
        self._behind = True
        self._caught_up_at = 0.0

    def offer(self, rows: Sequence[OutboxRow]) -> None:
        """Take committed rows for announcement; never blocks and never fails.

        While the table is being drained the rows are left to it, so that order is kept.
        """
        if not rows or self._behind:
            return
        if len(self._queue) + len(rows) > self._queue_size_max:
            self._fall_behind()
            return
        self._queue.extend(rows)
        self._wake.set()

    def was_behind(self, *, within_seconds: float) -> bool:
        """Whether announcements came from the table at any time in the last so many seconds.

        They do after a start, while Kafka is away, and until what waited meanwhile has left. What
        has not come through by then has hardly been on its way: to announce it again would double
        the work that an outage leaves.
        """
        return self._behind or _now() - self._caught_up_at < within_seconds

    async def run(self) -> None:
        """Announce until cancelled; every failure is waited out."""
        pause_seconds = 0.1
        swept_at = _now()
        while True:
            try:
                if self._behind:
                    await self._catch_up()
                elif self._queue or self._acknowledged:
                    await self._announce_queued()
                now = _now()
                if now - swept_at >= SWEEP_INTERVAL_SECONDS:
                    swept_at = now
                    await self._sweep()
                pause_seconds = 0.1
            except TransientError as error:
                _log.warning("outbox.waiting", error=str(error), pause_seconds=pause_seconds)
                self._fall_behind()
                # What waits is measured while it waits: that is when somebody wants to know.
                with suppress(TransientError):
                    await self._oldest_age_seconds()
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 2, RETRY_SECONDS_MAX)
                continue
            if not self._queue and not self._behind:
                await self._wait_for_rows()

    async def drain(self) -> None:
        """Return when all that was offered is announced or left to the table."""
        self._is_draining = True
        self._wake.set()
        while (self._queue or self._acknowledged) and not self._behind:  # noqa: ASYNC110
            # Only a shutdown waits here: no event is kept on the hot path for it.
            await asyncio.sleep(0.005)

    async def _wait_for_rows(self) -> None:
        self._wake.clear()
        seconds = DELETE_INTERVAL_SECONDS if self._acknowledged else SWEEP_INTERVAL_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def _fall_behind(self) -> None:
        self._behind = True
        self._queue.clear()

    async def _announce_queued(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._batch_size_max))]
        # Earlier batches leave the table while this one travels.
        await asyncio.gather(self._publish(batch), self._delete_when_due())
        self._acknowledged += [row.id for row in batch]

    async def _publish(self, batch: Sequence[OutboxRow]) -> None:
        if batch:
            await self._publisher.publish([row.record for row in batch])
            self._metrics.announced(len(batch))

    async def _delete_when_due(self) -> None:
        if self._is_draining or _now() - self._deleted_at >= DELETE_INTERVAL_SECONDS:
            await self._delete_acknowledged()

    async def _delete_acknowledged(self) -> None:
        self._deleted_at = _now()
        if done := self._acknowledged[:]:
            async with one_statement(self._engine) as connection:
                await self._outbox.delete(connection, done)
            deleted = set(done)
            self._acknowledged = [each for each in self._acknowledged if each not in deleted]

    async def _catch_up(self) -> None:
        """Drain the table in order, then take rows from memory again."""
        await self._delete_acknowledged()
        while await self._announce_stored(older_than_seconds=0.0):
            pass
        self._behind = False
        self._caught_up_at = _now()
        # Between the last look and the line above, rows may have come that nobody offered.
        if await self._announce_stored(older_than_seconds=0.0):
            # So many of them that some are left: none from memory may overtake these.
            self._fall_behind()

    async def _sweep(self) -> None:
        """Announce what a crash, or another process's crash, left in the table."""
        if not self._queue:
            await self._delete_acknowledged()
        is_idle = not self._queue
        age_seconds = SWEEP_INTERVAL_SECONDS if is_idle else self._stray_seconds
        if await self._oldest_age_seconds() >= age_seconds:
            await self._announce_stored(older_than_seconds=age_seconds)
            await self._oldest_age_seconds()

    async def _oldest_age_seconds(self) -> float:
        """Measure what waits; 0 where nothing does."""
        async with one_statement(self._engine) as connection:
            depth, age_seconds = await self._outbox.depth(connection)
        self._metrics.outbox(depth=depth, oldest_age_seconds=age_seconds)
        return age_seconds

    async def _announce_stored(self, *, older_than_seconds: float) -> bool:
        """Announce one batch from the table; return whether there may be more."""
        async with transaction(self._engine) as connection:
            rows = await self._outbox.claim(
                connection,
                older_than_seconds=older_than_seconds,
                limit=self._batch_size_max,
            )
            if rows:
                # The rows stay locked while they travel, so that no other process sends them too.
                await self._publisher.publish([row.record for row in rows])
                await self._outbox.delete(connection, [row.id for row in rows])
                self._metrics.announced(len(rows))
        return len(rows) == self._batch_size_max


def _now() -> float:
    return asyncio.get_running_loop().time()

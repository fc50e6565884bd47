"""What each stage stands on: one process at a time, and an outbox that is published.

A stage is crash-only. What it cannot go on with (the database gone, a producer that Kafka fenced)
ends the process; its supervisor starts it again, and the restart finds in the database what was
under way. There is no second path for the same thing.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import traceback
import zlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import asyncpg
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

PARTITIONS = 12
"""As many as each of Paypost's streams has."""
TOPICS = ("floor.payments", "floor.postings", "floor.notifications")
HELD_MAX = 20_000
"""Rows of the outbox in memory: what is beyond waits in the database for the sweeper."""
SWEPT_MAX = 2_000
DELETED_MAX = 2_000
SWEEP_SECONDS = 0.5
WATERMARK_SECONDS = 5.0
COMMIT_SECONDS = 0.5
PACE_SECONDS_MAX = 0.02
PACE_SECONDS_EACH = 0.0015

Item = TypeVar("Item")

Fact = tuple[int, bytes, bytes]
"""The row of the outbox, the account as the record's key, the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a stage is told, as JSON in the environment variable FLOOR_SETTINGS."""

    database_dsn: str
    kafka_bootstrap: str
    cis_url: str
    cis_api_key: str
    cis_calls: str
    cis_connections_max: int
    cis_timeout_seconds: float
    smtp_host: str
    smtp_port: int
    stripe_webhook_secret: str
    http_port: int
    city_time_zone: str
    currency: str
    announce_again_seconds: float
    ready_dir: str

    @staticmethod
    def read() -> Settings:
        return Settings(**json.loads(os.environ["FLOOR_SETTINGS"]))


def run(main: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
    """Run a stage until SIGTERM, which ends it at once: no end is more orderly than a crash."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    uvloop.run(main(Settings.read()))


def ready(settings: Settings, stage: str) -> None:
    """Say that the stage is at work, and keep the collector off all that lives for ever."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1_000)
    (Path(settings.ready_dir) / stage).write_text(str(os.getpid()))


def vital(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a task whose end is the end of the process."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_end)
    return task


def _end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        traceback.print_exception(error, file=sys.stderr)
    os._exit(1)


async def connect(settings: Settings, *, nested_loops: bool = False) -> asyncpg.Connection[Any]:
    """Connect for statements that are prepared once and planned once.

    `nested_loops` is for statements that find rows by key from an `unnest`: on tables that were
    never analysed the planner would rather read the whole table.
    """
    options = {"plan_cache_mode": "force_generic_plan", "jit": "off"}
    if nested_loops:
        options |= {"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_seqscan": "off"}
    connection = await asyncpg.connect(settings.database_dsn, server_settings=options)
    connection.add_termination_listener(lambda _: os._exit(1))
    return connection


async def alone(connection: asyncpg.Connection[Any], stage: str) -> None:
    """Wait until no other process is this stage, and be it for as long as the connection lasts."""
    await connection.execute("SELECT pg_advisory_lock(hashtext($1))", f"floor {stage}")


async def producer(settings: Settings) -> AIOKafkaProducer:
    """A started idempotent producer that waits for all replicas."""
    made = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap,
        enable_idempotence=True,
        acks="all",
        linger_ms=0,
        max_batch_size=256 * 1024,
    )
    await made.start()
    return made


async def consumer(settings: Settings, *, group: str, topics: Sequence[str]) -> AIOKafkaConsumer:
    """A started consumer of every partition from the group's offsets, which the caller commits.

    Partitions are assigned, not negotiated: the advisory lock already says who the stage is, and a
    restart need not wait for the session of a dead member.
    """
    made = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=500,
        max_partition_fetch_bytes=512 * 1024,
        check_crcs=False,
    )
    await made.start()
    made.assign([TopicPartition(topic, n) for topic in topics for n in range(PARTITIONS)])
    return made


async def pace(done: int) -> None:
    """Let the next batch gather for a while, by how much the last one held.

    Under some 700 a second a batch is small and this is next to nothing; above it, batches grow to
    what 20 ms bring, and each request to Kafka and each commit carries more: it is the number of
    requests that the broker's CPU goes into, not the number of records.
    """
    await asyncio.sleep(min(PACE_SECONDS_MAX, done * PACE_SECONDS_EACH))


class Outbox:
    """Publishes committed facts and deletes them once Kafka has them.

    A batch is what gathered while the batch before was on its way. Rows that are in nobody's hands
    after a crash or an outage are found by the sweeper.
    """

    def __init__(
        self,
        *,
        producer: AIOKafkaProducer,
        topic: str,
        table: str,
        rows: str,
        fact: Callable[[asyncpg.Record], tuple[bytes, bytes]],
    ) -> None:
        """`rows` selects what `fact` makes key and value of, from the rows `o` of the outbox."""
        self._producer = producer
        self._topic = topic
        self._table = table
        self._rows = rows
        self._fact = fact
        self._queue: list[Fact] = []
        self._held: set[int] = set()
        self._gone: list[int] = []
        self._wake = asyncio.Event()

    def offer(self, facts: Sequence[Fact]) -> None:
        """Publish facts that have just been committed."""
        if len(self._held) + len(facts) > HELD_MAX:
            return
        self._held.update(fact[0] for fact in facts)
        self._queue += facts
        self._wake.set()

    def take_gone(self) -> list[int]:
        """Rows that Kafka has, for the caller to delete with its next statement."""
        gone, self._gone = self._gone[:DELETED_MAX], self._gone[DELETED_MAX:]
        return gone

    def deleted(self, gone: Sequence[int]) -> None:
        """Forget rows whose deletion is committed."""
        self._held.difference_update(gone)

    async def publish(self) -> None:
        """Publish what is offered, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            facts, self._queue = self._queue, []
            await self._send(facts)
            await pace(len(facts))

    async def _send(self, facts: Sequence[Fact]) -> None:
        by_partition: dict[int, list[Fact]] = {}
        for fact in facts:
            by_partition.setdefault(zlib.crc32(fact[1]) % PARTITIONS, []).append(fact)
        sent: list[tuple[asyncio.Future[Any], list[int]]] = []
        for partition, some in by_partition.items():
            start = 0
            while start < len(some):
                # One call a batch: `send` costs several times as much for each record.
                batch, seqs = self._producer.create_batch(), list[int]()
                for seq, key, value in some[start:]:
                    if batch.append(timestamp=None, key=key, value=value) is None:
                        break
                    seqs.append(seq)
                start += len(seqs)
                sent.append((asyncio.ensure_future(self._send_batch(batch, partition)), seqs))
        results = await asyncio.gather(*(future for future, _ in sent), return_exceptions=True)
        for (_, seqs), result in zip(sent, results, strict=True):
            if isinstance(result, KafkaError) and result.retriable:
                # Kafka is away. The rows are durable, and the sweeper's from now on.
                self._held.difference_update(seqs)
                print(f"{len(seqs)} not published: {result!r}", file=sys.stderr)
            elif isinstance(result, BaseException):
                raise result
            else:
                self._gone += seqs

    async def _send_batch(self, batch: Any, partition: int) -> None:
        await (await self._producer.send_batch(batch, self._topic, partition=partition))

    async def sweep(self, connection: asyncpg.Connection[Any]) -> None:
        """Publish what nobody has in hand, and delete what no statement took along, for ever."""
        find = await connection.prepare(
            f"SELECT o.seq, {self._rows} WHERE o.seq <= $1 AND NOT o.seq = ANY($2::bigint[])"
            f" ORDER BY o.seq LIMIT {SWEPT_MAX}"
        )
        delete = await connection.prepare(
            f"DELETE FROM {self._table} WHERE seq = ANY($1::bigint[])"
        )
        last = await connection.prepare(f"SELECT coalesce(max(seq), 0) FROM {self._table}")
        until = await last.fetchval()
        while True:
            # Copied before the query: what is deleted meanwhile may still be seen by it.
            held = list(self._held)
            rows = await find.fetch(until, held)
            self.offer([(row["seq"], *self._fact(row)) for row in rows])
            if gone := self.take_gone():
                await delete.fetch(gone)
                self.deleted(gone)
            if len(rows) < SWEPT_MAX:
                # Rows younger than a whole round may still be on their way to `offer`.
                until = await last.fetchval()
                await asyncio.sleep(SWEEP_SECONDS)
            else:
                await asyncio.sleep(PACE_SECONDS_MAX)


class Gathering(Generic[Item]):
    """What comes while the batch before is being written: the next batch, without any timer."""

    def __init__(self, *, batch_max: int) -> None:
        self._items: list[Item] = []
        self._batch_max = batch_max
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        if not self._items:
            self._wake.set()
        self._items.append(item)

    async def take(self) -> list[Item]:
        """The next batch: at least one, at most `batch_max`."""
        if not self._items:
            self._wake.clear()
            await self._wake.wait()
        batch, self._items = self._items[: self._batch_max], self._items[self._batch_max :]
        return batch


async def read_watermark(connection: asyncpg.Connection[Any], stage: str) -> datetime:
    """The time before which nothing of this stage is open."""
    at = await connection.fetchval("SELECT at FROM watermarks WHERE stage = $1", stage)
    return at or datetime.min.replace(tzinfo=UTC)


async def write_watermark(connection: asyncpg.Connection[Any], stage: str, at: datetime) -> None:
    """Remember that nothing taken before `at` is open."""
    await connection.execute(
        "INSERT INTO watermarks (stage, at) VALUES ($1, $2)"
        " ON CONFLICT (stage) DO UPDATE SET at = excluded.at",
        stage,
        at,
    )


async def keep_watermark(
    connection: asyncpg.Connection[Any], stage: str, open_since: Callable[[], datetime]
) -> None:
    """Write the watermark now and then, for ever."""
    while True:
        await asyncio.sleep(WATERMARK_SECONDS)
        await write_watermark(connection, stage, open_since())


async def next_records(
    consumer: AIOKafkaConsumer, *, records_max: int
) -> dict[TopicPartition, list[Any]]:
    """What has gathered since the last call, or nothing after a second.

    The consumer is paused between two calls. Else it would fetch ahead at once, get the one record
    that is there by then, and stop at that until it is taken: a request for nearly each record.
    """
    partitions = consumer.assignment()
    consumer.resume(*partitions)
    found: dict[TopicPartition, list[Any]] = await consumer.getmany(
        timeout_ms=1_000, max_records=records_max
    )
    consumer.pause(*partitions)
    return found


async def commit_offsets(consumer: AIOKafkaConsumer, wanted: dict[TopicPartition, int]) -> None:
    """Commit what is in `wanted`, and empty it, twice a second: a crash reads more again, that is
    all, while a commit for each batch would cost the broker a request and a write each."""
    while True:
        await asyncio.sleep(COMMIT_SECONDS)
        if wanted:
            offsets = dict(wanted)
            wanted.clear()
            try:
                await consumer.commit(offsets)
            except KafkaError as error:
                print(f"offsets not committed: {error!r}", file=sys.stderr)

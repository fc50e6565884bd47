"""Takes batches off a stream: decodes record by record, waits out what is down, buries poison.

Invariant: a batch is acknowledged only after all of it is either taken into the service's own
database or kept on the dead-letter stream with its reason. One bad record never holds up, nor
takes down, the others of its batch, and nothing is retried without a pause.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Protocol, cast

import structlog
from aiokafka import ConsumerRecord
from faststream import AckPolicy
from faststream.kafka import KafkaMessage, KafkaRouter

from shared.clock import Clock
from shared.contracts.streams import STREAMS, Stream
from shared.contracts.wire import (
    KafkaRecord,
    OutboundRecord,
    Received,
    UnreadableRecordError,
    decode,
)
from shared.errors import TransientError
from shared.outbox.announcer import Publisher
from shared.runtime.spans import Spans
from shared.work.patience import patiently

_log = structlog.get_logger(__name__)

MAX_POLL_INTERVAL_MS = 300_000
PATIENCE_SECONDS = 120.0
"""How long one batch is waited for before Kafka is asked for it again; below the poll interval."""

UNHURRIED_BYTES_MIN = 64 * 1024
UNHURRIED_WAIT_MS = 200
"""What no customer waits for is fetched once this much of it has gathered, or after this long."""

Handler = Callable[[Sequence[Received]], Awaitable[None]]
PassesBy = Callable[[KafkaRecord], bool]
"""Whether a record shows, undecoded, that it is no concern of the service."""


class InboxMetrics(Protocol):
    """What the inbox counts."""

    def consumed(self, *, stream: str, count: int) -> None: ...
    def ignored(self, *, stream: str) -> None: ...
    def dead_lettered(self, *, stream: str, reason: str) -> None: ...
    def batch_taken(self, *, stream: str, seconds: float) -> None: ...


class ConsumerProgress:
    """Since when each stream's batch in hand is worked on: for liveness."""

    def __init__(self) -> None:
        self._busy_since: dict[str, datetime] = {}
        self._finished: dict[str, int] = {}

    def begun(self, *, stream: str, at: datetime) -> None:
        self._busy_since[stream] = at

    def ended(self, *, stream: str) -> None:
        self._busy_since.pop(stream, None)
        self._finished[stream] = self._finished.get(stream, 0) + 1

    def is_busy(self, *, stream: str) -> bool:
        return stream in self._busy_since

    def oldest_busy(self) -> tuple[str, datetime] | None:
        """Return the stream whose batch has been in hand longest, and since when."""
        return min(self._busy_since.items(), key=lambda entry: entry[1], default=None)

    def finished(self, *, stream: str) -> int:
        """Return how many batches of a stream have been finished."""
        return self._finished.get(stream, 0)


@dataclass(frozen=True, kw_only=True)
class Group:
    """The consumer group of a service and how its members are known."""

    id: str
    session_timeout_seconds: float
    instance_id: str | None = None


def batch_subscription(*, group: Group, stream: str, is_unhurried: bool = False) -> dict[str, Any]:
    """Return the options of every subscriber: batches, at least once, from the beginning.

    FastStream's defaults acknowledge first, start at the newest record and wait 200 ms for a
    batch; each is stated otherwise here, and a test asserts it for every subscriber.

    An unhurried one stands beside a payment's way to the ledger and the customer, not on it: its
    batches gather at the broker for a moment, at a fraction of the cost of taking records singly.
    """
    hurry = (
        {"fetch_min_bytes": UNHURRIED_BYTES_MIN, "fetch_max_wait_ms": UNHURRIED_WAIT_MS}
        if is_unhurried
        else {"fetch_min_bytes": 1, "fetch_max_wait_ms": 500}
    )
    return {
        **hurry,
        "group_id": group.id,
        "group_instance_id": f"{group.instance_id}-{stream}" if group.instance_id else None,
        "batch": True,
        "max_records": 500,
        # Slept after a poll without a record (`CoalescingConsumer`), so it bounds what an idle
        # pipeline adds to a payment.
        "batch_timeout_ms": 10,
        "ack_policy": AckPolicy.NACK_ON_ERROR,
        "auto_offset_reset": "earliest",
        "max_poll_interval_ms": MAX_POLL_INTERVAL_MS,
        "session_timeout_ms": int(group.session_timeout_seconds * 1000),
        # A rebalance is noticed at the next heartbeat only: up to the usual 3 s would be added to
        # each start of a service whose subscribers join one group.
        "heartbeat_interval_ms": int(min(0.5, group.session_timeout_seconds / 3) * 1000),
        "parser": parse_without_headers,
        "decoder": decode_nothing,
    }


BatchConsumer = Callable[[KafkaMessage], Awaitable[None]]


def on_batches(
    router: KafkaRouter, *, stream: Stream, group: Group, is_unhurried: bool = False
) -> Callable[[BatchConsumer], BatchConsumer]:
    """Return the decorator that subscribes a function to a stream, in batches of raw records."""
    decorate: Any = router.subscriber(
        stream.name,
        **batch_subscription(group=group, stream=stream.name, is_unhurried=is_unhurried),
    )
    return cast("Callable[[BatchConsumer], BatchConsumer]", decorate)


async def parse_without_headers(
    message: tuple[ConsumerRecord[Any, Any], ...],
    original: Callable[[tuple[ConsumerRecord[Any, Any], ...]], Awaitable[KafkaMessage]],
) -> KafkaMessage:
    """Keep FastStream from decoding headers: one that is not UTF-8 would fail the whole batch."""
    parsed = await original(tuple(replace(record, headers=()) for record in message[:1]))
    parsed.raw_message = message
    return parsed


async def decode_nothing(message: KafkaMessage) -> KafkaMessage:
    """Hand the message itself to the subscriber: the inbox decodes it record by record."""
    return message


def is_of_type(*fact_types: str) -> PassesBy:
    """Return what recognises these types by the envelope alone."""
    headers = tuple(("ce_type", fact_type.encode()) for fact_type in fact_types)

    def recognises(record: KafkaRecord) -> bool:
        return any(header in headers for header in record.headers)

    return recognises


def _passes(record: ConsumerRecord[Any, Any], passes_by: PassesBy | None) -> bool:
    return passes_by is not None and passes_by(record)


class Inbox:
    """One service's way of taking records: shared by all of its subscribers."""

    def __init__(
        self,
        *,
        consumer: str,
        dead_letters: Publisher,
        clock: Clock,
        metrics: InboxMetrics,
        patience_seconds: float = PATIENCE_SECONDS,
        spans: Spans | None = None,
    ) -> None:
        self._consumer = consumer
        self._dead_letters = dead_letters
        self._clock = clock
        self._metrics = metrics
        self._patience_seconds = patience_seconds
        self._spans = spans
        self.progress = ConsumerProgress()

    async def deliver(
        self, message: KafkaMessage, handle: Handler, *, passes_by: PassesBy | None = None
    ) -> None:
        """Hand the readable facts of a batch to `handle`, in order; see the module's invariant.

        What `passes_by` recognises is not decoded: a service that needs few of a busy stream's
        facts spends nothing on the others.

        Raises:
            TransientError: what the handler needs stayed away past the patience; the batch is
                not acknowledged and comes again.
        """
        records: tuple[ConsumerRecord[Any, Any], ...] = message.raw_message
        stream = records[0].topic
        started = time.perf_counter()
        self.progress.begun(stream=stream, at=self._clock())
        try:
            concerned = [each for each in records if not _passes(each, passes_by)]
            readable = await self._read(concerned)
            if readable:
                await self._handle_traced(readable, handle, stream)
            self._metrics.consumed(stream=stream, count=len(records))
            self._metrics.batch_taken(stream=stream, seconds=time.perf_counter() - started)
        finally:
            self.progress.ended(stream=stream)
            # What was decoded is the message itself, which FastStream has it remember: a circle
            # that would hold the batch until the collector comes, 5 to 10 MB of them under load.
            message.clear_cache()

    async def _read(
        self, records: Sequence[ConsumerRecord[Any, Any]]
    ) -> list[tuple[ConsumerRecord[Any, Any], Received]]:
        readable = []
        for record in records:
            try:
                received = decode(record)
            except UnreadableRecordError as error:
                await self._bury(record, reason=error.reason, detail=error.detail, attempts=1)
                continue
            if received is None:
                self._metrics.ignored(stream=record.topic)
            else:
                readable.append((record, received))
        return readable

    async def _handle_traced(
        self,
        batch: Sequence[tuple[ConsumerRecord[Any, Any], Received]],
        handle: Handler,
        stream: str,
    ) -> None:
        if self._spans is None:
            await self._handle(batch, handle)
            return
        started_ns = time.time_ns()
        await self._handle(batch, handle)
        self._spans.batch(
            name=f"process {stream}",
            kind="CONSUMER",
            traceparents=[received.traceparent for _, received in batch],
            started_ns=started_ns,
            attributes={"messaging.system": "kafka", "messaging.destination.name": stream},
        )

    async def _handle(
        self, batch: Sequence[tuple[ConsumerRecord[Any, Any], Received]], handle: Handler
    ) -> None:
        try:
            everything = [received for _, received in batch]
            await patiently(lambda: handle(everything), patience_seconds=self._patience_seconds)
        except TransientError:
            raise
        except Exception:
            _log.exception("batch.failed", size=len(batch))
            await self._one_by_one(batch, handle)

    async def _one_by_one(
        self, batch: Sequence[tuple[ConsumerRecord[Any, Any], Received]], handle: Handler
    ) -> None:
        for record, received in batch:
            try:
                await patiently(
                    partial(handle, [received]), patience_seconds=self._patience_seconds
                )
            except TransientError:
                raise
            except Exception as error:
                _log.exception("record.failed", event_id=received.event_id)
                await self._bury(record, reason="failed", detail=type(error).__name__, attempts=2)

    async def _bury(
        self, record: ConsumerRecord[Any, Any], *, reason: str, detail: str, attempts: int
    ) -> None:
        """Publish the original bytes and headers with their story; return once Kafka has them."""
        now = self._clock().isoformat().encode()
        story = (
            ("dead_consumer", self._consumer.encode()),
            ("dead_reason", reason.encode()),
            ("dead_detail", detail[:2000].encode()),
            ("dead_attempts", str(attempts).encode()),
            ("dead_first_failure", now),
            ("dead_last_failure", now),
            ("dead_partition", str(record.partition).encode()),
            ("dead_offset", str(record.offset).encode()),
        )
        letter = OutboundRecord(
            topic=STREAMS[record.topic].dead_letters,
            key=record.key or b"",
            value=record.value or b"",
            headers=(*((name, value or b"") for name, value in record.headers), *story),
        )
        await patiently(
            lambda: self._dead_letters.publish([letter]), patience_seconds=self._patience_seconds
        )
        self._metrics.dead_lettered(stream=record.topic, reason=reason)
        _log.warning(
            "record.dead_lettered",
            stream=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=reason,
        )

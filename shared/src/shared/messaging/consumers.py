"""The consumers of a service as one door: started when Kafka is there, watched while they run."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol, cast

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import CommitFailedError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from faststream.kafka import KafkaBroker
from faststream.kafka.subscriber.usecase import LogicSubscriber
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from shared.clock import Clock
from shared.messaging.inbox import ConsumerProgress, Group
from shared.runtime.settings import ServiceSettings

_log = structlog.get_logger(__name__)

STUCK_SECONDS = 240.0
"""A batch that takes longer than the inbox's patience is stuck, and a restart is the cure."""
STALLED_SECONDS = 60.0
"""Records that have been fetched and not taken for so long are stalled: likewise."""
LOST_SECONDS = 30.0
LOST_SESSIONS = 2
"""A consumer whose group is served, and has not confirmed it for so long, does not come back by
itself: whichever is longer, since a join may wait for the end of another member's session.
"""
POLL_MS = 1_000
"""How long a consumer waits for a record before FastStream looks around; any record ends it."""
PACES_SECONDS = ((0.010, 0.040), (0.0033, 0.100), (0.0025, 0.250))
"""For how long the next batch may gather after one: so much for each of its records, so much at
most; whichever is longer. That is nothing below a hundred records a second, 40 ms from there on,
100 ms from three hundred on and 250 ms from four hundred on, when it is the number of requests and
transactions that costs.
"""
COMMIT_SECONDS = 0.5
COMMIT_SECONDS_MAX = 3.0
"""How long a stop waits for the last commit: without it a few records are read again."""
LEAVE_SECONDS_MAX = 2.0
"""How long a stop waits for its group: members with names of their own do not leave it."""
HANDLING_SHARE = 0.5
"""Of a stop's time: how long the batch in hand is waited for. What is left of it comes again; the
rest of the time is for what was taken before.
"""
MEASURE_INTERVAL_SECONDS = 5.0
ASK_SECONDS_MAX = 3.0
WATCH_INTERVAL_SECONDS = 5.0


def gather_seconds(count: int, *, most: int | None = None) -> float:
    """Return how long after a batch of so many records the next one is asked for.

    After one of the `most` that a batch can have, at once: more is waiting.
    """
    if most is not None and count >= most:
        return 0.0
    return max(min(longest, count * each) for each, longest in PACES_SECONDS)


class CoalescingConsumer(AIOKafkaConsumer):  # type: ignore[misc]
    """aiokafka's consumer for one batch at a time: waits for records, commits twice a second.

    Invariant: an offset is committed only after the batch that it ends was acknowledged. Which
    batch that is, is known from the records handed out last, since only one is in hand.

    FastStream asks for a batch every `batch_timeout_ms` and sleeps as long after an empty one:
    measured at 10 ms, a service that has nothing to do takes 10 % of a core to find that out. And
    it commits each batch by itself: a request and a write of the broker for each, where a crash
    only reads again what every consumer recognises by its keys.
    """

    def __init__(self, *topics: str, **options: Any) -> None:
        super().__init__(*topics, **options)
        self._in_hand: dict[TopicPartition, OffsetAndMetadata] = {}
        self._acknowledged: dict[TopicPartition, OffsetAndMetadata] = {}
        self._committing: asyncio.Task[None] | None = None
        self._next_poll_at = 0.0
        self._confirmed_at = 0.0

    async def start(self) -> None:
        """Join the group, and begin to commit.

        Raises:
            KafkaError: Kafka cannot be reached.
            TimeoutError: the group has not taken this in for as long as makes a member a lost one.
        """
        async with asyncio.timeout(self.lost_after_seconds):
            await super().start()
        self._confirmed_at = time.monotonic()
        if self._group_id is not None:
            self._note_heartbeats()
        self._committing = asyncio.create_task(self._commit_now_and_then())

    @property
    def unconfirmed_seconds(self) -> float:
        """For how long its group has not said that this is a member of it."""
        return time.monotonic() - self._confirmed_at

    @property
    def lost_after_seconds(self) -> float:
        """For how long that may be while the group is served."""
        session_seconds: float = self._session_timeout_ms / 1000
        return max(LOST_SECONDS, LOST_SESSIONS * session_seconds)

    def _note_heartbeats(self) -> None:
        beat = self._coordinator._do_heartbeat

        async def beat_and_note() -> bool:
            is_confirmed = bool(await beat())
            if is_confirmed:
                self._confirmed_at = time.monotonic()
            return is_confirmed

        self._coordinator._do_heartbeat = beat_and_note

    async def stop(self) -> None:
        if self._committing is not None:
            self._committing.cancel()
            await asyncio.gather(self._committing, return_exceptions=True)
            self._committing = None
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(COMMIT_SECONDS_MAX):
                    await self._commit_acknowledged()
        try:
            async with asyncio.timeout(LEAVE_SECONDS_MAX):
                await super().stop()
        except TimeoutError:
            # Was joining: the answer to that comes when all others have joined too, or when the
            # session of one that is gone is over.
            _log.info("consumer.left_while_joining", topics=sorted(self.subscription()))
            for task in (self._coordinator._heartbeat_task, self._coordinator._commit_refresh_task):
                if task is not None:
                    task.cancel()
            await asyncio.gather(self._fetcher.close(), self._client.close())

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[ConsumerRecord[Any, Any]]]:
        now = asyncio.get_running_loop().time
        if (early_seconds := self._next_poll_at - now()) > 0:
            await asyncio.sleep(early_seconds)
        # Paused between two polls: else it would fetch ahead at once, get the one record that is
        # there by then, and stop at that until it is taken.
        self.resume(*self.paused())
        found: dict[TopicPartition, list[ConsumerRecord[Any, Any]]] = await super().getmany(
            *partitions, timeout_ms=max(timeout_ms, POLL_MS), max_records=max_records
        )
        self.pause(*self.assignment())
        count = sum(map(len, found.values()))
        self._next_poll_at = now() + gather_seconds(count, most=max_records)
        self._in_hand = {
            partition: OffsetAndMetadata(records[-1].offset + 1, "")
            for partition, records in found.items()
        }
        return found

    async def commit(self, offsets: Mapping[TopicPartition, Any] | None = None) -> None:
        """Note what was handed out last as done; with `offsets`, commit those at once."""
        if offsets is not None:
            await super().commit(offsets)
            return
        self._acknowledged |= self._in_hand
        self._in_hand = {}

    async def _commit_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            try:
                await self._commit_acknowledged()
            except KafkaError as error:
                _log.info("offsets.not_committed", error=type(error).__name__)
            except Exception:
                # A defect, made loud: without this loop nothing would ever be committed again.
                _log.exception("offsets.commit_failed")

    async def _commit_acknowledged(self) -> None:
        # What another member has taken over is that member's to commit.
        assigned = self.assignment()
        offsets = {tp: each for tp, each in self._acknowledged.items() if tp in assigned}
        self._acknowledged = {}
        if not offsets:
            return
        try:
            await super().commit(offsets)
        except CommitFailedError:
            # The group has been made anew: who has the partitions now reads these again. Committing
            # them once more would make this member unknown while it joins, and so on for ever.
            raise
        except BaseException:
            self._acknowledged = offsets | self._acknowledged
            raise


class ConsumerMetrics(Protocol):
    """What is told of how far the streams have been read."""

    def consuming(self, *, stream: str, lag_records: int | None, heard_at: float) -> None: ...
    def consumer_lost(self, *, stream: str) -> None: ...


class CoalescingBroker(KafkaBroker):
    """FastStream's broker, whose subscribers consume by `CoalescingConsumer`.

    Connecting is where FastStream decides on the consumer's class: what was set before is lost.
    """

    async def start(self) -> None:
        """Connect, and start all subscribers at once; whatever fails, none is left starting.

        They are members of one group, and each that joins has all before it join anew, at their
        next heartbeat: one after the other, five were ready four seconds later than a single one.

        Raises:
            KafkaError: a subscriber could not start; the broker is to be stopped.
            OSError: likewise.
        """
        await self.connect()
        starting = [subscriber.start() for subscriber in self.subscribers]
        for outcome in await asyncio.gather(*starting, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        self.running = True

    async def _connect(self) -> Callable[..., AIOKafkaConsumer]:
        builder = cast("partial[AIOKafkaConsumer]", await super()._connect())
        self.config.broker_config.builder = partial(CoalescingConsumer, **builder.keywords)
        return self.config.broker_config.builder


def build_broker(*, settings: ServiceSettings, client_id: str) -> KafkaBroker:
    """Return FastStream's broker for consuming only: publishing is the announcer's."""
    return CoalescingBroker(
        # FastStream takes a text for one address, whatever commas are in it.
        [address.strip() for address in settings.kafka_bootstrap_servers.split(",")],
        client_id=client_id,
        consumer_only=True,
        allow_auto_create_topics=False,
        graceful_timeout=settings.drain_seconds * HANDLING_SHARE,
        security=_security(settings),
        logger=None,
        # Subscribers take the message as it is: nothing is to be injected or validated for them.
        apply_types=False,
    )


def _security(settings: ServiceSettings) -> BaseSecurity | None:
    """Say to FastStream what `ServiceSettings.kafka_security` says to aiokafka."""
    options = settings.kafka_security()
    if not options:
        return None
    ssl_context = options.get("ssl_context")
    if "sasl_mechanism" not in options:
        return BaseSecurity(ssl_context=ssl_context, use_ssl=True)
    sasl = {
        "PLAIN": SASLPlaintext,
        "SCRAM-SHA-256": SASLScram256,
        "SCRAM-SHA-512": SASLScram512,
    }[options["sasl_mechanism"]]
    return sasl(
        username=options["sasl_plain_username"],
        password=options["sasl_plain_password"],
        ssl_context=ssl_context,
        use_ssl=ssl_context is not None,
    )


def group_of(*, settings: ServiceSettings, group_id: str) -> Group:
    """Return the consumer group as the settings have it."""
    return Group(
        id=group_id,
        session_timeout_seconds=settings.kafka_session_timeout_seconds,
        instance_id=settings.kafka_group_instance_id,
    )


class Consumers:
    """Starts the broker's subscribers in the background, however long Kafka stays away.

    A service whose other doors can do their work without Kafka is not to wait for it.
    """

    def __init__(
        self,
        *,
        broker: KafkaBroker,
        progress: ConsumerProgress,
        clock: Clock,
        metrics: ConsumerMetrics,
    ) -> None:
        self._broker = broker
        self._progress = progress
        self._clock = clock
        self._metrics = metrics
        self._opened_at = time.time()
        self._starting: asyncio.Task[None] | None = None
        self._measuring: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._heard_at: dict[str, float] = {}
        self._started = False
        self._waiting_since: dict[str, tuple[int, datetime]] = {}
        self._lost_since: dict[LogicSubscriber[Any], float] = {}

    async def start(self) -> None:
        self._opened_at = time.time()
        self._starting = asyncio.create_task(self._start())
        self._measuring = asyncio.create_task(self._measure())
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        begun = (self._starting, self._measuring, self._watching)
        tasks = [task for task in begun if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._broker.stop()

    async def check_live(self) -> str | None:
        """Return what is wrong when consuming has stopped; Kafka being away is nothing wrong."""
        now = self._clock()
        busy = self._progress.oldest_busy()
        if busy is not None and now - busy[1] > timedelta(seconds=STUCK_SECONDS):
            return f"a batch of {busy[0]} has been in hand since {busy[1].isoformat()}"
        if not self._started:
            return None
        for subscriber in self._subscribers():
            if subscriber.tasks and all(task.done() for task in subscriber.tasks):
                return f"the consume loop of {', '.join(subscriber.topic_names)} has ended"
            for stream in subscriber.topic_names:
                if await self._is_stalled(subscriber, stream, now):
                    return f"records of {stream} wait and none is taken"
        return None

    def _subscribers(self) -> Sequence[LogicSubscriber[Any]]:
        return [each for each in self._broker.subscribers if isinstance(each, LogicSubscriber)]

    async def _is_stalled(
        self, subscriber: LogicSubscriber[Any], stream: str, now: datetime
    ) -> bool:
        """Whether records have been known to wait for too long without a batch being finished."""
        if self._progress.is_busy(stream=stream):
            # A batch in hand may be waiting for its database; how long is another check's matter.
            self._waiting_since.pop(stream, None)
            return False
        finished = self._progress.finished(stream=stream)
        since = self._waiting_since.get(stream)
        if not await _has_waiting(subscriber):
            self._waiting_since.pop(stream, None)
            return False
        if since is None or since[0] != finished:
            self._waiting_since[stream] = (finished, now)
            return False
        return now - since[1] > timedelta(seconds=STALLED_SECONDS)

    async def check_ready(self) -> str | None:
        return None if self._started else "Kafka has not been reached yet"

    async def _start(self) -> None:
        pause_seconds = 0.2
        while not self._started:
            try:
                await self._broker.start()
                self._started = True
            except (KafkaError, OSError) as error:
                _log.warning("kafka.unreachable", error=repr(error), pause_seconds=pause_seconds)
                await self._broker.stop()
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 2, 5.0)

    async def measure_once(self) -> None:
        """Ask Kafka how far each stream goes, and tell how far it has been read."""
        await asyncio.gather(
            *(
                self._measure_stream(subscriber, stream)
                for subscriber in self._subscribers()
                for stream in subscriber.topic_names
            )
        )

    async def _measure_stream(self, subscriber: LogicSubscriber[Any], stream: str) -> None:
        lag = await _lag_of(subscriber)
        if lag is not None:
            self._heard_at[stream] = time.time()
        heard_at = self._heard_at.get(stream, self._opened_at)
        self._metrics.consuming(stream=stream, lag_records=lag, heard_at=heard_at)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL_SECONDS)
            if not self._started:
                continue
            for subscriber in self._subscribers():
                try:
                    await self._bring_back_if_lost(subscriber)
                except Exception as error:
                    # Of starting anew, or a defect: it is tried again, and the others are watched.
                    _log.warning("consumer.not_started", error=repr(error))

    async def _bring_back_if_lost(self, subscriber: LogicSubscriber[Any]) -> None:
        """Start a consumer anew that its group has lost, and that does not notice.

        aiokafka (0.14) ends its heartbeats for good at an answer that it does not know, such as
        Kafka's -1, and lets every poll fail; a consumer was also seen to stay away from its group,
        without a word, after two of three brokers had been killed.
        """
        consumer = subscriber.consumer
        assert isinstance(consumer, CoalescingConsumer)
        is_confirmed = consumer.unconfirmed_seconds < WATCH_INTERVAL_SECONDS
        if is_confirmed or not await _is_served(subscriber):
            self._lost_since.pop(subscriber, None)
            return
        now = time.monotonic()
        if now - self._lost_since.setdefault(subscriber, now) < consumer.lost_after_seconds:
            return
        _log.error("consumer.lost", topics=subscriber.topic_names)
        for stream in subscriber.topic_names:
            self._metrics.consumer_lost(stream=stream)
        await subscriber.stop()
        await subscriber.start()

    async def _measure(self) -> None:
        while True:
            try:
                await self.measure_once()
            except Exception as error:
                # Consuming goes on without being measured; the age of the last fetch then grows.
                _log.warning("consumers.not_measured", error=repr(error))
            await asyncio.sleep(MEASURE_INTERVAL_SECONDS)


async def _is_served(subscriber: LogicSubscriber[Any]) -> bool:
    """Whether Kafka says who serves the subscriber's group, to a client of its own."""
    asking = subscriber.builder(client_id=subscriber.client_id)
    try:
        async with asyncio.timeout(ASK_SECONDS_MAX):
            await asking.start()
            await asking._client.coordinator_lookup(CoordinationType.GROUP, subscriber.group_id)
            return True
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        with suppress(KafkaError, OSError):
            await asking.stop()


async def _lag_of(subscriber: LogicSubscriber[Any]) -> int | None:
    """Return how many records Kafka holds beyond what was handed out; None if it does not say.

    It is asked: what a fetch has brought along is as old as the fetch, and a consumer with a batch
    in hand fetches nothing.
    """
    consumer = subscriber.consumer
    if consumer is None:
        return None
    partitions = list(consumer.assignment())
    try:
        async with asyncio.timeout(ASK_SECONDS_MAX):
            ends = await consumer.end_offsets(partitions) if partitions else {}
            lag = 0
            for partition, end in ends.items():
                lag += max(0, end - await consumer.position(partition))
            return lag
    except (KafkaError, TimeoutError):
        return None


async def _has_waiting(subscriber: LogicSubscriber[Any]) -> bool:
    """Whether the broker is known to hold records beyond what was handed to the subscriber."""
    consumer = subscriber.consumer
    if consumer is None:
        return False
    for partition in consumer.assignment():
        end = consumer.highwater(partition)
        if end is None:
            continue
        try:
            async with asyncio.timeout(1):
                if await consumer.position(partition) < end:
                    return True
        except (KafkaError, TimeoutError):
            continue
    return False

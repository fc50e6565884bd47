"""The consumers of a service as one door: started when Kafka is there, watched while they run."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from aiokafka.errors import KafkaError
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


def build_broker(*, settings: ServiceSettings, client_id: str) -> KafkaBroker:
    """Return FastStream's broker for consuming only: publishing is the announcer's."""
    return KafkaBroker(
        # FastStream takes a text for one address, whatever commas are in it.
        [address.strip() for address in settings.kafka_bootstrap_servers.split(",")],
        client_id=client_id,
        consumer_only=True,
        allow_auto_create_topics=False,
        graceful_timeout=settings.drain_seconds,
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

    def __init__(self, *, broker: KafkaBroker, progress: ConsumerProgress, clock: Clock) -> None:
        self._broker = broker
        self._progress = progress
        self._clock = clock
        self._starting: asyncio.Task[None] | None = None
        self._started = False
        self._waiting_since: dict[str, tuple[int, datetime]] = {}

    async def start(self) -> None:
        self._starting = asyncio.create_task(self._start())

    async def stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
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
                _log.warning("kafka.unreachable", error=str(error), pause_seconds=pause_seconds)
                await self._broker.stop()
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 2, 5.0)


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

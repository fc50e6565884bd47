"""The producer: many sends, then all acknowledgements; it renews itself after a broken one."""

import asyncio
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from shared.contracts.wire import OutboundRecord
from shared.errors import TransientError

_log = structlog.get_logger(__name__)


class KafkaUnavailableError(TransientError):
    """The cluster did not acknowledge in time; the records may or may not have arrived."""


class RecordProducer:
    """Publishes batches with `acks=all`, idempotent within one connection's life.

    An idempotent aiokafka producer can stay broken after a broker's restart. It is thrown away
    after any failure and made anew for the next batch: a record may then arrive twice, which
    every consumer recognises by its fact id.
    """

    def __init__(
        self,
        *,
        bootstrap_servers: str,
        client_id: str,
        security: dict[str, Any] | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        self._options: dict[str, Any] = {
            "bootstrap_servers": bootstrap_servers,
            "client_id": client_id,
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": 0,
            "max_request_size": 2 * 1024 * 1024,
            "max_batch_size": 256 * 1024,
            "request_timeout_ms": int(timeout_seconds * 1000),
            "partitioner": partition_by_crc32,
            **(security or {}),
        }
        self._timeout_seconds = timeout_seconds
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()

    async def publish(self, records: Sequence[OutboundRecord]) -> None:
        """Publish all records in their order and wait until all are acknowledged.

        Raises:
            KafkaUnavailableError: at least one was not acknowledged; publish the whole again.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                producer = await self._connected()
                await asyncio.gather(
                    *[
                        self._publish_in_order(producer, destination, some)
                        for destination, some in (await _by_partition(producer, records)).items()
                    ]
                )
        except (KafkaError, OSError, TimeoutError) as error:
            await self._discard()
            raise KafkaUnavailableError(f"{type(error).__name__}: {error}") from error

    async def _publish_in_order(
        self,
        producer: AIOKafkaProducer,
        destination: TopicPartition,
        records: Sequence[OutboundRecord],
    ) -> None:
        """Send one partition's records as whole batches: `send` costs several times as much each.

        Raises:
            KafkaError: a batch was not taken, or not acknowledged.
        """
        acknowledgements = []
        start = 0
        while start < len(records):
            # A batch takes its first record whatever its size, so that each turn gets further.
            batch, count = producer.create_batch(), 0
            for record in records[start:]:
                appended = batch.append(
                    timestamp=None,
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers),
                )
                if appended is None:
                    break
                count += 1
            acknowledgements.append(
                await producer.send_batch(batch, destination.topic, partition=destination.partition)
            )
            start += count
        await asyncio.gather(*acknowledgements)

    async def close(self) -> None:
        await self._discard()

    async def _connected(self) -> AIOKafkaProducer:
        # Announcements and dead letters may both be the first: one of them connects.
        async with self._connecting:
            if self._producer is None:
                producer = AIOKafkaProducer(**self._options)
                try:
                    await producer.start()
                except BaseException:
                    await _stop(producer)
                    raise
                self._producer = producer
            return self._producer

    async def _discard(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stop(producer)


async def _by_partition(
    producer: AIOKafkaProducer, records: Sequence[OutboundRecord]
) -> dict[TopicPartition, list[OutboundRecord]]:
    found: dict[TopicPartition, list[OutboundRecord]] = {}
    partitions: dict[str, list[int]] = {}
    for record in records:
        topic = record.topic
        if topic not in partitions:
            partitions[topic] = sorted(await producer.partitions_for(topic))
        known = partitions[topic]
        destination = TopicPartition(topic, partition_by_crc32(record.key, known, known))
        found.setdefault(destination, []).append(record)
    return found


async def _stop(producer: AIOKafkaProducer) -> None:
    # `stop` flushes what is pending, which never ends while the broker is away.
    with suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(1):
            await producer.stop()


def partition_by_crc32(key: bytes | None, partitions: list[int], available: list[int]) -> int:
    """Return the key's partition by CRC-32: C speed where aiokafka's murmur2 is pure Python."""
    if key is None:
        return (available or partitions)[0]
    return partitions[zlib.crc32(key) % len(partitions)]

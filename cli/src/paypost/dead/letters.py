"""Reads the dead-letter topics, and puts letters back on their streams.

Invariant: what is replayed is what was dead: the original key, bytes and headers, without the
story that the consumer added. Nothing is removed; a consumer that knows the fact takes it once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.contracts.streams import STREAMS
from shared.contracts.wire import OutboundRecord
from shared.messaging.producer import RecordProducer

STORY_PREFIX = "dead_"
POLL_MS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record on a dead-letter topic.

    Attributes:
        id: ``<stream>:<offset>``, as the commands take it.
        stream: where it was.
        offset: on the dead-letter topic.
        at: when it was buried.
        key, value, headers: the original's.
        story: what the consumer noted, without its prefix: consumer, reason, detail, …
    """

    id: str
    stream: str
    offset: int
    at: datetime
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    story: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Everything, for machines; bytes that are no text with replacements."""
        return {
            "id": self.id,
            "stream": self.stream,
            "at": self.at.isoformat(),
            "key": self.key.decode(errors="replace"),
            "value": self.value.decode(errors="replace"),
            "headers": [[name, value.decode(errors="replace")] for name, value in self.headers],
            "story": self.story,
        }


@asynccontextmanager
async def _consumer(bootstrap: str) -> AsyncIterator[tuple[AIOKafkaConsumer, list[TopicPartition]]]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=100
    )
    await consumer.start()
    try:
        known = await consumer.topics()
        topics = [each.dead_letters for each in STREAMS.values() if each.dead_letters in known]
        consumer.assign([TopicPartition(topic, 0) for topic in topics])
        yield consumer, [TopicPartition(topic, 0) for topic in topics]
    finally:
        await consumer.stop()


async def count_dead_letters(*, bootstrap: str) -> dict[str, int]:
    """How many letters each dead-letter topic holds.

    Raises:
        aiokafka.errors.KafkaError: Kafka cannot be reached.
    """
    async with _consumer(bootstrap) as (consumer, partitions):
        if not partitions:
            return {}
        first = await consumer.beginning_offsets(partitions)
        last = await consumer.end_offsets(partitions)
        return {place.topic: last[place] - first[place] for place in partitions}


async def read_dead_letters(
    *, bootstrap: str, streams: Sequence[str] | None = None, limit: int = 1000
) -> list[DeadLetter]:
    """The letters of these streams (all by default), oldest first within each.

    Raises:
        aiokafka.errors.KafkaError: Kafka cannot be reached.
    """
    letters: list[DeadLetter] = []
    async with _consumer(bootstrap) as (consumer, partitions):
        wanted = [
            place
            for place in partitions
            if streams is None or place.topic.removesuffix(".dead") in streams
        ]
        last = await consumer.end_offsets(wanted) if wanted else {}
        first = await consumer.beginning_offsets(wanted) if wanted else {}
        for place in wanted:
            if first[place] >= last[place]:
                continue
            consumer.assign([place])
            consumer.seek(place, first[place])
            while await consumer.position(place) < last[place] and len(letters) < limit:
                batches = await consumer.getmany(place, timeout_ms=POLL_MS)
                letters += [_letter(record) for record in batches.get(place, [])]
    return letters[:limit]


def _letter(record: Any) -> DeadLetter:
    stream = record.topic.removesuffix(".dead")
    return DeadLetter(
        id=f"{stream}:{record.offset}",
        stream=stream,
        offset=record.offset,
        at=datetime.fromtimestamp(record.timestamp / 1000, UTC),
        key=record.key or b"",
        value=record.value or b"",
        headers=tuple(
            (name, value or b"")
            for name, value in record.headers
            if not name.startswith(STORY_PREFIX)
        ),
        story={
            name.removeprefix(STORY_PREFIX): (value or b"").decode(errors="replace")
            for name, value in record.headers
            if name.startswith(STORY_PREFIX)
        },
    )


def once_each(*, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """One letter for each record: every consumer that gave up on it has buried a copy."""
    found: dict[tuple[str, str, str], DeadLetter] = {}
    for letter in letters:
        origin = (letter.story.get("partition", letter.id), letter.story.get("offset", ""))
        found.setdefault((letter.stream, *origin), letter)
    return list(found.values())


async def replay(*, bootstrap: str, letters: Sequence[DeadLetter]) -> None:
    """Publish these letters to their streams again, as they were.

    Raises:
        KafkaUnavailableError: not all were acknowledged.
    """
    producer = RecordProducer(bootstrap_servers=bootstrap, client_id="paypost-dead")
    try:
        await producer.publish(
            [
                OutboundRecord(
                    topic=letter.stream,
                    key=letter.key,
                    value=letter.value,
                    headers=letter.headers,
                )
                for letter in letters
            ]
        )
    finally:
        await producer.close()

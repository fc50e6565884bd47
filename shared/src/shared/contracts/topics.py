"""Creates the topics, with stated partitions, retention and configuration.

Auto-creation is off on both sides: a topic that nobody declared is a mistake, not a default.
"""

import argparse
import asyncio
from collections.abc import Iterable

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from shared.contracts.streams import STREAMS, Stream

DEAD_LETTER_RETENTION_MS = 90 * 24 * 3600 * 1000
"""Long enough for a clerk's quarter: a dead letter waits for a person."""


def declared_topics(*, replication_factor: int) -> list[NewTopic]:
    """Return every topic of the system with its configuration."""
    replicas_min = max(1, replication_factor - 1)
    return [
        topic
        for stream in STREAMS.values()
        for topic in _topics_of(stream, replication_factor, replicas_min)
    ]


def _topics_of(stream: Stream, replication_factor: int, replicas_min: int) -> Iterable[NewTopic]:
    common = {
        "min.insync.replicas": str(replicas_min),
        "cleanup.policy": "delete",
        "max.message.bytes": str(1024 * 1024),
    }
    yield NewTopic(
        name=stream.name,
        num_partitions=stream.partitions,
        replication_factor=replication_factor,
        topic_configs={**common, "retention.ms": str(stream.retention_ms)},
    )
    yield NewTopic(
        name=stream.dead_letters,
        num_partitions=1,
        replication_factor=replication_factor,
        topic_configs={
            **common,
            "retention.ms": str(DEAD_LETTER_RETENTION_MS),
            # A dead letter carries the original bytes plus its story in headers.
            "max.message.bytes": str(2 * 1024 * 1024),
        },
    )


async def create_topics(*, bootstrap_servers: str, replication_factor: int) -> list[str]:
    """Create what is missing and return its names; what exists is left as it is.

    Raises:
        aiokafka.errors.KafkaError: the cluster refused a topic for another reason.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        response = await admin.create_topics(declared_topics(replication_factor=replication_factor))
    finally:
        await admin.close()
    created = []
    for name, code, *message in response.topic_errors:
        if code == 0:
            created.append(name)
        elif code != TopicAlreadyExistsError.errno:
            raise for_code(code)(f"{name}: {message}")
    return created


def main() -> None:
    """Create the topics from the command line: `python -m shared.contracts.topics`."""
    parser = argparse.ArgumentParser(description=create_topics.__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--replication-factor", type=int, default=1)
    arguments = parser.parse_args()
    asyncio.run(
        create_topics(
            bootstrap_servers=arguments.bootstrap,
            replication_factor=arguments.replication_factor,
        )
    )


if __name__ == "__main__":
    main()

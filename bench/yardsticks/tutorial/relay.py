"""The outbox poller: reads what is unpublished, publishes one after the other, marks each."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from faststream.kafka import KafkaBroker
from sqlalchemy import select

from bench.yardsticks.peer import say_ready
from bench.yardsticks.tutorial.tables import Outbox, Session, settings

BATCH_SIZE = 100
POLL_SECONDS = 0.1


async def publish_pending(*, broker: KafkaBroker) -> int:
    """Publish what is due, in order; how many that were."""
    async with Session() as session:
        rows = await session.scalars(
            select(Outbox)
            .where(Outbox.published_at.is_(None))
            .order_by(Outbox.id)
            .limit(BATCH_SIZE)
        )
        count = 0
        for row in rows.all():
            await broker.publish(row.payload, topic=row.topic, key=row.key.encode())
            row.published_at = datetime.now(UTC)
            await session.commit()
            count += 1
    return count


async def main() -> None:
    """Until it is stopped."""
    async with KafkaBroker(settings.kafka_bootstrap, acks="all", enable_idempotence=True) as broker:
        say_ready()
        while True:
            if not await publish_pending(broker=broker):
                await asyncio.sleep(POLL_SECONDS)


if __name__ == "__main__":
    asyncio.run(main())

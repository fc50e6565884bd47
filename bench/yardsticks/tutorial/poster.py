"""Payments to the CIS: a FastStream subscriber that acknowledges each message."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import asdict
from typing import Any

import httpx
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker

from bench.yardsticks.peer import say_ready
from bench.yardsticks.peer_steps import Paid, posted_of, posting_of
from bench.yardsticks.tutorial.tables import (
    PAYMENTS_TOPIC,
    POSTINGS_TOPIC,
    Outbox,
    Payment,
    Session,
    settings,
)

broker = KafkaBroker(settings.kafka_bootstrap)
app = FastStream(broker)
client = httpx.AsyncClient(
    base_url=settings.cis_url,
    headers={"Authorization": f"Bearer {settings.cis_api_key}"},
    timeout=settings.cis_timeout_seconds,
)


@broker.subscriber(
    PAYMENTS_TOPIC,
    group_id="poster",
    auto_offset_reset="earliest",
    ack_policy=AckPolicy.NACK_ON_ERROR,
)
async def post_payment(message: dict[str, Any]) -> None:
    """Post a payment; an error lets Kafka deliver it again."""
    paid = Paid(**message)
    async with Session() as session:
        payment = await session.get_one(Payment, uuid.UUID(paid.payment_id))
        if payment.status != "accepted":
            return
        response = await client.post("/v1/postings", json=posting_of(paid))
        posted = posted_of(status=response.status_code, body=response.content, paid=paid)
        payment.cis_reference = posted.cis_reference
        if posted.cis_reference is None:
            payment.status = "refused"
        else:
            payment.status = "posted"
            session.add(
                Outbox(
                    topic=POSTINGS_TOPIC,
                    key=paid.account,
                    payload={"paid": asdict(paid), "posted": asdict(posted)},
                )
            )
        await session.commit()


@app.after_startup
async def started() -> None:
    """Say that it consumes."""
    say_ready()


if __name__ == "__main__":
    asyncio.run(app.run())

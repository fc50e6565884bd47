"""Postings to customers: a FastStream subscriber that opens an SMTP connection for each mail."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import aiosmtplib
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker

from bench.yardsticks.peer import say_ready
from bench.yardsticks.peer_steps import Paid, Posted, mail_of
from bench.yardsticks.tutorial.tables import (
    POSTINGS_TOPIC,
    Customer,
    Payment,
    Session,
    settings,
)

broker = KafkaBroker(settings.kafka_bootstrap)
app = FastStream(broker)


@broker.subscriber(
    POSTINGS_TOPIC,
    group_id="notifier",
    auto_offset_reset="earliest",
    ack_policy=AckPolicy.NACK_ON_ERROR,
)
async def tell_customer(message: dict[str, Any]) -> None:
    """Mail a customer; an error lets Kafka deliver it again."""
    paid, posted = Paid(**message["paid"]), Posted(**message["posted"])
    async with Session() as session:
        payment = await session.get_one(Payment, uuid.UUID(paid.payment_id))
        if payment.status != "posted":
            return
        customer = await session.get(Customer, paid.account)
        if customer is not None and customer.email is not None:
            await aiosmtplib.send(
                mail_of(paid=paid, posted=posted, name=customer.name, email=customer.email),
                hostname=settings.smtp_host,
                port=settings.smtp_port,
            )
        payment.status = "mailed"
        await session.commit()


@app.after_startup
async def started() -> None:
    """Say that it consumes."""
    say_ready()


if __name__ == "__main__":
    asyncio.run(app.run())

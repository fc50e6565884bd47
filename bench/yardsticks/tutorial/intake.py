"""Webhooks in: FastAPI, a session per request, payment and outbox row in one transaction."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import stripe
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from bench.yardsticks.peer_steps import event_of
from bench.yardsticks.tutorial.tables import (
    PAYMENTS_TOPIC,
    Event,
    Outbox,
    Payment,
    get_session,
    settings,
)

app = FastAPI()


class Taken(BaseModel):
    """The answer to a webhook."""

    status: str


@app.post("/webhooks/stripe")
async def take_webhook(
    request: Request,
    session: Annotated[AsyncSession, Depends(get_session)],
    stripe_signature: Annotated[str, Header()],
) -> Taken:
    """Store an event and what it says."""
    body = await request.body()
    try:
        stripe.Webhook.construct_event(body, stripe_signature, settings.stripe_webhook_secret)
        event = event_of(
            event=await request.json(),
            now=datetime.now(UTC),
            city_time_zone=settings.city_time_zone,
        )
    except (ValueError, KeyError, TypeError, stripe.SignatureVerificationError) as error:
        raise HTTPException(status_code=400, detail="invalid webhook") from error
    if await session.get(Event, event.event_id) is not None:
        return Taken(status="duplicate")
    session.add(Event(event_id=event.event_id, event_type=event.event_type))
    if event.paid is not None:
        payment = Payment.of(event.paid)
        if await session.get(Payment, payment.payment_id) is None:
            session.add(payment)
            session.add(
                Outbox(topic=PAYMENTS_TOPIC, key=event.paid.account, payload=asdict(event.paid))
            )
    try:
        await session.commit()
    except IntegrityError:
        # The same event, or another of this payment, was taken beside this one: Stripe sends
        # it again, and then it is a duplicate.
        raise HTTPException(status_code=409, detail="taken at the same time") from None
    return Taken(status="taken")

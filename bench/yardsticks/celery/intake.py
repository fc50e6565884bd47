"""Webhooks in: FastAPI; the broker has confirmed the payment's message before the answer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime

import anyio.to_thread
from fastapi import FastAPI, Request, Response

from bench.yardsticks.celery.tasks import first_task, settings, tuning
from bench.yardsticks.peer_steps import WebhookRefusedError, read_event, verify_signature


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Each waiting webhook holds a thread."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = int(tuning["intake_threads"])
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/webhooks/stripe")
async def take_webhook(request: Request) -> Response:
    """Hand an event to the workers, durably."""
    body = await request.body()
    try:
        verify_signature(
            body=body,
            header=request.headers.get("stripe-signature", ""),
            secret=settings.stripe_webhook_secret,
            now_seconds=time.time(),
        )
        event = read_event(body=body, now=datetime.now(UTC), city_time_zone=settings.city_time_zone)
    except WebhookRefusedError as error:
        return Response(str(error), status_code=400)
    if event.paid is not None:
        await anyio.to_thread.run_sync(
            first_task.delay, event.event_id, event.event_type, asdict(event.paid)
        )
    return Response(status_code=200)

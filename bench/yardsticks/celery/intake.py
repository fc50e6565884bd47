"""Webhooks in: FastAPI; the broker has confirmed the payment's message before the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict

import anyio.to_thread
from fastapi import FastAPI, Request, Response

from bench.yardsticks.celery.tasks import first_task, settings, tuning
from bench.yardsticks.peer_steps import WebhookRefusedError, verified_event


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
        header = request.headers.get("stripe-signature", "")
        event = verified_event(body=body, header=header, settings=settings)
    except WebhookRefusedError as error:
        return Response(str(error), status_code=400)
    if event.paid is not None:
        await anyio.to_thread.run_sync(
            first_task.delay, event.event_id, event.event_type, asdict(event.paid)
        )
    return Response(status_code=200)

"""Webhooks in: FastAPI; the workflow of a payment is durable before the answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict

from dbos import DBOS, SetWorkflowID
from fastapi import FastAPI, Request, Response

from bench.yardsticks.dbos.workflow import (
    QUEUE,
    configuration,
    handle_payment,
    handle_payment_in_thread,
    settings,
    tuning,
)
from bench.yardsticks.peer import say_ready
from bench.yardsticks.peer_steps import WebhookRefusedError, verified_event

RUNS_HERE = int(tuning["worker_processes"]) == 0
AS_COROUTINE = tuning["workflow"] == "async"


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """DBOS runs as long as the application."""
    DBOS(config=configuration(executor=os.environ["PEER_EXECUTOR"]))
    if not RUNS_HERE:
        DBOS.listen_queues([])
    DBOS.launch()
    if tuning["start"] == "queue":
        await DBOS.register_queue_async(
            QUEUE,
            worker_concurrency=int(tuning["concurrency"]),
            polling_interval_sec=float(tuning["polling_seconds"]),
        )
    say_ready()
    yield
    DBOS.destroy()


app = FastAPI(lifespan=lifespan)


@app.post("/webhooks/stripe")
async def take_webhook(request: Request) -> Response:
    """Start what an event is about; its workflow's id is the payment's."""
    body = await request.body()
    try:
        header = request.headers.get("stripe-signature", "")
        event = verified_event(body=body, header=header, settings=settings)
    except WebhookRefusedError as error:
        return Response(str(error), status_code=400)
    if event.paid is not None:
        with SetWorkflowID(event.paid.payment_id):
            await _start(asdict(event.paid))
    return Response(status_code=200)


async def _start(paid: dict[str, object]) -> None:
    if tuning["start"] == "queue":
        if AS_COROUTINE:
            await DBOS.enqueue_workflow_async(QUEUE, handle_payment, paid)
        else:
            await DBOS.enqueue_workflow_async(QUEUE, handle_payment_in_thread, paid)  # type: ignore[arg-type]
    elif AS_COROUTINE:
        await DBOS.start_workflow_async(handle_payment, paid)
    else:
        await asyncio.to_thread(DBOS.start_workflow, handle_payment_in_thread, paid)

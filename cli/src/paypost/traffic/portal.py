"""What the city's portal and its kiosks say: facts of `portal.v1`, over Kafka or signed HTTP."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import StrEnum
from typing import Any
from uuid import uuid4

import aiohttp
import orjson

from paypost.remote import refusal_of
from paypost.simulators.processor.signatures import sign_standard
from paypost.stack.state import StackState
from shared.contracts.fact import Fact
from shared.contracts.streams import PORTAL
from shared.contracts.wire import encode
from shared.messaging.producer import RecordProducer

EVENTS_IN_CALL_MAX = 100
PORTAL_SOURCE = "portal"
KIOSK_SOURCE = "kiosk"


class Way(StrEnum):
    """How an event of the portal's gets in."""

    KAFKA = "kafka"
    HTTP = "http"


async def say(
    *, state: StackState, facts: Sequence[Fact], way: Way, source: str = PORTAL_SOURCE
) -> None:
    """State these facts to the stack; returns when they are taken for good.

    Over HTTP the portal uses `/portal/events` with CloudEvents, and any other source its own
    `/webhooks/standard/{source}`.

    Raises:
        KafkaUnavailableError: not all were acknowledged.
        RefusedRequestError: the endpoint refused a call.
        aiohttp.ClientError: no answer.
    """
    if way is Way.KAFKA:
        producer = RecordProducer(
            bootstrap_servers=state.kafka_bootstrap, client_id=f"paypost-{source}"
        )
        try:
            await producer.publish([encode(fact, stream=PORTAL, source=source) for fact in facts])
        finally:
            await producer.close()
    elif source == PORTAL_SOURCE:
        await _post_cloud_events(state, facts)
    else:
        await _post_webhooks(state, facts, source)


async def _post_cloud_events(state: StackState, facts: Sequence[Fact]) -> None:
    async with aiohttp.ClientSession() as session:
        for start in range(0, len(facts), EVENTS_IN_CALL_MAX):
            events = [_cloud_event(fact) for fact in facts[start : start + EVENTS_IN_CALL_MAX]]
            await _post(
                session,
                url=f"{state.http_urls['payment-intake']}/portal/events",
                body=orjson.dumps(events),
                secret=state.secrets.standard_webhook_secrets[PORTAL_SOURCE],
                message_id=f"msg_{uuid4().hex}",
                content_type="application/cloudevents-batch+json",
            )


def _cloud_event(fact: Fact) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": str(fact.id()),
        "source": PORTAL_SOURCE,
        "type": fact.TYPE,
        "time": fact.happened_at().isoformat(),
        "datacontenttype": "application/json",
        "data": fact.model_dump(mode="json"),
    }


async def _post_webhooks(state: StackState, facts: Sequence[Fact], source: str) -> None:
    async with aiohttp.ClientSession() as session:
        for fact in facts:
            body = {
                "type": fact.TYPE,
                "timestamp": fact.happened_at().isoformat(),
                "data": fact.model_dump(mode="json"),
            }
            await _post(
                session,
                url=f"{state.http_urls['payment-intake']}/webhooks/standard/{source}",
                body=orjson.dumps(body),
                secret=state.secrets.standard_webhook_secrets[source],
                message_id=str(fact.id()),
                content_type="application/json",
            )


async def _post(
    session: aiohttp.ClientSession,
    *,
    url: str,
    body: bytes,
    secret: str,
    message_id: str,
    content_type: str,
) -> None:
    headers = sign_standard(
        body=body, secrets=[secret], message_id=message_id, timestamp=int(time.time())
    )
    async with session.post(
        url, data=body, headers=headers | {"content-type": content_type}
    ) as response:
        if response.status >= 300:
            raise refusal_of(status=response.status, body=await response.read(), url=url)

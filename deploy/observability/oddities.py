"""The exceptions to the normal way that the demo does not play, so that no metric stays unseen."""

import time
from datetime import UTC, datetime

import aiohttp
from aiokafka import AIOKafkaProducer

from paypost.simulators.processor.signatures import sign_standard, sign_stripe
from paypost.stack.state import StackState


async def play_oddities(state: StackState) -> None:
    """Send a wrong signature, an event without sense, a card number, an unreadable record.

    Raises:
        RuntimeError: one of them was not answered as it should be.
    """
    url = state.http_urls["payment-intake"]
    async with aiohttp.ClientSession() as http:
        await _post(http, f"{url}/webhooks/stripe", b"{}", {"Stripe-Signature": "t=1,v1=00"}, 401)
        await _signed(http, state, b'{"id": "evt_odd", "object": "event", "type": 7}', 422)
        card = (
            b'{"id":"evt_odd_card","object":"event","api_version":"2024-06-20","created":1,'
            b'"type":"customer.updated","livemode":false,"pending_webhooks":0,'
            b'"data":{"object":{"object":"customer","note":"4242 4242 4242 4242"}}}'
        )
        await _signed(http, state, card, 200)
        contact = (
            b'{"specversion":"1.0","id":"odd-%d","source":"/portal","type":"contact.changed",'
            b'"data":{"account_id":"D-001","name":"A","email":"odd@example.org","locale":"en",'
            b'"email_opted_out":false,"changed_at":"%s"}}'
            % (time.time_ns(), datetime.now(UTC).isoformat().encode())
        )
        headers = sign_standard(
            body=contact,
            secrets=[state.secrets.standard_webhook_secrets["portal"]],
            message_id=f"msg_{time.time_ns()}",
            timestamp=int(time.time()),
        )
        headers = {**headers, "Content-Type": "application/cloudevents+json"}
        await _post(http, f"{url}/portal/events", contact, headers, 200)
    producer = AIOKafkaProducer(bootstrap_servers=state.kafka_bootstrap)
    await producer.start()
    try:
        for stream in ("payments.v1", "postings.v1"):
            await producer.send_and_wait(stream, b"{}", headers=[("ce_type", b"payment.accepted")])
    finally:
        await producer.stop()


async def _signed(
    http: aiohttp.ClientSession, state: StackState, body: bytes, expected: int
) -> None:
    signature = sign_stripe(
        body=body, secrets=[state.secrets.stripe_webhook_secret], timestamp=int(time.time())
    )
    url = f"{state.http_urls['payment-intake']}/webhooks/stripe"
    await _post(http, url, body, {"Stripe-Signature": signature}, expected)


async def _post(
    http: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str], expected: int
) -> None:
    async with http.post(
        url, data=body, headers={"Content-Type": "application/json", **headers}
    ) as answer:
        if answer.status != expected:
            raise RuntimeError(f"{url} answered {answer.status}: {await answer.text()}")

"""payment-intake as a running service in this process, on real Kafka and PostgreSQL."""

import asyncio
import base64
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import SecretStr

from payment_intake.app import App, build_app
from payment_intake.settings import Settings
from paypost.simulators.processor.signatures import sign_standard, sign_stripe

STRIPE_SECRET = "whsec_current-secret-of-stripe"
STRIPE_SECRET_OLD = "whsec_former-secret-of-stripe"
PORTAL_SECRET = "whsec_" + base64.b64encode(b"the portal's own secret").decode()
KIOSK_SECRET = "whsec_" + base64.b64encode(b"the kiosk's own secret").decode()
API_KEY = "portal-reads-with-this"
OPERATOR_KEY = "operators-turn-the-switch-with-this"


async def eventually_async(
    holds: Callable[[], Awaitable[bool]], *, timeout_seconds: float = 15.0
) -> None:
    """Wait, without holding up the loop, until it holds; fail when it does not in time."""
    deadline = time.monotonic() + timeout_seconds
    while not await holds():
        assert time.monotonic() < deadline, f"did not come true in {timeout_seconds:g} s"
        await asyncio.sleep(0.02)


def intake_settings(*, database_url: str, kafka: str, **changes: Any) -> Settings:
    fields = {
        "environment": "local",
        "database_url": database_url,
        "kafka_bootstrap_servers": kafka,
        "http_host": "127.0.0.1",
        "http_port": _free_port(),
        "stripe_webhook_secrets": [STRIPE_SECRET, STRIPE_SECRET_OLD],
        "standard_webhook_secrets": {"portal": [PORTAL_SECRET], "kiosk": [KIOSK_SECRET]},
        "trusted_capture_sources": ["kiosk", "/kiosk"],
        "portal_api_key_sha256s": [hashlib.sha256(API_KEY.encode()).hexdigest()],
        "operator_key_sha256s": [hashlib.sha256(OPERATOR_KEY.encode()).hexdigest()],
        "request_seconds_max": 0.5,
        "take_patience_seconds": 0.5,
        "drain_seconds": 5,
    }
    return Settings(**(fields | changes))


class RunningIntake:
    """Calls a running payment-intake as its senders do."""

    def __init__(self, app: App, settings: Settings, http: aiohttp.ClientSession) -> None:
        self.app = app
        self.settings = settings
        self.http = http
        self.url = f"http://127.0.0.1:{settings.http_port}"

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Any, Mapping[str, str]]:
        given = {"Content-Type": "application/json"} | dict(headers)
        async with self.http.post(self.url + path, data=body, headers=given) as answer:
            text = await answer.read()
            return answer.status, orjson.loads(text) if text else None, answer.headers

    async def stripe(
        self, body: bytes, *, secret: str = STRIPE_SECRET, at: int | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        timestamp = int(time.time()) if at is None else at
        signature = sign_stripe(body=body, secrets=[secret], timestamp=timestamp)
        return await self.post("/webhooks/stripe", body, {"Stripe-Signature": signature})

    async def standard(
        self, path: str, body: bytes, *, secret: str, message_id: str, **headers: str
    ) -> tuple[int, Any, Mapping[str, str]]:
        signed = sign_standard(
            body=body, secrets=[secret], message_id=message_id, timestamp=int(time.time())
        )
        return await self.post(path, body, signed | headers)

    async def portal(self, event: Any, **headers: str) -> tuple[int, Any, Mapping[str, str]]:
        given = {"Content-Type": "application/cloudevents+json"} | headers
        return await self.standard(
            "/portal/events",
            event if isinstance(event, bytes) else orjson.dumps(event),
            secret=PORTAL_SECRET,
            message_id=f"msg_{time.monotonic_ns()}",
            **given,
        )

    async def get(self, path: str, *, key: str | None = API_KEY) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self.http.get(self.url + path, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def operate(
        self, method: str, path: str, body: Any = None, *, key: str | None = OPERATOR_KEY
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self.http.request(method, self.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    def counted(self, name: str, **labels: str) -> float:
        return self.app.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def running_intake(settings: Settings) -> AsyncIterator[RunningIntake]:
    """Open everything that `serve` opens, but for signals and the operations port."""
    app = build_app(settings)
    tasks = [asyncio.create_task(run()) for run in app.service.loops.values()]
    opened = []
    try:
        for door in app.service.doors:
            await door.start()
            opened.append(door)
        async with aiohttp.ClientSession() as http:
            yield RunningIntake(app, settings, http)
    finally:
        for door in opened:
            await door.stop()
        for drain in app.service.drains:
            await asyncio.wait_for(drain(), 5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for close in app.service.closes:
            await close()


@contextmanager
def intake_process(settings: Settings) -> Iterator["subprocess.Popen[bytes]"]:
    """payment-intake as a process of its own, which can be killed."""
    given = {name: value for name, value in settings.model_dump().items() if value is not None}
    environment = {f"PAYMENT_INTAKE_{name.upper()}": _plain(value) for name, value in given.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "payment_intake", "run"],
        env=os.environ | environment | {"PAYMENT_INTAKE_OPS_PORT": "0"},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=10)


def _plain(value: Any) -> str:
    """Return a setting as the environment writes it: lists and maps in JSON, secrets bare."""
    match value:
        case SecretStr():
            return value.get_secret_value()
        case list() | dict():
            return orjson.dumps(value, default=lambda secret: secret.get_secret_value()).decode()
        case _:
            return str(value)


async def records_on(*, bootstrap: str, topic: str) -> Sequence[Any]:
    """Everything that stands on a topic now, from its beginning."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        numbers = consumer.partitions_for_topic(topic) or await _partitions(consumer, topic)
        partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        found: list[Any] = []
        for partition in partitions:
            while await consumer.position(partition) < ends[partition]:
                batches = await consumer.getmany(timeout_ms=1000)
                found += [record for batch in batches.values() for record in batch]
        return found
    finally:
        await consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    consumer.subscribe([topic])
    await consumer._client.force_metadata_update()
    consumer.unsubscribe()
    found: set[int] = consumer.partitions_for_topic(topic) or set()
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import stripe
from aiohttp import web
from tests.integration.simulators.counterparts import free_port, running

from paypost.simulators.processor.connections import Connections
from paypost.simulators.processor.delivery import (
    DeliveryJournal,
    Disorder,
    RetryPolicy,
    WebhookSender,
    read_deliveries,
)
from paypost.simulators.processor.processor import (
    MovableClock,
    Order,
    Processor,
    UnknownScenarioError,
    expand_accounts,
    real_time,
)

SECRET = "whsec_of_the_tests"


@dataclass
class Endpoint:
    """A receiver that verifies with the official SDK."""

    url: str = ""
    refusals: list[int] = field(default_factory=list)
    events: list[stripe.Event] = field(default_factory=list)
    signatures: list[str] = field(default_factory=list)

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        signature = request.headers["Stripe-Signature"]
        self.signatures.append(signature)
        if self.refusals:
            return web.Response(status=self.refusals.pop())
        self.events.append(stripe.Webhook.construct_event(body, signature, SECRET))
        return web.json_response({"received": True})


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    application = web.Application()
    application.router.add_post("/webhooks/stripe", endpoint.receive)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    endpoint.url = f"http://127.0.0.1:{port}/webhooks/stripe"
    yield endpoint
    await runner.cleanup()


@pytest.fixture
async def processor(endpoint: Endpoint, tmp_path: Path) -> AsyncIterator[Processor]:
    chance = random.Random(7)
    journal = DeliveryJournal(path=tmp_path / "deliveries.jsonl")
    async with Connections(url=endpoint.url, connections_max=8, timeout_seconds=5) as connections:
        yield Processor(
            sender=WebhookSender(
                connections=connections,
                secrets=[SECRET],
                clock=real_time,
                chance=chance,
                journal=journal,
                retry=RetryPolicy(first_seconds=0.01, attempts_max=4),
            ),
            clock=MovableClock(real=real_time),
            chance=chance,
            concurrency=4,
        )
    await journal.close()


class TestProcessor:
    async def test_delivers_each_event_of_each_payment_once_and_in_order(
        self, processor: Processor, endpoint: Endpoint
    ) -> None:
        order = Order(scenario="card", accounts=expand_accounts("A-##", count=5), count=20)
        deliveries = await processor.deliver(processor.prepare(order))
        assert len(deliveries) == len(endpoint.events) == 80
        assert all(delivery.taken and delivery.latency_seconds > 0 for delivery in deliveries)
        one = [event.type for event in endpoint.events if deliveries[0].reference in str(event)]
        assert one == [
            "payment_intent.created",
            "charge.succeeded",
            "payment_intent.succeeded",
            "charge.updated",
        ]

    async def test_repeats_what_was_not_taken_under_the_same_id(
        self, processor: Processor, endpoint: Endpoint, tmp_path: Path
    ) -> None:
        endpoint.refusals = [503, 500]
        order = Order(scenario="charge.succeeded", accounts=["A"], amount_cents=8_450)
        (delivery,) = await processor.deliver(processor.prepare(order))
        assert (delivery.attempts, delivery.taken) == (3, True)
        lines: list[dict[str, Any]] = []
        while len(lines) < 3:
            await asyncio.sleep(0.01)
            lines = list(read_deliveries(tmp_path / "deliveries.jsonl"))
        assert [line["status"] for line in lines] == [500, 503, 200]
        assert {line["event_id"] for line in lines} == {endpoint.events[0].id}
        assert {(line["account"], line["amount_cents"]) for line in lines} == {("A", 8_450)}

    async def test_gives_up_after_its_attempts(
        self, processor: Processor, endpoint: Endpoint
    ) -> None:
        endpoint.refusals = [500] * 4
        order = Order(scenario="charge.succeeded", accounts=["A"])
        (delivery,) = await processor.deliver(processor.prepare(order))
        assert (delivery.attempts, delivery.taken, delivery.status) == (4, False, 500)

    async def test_doubles_and_reorders_on_request(
        self, processor: Processor, endpoint: Endpoint
    ) -> None:
        order = Order(scenario="card", accounts=["A"], count=10)
        await processor.deliver(
            processor.prepare(order), disorder=Disorder(duplicates=2, reorder=True)
        )
        assert set(Counter(event.id for event in endpoint.events).values()) == {3}
        assert len(endpoint.events) == 120
        usual = ["payment_intent.created", "charge.succeeded"]
        assert [event.type for event in endpoint.events[:2]] != usual or [
            event.type for event in endpoint.events[:4]
        ] != [usual[0]] * 3 + [usual[1]]

    async def test_settles_ach_when_the_clock_is_moved(
        self, processor: Processor, endpoint: Endpoint
    ) -> None:
        await processor.deliver(processor.prepare(Order(scenario="ach_return", accounts=["A"])))
        assert [event.type for event in endpoint.events][-1] == "payment_intent.processing"
        assert await processor.advance(timedelta(days=3)) == []
        await processor.advance(timedelta(days=1))
        assert [event.type for event in endpoint.events][2:] == [
            "charge.failed",
            "payment_intent.payment_failed",
        ]
        days = (endpoint.events[-1].created - endpoint.events[0].created) / 86_400
        assert days == pytest.approx(4, abs=0.01)

    async def test_refuses_orders_that_make_no_sense(self, processor: Processor) -> None:
        with pytest.raises(UnknownScenarioError):
            processor.prepare(Order(scenario="crad", accounts=["A"]))
        with pytest.raises(ValueError, match="accounts"):
            processor.prepare(Order(scenario="card", accounts=[]))


class TestProcess:
    async def test_is_controlled_over_http(self, endpoint: Endpoint) -> None:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        arguments = ["--port", str(port), "--target", endpoint.url, "--secret", SECRET]
        context = running(
            module="paypost.simulators.processor",
            arguments=arguments,
            ready_url=f"{url}/readyz",
        )
        await asyncio.to_thread(context.__enter__)
        try:
            async with aiohttp.ClientSession() as http:
                body = {"scenario": "ach", "account": "A", "amount_cents": 8_450, "count": 2}
                async with http.post(f"{url}/trigger", json=body) as answer:
                    assert answer.status == 202
                    references = (await answer.json())["references"]
                async with http.post(f"{url}/settle") as answer:
                    assert (await answer.json())["scheduled"] == 4
                async with http.post(f"{url}/clock/advance", json={"days": 4}) as answer:
                    settled = (await answer.json())["deliveries"]
                async with http.get(f"{url}/deliveries?reference={references[0]}") as answer:
                    listed = (await answer.json())["deliveries"]
                async with http.post(f"{url}/trigger", json={"scenario": "card"}) as answer:
                    assert answer.status == 400
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)
        assert {one["reference"] for one in settled} == set(references)
        assert len(listed) == 4
        assert all(one["taken"] for one in settled + listed)
        assert orjson.loads(orjson.dumps(listed)) == listed

"""Payments from a Stripe that nobody here wrote: localstripe, as a process of its own.

It signs and sends PaymentIntent events in the form of API version 2017-08-15.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import suppress

import aiohttp
import pytest
from tests.support.pipeline import Pipeline, eventually_true
from tests.support.whole_stack import ACCOUNTS

from paypost.stack.ports import PortBlock

pytestmark = pytest.mark.stack

AUTH = {"Authorization": aiohttp.encode_basic_auth("sk_test_12345", "")}


@pytest.fixture
async def localstripe(pipeline: Pipeline) -> AsyncIterator[str]:
    """Return the address of a localstripe that knows our webhook."""
    block = PortBlock.claim()
    port = block.port("localstripe")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "localstripe", "--port", str(port), "--from-scratch"
    )
    url = f"http://127.0.0.1:{port}"
    hook = {
        "url": f"{pipeline.state.http_urls['payment-intake']}/webhooks/stripe",
        "secret": pipeline.state.secrets.stripe_webhook_secret,
    }

    async def takes_the_webhook() -> bool:
        with suppress(aiohttp.ClientError):
            async with pipeline.http.post(f"{url}/_config/webhooks/ours", data=hook) as answer:
                return answer.status == 200
        return False

    try:
        await eventually_true(takes_the_webhook, timeout_seconds=20, what="localstripe")
        yield url
    finally:
        process.terminate()
        await process.wait()
        block.release()


async def _stripe(pipeline: Pipeline, url: str, **fields: str) -> str:
    async with pipeline.http.post(url, data=fields, headers=AUTH) as answer:
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["id"])


class TestLocalstripe:
    async def test_its_payment_intent_is_posted_and_the_customer_is_told(
        self, pipeline: Pipeline, localstripe: str
    ) -> None:
        customer = await _stripe(pipeline, f"{localstripe}/v1/customers", description="x")
        card = {
            "type": "card",
            "card[number]": "4242424242424242",
            "card[exp_month]": "12",
            "card[exp_year]": "2030",
            "card[cvc]": "123",
        }
        method = await _stripe(pipeline, f"{localstripe}/v1/payment_methods", **card)
        await _stripe(
            pipeline, f"{localstripe}/v1/payment_methods/{method}/attach", customer=customer
        )
        intent = {
            "amount": "4210",
            "currency": "usd",
            "customer": customer,
            "payment_method": method,
            "confirm": "true",
            "metadata[account_number]": ACCOUNTS[3],
        }
        reference = await _stripe(pipeline, f"{localstripe}/v1/payment_intents", **intent)

        async def confirmed() -> bool:
            found = await pipeline.value(
                """SELECT count(*) FROM payment_intake.movements m
                   JOIN payment_intake.payment_references r USING (payment_id)
                   WHERE r.reference = $1 AND m.status = 'confirmed' AND m.amount_cents = 4210""",
                reference,
            )
            return found == 1

        await eventually_true(confirmed, timeout_seconds=20, what="confirmed")

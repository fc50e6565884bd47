"""Autopay through the whole system: answers and webhooks in any order, streams lost or read again.

What is believed is the processor's own book, and `paypost verify` beside it.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.support.pipeline import Pipeline, eventually_true, rewind
from tests.support.whole_autopay import Autopay
from tests.support.whole_stack import SERVICES

from paypost.remote import Remote
from paypost.stack.local import LocalStack
from shared.contracts.topics import create_topics

pytestmark = pytest.mark.stack

HALVES = {"autopay-scheduler": "/autopay", "payment-intake": "/charges"}


@pytest.fixture
async def processor(pipeline: Pipeline) -> AsyncIterator[Remote]:
    """The processor counterpart, whose switches are off again afterwards."""
    async with Remote(base_url=pipeline.state.http_urls["processor"]) as remote:
        yield remote
        await remote.post("/_switches/reset")


async def turn(pipeline: Pipeline, action: str) -> None:
    """Turn both halves of the kill switch."""
    for service, path in HALVES.items():
        url, key = pipeline.state.http_urls[service], pipeline.state.secrets.operator_key
        async with Remote(base_url=url, bearer_key=key) as half:
            await half.post(f"{path}/{action}", {"operator": "ana", "note": "a test"})


class TestAnswersAndWebhooks:
    @pytest.mark.parametrize(
        "switch",
        [
            pytest.param({"webhooks_first": True}, id="the webhooks first"),
            pytest.param({"webhooks_off": True}, id="the answer alone"),
            pytest.param({"connection_reset_after_effect": {"count": 6}}, id="no answer"),
            pytest.param({"error_after_effect": {"count": 6}}, id="a wrong answer"),
        ],
    )
    async def test_whichever_comes_charge_once(
        self, pipeline: Pipeline, processor: Remote, switch: dict[str, Any]
    ) -> None:
        async with Autopay(pipeline, "".join(switch)[:16], count=20) as autopay:
            await autopay.enrol()
            await processor.put("/_switches", switch)
            await autopay.bill()
            await autopay.come_to("paid")
            await autopay.assert_each_is_charged_once()
            await autopay.assert_books_agree()


class TestACancellationInTheRace:
    async def test_is_given_back_in_full(self, pipeline: Pipeline, processor: Remote) -> None:
        async with Autopay(pipeline, "RACE", count=10) as autopay:
            await autopay.enrol()
            await processor.put("/_switches", {"answer_delay_ms": 2_000})
            await autopay.bill()

            async def all_are_taken() -> bool:
                return len(await autopay.taken()) == 10

            await eventually_true(all_are_taken, timeout_seconds=20, what="taken, not answered")
            await autopay.cancel()
            await processor.post("/_switches/reset")
            await autopay.come_to("refunded")
            await autopay.assert_each_is_charged_once()
            taken = await autopay.taken()
            assert [each["refunded_cents"] for each in taken] == [
                each["amount_cents"] for each in taken
            ]
            await autopay.assert_books_agree()


class TestTheKillSwitch:
    async def test_holds_in_mid_flow_and_lets_everything_go_on(self, pipeline: Pipeline) -> None:
        async with Autopay(pipeline, "HALT") as autopay:
            await autopay.enrol()
            await autopay.bill()
            await autopay.is_in_mid_flow()
            try:
                await turn(pipeline, "pause")
                # What the processor had in hand at that moment may still be taken.
                await asyncio.sleep(1.0)
                taken = len(await autopay.taken())
                await asyncio.sleep(1.5)
                assert len(await autopay.taken()) == taken < len(autopay.accounts)
            finally:
                await turn(pipeline, "resume")
            await autopay.come_to("paid")
            await autopay.assert_each_is_charged_once()
            await autopay.assert_books_agree()


class TestStreams:
    # The wipe comes last: a broker without its disk gives out the ids of its producers again, and
    # refuses a new producer once that it takes for an old one.

    async def test_read_again_from_the_start_charge_and_tell_nobody_twice(
        self, pipeline: Pipeline, whole_stack: LocalStack
    ) -> None:
        async with Autopay(pipeline, "AGAIN", count=30) as autopay:
            await autopay.enrol()
            await autopay.bill()
            await autopay.come_to("paid")
            await autopay.assert_books_agree()
            told = await autopay.notices()
            bootstrap = whole_stack.state.kafka_bootstrap
            for service in SERVICES:
                await asyncio.to_thread(whole_stack.supervisor.stop, name=service)
            for service in SERVICES:
                await rewind(bootstrap=bootstrap, group=service)
            for service in SERVICES:
                whole_stack.supervisor.resume(name=service)
            for service in SERVICES:
                await asyncio.to_thread(
                    whole_stack.supervisor.wait_ready, name=service, timeout_seconds=30
                )
            async with Autopay(pipeline, "AFTER", count=10) as later:
                await later.enrol()
                await later.bill()
                await later.come_to("paid")
                await later.assert_each_is_charged_once()
            await autopay.assert_each_is_charged_once()
            await autopay.assert_books_agree()
            # Each of the ten: autopay started, a charge announced, a payment posted.
            assert await autopay.notices() == told + 30

    async def test_lost_with_kafkas_disk_in_mid_flow_charge_each_once(
        self, pipeline: Pipeline, whole_stack: LocalStack
    ) -> None:
        async with Autopay(pipeline, "WIPE") as autopay:
            await autopay.enrol()
            await autopay.bill()
            await autopay.is_in_mid_flow()
            await asyncio.to_thread(whole_stack.kafka.kill)
            await asyncio.to_thread(whole_stack.kafka.wipe)
            await asyncio.to_thread(whole_stack.kafka.start)
            await create_topics(
                bootstrap_servers=whole_stack.state.kafka_bootstrap, replication_factor=1
            )
            await autopay.come_to("paid")
            await autopay.assert_each_is_charged_once()
            await autopay.assert_books_agree()

"""The whole system, its parts killed one after the other while payments come in.

One stack for all of them: each test leaves it healthy, and at the end of each every payment of the
test is on the CIS's ledger once and its customer has been told.
"""

import asyncio
from dataclasses import replace

import pytest
from tests.support.pipeline import Pipeline, eventually_true, rewind
from tests.support.whole_stack import ACCOUNTS, SERVICES

from paypost.simulators.processor.scenarios import Train
from paypost.stack.local import LocalStack
from paypost.stack.postgres import StopMode
from shared.contracts.topics import create_topics

pytestmark = pytest.mark.stack


def some_trains(pipeline: Pipeline, count: int) -> list[Train]:
    return [
        pipeline.card(account=ACCOUNTS[n % len(ACCOUNTS)], amount_cents=1000 + n)
        for n in range(count)
    ]


class TestSurvival:
    async def test_one_event_fifty_times_at_once_posts_once(self, pipeline: Pipeline) -> None:
        train = pipeline.card(account=ACCOUNTS[0], amount_cents=4210)
        storm = [replace(train, steps=[step]) for step in train.steps for _ in range(50)]
        await pipeline.send(storm, concurrency=64)

        await pipeline.settled()

        await pipeline.assert_exactly_once()

    async def test_refund_before_its_payment_waits_for_it(self, pipeline: Pipeline) -> None:
        train = pipeline.card(account=ACCOUNTS[1], amount_cents=900, scenario="refund_first")
        await pipeline.send([train])

        await pipeline.settled()

        await pipeline.assert_exactly_once()
        order = await pipeline._rows(
            """SELECT p.kind FROM cis_poster.postings p
               JOIN payment_intake.payment_references r ON r.payment_id = p.payment_id
               WHERE r.reference = $1 ORDER BY p.settled_at, p.seq""",
            train.reference,
        )
        assert [row["kind"] for row in order] == ["payment", "reversal"]

    @pytest.mark.parametrize("service", SERVICES)
    async def test_killed_service_under_load_loses_and_doubles_nothing(
        self, pipeline: Pipeline, whole_stack: LocalStack, service: str
    ) -> None:
        sending = asyncio.create_task(
            pipeline.send(some_trains(pipeline, 200), trains_per_second=60)
        )
        for _ in range(2):
            await asyncio.sleep(1.0)
            whole_stack.supervisor.kill(name=service)
        await sending

        await pipeline.settled()

        await pipeline.assert_exactly_once()

    async def test_postgres_restarted_under_load(
        self, pipeline: Pipeline, whole_stack: LocalStack
    ) -> None:
        sending = asyncio.create_task(
            pipeline.send(some_trains(pipeline, 200), trains_per_second=60)
        )
        await asyncio.sleep(1.0)
        await asyncio.to_thread(whole_stack.postgres.stop, mode=StopMode.IMMEDIATE)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(whole_stack.postgres.start)
        await sending

        await pipeline.settled()

        await pipeline.assert_exactly_once()
        starts = {service: whole_stack.supervisor.starts(name=service) for service in SERVICES}
        await eventually_true(lambda: _is_ready(pipeline), timeout_seconds=10, what="ready again")
        assert {s: whole_stack.supervisor.starts(name=s) for s in SERVICES} == starts

    async def test_every_stream_read_again_from_the_start_posts_nothing_twice(
        self, pipeline: Pipeline, whole_stack: LocalStack
    ) -> None:
        await pipeline.send(some_trains(pipeline, 50))
        await pipeline.settled()
        mails = await pipeline.value("SELECT count(*) FROM notifier.notifications")
        for service in SERVICES:
            await asyncio.to_thread(whole_stack.supervisor.stop, name=service)
        for service in SERVICES:
            await rewind(bootstrap=whole_stack.state.kafka_bootstrap, group=service)
        for service in SERVICES:
            whole_stack.supervisor.resume(name=service)
        for service in SERVICES:
            await asyncio.to_thread(
                whole_stack.supervisor.wait_ready, name=service, timeout_seconds=30
            )
        await pipeline.send(some_trains(pipeline, 20))

        await pipeline.settled()

        await pipeline.assert_exactly_once()
        assert await pipeline.value("SELECT count(*) FROM notifier.notifications") == mails + 20

    async def test_kafka_stopped_and_its_disk_wiped_in_mid_flow(
        self, pipeline: Pipeline, whole_stack: LocalStack
    ) -> None:
        sending = asyncio.create_task(
            pipeline.send(some_trains(pipeline, 240), trains_per_second=60)
        )
        await asyncio.sleep(1.5)
        await asyncio.to_thread(whole_stack.kafka.kill)
        await asyncio.to_thread(whole_stack.kafka.wipe)
        await asyncio.sleep(1.0)
        await asyncio.to_thread(whole_stack.kafka.start)
        await create_topics(
            bootstrap_servers=whole_stack.state.kafka_bootstrap, replication_factor=1
        )
        await sending

        await pipeline.settled(timeout_seconds=90)

        await pipeline.assert_exactly_once()

    async def test_webhooks_are_taken_without_kafka_even_by_an_intake_that_starts_without_it(
        self, pipeline: Pipeline, whole_stack: LocalStack
    ) -> None:
        await asyncio.to_thread(whole_stack.kafka.stop)
        whole_stack.supervisor.kill(name="payment-intake")
        await asyncio.to_thread(
            whole_stack.supervisor.wait_ready, name="payment-intake", timeout_seconds=30
        )
        await pipeline.send(some_trains(pipeline, 60))
        waiting = await pipeline.value("SELECT count(*) FROM payment_intake.outbox")
        await asyncio.to_thread(whole_stack.kafka.start)

        await pipeline.settled(timeout_seconds=90)

        assert waiting == 60
        await pipeline.assert_exactly_once()

    async def test_cis_that_applies_and_does_not_answer_is_asked_before_anything_is_sent_again(
        self, pipeline: Pipeline
    ) -> None:
        await _switch(pipeline, {"error_after_apply": {"count": 5}})
        await pipeline.send(some_trains(pipeline, 60))

        await pipeline.settled()

        await pipeline.assert_exactly_once()

    async def test_cis_down_and_back_drains_in_order(self, pipeline: Pipeline) -> None:
        await _switch(pipeline, {"down": True})
        await pipeline.send(some_trains(pipeline, 120))
        await asyncio.sleep(2.0)
        await _switch(pipeline, {"down": False})

        await pipeline.settled()

        await pipeline.assert_exactly_once()


async def _switch(pipeline: Pipeline, switches: dict[str, object]) -> None:
    url = f"{pipeline.state.http_urls['cis']}/_switches"
    async with pipeline.http.put(url, json=switches) as answer:
        assert answer.status == 200, await answer.text()


async def _is_ready(pipeline: Pipeline) -> bool:
    for url in pipeline.state.ops_urls.values():
        async with pipeline.http.get(f"{url}/readyz") as answer:
            if answer.status != 200:
                return False
    return True

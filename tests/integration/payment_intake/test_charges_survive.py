"""What a charge survives: its process killed, its stream read again, no key to make it with."""

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError
from aiokafka.structs import OffsetAndMetadata
from tests.support.intake_charges import (
    CENTS,
    ask,
    counterpart,
    eventually_stated,
    eventually_status,
    facts_of,
    requested_fact,
    settings_for,
)
from tests.support.intake_database import intake_database
from tests.support.intake_service import (
    STRIPE_SECRET,
    eventually_async,
    intake_process,
    running_intake,
)

from payment_intake.consumers import GROUP_ID
from shared.contracts.streams import AUTOPAY, PARTITIONS
from shared.contracts.topics import create_topics
from shared.messaging.producer import RecordProducer


@pytest.fixture(scope="module")
async def rows(database):
    async with intake_database(database) as found:
        yield found


@pytest.fixture(scope="module")
async def topics(kafka):
    await create_topics(bootstrap_servers=kafka.bootstrap, replication_factor=1)
    return kafka.bootstrap


@pytest.fixture(scope="module")
async def world(rows, topics):
    settings = settings_for(rows, topics)
    target = f"http://127.0.0.1:{settings.http_port}/webhooks/stripe"
    async with counterpart(target=target, secret=STRIPE_SECRET) as processor:
        yield processor, settings.model_copy(update={"stripe_api_base": processor.url})


@pytest.fixture(scope="module")
async def producer(topics):
    found = RecordProducer(bootstrap_servers=topics, client_id="test", security={})
    yield found
    await found.close()


async def rewind(topics: str) -> None:
    """Set the group back to the beginning of autopay's stream, as an operator would."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=topics, group_id=GROUP_ID, enable_auto_commit=False
    )
    await consumer.start()
    try:
        partitions = [TopicPartition(AUTOPAY.name, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)

        async def is_rewound() -> bool:
            # The group has to be empty: its members leave at their own pace.
            try:
                await consumer.commit({each: OffsetAndMetadata(0, "") for each in partitions})
            except CommitFailedError:
                return False
            return True

        await eventually_async(is_rewound, timeout_seconds=30)
    finally:
        await consumer.stop()


class TestKilledProcess:
    async def test_with_a_charge_in_hand_has_charged_once(self, world, rows, topics, producer):
        processor, settings = world
        await processor.switch(answer_delay_ms=400, webhooks_off=True)
        asked = requested_fact()

        async def is_made():
            return (await processor.charged(asked.charge_id))["count"] == 1

        async def has(status):
            return await rows.count("charges", f"id = '{asked.charge_id}' AND status = '{status}'")

        async def is_charged():
            return await has("charged") == 1

        with intake_process(settings) as process:
            await ask(producer, asked)
            await eventually_async(is_made, timeout_seconds=40)
            process.kill()
            assert process.wait(timeout=10) != 0
        assert await has("charging") == 1
        assert await facts_of(topics, asked.charge_id) == []
        await processor.reset()
        with intake_process(settings):
            await eventually_async(is_charged, timeout_seconds=40)
            await eventually_stated(topics, asked.charge_id, "payment.accepted")
        found = await processor.charged(asked.charge_id)
        assert (found["count"], found["succeeded_cents"]) == (1, CENTS)
        calls = await rows.fetch(
            "SELECT operation, outcome FROM charge_attempts WHERE charge_id = $1", asked.charge_id
        )
        assert [tuple(each) for each in calls] == [("find", "succeeded")]


class TestStreamThatIsReadAgain:
    async def test_charges_nothing_again_and_states_what_became_of_each(
        self, world, rows, topics, producer
    ):
        processor, settings = world
        await processor.reset()
        asked = [requested_fact(account_id=f"R{n}") for n in range(5)]
        async with running_intake(settings) as intake:
            await ask(producer, *asked)
            for each in asked:
                await eventually_status(intake, each.charge_id, "charged")
            await processor.settle()
        await rewind(topics)
        async with running_intake(settings) as intake:

            async def are_repeated():
                name = "payment_intake_charge_requests_total"
                return intake.counted(name, kind="request", outcome="repeated") >= len(asked)

            await eventually_async(are_repeated, timeout_seconds=40)
        for each in asked:
            await eventually_stated(topics, each.charge_id, "payment.accepted")
            assert (await processor.charged(each.charge_id))["count"] == 1


class TestServiceWithoutAKey:
    async def test_lets_requests_wait_and_says_so(self, world, rows, topics, producer):
        _, settings = world
        keyless = settings.model_copy(update={"stripe_api_key": None})
        asked = requested_fact()
        async with running_intake(keyless) as intake:
            await ask(producer, asked)
            await eventually_status(intake, asked.charge_id, "due")
            _, switch = await intake.operate("GET", "/charges/switch")
            assert (switch["is_paused"], switch["can_charge"]) == (False, False)
        async with running_intake(settings) as intake:
            await eventually_status(intake, asked.charge_id, "charged")

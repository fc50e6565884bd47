"""The benchmark's floor keeps the guarantees by which it is compared with the product."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest
from bench.yardsticks.contract import Surroundings, Workload
from bench.yardsticks.floor.yardstick import STAGES, FloorYardstick
from tests.support.floor import ACCOUNTS, CUSTOMERS, FloorUnderTest
from tests.support.pipeline import eventually_true

from paypost.simulators.cis.journal import read_journal
from paypost.simulators.processor.delivery import Disorder
from paypost.simulators.processor.signatures import sign_stripe
from paypost.stack.local import LocalStack
from paypost.stack.ports import PortBlock
from paypost.traffic.customers import open_accounts

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FloorUnderTest]:
    """One floor for all of these tests; each leaves it healthy."""
    floor = FloorYardstick(announce_again_seconds=2.0)
    with pytest.MonkeyPatch.context() as patch, PortBlock.claim() as ports:
        patch.setenv("PAYPOST_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        async with LocalStack(
            name="floor", parts={"kafka", "postgres", "cis", "mail"}, fresh=True
        ) as stack:
            state = stack.state
            await open_accounts(state=state, customers=list(CUSTOMERS.values()))
            try:
                await floor.start(
                    surroundings=Surroundings(
                        stack_name=state.name,
                        kafka_bootstrap=state.kafka_bootstrap,
                        postgres_superuser_dsn=state.superuser_dsn,
                        cis_url=state.http_urls["cis"],
                        cis_api_key=state.secrets.cis_api_key,
                        smtp_host=state.smtp_host,
                        smtp_port=state.smtp_port,
                        stripe_webhook_secret=state.secrets.stripe_webhook_secret,
                        work_dir=tmp_path_factory.mktemp("floor"),
                        http_port=ports.port("floor"),
                    ),
                    workload=Workload(
                        customers=CUSTOMERS, cis_calls="one", cis_timeout_seconds=1.0
                    ),
                )
                yield FloorUnderTest(stack=stack, floor=floor)
            finally:
                await floor.stop()


class TestFloor:
    async def test_makes_one_payment_of_four_events_however_often_and_in_whatever_order_they_come(
        self, running: FloorUnderTest
    ) -> None:
        trains = running.cards(60)

        await running.send(trains, disorder=Disorder(duplicates=3, reorder=True))

        await running.settled()
        running.assert_exactly_once()
        events = await running.rows("SELECT count(*) FROM events")
        assert events[0][0] == 4 * len(running.trains)
        assert running.repeated_mails() == 0

    async def test_loses_and_doubles_nothing_whichever_stage_is_killed_under_load(
        self, running: FloorUnderTest
    ) -> None:
        starts = {each: running.floor.supervisor.starts(name=each) for each in STAGES}
        sending = asyncio.create_task(running.send(running.cards(320), trains_per_second=100))
        for stage in (*STAGES, *STAGES):
            await asyncio.sleep(0.4)
            running.floor.supervisor.kill(name=stage)
        await asyncio.sleep(0.4)
        for stage in STAGES:
            running.floor.supervisor.kill(name=stage)
        await sending

        await running.settled()

        running.assert_exactly_once()
        for stage in STAGES:
            assert running.floor.supervisor.starts(name=stage) >= starts[stage] + 3

    async def test_keeps_the_order_of_an_account_through_a_crash_of_the_poster(
        self, running: FloorUnderTest
    ) -> None:
        trains = running.cards(80, accounts=ACCOUNTS[:1])
        successes = [replace(train, steps=train.steps[2:3]) for train in trains]
        sending = asyncio.create_task(running.send(successes, concurrency=1))
        await asyncio.sleep(0.2)
        running.floor.supervisor.kill(name="poster")
        await sending

        await running.settled()

        wanted = [train.purchase.amount_cents for train in trains]
        posted = [
            line["amount_cents"]
            for line in read_journal(running.stack.state.cis_journal_path)
            if line["account"] == ACCOUNTS[0] and line["amount_cents"] in set(wanted)
        ]
        assert posted == wanted

    async def test_asks_before_it_posts_again_and_lets_others_go_on_past_one_that_times_out(
        self, running: FloorUnderTest
    ) -> None:
        await running.switch_cis(
            {
                "timeout_after_apply": {"count": 3, "accounts": list(ACCOUNTS[2:])},
                "error_before_apply": {"count": 3, "accounts": list(ACCOUNTS[2:])},
                "timeout_before_apply": {"accounts": [ACCOUNTS[1]]},
            }
        )
        stuck = running.cards(3, accounts=ACCOUNTS[1:2])
        others = running.cards(60, accounts=ACCOUNTS[2:])
        await running.send([*stuck, *others])
        wanted = {train.purchase.amount_cents for train in others}

        async def others_are_posted() -> bool:
            journal = read_journal(running.stack.state.cis_journal_path)
            return wanted <= {line["amount_cents"] for line in journal}

        await eventually_true(others_are_posted, timeout_seconds=10, what="the others posted")
        await running.switch_cis({"timeout_before_apply": False})
        await running.settled()
        running.assert_exactly_once()

    async def test_announces_again_what_a_stage_never_heard_of(
        self, running: FloorUnderTest
    ) -> None:
        # As if Kafka had lost its disk before the notifier read from it.
        running.floor.supervisor.kill(name="notifier", restart=False)
        await running.send(running.cards(20))
        await eventually_true(
            lambda: _none(running, "SELECT 1 FROM payments WHERE posted_at IS NULL"),
            timeout_seconds=10,
            what="posted",
        )
        await _forget_postings_stream(running)
        running.floor.supervisor.resume(name="notifier")

        await running.settled()

        running.assert_exactly_once()


class TestFloorsDoor:
    @pytest.mark.parametrize(
        ("body", "signed_with", "age_seconds", "status"),
        [
            (b'{"id": "evt_1", "type": "x"}', "another secret", 0, 401),
            (b'{"id": "evt_1", "type": "x"}', None, 1_000, 401),
            (b"not JSON", None, 0, 400),
            (b'{"type": "charge.succeeded"}', None, 0, 422),
            (b'{"id": "evt_1", "type": "charge.succeeded", "data": {}}', None, 0, 422),
            (b"[]", None, 0, 422),
            (b'{"id": "' + b"x" * 300_000 + b'"}', None, 0, 413),
        ],
    )
    async def test_refuses_what_is_not_stripes_or_cannot_be_read(
        self,
        running: FloorUnderTest,
        body: bytes,
        signed_with: str | None,
        age_seconds: int,
        status: int,
    ) -> None:
        before = await running.rows("SELECT count(*) FROM events")
        secret = signed_with or running.stack.state.secrets.stripe_webhook_secret
        signature = sign_stripe(
            body=body, secrets=[secret], timestamp=int(time.time()) - age_seconds
        )
        headers = {"Stripe-Signature": signature, "Content-Type": "application/json"}

        async with (
            aiohttp.ClientSession() as session,
            session.post(running.floor.webhook_url, data=body, headers=headers) as answer,
        ):
            assert answer.status == status

        assert await running.rows("SELECT count(*) FROM events") == before


async def _none(running: FloorUnderTest, query: str) -> bool:
    return not await running.rows(query)


async def _forget_postings_stream(running: FloorUnderTest) -> None:
    """Cut the stream off at its end, so that nobody can read what was in it."""
    from aiokafka import AIOKafkaConsumer, TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

    bootstrap = running.stack.state.kafka_bootstrap
    partitions = [TopicPartition("floor.postings", number) for number in range(12)]
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        ends = await consumer.end_offsets(partitions)
        await admin.delete_records(
            {each: RecordsToDelete(before_offset=end) for each, end in ends.items()}
        )
    finally:
        await admin.close()
        await consumer.stop()

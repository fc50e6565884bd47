"""How every service takes its streams: FastStream's defaults would lose records."""

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.conn import collect_hosts
from aiokafka.errors import CommitFailedError
from faststream import AckPolicy

import autopay_scheduler.app
import autopay_scheduler.settings
import cis_poster.app
import cis_poster.settings
import notifier.app
import notifier.settings
import payment_intake.app
import payment_intake.settings
import shared.messaging.consumers
from shared.messaging.consumers import CoalescingConsumer, gather_seconds
from shared.messaging.inbox import MAX_POLL_INTERVAL_MS, PATIENCE_SECONDS, Group, batch_subscription

COMMON = {
    "environment": "local",
    "database_url": "postgresql+asyncpg://localhost/none",
    "kafka_bootstrap_servers": "localhost:1",
}
APPS = {
    "payment-intake": lambda: payment_intake.app.build_app(
        payment_intake.settings.Settings(**COMMON)
    ),
    "cis-poster": lambda: cis_poster.app.build_app(
        cis_poster.settings.Settings(
            **COMMON, cis_base_url="http://localhost:1", cis_api_key="some-key"
        )
    ),
    "autopay-scheduler": lambda: autopay_scheduler.app.build_app(
        autopay_scheduler.settings.Settings(**COMMON, portal_url="https://pay.example.org")
    ),
    "notifier": lambda: notifier.app.build_app(
        notifier.settings.Settings(
            **COMMON,
            smtp_host="localhost",
            sender_address="city@example.org",
            sender_name="City",
            city_name="City",
            city_time_zone="America/Chicago",
            portal_url="https://pay.example.org",
            support_phone="555-0100",
        )
    ),
}
STREAMS = {
    "payment-intake": {"portal.v1", "postings.v1", "notifications.v1", "autopay.v1"},
    "cis-poster": {"payments.v1"},
    "autopay-scheduler": {
        "portal.v1",
        "bills.v1",
        "payments.v1",
        "postings.v1",
        "notifications.v1",
    },
    "notifier": {"payments.v1", "portal.v1", "postings.v1", "autopay.v1"},
}

BESIDE_THE_WAY = {
    "payment-intake": {"postings.v1", "notifications.v1"},
    "cis-poster": set(),
    "autopay-scheduler": {"payments.v1", "postings.v1", "notifications.v1"},
    "notifier": {"payments.v1"},
}


@pytest.fixture(params=sorted(APPS))
async def service(request):
    return request.param, APPS[request.param]().broker


class TestSubscribers:
    async def test_hear_the_streams_that_their_service_needs(self, service):
        name, broker = service
        heard = [topic.name for each in broker.subscribers for topic in each.topics]
        assert len(heard) == len(set(heard))
        assert set(heard) == STREAMS[name]

    async def test_acknowledge_only_what_was_handled(self, service):
        for each in service[1].subscribers:
            assert each.ack_policy is AckPolicy.NACK_ON_ERROR
            assert each._connection_args["enable_auto_commit"] is False

    async def test_begin_with_the_oldest_record(self, service):
        for each in service[1].subscribers:
            assert each._connection_args["auto_offset_reset"] == "earliest"

    async def test_share_the_work_of_their_service_in_its_own_group(self, service):
        name, broker = service
        assert {each.group_id for each in broker.subscribers} == {name}

    async def test_take_whole_batches_without_waiting_for_them(self, service):
        for each in service[1].subscribers:
            assert type(each).__name__ == "BatchSubscriber"
            assert each.max_records == 500
            assert each.batch_timeout_ms <= 20

    async def test_hurry_on_a_payments_way_to_the_ledger_and_to_the_customer(self, service):
        name, broker = service
        hurried = {
            topic.name
            for each in broker.subscribers
            for topic in each.topics
            if each._connection_args["fetch_min_bytes"] == 1
        }
        assert hurried == STREAMS[name] - BESIDE_THE_WAY[name]

    async def test_gather_what_stands_beside_it_for_no_more_than_a_moment(self, service):
        for each in service[1].subscribers:
            if each._connection_args["fetch_min_bytes"] > 1:
                assert each._connection_args["fetch_max_wait_ms"] <= 200

    async def test_wait_for_records_instead_of_asking_again_and_again(self, service):
        # Decided when it connects; a broker that only consumes opens nothing by that.
        await service[1].connect()
        assert service[1].config.broker_config.builder.func is CoalescingConsumer

    async def test_are_not_thrown_out_while_they_wait_patiently(self, service):
        for each in service[1].subscribers:
            assert each._connection_args["max_poll_interval_ms"] == MAX_POLL_INTERVAL_MS
            # A batch may be tried as a whole and then record by record, each with all patience.
            assert 2 * PATIENCE_SECONDS * 1000 < MAX_POLL_INTERVAL_MS

    async def test_know_every_broker_that_the_setting_names(self):
        several = COMMON | {"kafka_bootstrap_servers": "one:9092, two:9093,three:9094"}
        settings = cis_poster.settings.Settings(
            **several, cis_base_url="http://localhost:1", cis_api_key="some-key"
        )
        broker = cis_poster.app.build_app(settings).broker
        hosts = collect_hosts(broker._connection_kwargs["bootstrap_servers"], randomize=False)
        assert [each[:2] for each in hosts] == [("one", 9092), ("two", 9093), ("three", 9094)]

    async def test_create_no_topic_and_publish_nothing(self, service):
        config = service[1].config
        assert config.allow_auto_create_topics is False
        assert config.consumer_only is True


class TestBatchSubscription:
    def test_gives_each_stream_a_member_name_of_its_own_where_there_is_one(self):
        named = Group(id="g", session_timeout_seconds=15, instance_id="pod-0")
        options = batch_subscription(group=named, stream="payments.v1")
        assert options["group_instance_id"] == "pod-0-payments.v1"

    def test_gives_none_where_there_is_none(self):
        nameless = Group(id="g", session_timeout_seconds=15)
        assert batch_subscription(group=nameless, stream="x")["group_instance_id"] is None

    @pytest.mark.parametrize("seconds", [1, 6, 15, 300])
    def test_sends_several_heartbeats_within_a_session(self, seconds):
        options = batch_subscription(
            group=Group(id="g", session_timeout_seconds=seconds), stream="x"
        )
        assert options["session_timeout_ms"] == seconds * 1000
        assert options["heartbeat_interval_ms"] * 3 <= options["session_timeout_ms"]


class TestCoalescingConsumer:
    async def test_does_not_commit_again_what_the_group_has_refused(self, monkeypatch):
        """Each attempt of a member that is joining would make it a stranger to the group again."""
        partition = TopicPartition("payments.v1", 0)
        offsets = iter(range(100))
        committed: list[int] = []
        refusals = [CommitFailedError()]

        class Base:
            async def start(self) -> None: ...
            async def stop(self) -> None: ...

            async def getmany(self, *_, **__):
                return {partition: [SimpleNamespace(offset=next(offsets))]}

            async def commit(self, found) -> None:
                committed.append(found[partition].offset)
                if refusals:
                    raise refusals.pop()

            def assignment(self):
                return {partition}

            def nothing(self, *_) -> frozenset[TopicPartition]:
                return frozenset()

            paused = pause = resume = nothing

        for name in vars(Base).keys() & vars(AIOKafkaConsumer).keys() - vars(object).keys():
            if not name.startswith("_"):
                monkeypatch.setattr(AIOKafkaConsumer, name, vars(Base)[name])
        monkeypatch.setattr(shared.messaging.consumers, "COMMIT_SECONDS", 0.01)
        consumer = CoalescingConsumer(bootstrap_servers="localhost:1")
        await consumer.start()
        await consumer.getmany()
        await consumer.commit()
        # Ten turns of the commit's loop.
        await asyncio.sleep(0.1)
        assert committed == [1]
        await consumer.getmany()
        await consumer.commit()
        await consumer.stop()
        assert committed == [1, 2]


class TestGatherSeconds:
    @pytest.mark.parametrize(
        ("per_second", "seconds"),
        [(50, 0.01), (150, 0.04), (290, 0.04), (320, 0.1), (390, 0.1), (450, 0.25), (1900, 0.25)],
    )
    def test_settle_by_the_rate(self, per_second, seconds):
        pause = 0.0
        for _ in range(100):
            # What arrives meanwhile is the next batch, on average: one record at least, since it
            # waits for one.
            pause = gather_seconds(max(1, per_second * pause), most=500)
        assert pause == pytest.approx(seconds)

    def test_are_none_where_nothing_came_or_more_is_waiting(self):
        assert gather_seconds(0) == 0.0
        assert gather_seconds(500, most=500) == 0.0
        assert gather_seconds(500) == 0.25

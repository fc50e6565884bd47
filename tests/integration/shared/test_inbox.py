"""The inbox and its subscribers on real Kafka: poison, patience, redelivery."""

import asyncio
import gc
from contextlib import asynccontextmanager, contextmanager
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from faststream.kafka import KafkaMessage, KafkaRouter
from faststream.message import StreamMessage
from tests.support.intake_service import eventually_async, records_on

import shared.messaging.consumers
from payment_intake.settings import Settings
from shared.clock import utc_now
from shared.contracts.streams import BILLS
from shared.contracts.topics import create_topics, declared_topics
from shared.errors import TransientError
from shared.messaging.consumers import (
    LEAVE_SECONDS_MAX,
    CoalescingConsumer,
    Consumers,
    build_broker,
)
from shared.messaging.inbox import Group, Inbox, on_batches
from shared.messaging.producer import KafkaUnavailableError, RecordProducer
from shared.runtime.metrics import ServiceMetrics

VALUE = (
    b'{"account_id":"%s","bill_reference":"B-%d","amount_cents":100,"currency":"USD",'
    b'"due_date":"2026-03-20","version":1,"stated_at":"2026-03-02T17:00:00Z"}'
)


@pytest.fixture(scope="module")
async def topics(kafka):
    await create_topics(bootstrap_servers=kafka.bootstrap, replication_factor=1)
    return kafka.bootstrap


@pytest.fixture
def account() -> str:
    """An account of this test alone; what others have left on the stream is passed over."""
    return uuid4().hex


def headers(number: int) -> list[tuple[str, bytes]]:
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"e-%d" % number),
        ("ce_type", b"bill.issued"),
        ("ce_source", b"/cis"),
    ]


def bill(account: str, number: int, **changes) -> dict:
    return {
        "key": account.encode(),
        "value": VALUE % (account.encode(), number),
        "headers": headers(number),
    } | changes


async def send(bootstrap: str, *records: dict) -> None:
    """All of them to one partition, past the code under test."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    futures = [await producer.send(BILLS.name, partition=3, **each) for each in records]
    await asyncio.gather(*futures)
    await producer.stop()


class Service:
    """A consumer of bills, handling them as it is told."""

    def __init__(
        self,
        bootstrap: str,
        account: str,
        *,
        patience_seconds: float = 5,
        session_seconds: float = 6,
    ) -> None:
        self.account = account
        self.session_seconds = session_seconds
        self.handled: list[str] = []
        self.batches: list[list[str]] = []
        self.handle = self.keep
        self.passes_by = None
        self.metrics = ServiceMetrics(prefix="test")
        self.dead_letters = RecordProducer(bootstrap_servers=bootstrap, client_id="test")
        self.inbox = Inbox(
            consumer="test",
            dead_letters=self.dead_letters,
            clock=utc_now,
            metrics=self.metrics,
            patience_seconds=patience_seconds,
        )
        self.settings = Settings(
            environment="local",
            database_url="postgresql+asyncpg://localhost/none",
            kafka_bootstrap_servers=bootstrap,
            drain_seconds=1,
        )

    async def keep(self, names: list[str]) -> None:
        self.handled.extend(names)

    async def _mine(self, batch) -> None:
        names = [each.fact.bill_reference for each in batch if each.fact.account_id == self.account]
        if names:
            self.batches.append(names)
            await self.handle(names)

    @asynccontextmanager
    async def consuming(self):
        router = KafkaRouter()
        group = Group(id=f"test-{self.account}", session_timeout_seconds=self.session_seconds)

        @on_batches(router, stream=BILLS, group=group)
        async def on_bills(message: KafkaMessage) -> None:
            await self.inbox.deliver(message, self._mine, passes_by=self.passes_by)

        broker = build_broker(settings=self.settings, client_id="test")
        broker.include_router(router)
        consumers = Consumers(
            broker=broker, progress=self.inbox.progress, clock=utc_now, metrics=self.metrics
        )
        await consumers.start()
        try:
            yield consumers
        finally:
            await consumers.stop()
            await self.dead_letters.close()

    async def has_handled(self, *names: str) -> None:
        async def held() -> bool:
            return len(self.handled) >= len(names)

        await eventually_async(held)
        assert self.handled == list(names)

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"test_{name}", labels) or 0


async def committed(bootstrap: str, account: str) -> int:
    """The group's offset of the one partition that these tests write to; 0 where there is none."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(f"test-{account}")
    finally:
        await admin.close()
    found = offsets.get(TopicPartition(BILLS.name, 3))
    return found.offset if found is not None else 0


async def is_committed(bootstrap: str, account: str, *, at_least: int) -> bool:
    return await committed(bootstrap, account) >= at_least


async def reached(batches: list[list[str]], names: list[str]) -> bool:
    return names in batches


@contextmanager
def collector_off():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def batches_held() -> set[int]:
    return {id(each) for each in gc.get_objects() if isinstance(each, StreamMessage)}


async def letters(bootstrap: str, account: str):
    records = await records_on(bootstrap=bootstrap, topic=BILLS.dead_letters)
    return [each for each in records if each.key == account.encode()]


class TestPoison:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"value": b'{"account_id": 7'}, "invalid"),
            ({"value": b"\xff\xfe"}, "invalid"),
            ({"value": None}, "no_value"),
            ({"headers": headers(2)[:2]}, "no_type"),
            ({"headers": [*headers(2)[2:], headers(2)[0]]}, "no_id"),
            ({"headers": [*headers(2), ("x-name", b"P\xe9rez")]}, "bad_header"),
            ({"headers": [("ce_specversion", b"0.3"), *headers(2)[1:]]}, "unknown_version"),
        ],
    )
    async def test_goes_to_the_dead_stream_as_it_was_and_the_rest_goes_on(
        self, topics, account, change, reason
    ):
        poison = bill(account, 2, **change)
        await send(topics, bill(account, 1), poison, bill(account, 3))
        service = Service(topics, account)
        async with service.consuming():
            await service.has_handled("B-1", "B-3")
        [letter] = await letters(topics, account)
        story = dict(letter.headers)
        assert letter.value == (poison["value"] or b"")
        assert list(letter.headers[: len(poison["headers"])]) == poison["headers"]
        assert story["dead_reason"] == reason.encode()
        assert story["dead_consumer"] == b"test"
        assert story["dead_attempts"] == b"1"
        assert story["dead_partition"] == b"3"
        assert int(story["dead_offset"]) >= 1
        assert story["dead_first_failure"] == story["dead_last_failure"]
        assert service.counted("dead_letters_total", stream="bills.v1", reason=reason) >= 1

    async def test_and_what_passes_by_is_neither_handled_nor_buried(self, topics, account):
        service = Service(topics, account)
        service.passes_by = lambda record: b'"B-2"' in (record.value or b"")
        unreadable = bill(account, 2, value=b'{"bill_reference":"B-2"')
        await send(topics, bill(account, 1), bill(account, 2), unreadable, bill(account, 3))
        async with service.consuming():
            await service.has_handled("B-1", "B-3")
        assert await letters(topics, account) == []
        assert service.counted("consumed_records_total", stream="bills.v1") >= 4

    async def test_that_only_the_handler_cannot_bear_dies_alone(self, topics, account):
        service = Service(topics, account)

        async def handle(names: list[str]) -> None:
            if "B-2" in names:
                raise ValueError("4242424242424242")
            await service.keep(names)

        service.handle = handle
        await send(topics, *(bill(account, number) for number in (1, 2, 3)))
        async with service.consuming():
            await service.has_handled("B-1", "B-3")
        [letter] = await letters(topics, account)
        story = dict(letter.headers)
        assert letter.value == bill(account, 2)["value"]
        # The kind of the failure, never its text, which may repeat the input.
        assert (story["dead_reason"], story["dead_detail"]) == (b"failed", b"ValueError")
        assert story["dead_attempts"] == b"2"


class TestInbox:
    async def test_hands_a_batch_over_at_once_and_in_order(self, topics, account):
        await send(topics, *(bill(account, number) for number in range(400)))
        service = Service(topics, account)
        async with service.consuming():
            await service.has_handled(*(f"B-{number}" for number in range(400)))
        assert len(service.batches) < 20

    async def test_lets_go_of_a_batch_without_the_collector(self, topics, account):
        service = Service(topics, account)
        await send(topics, bill(account, 1))
        async with service.consuming():
            await service.has_handled("B-1")
            with collector_off():
                before = batches_held()
                await send(topics, bill(account, 2))
                await service.has_handled("B-1", "B-2")

                async def is_let_go() -> bool:
                    return batches_held() <= before

                await eventually_async(is_let_go)

    async def test_ignores_and_counts_types_that_it_does_not_know(self, topics, account):
        unknown = [*headers(2)[:2], ("ce_type", b"bill.celebrated"), ("ce_source", b"/cis")]
        await send(topics, bill(account, 1), bill(account, 2, headers=unknown), bill(account, 3))
        service = Service(topics, account)
        async with service.consuming():
            await service.has_handled("B-1", "B-3")
        assert await letters(topics, account) == []
        assert service.counted("ignored_records_total", stream="bills.v1") >= 1

    async def test_waits_out_what_is_down(self, topics, account):
        service = Service(topics, account)
        tries = []

        async def handle(names: list[str]) -> None:
            tries.append(names)
            if len(tries) < 3:
                raise TransientError("the database is away")
            await service.keep(names)

        service.handle = handle
        await send(topics, bill(account, 1))
        async with service.consuming():
            await service.has_handled("B-1")
        assert tries == [["B-1"]] * 3
        assert await letters(topics, account) == []

    async def test_is_given_again_what_it_could_not_take_in_all_its_patience(self, topics, account):
        service = Service(topics, account, patience_seconds=0.1)
        is_away = True

        async def handle(names: list[str]) -> None:
            if is_away:
                raise TransientError("the database is away")
            await service.keep(names)

        service.handle = handle
        await send(topics, bill(account, 1), bill(account, 2))
        async with service.consuming():

            async def given_twice() -> bool:
                return len(service.batches) > 6

            await eventually_async(given_twice)
            is_away = False
            await service.has_handled("B-1", "B-2")
        assert await letters(topics, account) == []

    async def test_is_given_nothing_again_once_it_is_acknowledged(self, topics, account):
        await send(topics, bill(account, 1))
        service = Service(topics, account)
        async with service.consuming():
            await service.has_handled("B-1")
        again = Service(topics, account)
        await send(topics, bill(account, 2))
        async with again.consuming():
            await again.has_handled("B-2")

    async def test_is_given_again_what_a_crash_left_unacknowledged(self, topics, account):
        await send(topics, bill(account, 1), bill(account, 2))
        crashing = Service(topics, account)

        async def hang(names: list[str]) -> None:
            await asyncio.sleep(3600)

        crashing.handle = hang
        async with crashing.consuming():

            async def in_hand() -> bool:
                return bool(crashing.batches)

            await eventually_async(in_hand)
        again = Service(topics, account)
        async with again.consuming():
            await again.has_handled("B-1", "B-2")

    async def test_acknowledges_nothing_while_a_dead_letter_cannot_be_kept(self, topics, account):
        await send(topics, bill(account, 1, value=b"{"), bill(account, 2))
        service = Service(topics, account, patience_seconds=0.1)

        class Away:
            tries = 0

            async def publish(self, records) -> None:
                self.tries += 1
                raise KafkaUnavailableError("away")

        away = Away()
        service.inbox._dead_letters = away
        async with service.consuming():

            async def tried() -> bool:
                return away.tries > 4

            await eventually_async(tried)
        assert service.handled == []
        again = Service(topics, account)
        async with again.consuming():
            await again.has_handled("B-2")
        assert len(await letters(topics, account)) == 1


class TestConsumers:
    async def test_are_ready_once_kafka_was_reached(self, topics, account):
        service = Service(topics, account)
        async with service.consuming() as consumers:

            async def ready() -> bool:
                return await consumers.check_ready() is None

            await eventually_async(ready)
            assert await consumers.check_live() is None

    async def test_tell_how_far_they_have_read_and_when_kafka_last_answered(self, topics, account):
        service = Service(topics, account)
        is_held = asyncio.Event()

        async def hold(names: list[str]) -> None:
            await is_held.wait()
            await service.keep(names)

        service.handle = hold
        await send(topics, *(bill(account, number) for number in range(1, 4)))

        async def reads(name: str, holds) -> bool:
            await consumers.measure_once()
            found = service.metrics.registry.get_sample_value(
                f"test_consumer_{name}", {"stream": "bills.v1"}
            )
            return found is not None and holds(found)

        async with service.consuming() as consumers:

            async def in_hand() -> bool:
                return bool(service.batches)

            await eventually_async(in_hand)
            await send(topics, bill(account, 4), bill(account, 5))
            await eventually_async(lambda: reads("lag_records", lambda lag: lag >= 2))
            is_held.set()
            await service.has_handled("B-1", "B-2", "B-3", "B-4", "B-5")
            await eventually_async(lambda: reads("lag_records", lambda lag: lag == 0))
            await eventually_async(lambda: reads("heard_age_seconds", lambda age: age < 5))
        assert service.counted("consumer_batch_seconds_count", stream="bills.v1") >= 2

    async def test_say_since_when_kafka_is_silent(self, account):
        service = Service("127.0.0.1:1", account)
        async with service.consuming() as consumers:

            async def has_grown() -> bool:
                await consumers.measure_once()
                return service.counted("consumer_heard_age_seconds", stream="bills.v1") >= 0.2

            await eventually_async(has_grown)

    async def test_commit_what_was_handled_and_nothing_that_is_in_hand(
        self, topics, account, monkeypatch
    ):
        monkeypatch.setattr(shared.messaging.consumers, "COMMIT_SECONDS", 0.05)
        service, is_free = Service(topics, account), asyncio.Event()

        async def handle(names: list[str]) -> None:
            if "B-2" in names:
                await is_free.wait()
            await service.keep(names)

        service.handle = handle
        await send(topics, bill(account, 1))
        async with service.consuming():
            await service.has_handled("B-1")
            await eventually_async(lambda: is_committed(topics, account, at_least=1))
            handled = await committed(topics, account)
            await send(topics, bill(account, 2))
            await eventually_async(lambda: reached(service.batches, ["B-2"]))
            # Twenty turns of the commit's loop.
            await asyncio.sleep(1)
            assert await committed(topics, account) == handled
            is_free.set()
            await service.has_handled("B-1", "B-2")
        # At the latest by the stop.
        assert await committed(topics, account) == handled + 1

    async def test_stop_while_they_join_behind_a_member_that_is_gone(self, topics, account):
        # A member with a name of its own does not leave: the group waits for it all its session.
        gone = AIOKafkaConsumer(
            BILLS.name,
            bootstrap_servers=topics,
            group_id=f"test-{account}",
            group_instance_id="gone",
            session_timeout_ms=30_000,
        )
        await gone.start()
        await gone.stop()
        loop = asyncio.get_running_loop()
        async with Service(topics, account).consuming() as consumers:
            await asyncio.sleep(1)
            assert await consumers.check_ready() is not None
            began_at = loop.time()
        assert loop.time() - began_at < 2 * LEAVE_SECONDS_MAX

    async def test_do_not_wait_for_kafka(self, account):
        service = Service("127.0.0.1:1", account)
        async with service.consuming() as consumers:
            assert await consumers.check_ready() is not None
            assert await consumers.check_live() is None


async def fails_for_good() -> bool:
    # As aiokafka 0.14 does of an answer that it does not know.
    raise KafkaError("Unexpected exception in heartbeat task: UnknownError()")


async def never_answers(*_: object) -> int:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


def heartbeats_end(consumer: CoalescingConsumer) -> None:
    """What Kafka's -1 does to a member of a group: no heartbeat any more, every poll fails."""
    consumer._coordinator._do_heartbeat = fails_for_good


def coordinator_is_never_found(consumer: CoalescingConsumer) -> None:
    """A member that waits for ever for who serves its group."""
    consumer._client.coordinator_lookup = never_answers
    consumer._coordinator.coordinator_dead()


class TestLostConsumers:
    @pytest.fixture
    def impatient(self, monkeypatch):
        monkeypatch.setattr(shared.messaging.consumers, "LOST_SECONDS", 2.0)
        monkeypatch.setattr(shared.messaging.consumers, "WATCH_INTERVAL_SECONDS", 0.7)

    @pytest.mark.parametrize("get_lost", [heartbeats_end, coordinator_is_never_found])
    async def test_come_back(self, topics, account, impatient, get_lost):
        service = Service(topics, account, session_seconds=1)
        await send(topics, bill(account, 1))
        async with service.consuming() as consumers:
            await service.has_handled("B-1")
            [subscriber] = consumers._subscribers()
            lost = subscriber.consumer
            get_lost(lost)

            async def is_new() -> bool:
                return subscriber.consumer not in (None, lost)

            await eventually_async(is_new, timeout_seconds=30)
            await send(topics, bill(account, 2))

            async def is_handled() -> bool:
                return "B-2" in service.handled

            await eventually_async(is_handled)
            assert not [each for each in tasks_of(lost) if not each.done()]
            assert service.counted("consumers_lost_total", stream="bills.v1") == 1

    async def test_come_back_when_they_were_never_taken_in(
        self, topics, account, impatient, monkeypatch
    ):
        lookups: list[object] = []
        look_up = AIOKafkaClient.coordinator_lookup

        async def answers_the_second(self, *about: object) -> int:
            lookups.append(about)
            return await (never_answers() if len(lookups) == 1 else look_up(self, *about))

        monkeypatch.setattr(AIOKafkaClient, "coordinator_lookup", answers_the_second)
        service = Service(topics, account, session_seconds=1)
        await send(topics, bill(account, 1))
        async with service.consuming() as consumers:
            await service.has_handled("B-1")
            assert await consumers.check_ready() is None
        assert len(lookups) > 1

    async def test_are_left_alone_while_nobody_serves_their_group(
        self, topics, account, impatient, monkeypatch
    ):
        service = Service(topics, account, session_seconds=1)
        await send(topics, bill(account, 1))
        async with service.consuming() as consumers:
            await service.has_handled("B-1")
            asked = asyncio.Event()

            async def is_not_served(_: object) -> bool:
                asked.set()
                return False

            monkeypatch.setattr(shared.messaging.consumers, "_is_served", is_not_served)
            [subscriber] = consumers._subscribers()
            lost = subscriber.consumer
            heartbeats_end(lost)
            await asked.wait()
            await asyncio.sleep(3)
            assert subscriber.consumer is lost

    async def test_are_none_of_those_that_idle(self, topics, account, impatient):
        service = Service(topics, account, session_seconds=1)
        async with service.consuming() as consumers:
            await send(topics, bill(account, 1))
            await service.has_handled("B-1")
            [subscriber] = consumers._subscribers()
            consumer = subscriber.consumer
            await asyncio.sleep(4)
            assert subscriber.consumer is consumer
            assert consumer.unconfirmed_seconds < 2


def tasks_of(consumer: CoalescingConsumer) -> list[asyncio.Task]:
    coordinator = consumer._coordinator
    found = (
        coordinator._coordination_task,
        coordinator._heartbeat_task,
        coordinator._commit_refresh_task,
        consumer._committing,
    )
    return [each for each in found if each is not None]


class TestTopics:
    async def test_are_made_once_as_they_are_declared(self, topics, kafka):
        assert await create_topics(bootstrap_servers=topics, replication_factor=1) == []
        from aiokafka.admin import AIOKafkaAdminClient
        from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

        admin = AIOKafkaAdminClient(bootstrap_servers=topics)
        await admin.start()
        declared = {topic.name: topic for topic in declared_topics(replication_factor=1)}
        described = {each["topic"]: each for each in await admin.describe_topics(list(declared))}
        [answer] = await admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name) for name in declared]
        )
        await admin.close()
        configs = {
            name: {entry[0]: entry[1] for entry in entries}
            for _, _, _, name, entries in answer.resources
        }
        for name, topic in declared.items():
            assert len(described[name]["partitions"]) == topic.num_partitions
            for option, value in topic.topic_configs.items():
                assert configs[name][option] == value

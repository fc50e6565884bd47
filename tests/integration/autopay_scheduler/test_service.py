"""The whole of autopay-scheduler on real Kafka and PostgreSQL, by a clock of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from tests.support.autopay_books import assert_in_order
from tests.support.autopay_scheduler import (
    SchedulerDatabase,
    Stated,
    StillClock,
    at,
    at_intake,
    bill,
    cancelled,
    enrolled,
    noticed,
    posted,
    registered,
)
from tests.support.backends import KafkaBackend
from tests.support.reenrolment_database import sqlalchemy_url

from autopay_scheduler.app import App, build_app
from autopay_scheduler.consumers import GROUP_ID
from autopay_scheduler.settings import Settings
from shared.contracts.fact import Fact
from shared.contracts.streams import (
    AUTOPAY,
    BILLS,
    NOTIFICATIONS,
    PAYMENTS,
    PORTAL,
    POSTINGS,
    Stream,
)
from shared.contracts.topics import create_topics
from shared.contracts.wire import OutboundRecord, encode
from shared.messaging.producer import RecordProducer

MONDAY = at("2026-03-02 12:00")
DUE = "2026-03-20"
HEARD = (PORTAL, BILLS, POSTINGS, PAYMENTS, NOTIFICATIONS)


async def eventually(holds: Callable[[], Awaitable[bool]], *, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110  another process's state has no event
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
async def producer(kafka: KafkaBackend) -> AsyncIterator[RecordProducer]:
    await create_topics(bootstrap_servers=kafka.bootstrap, replication_factor=1)
    producer = RecordProducer(bootstrap_servers=kafka.bootstrap, client_id="test")
    yield producer
    await producer.close()


@pytest.fixture(scope="module")
def settings(migrated: SchedulerDatabase, kafka: KafkaBackend) -> Settings:
    return Settings(
        environment="local",
        database_url=sqlalchemy_url(migrated.database),
        kafka_bootstrap_servers=kafka.bootstrap,
        portal_url="https://pay.springfield.example",
        http_host="127.0.0.1",
        http_port=0,
        job_interval_seconds=0.05,
    )


@asynccontextmanager
async def running(settings: Settings, clock: StillClock) -> AsyncIterator[App]:
    """The service's doors and loops in this process, stopped in the service's own order."""
    app = build_app(settings, clock=clock)
    loops = [asyncio.create_task(loop()) for loop in app.service.loops.values()]
    for door in app.service.doors:
        await door.start()

    async def consumes() -> bool:
        return await app.service.ready["kafka"]() is None

    await eventually(consumes, seconds=60)
    try:
        yield app
    finally:
        for door in app.service.doors:
            await door.stop()
        for drain in app.service.drains:
            await drain()
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        for close in app.service.closes:
            await close()


async def say(producer: RecordProducer, stream: Stream, *facts: Fact) -> None:
    await producer.publish([encode(fact, stream=stream) for fact in facts])


class Listener:
    """Reads a topic from its beginning, and keeps what is about the test's own accounts."""

    def __init__(self, kafka: KafkaBackend, topic: str) -> None:
        self._kafka, self._topic = kafka, topic

    async def records(self) -> list[ConsumerRecord[bytes, bytes]]:
        consumer = AIOKafkaConsumer(
            self._topic, bootstrap_servers=self._kafka.bootstrap, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            ends = await consumer.end_offsets(list(consumer.assignment()))
            found: list[ConsumerRecord[bytes, bytes]] = []
            for partition, end in ends.items():
                while await consumer.position(partition) < end:
                    found.append(await consumer.getone(partition))
            return found
        finally:
            await consumer.stop()

    async def stated(self, *accounts: str) -> list[Stated]:
        found = []
        for record in await self.records():
            body = orjson.loads(record.value or b"{}")
            if body.get("account_id") in accounts:
                headers = dict(record.headers)
                found.append(
                    Stated(
                        type=headers["ce_type"].decode(),
                        id=uuid4() if "ce_id" not in headers else _uuid(headers["ce_id"]),
                        body=body,
                    )
                )
        return found


def _uuid(raw: bytes) -> UUID:
    return UUID(raw.decode())


async def until_stated(
    listener: Listener, account: str, types: Sequence[str], *, seconds: float = 20.0
) -> list[Stated]:
    """Return an account's facts once they are of these types, in this order."""
    found: list[Stated] = []

    async def are_there() -> bool:
        nonlocal found
        found = await listener.stated(account)
        return [fact.type for fact in found] == list(types)

    try:
        await eventually(are_there, seconds=seconds)
    except TimeoutError:
        raise AssertionError(f"{[fact.type for fact in found]} and not {list(types)}") from None
    return found


class TestService:
    async def test_goes_from_the_portals_word_to_the_request_and_its_end(
        self,
        settings: Settings,
        clock: StillClock,
        rows: SchedulerDatabase,
        producer: RecordProducer,
        kafka: KafkaBackend,
    ) -> None:
        account = f"K-{uuid4().hex[:12]}"
        listener = Listener(kafka, AUTOPAY.name)
        async with running(settings, clock):
            await say(
                producer,
                PORTAL,
                registered(account, when=MONDAY),
                enrolled(account, when=MONDAY),
            )
            await until_stated(listener, account, ["enrolment.activated"])
            await say(producer, BILLS, bill(account, DUE, 8_000, when=MONDAY))
            stated = ["enrolment.activated", "charge.announced"]
            announced = (await until_stated(listener, account, stated))[-1]
            await say(producer, NOTIFICATIONS, noticed(announced, when=clock()))
            await eventually(
                lambda: _is(rows, "SELECT count(*) FROM announcements WHERE status = 'sent'")
            )
            clock.to(f"{DUE} 06:00")
            stated.append("charge.requested")
            request = (await until_stated(listener, account, stated))[-1]
            charge = at_intake(request)
            await say(producer, PAYMENTS, charge.paid(clock()))
            stated.append("charge.closed")
            await until_stated(listener, account, stated)
            await say(
                producer,
                POSTINGS,
                posted(account, 8_000, when=clock(), balance_cents=0, payment_id=charge.payment_id),
            )
            await eventually(
                lambda: _is(rows, "SELECT count(*) FROM charges WHERE posted_at IS NOT NULL")
            )
            clock.advance(hours=2)
            await say(producer, PORTAL, cancelled(account, when=clock()))
            stated.append("enrolment.stopped")
            await until_stated(listener, account, stated)

    async def test_reads_all_again_and_says_and_does_nothing_twice(
        self,
        settings: Settings,
        clock: StillClock,
        rows: SchedulerDatabase,
        producer: RecordProducer,
        kafka: KafkaBackend,
    ) -> None:
        """The group's offsets are set back to the beginning of every stream."""
        account, later = (f"K-{uuid4().hex[:12]}" for _ in range(2))
        listener = Listener(kafka, AUTOPAY.name)
        stated = ["enrolment.activated", "charge.announced", "charge.requested", "charge.closed"]
        async with running(settings, clock):
            await say(
                producer, PORTAL, registered(account, when=MONDAY), enrolled(account, when=MONDAY)
            )
            await until_stated(listener, account, stated[:1])
            await say(producer, BILLS, bill(account, DUE, 8_000, when=MONDAY))
            announced = (await until_stated(listener, account, stated[:2]))[-1]
            await say(producer, NOTIFICATIONS, noticed(announced, when=clock()))
            await eventually(
                lambda: _is(rows, "SELECT count(*) FROM announcements WHERE status = 'sent'")
            )
            clock.to(f"{DUE} 06:00")
            request = (await until_stated(listener, account, stated[:3]))[-1]
            await say(producer, PAYMENTS, at_intake(request).paid(clock()))
            before = await until_stated(listener, account, stated)
        kept = await _kept(rows, account)
        await begin_anew(kafka)
        async with running(settings, clock):
            # What is said last is heard last: by then all the rest was heard again.
            await say(
                producer, PORTAL, registered(later, when=MONDAY), enrolled(later, when=clock())
            )
            await until_stated(listener, later, ["enrolment.activated"])
            for stream in HEARD:
                await eventually(lambda stream=stream: _is_read(kafka, stream))  # type: ignore[misc]
        after = await listener.stated(account)
        assert [(fact.type, fact.id) for fact in after] == [(fact.type, fact.id) for fact in before]
        assert await _kept(rows, account) == kept

    async def test_buries_what_it_cannot_read_and_goes_on(
        self,
        settings: Settings,
        clock: StillClock,
        producer: RecordProducer,
        kafka: KafkaBackend,
        rows: SchedulerDatabase,
    ) -> None:
        account = f"K-{uuid4().hex[:12]}"
        good = encode(bill(account, DUE, 8_000, when=MONDAY), stream=BILLS)
        strange = encode(
            bill(account, DUE, 1, when=MONDAY, reference="EUR", currency="EUR"), stream=BILLS
        )
        unknown = OutboundRecord(
            topic=BILLS.name,
            key=good.key,
            value=b"{}",
            headers=tuple(
                (name, b"bill.of_next_year" if name == "ce_type" else value)
                for name, value in good.headers
            ),
        )
        poison = [
            OutboundRecord(topic=BILLS.name, key=good.key, value=value, headers=good.headers)
            for value in (b"not json", b'{"account_id": "' + account.encode() + b'"}', b"\xff\x00")
        ]
        async with running(settings, clock):
            await producer.publish([*poison, strange, unknown, good])
            await eventually(
                lambda: _is(rows, f"SELECT count(*) FROM bills WHERE account_id = '{account}'")
            )
        letters = [
            record
            for record in await Listener(kafka, BILLS.dead_letters).records()
            if record.key == good.key
        ]
        stories = [dict(record.headers) for record in letters]
        assert [record.value for record in letters] == [
            *(each.value for each in poison),
            strange.value,
        ]
        assert all(story["dead_consumer"] == GROUP_ID.encode() for story in stories)
        assert [story["dead_reason"] for story in stories[:3]] == [b"invalid"] * 3
        assert stories[3]["dead_reason"] == b"failed"
        assert stories[3]["dead_detail"] == b"UnexpectedCurrencyError"
        assert await rows.value("SELECT count(*) FROM bills WHERE bill_reference = 'EUR'") == 0

    async def test_keeps_its_books_through_two_processes_at_once(
        self,
        settings: Settings,
        clock: StillClock,
        rows: SchedulerDatabase,
        producer: RecordProducer,
        kafka: KafkaBackend,
    ) -> None:
        accounts = [f"K-{uuid4().hex[:12]}" for _ in range(40)]
        listener = Listener(kafka, AUTOPAY.name)
        async with running(settings, clock), running(settings, clock):
            await say(
                producer,
                PORTAL,
                *(registered(each, when=MONDAY) for each in accounts),
                *(enrolled(each, when=MONDAY) for each in accounts),
            )
            await eventually(
                lambda: _is(rows, "SELECT count(*) FROM enrolments", count=40), seconds=60
            )
            await say(producer, BILLS, *(bill(each, DUE, 8_000, when=MONDAY) for each in accounts))
            await eventually(lambda: _is(rows, "SELECT count(*) FROM announcements", count=40))

            async def are_announced() -> bool:
                stated = await listener.stated(*accounts)
                return sum(fact.type == "charge.announced" for fact in stated) == 40

            await eventually(are_announced)
            announced = [
                fact for fact in await listener.stated(*accounts) if fact.type == "charge.announced"
            ]
            await say(producer, NOTIFICATIONS, *(noticed(each, when=clock()) for each in announced))
            await eventually(
                lambda: _is(
                    rows, "SELECT count(*) FROM announcements WHERE status = 'sent'", count=40
                )
            )
            clock.to(f"{DUE} 06:00")
            await eventually(
                lambda: _is(
                    rows, "SELECT count(*) FROM charges WHERE status = 'requested'", count=40
                )
            )

            async def are_asked_for() -> bool:
                stated = await listener.stated(*accounts)
                return sum(fact.type == "charge.requested" for fact in stated) == 40

            await eventually(are_asked_for)
        found = await listener.stated(*accounts)
        assert len({fact.id for fact in found}) == len(found) == 120
        for account in accounts:
            assert [fact.type for fact in found if fact["account_id"] == account] == [
                "enrolment.activated",
                "charge.announced",
                "charge.requested",
            ]
        for fact in found:
            await rows.execute(
                "INSERT INTO outbox (topic, key, value, headers) VALUES ('t', '', $1, $2)",
                orjson.dumps(fact.body),
                orjson.dumps([("ce_type", fact.type), ("ce_id", str(fact.id))]),
            )
        await assert_in_order(rows)


async def _is(rows: SchedulerDatabase, query: str, *, count: int = 1) -> bool:
    return bool(await rows.value(query) == count)


async def _kept(rows: SchedulerDatabase, account: str) -> dict[str, str]:
    return {
        table: await rows.value(
            "SELECT string_agg(t::text, chr(10) ORDER BY t::text)"
            f" FROM {table} t WHERE account_id = $1",
            account,
        )
        for table in ("accounts", "bills", "charges", "enrolments", "mandates", "postings")
    }


async def begin_anew(kafka: KafkaBackend) -> None:
    """Set the group's offsets back to the beginning, as an operator would."""
    async with group(kafka) as consumer:
        partitions = await partitions_of(kafka, *HEARD)
        consumer.assign(partitions)
        await consumer.commit(dict.fromkeys(partitions, 0))


async def _is_read(kafka: KafkaBackend, stream: Stream) -> bool:
    """Whether the group has read a stream to its end."""
    async with group(kafka) as consumer:
        partitions = await partitions_of(kafka, stream)
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        read = {each: await consumer.committed(each) for each in partitions}
        return all((read[each] or 0) >= ends[each] for each in partitions)


@asynccontextmanager
async def group(kafka: KafkaBackend) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap, group_id=GROUP_ID, enable_auto_commit=False
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def partitions_of(kafka: KafkaBackend, *streams: Stream) -> list[TopicPartition]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        found = await admin.describe_topics([stream.name for stream in streams])
    finally:
        await admin.close()
    return [
        TopicPartition(topic["topic"], partition["partition"])
        for topic in found
        for partition in topic["partitions"]
    ]

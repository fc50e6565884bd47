"""The outbox and its announcer, on real PostgreSQL and Kafka."""

import asyncio
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from tests.support.backends import start_kafka
from tests.support.intake_database import intake_database
from tests.support.intake_service import eventually_async, records_on

import shared.messaging.producer
from payment_intake.adapters.tables import outbox as outbox_rows
from paypost.stack.ports import PortBlock
from shared.contracts.topics import create_topics
from shared.contracts.wire import OutboundRecord
from shared.db.engine import transaction
from shared.messaging.producer import KafkaUnavailableError, RecordProducer
from shared.outbox.announcer import Announcer
from shared.outbox.table import Outbox
from shared.runtime.metrics import ServiceMetrics

OUTBOX = Outbox(table=outbox_rows)
TOPIC = "bills.v1"


@pytest.fixture(scope="module")
async def rows(database):
    async with intake_database(database) as found:
        yield found


@pytest.fixture(autouse=True)
async def emptied(rows):
    await rows.empty()


@pytest.fixture(scope="module")
async def topics(kafka):
    await create_topics(bootstrap_servers=kafka.bootstrap, replication_factor=1)
    return kafka.bootstrap


def record(number: int, *, key: str = "one-account") -> OutboundRecord:
    return OutboundRecord(
        topic=TOPIC,
        key=key.encode(),
        value=b"%d" % number,
        headers=(("ce_id", f"{key}-{number}".encode()), ("ce_name", "Pérez".encode())),
    )


async def commit(rows, *numbers: int, key: str = "one-account"):
    async with transaction(rows.engine) as connection:
        return await OUTBOX.append(connection, [record(number, key=key) for number in numbers])


class Published:
    """A publisher that keeps what it gets; `before` runs first, and may fail."""

    def __init__(self) -> None:
        self.batches: list[list[OutboundRecord]] = []
        self.before = None

    @property
    def numbers(self) -> list[int]:
        return [int(each.value) for batch in self.batches for each in batch]

    async def publish(self, records) -> None:
        if self.before is not None:
            await self.before(len(self.batches))
        self.batches.append(list(records))


def announcer(rows, publisher, **options) -> Announcer:
    metrics = ServiceMetrics(prefix="test")
    return Announcer(
        engine=rows.engine, outbox=OUTBOX, publisher=publisher, metrics=metrics, **options
    )


@asynccontextmanager
async def running(*announcers: Announcer):
    tasks = [asyncio.create_task(each.run()) for each in announcers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in results), results


async def drained(rows) -> None:
    async def empty() -> bool:
        return await rows.count("outbox") == 0

    await eventually_async(empty)


async def ahead(found: Announcer) -> None:
    async def caught_up() -> bool:
        return not found.was_behind(within_seconds=0.0)

    await eventually_async(caught_up)


async def behind(found: Announcer) -> None:
    async def fell_behind() -> bool:
        return found.was_behind(within_seconds=0.0)

    await eventually_async(fell_behind)


async def away(_) -> None:
    raise KafkaUnavailableError("away")


class TestOutbox:
    async def test_gives_rows_back_in_their_order_as_they_were(self, rows):
        written = await commit(rows, 3, 1, 2)
        async with transaction(rows.engine) as connection:
            claimed = await OUTBOX.claim(connection, older_than_seconds=0, limit=10)
        assert claimed == written
        assert [each.record for each in claimed] == [record(3), record(1), record(2)]

    async def test_gives_no_row_to_two_at_once(self, rows):
        await commit(rows, *range(10))
        async with transaction(rows.engine) as one, transaction(rows.engine) as other:
            first = await OUTBOX.claim(one, older_than_seconds=0, limit=4)
            second = await OUTBOX.claim(other, older_than_seconds=0, limit=10)
        assert [int(each.record.value) for each in first] == [0, 1, 2, 3]
        assert [int(each.record.value) for each in second] == [4, 5, 6, 7, 8, 9]

    async def test_leaves_young_rows_to_their_writer(self, rows):
        await commit(rows, 1)
        async with transaction(rows.engine) as connection:
            assert await OUTBOX.claim(connection, older_than_seconds=60, limit=10) == []

    async def test_measures_its_depth_and_age(self, rows):
        async with transaction(rows.engine) as connection:
            assert await OUTBOX.depth(connection) == (0, 0.0)
        await commit(rows, 1, 2)
        await rows.execute("UPDATE outbox SET created_at = now() - interval '90 seconds'")
        async with transaction(rows.engine) as connection:
            depth, age_seconds = await OUTBOX.depth(connection)
        assert depth == 2
        assert 90 <= age_seconds < 100

    async def test_holds_nothing_of_a_transaction_that_fails(self, rows):
        with pytest.raises(RuntimeError):
            async with transaction(rows.engine) as connection:
                await OUTBOX.append(connection, [record(1)])
                raise RuntimeError("a defect")
        assert await rows.count("outbox") == 0


class TestAnnouncer:
    async def test_announces_what_it_is_offered_and_clears_the_table(self, rows):
        published = Published()
        found = announcer(rows, published)
        async with running(found):
            await ahead(found)
            for start in range(0, 30, 10):
                found.offer(await commit(rows, *range(start, start + 10)))
            await drained(rows)
        assert published.numbers == list(range(30))

    async def test_clears_the_table_of_many_batches_at_once(self, rows):
        published = Published()
        deletions = []

        class Counting(Outbox):
            async def delete(self, connection, ids) -> None:
                deletions.append(list(ids))
                await super().delete(connection, ids)

        found = Announcer(
            engine=rows.engine,
            outbox=Counting(table=outbox_rows),
            publisher=published,
            metrics=ServiceMetrics(prefix="test"),
        )
        async with running(found):
            await ahead(found)
            for number in range(20):
                found.offer(await commit(rows, number))

                async def is_published(number=number) -> bool:
                    return number in published.numbers

                await eventually_async(is_published)
            await drained(rows)
        assert len(published.batches) == 20
        assert sum(map(len, deletions)) == 20
        assert len(deletions) < 10

    async def test_says_nothing_again_that_was_acknowledged_before_an_outage(self, rows):
        published = Published()
        found = announcer(rows, published)

        async with running(found):
            await ahead(found)
            found.offer(await commit(rows, 1))

            async def is_published() -> bool:
                return published.numbers == [1]

            await eventually_async(is_published)
            published.before = away
            found.offer(await commit(rows, 2))
            await behind(found)
            published.before = None
            await drained(rows)
            await ahead(found)
            assert found.was_behind(within_seconds=3600.0)
        assert published.numbers == [1, 2]

    async def test_announces_what_an_earlier_life_has_left(self, rows):
        published = Published()
        await commit(rows, *range(1200))
        async with running(announcer(rows, published)):
            await drained(rows)
        assert published.numbers == list(range(1200))

    async def test_announces_what_a_crash_elsewhere_has_left(self, rows):
        published = Published()
        found = announcer(rows, published)
        async with running(found):
            await ahead(found)
            await commit(rows, 7)
            await drained(rows)
        assert published.numbers == [7]

    async def test_finds_what_a_crash_has_left_while_rows_come_without_a_pause(self, rows):
        published = Published()
        found = announcer(rows, published, stray_seconds=0.5)

        async def offer_more(_) -> None:
            # Each publication finds the next row waiting: the queue is never seen empty.
            found.offer(await commit(rows, 1))

        async with running(found):
            await ahead(found)
            await commit(rows, 7)
            published.before = offer_more
            found.offer(await commit(rows, 1))

            async def stray_is_announced() -> bool:
                return 7 in published.numbers

            await eventually_async(stray_is_announced)
            published.before = None
            await drained(rows)

    async def test_keeps_the_order_through_an_outage(self, rows):
        published = Published()
        found = announcer(rows, published)

        async with running(found):
            await ahead(found)
            found.offer(await commit(rows, 1))
            await drained(rows)
            published.before = away
            for number in range(2, 8):
                found.offer(await commit(rows, number))
            await behind(found)
            found.offer(await commit(rows, 8))
            published.before = None
            await drained(rows)
            await ahead(found)
            found.offer(await commit(rows, 9))
            await drained(rows)
        assert published.numbers == list(range(1, 10))

    async def test_measures_what_waits_while_kafka_is_away(self, rows):
        published = Published()
        metrics = ServiceMetrics(prefix="test")
        found = Announcer(engine=rows.engine, outbox=OUTBOX, publisher=published, metrics=metrics)

        def read(name: str) -> float:
            return metrics.registry.get_sample_value(f"test_outbox_{name}") or 0.0

        published.before = away
        await commit(rows, 1, 2, 3)
        async with running(found):

            async def measured() -> bool:
                return read("rows") == 3.0

            await eventually_async(measured)
            before = read("oldest_age_seconds")

            async def grows() -> bool:
                return read("oldest_age_seconds") > before + 0.2

            await eventually_async(grows)
            published.before = None
            await drained(rows)

            async def empty() -> bool:
                return read("rows") == read("oldest_age_seconds") == 0.0

            await eventually_async(empty)

    async def test_leaves_to_the_table_what_its_queue_cannot_hold(self, rows):
        published = Published()
        found = announcer(rows, published, queue_size_max=5)
        async with running(found):
            await ahead(found)
            found.offer(await commit(rows, *range(20)))
            await drained(rows)
        assert published.numbers == list(range(20))

    async def test_lets_no_new_row_overtake_what_it_is_catching_up_with(self, rows):
        published = Published()
        found = announcer(rows, published)

        async def while_publishing(number: int) -> None:
            if number == 0:
                await commit(rows, *range(1, 502))
            elif number == 1:
                found.offer(await commit(rows, 502))

        await commit(rows, 0)
        published.before = while_publishing
        async with running(found):
            await drained(rows)
        assert published.numbers == list(range(503))

    async def test_shares_a_backlog_with_another_process(self, rows):
        one, other = Published(), Published()
        await commit(rows, *range(2000))

        async def slowly(_) -> None:
            await asyncio.sleep(0)

        one.before = other.before = slowly
        async with running(announcer(rows, one), announcer(rows, other)):
            await drained(rows)
        assert sorted(one.numbers + other.numbers) == list(range(2000))

    async def test_says_again_under_the_same_id_what_a_crash_left_undeleted(self, rows, topics):
        key = uuid4().hex
        producer = RecordProducer(bootstrap_servers=topics, client_id="test")
        await commit(rows, 1, 2, key=key)

        class CrashesAfterwards:
            async def publish(self, records) -> None:
                await producer.publish(records)
                raise RuntimeError("killed between the acknowledgement and the deletion")

        with pytest.raises(RuntimeError):
            await announcer(rows, CrashesAfterwards()).run()
        assert await rows.count("outbox") == 2
        async with running(announcer(rows, producer)):
            await drained(rows)
        await producer.close()
        records = await records_on(bootstrap=topics, topic=TOPIC)
        ids = [dict(each.headers)["ce_id"].decode() for each in records if each.key == key.encode()]
        assert ids == [f"{key}-1", f"{key}-2", f"{key}-1", f"{key}-2"]

    async def test_drains_its_backlog_in_order_when_kafka_comes(self, rows, tmp_path, watchdog):
        with PortBlock.claim() as ports:
            bootstrap = f"127.0.0.1:{ports.port('kafka')}"
            producer = RecordProducer(bootstrap_servers=bootstrap, client_id="test")
            found = announcer(rows, producer)
            async with running(found):
                for number in range(50):
                    found.offer(await commit(rows, number))
                assert await rows.count("outbox") == 50
                broker = await asyncio.to_thread(
                    start_kafka, directory=tmp_path, ports=ports, watchdog=watchdog
                )
                try:
                    assert broker.bootstrap == bootstrap
                    await create_topics(bootstrap_servers=bootstrap, replication_factor=1)
                    await drained(rows)
                    records = await records_on(bootstrap=bootstrap, topic=TOPIC)
                finally:
                    await producer.close()
                    await asyncio.to_thread(broker.stop)
            first = {int(each.value): each.offset for each in reversed(records)}
            assert sorted(first) == list(range(50))
            assert sorted(first, key=first.__getitem__) == list(range(50))


class TestRecordProducer:
    async def test_connects_once_though_two_are_the_first(self, topics, monkeypatch):
        made = []

        class Counted(shared.messaging.producer.AIOKafkaProducer):
            def __init__(self, **options) -> None:
                made.append(self)
                super().__init__(**options)

        monkeypatch.setattr(shared.messaging.producer, "AIOKafkaProducer", Counted)
        producer = RecordProducer(bootstrap_servers=topics, client_id="test")
        await asyncio.gather(*(producer.publish([record(n)]) for n in range(5)))
        await producer.close()
        assert len(made) == 1

    async def test_keeps_the_order_of_a_key_and_all_of_a_record(self, topics):
        key = uuid4().hex
        producer = RecordProducer(bootstrap_servers=topics, client_id="test")
        await producer.publish([record(n, key=key) for n in range(500)])
        await producer.close()
        records = [
            each
            for each in await records_on(bootstrap=topics, topic=TOPIC)
            if each.key == key.encode()
        ]
        assert [int(each.value) for each in records] == list(range(500))
        assert len({each.partition for each in records}) == 1
        assert dict(records[0].headers) == dict(record(0, key=key).headers)

    async def test_says_that_kafka_is_away_within_its_time(self):
        producer = RecordProducer(
            bootstrap_servers="127.0.0.1:1", client_id="test", timeout_seconds=1
        )
        async with asyncio.timeout(5):
            with pytest.raises(KafkaUnavailableError):
                await producer.publish([record(1)])
        await producer.close()

    async def test_creates_no_topic_that_nobody_declared(self, topics):
        producer = RecordProducer(bootstrap_servers=topics, client_id="test", timeout_seconds=1)
        unheard_of = OutboundRecord(topic="unheard.of", key=b"k", value=b"v", headers=())
        with pytest.raises(KafkaUnavailableError):
            await producer.publish([unheard_of])
        # And it is of use again afterwards.
        await producer.publish([record(1)])
        await producer.close()

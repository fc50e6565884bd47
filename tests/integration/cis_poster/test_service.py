"""cis-poster as its own process, on real Kafka, PostgreSQL and the reference CIS."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from tests.support.backends import KafkaBackend, TestDatabase
from tests.support.poster_database import PosterDatabase, migrate_poster, sqlalchemy_url
from tests.support.reference_cis import API_KEY, ReferenceCis, free_port, running_cis

from shared.clock import utc_now
from shared.contracts.payments import PaymentAccepted, PaymentReversed
from shared.contracts.streams import PAYMENTS, POSTINGS
from shared.contracts.topics import create_topics
from shared.contracts.wire import OutboundRecord, encode
from shared.messaging.producer import RecordProducer

INSTANCE_ID = f"test-{uuid4().hex[:8]}"
OPERATOR_KEY = "operator-key-of-the-tests"


class Service:
    """The process, with the settings that make its waits short."""

    def __init__(self, *, kafka: KafkaBackend, database: TestDatabase, cis: ReferenceCis) -> None:
        self.api_url = f"http://127.0.0.1:{free_port()}"
        self.ops_url = f"http://127.0.0.1:{free_port()}"
        settings = {
            "environment": "local",
            "database_url": sqlalchemy_url(database),
            "kafka_bootstrap_servers": kafka.bootstrap,
            # A restarted process takes its partitions over without waiting for the dead one.
            "kafka_group_instance_id": INSTANCE_ID,
            "http_host": "127.0.0.1",
            "http_port": self.api_url.rpartition(":")[2],
            "ops_host": "127.0.0.1",
            "ops_port": self.ops_url.rpartition(":")[2],
            "operator_key_sha256s": json.dumps([hashlib.sha256(OPERATOR_KEY.encode()).hexdigest()]),
            "cis_base_url": cis.url,
            "cis_api_key": API_KEY,
            "cis_timeout_seconds": "1",
            "lease_seconds": "4",
            "retry_initial_seconds": "0.1",
        }
        self._env = os.environ | {f"CIS_POSTER_{k.upper()}": v for k, v in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "cis_poster", "run"]
        self._process = subprocess.Popen(command, env=self._env)
        deadline = time.monotonic() + 30
        while not self._is_ready():
            assert self._process.poll() is None, f"ended with {self._process.returncode}"
            assert time.monotonic() < deadline, "cis-poster did not become ready"
            time.sleep(0.05)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=10)

    def stop(self) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=30)

    def call(self, method: str, path: str, body: object = None, *, key: str = OPERATOR_KEY) -> Any:
        request = Request(
            self.api_url + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        )
        with urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def metric(self, name: str) -> float:
        with urlopen(f"{self.ops_url}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"{self.ops_url}/readyz", timeout=1):
                return True
        except OSError:
            return False


@pytest.fixture(scope="module")
async def rows(database: TestDatabase) -> AsyncIterator[PosterDatabase]:
    migrate_poster(database)
    found = PosterDatabase(database)
    yield found
    await found.close()


@pytest.fixture(scope="module")
def cis(database: TestDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReferenceCis]:
    with running_cis(database=database, directory=tmp_path_factory.mktemp("cis")) as cis:
        yield cis


@pytest.fixture(scope="module")
async def topics(kafka: KafkaBackend) -> None:
    await create_topics(bootstrap_servers=kafka.bootstrap, replication_factor=1)


@pytest.fixture
def service(
    topics: None,
    kafka: KafkaBackend,
    database: TestDatabase,
    rows: PosterDatabase,
    cis: ReferenceCis,
) -> Iterator[Service]:
    service = Service(kafka=kafka, database=database, cis=cis)
    service.start()
    yield service
    cis.switch()
    service.stop()


@pytest.fixture
async def producer(kafka: KafkaBackend) -> AsyncIterator[RecordProducer]:
    producer = RecordProducer(bootstrap_servers=kafka.bootstrap, client_id="test")
    yield producer
    await producer.close()


def accepted(account: str | None, *, amount_cents: int = 2_500) -> PaymentAccepted:
    key = uuid4()
    return PaymentAccepted(
        payment_id=key,
        posting_key=key,
        account_id=account,
        processor="stripe",
        reference=f"pi_{key.hex[:12]}",
        amount_cents=amount_cents,
        currency="USD",
        effective_date=utc_now().date(),
        accepted_at=utc_now(),
    )


def reversed_(payment: PaymentAccepted) -> PaymentReversed:
    about = payment.model_dump(include=set(PaymentReversed.model_fields) - {"posting_key"})
    return PaymentReversed(**about, posting_key=uuid4(), reason="refund")


def records(facts: Sequence[PaymentAccepted | PaymentReversed]) -> list[OutboundRecord]:
    return [encode(fact, stream=PAYMENTS) for fact in facts]


async def stated(kafka: KafkaBackend, keys: set[UUID]) -> dict[UUID, list[str]]:
    """The types of all facts about these keys that stand on postings.v1 now."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=None)
    await consumer.start()
    try:
        partitions = [
            TopicPartition(POSTINGS.name, number) for number in range(POSTINGS.partitions)
        ]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        found: dict[UUID, list[str]] = {}
        while any([await consumer.position(p) < ends[p] for p in partitions]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                for record in batch:
                    key = UUID(json.loads(record.value)["posting_key"])
                    if key in keys:
                        kind = dict(record.headers)["ce_type"].decode()
                        found.setdefault(key, []).append(kind)
        return found
    finally:
        await consumer.stop()


async def eventually(holds: Any, *, within_seconds: float = 20.0) -> None:
    deadline = time.monotonic() + within_seconds
    while True:
        found = holds()
        if await found if asyncio.iscoroutine(found) else found:
            return
        assert time.monotonic() < deadline, f"did not come true in {within_seconds:g} s"
        await asyncio.sleep(0.05)


def open_accounts(cis: ReferenceCis, count: int) -> list[str]:
    names = [f"A-{uuid4().hex[:10]}" for _ in range(count)]
    cis.open_accounts(names)
    return names


class TestService:
    async def test_posts_within_a_moment_and_states_it(
        self, service: Service, cis: ReferenceCis, kafka: KafkaBackend, producer: RecordProducer
    ) -> None:
        accounts = open_accounts(cis, 10)
        facts = [accepted(accounts[n % 10]) for n in range(100)]
        await producer.publish(records(facts))
        began = time.monotonic()
        await eventually(lambda: all(len(cis.posted(account)) == 10 for account in accounts))
        took_seconds = time.monotonic() - began
        keys = {fact.posting_key for fact in facts}
        await eventually(lambda: has_said(kafka, keys, ["posting.posted"]))
        assert took_seconds < 5
        assert service.metric('cis_poster_postings_total{kind="payment",outcome="posted"}') == 100
        for n, account in enumerate(accounts):
            assert cis.posted(account) == [str(fact.posting_key) for fact in facts[n::10]]

    async def test_killed_in_the_middle_loses_and_doubles_nothing(
        self, service: Service, cis: ReferenceCis, kafka: KafkaBackend, producer: RecordProducer
    ) -> None:
        accounts = open_accounts(cis, 12)
        cis.switch(latency_ms=30)
        facts = [accepted(accounts[n % 12]) for n in range(600)]
        mine = set(accounts)

        def count() -> int:
            return sum(line["account"] in mine for line in cis.journal())

        for first in range(0, 600, 50):
            await producer.publish(records(facts[first : first + 50]))
            if first in (100, 300):
                await eventually(lambda least=first: count() >= least)
                await asyncio.to_thread(service.kill)
                await asyncio.to_thread(service.start)
        cis.switch()
        await eventually(lambda: count() == 600)
        for n, account in enumerate(accounts):
            assert cis.posted(account) == [str(fact.posting_key) for fact in facts[n::12]]
        keys = {fact.posting_key for fact in facts}
        await eventually(lambda: has_said(kafka, keys, ["posting.posted"]))

    async def test_buries_what_it_cannot_read_and_goes_on(
        self, service: Service, cis: ReferenceCis, kafka: KafkaBackend, producer: RecordProducer
    ) -> None:
        [account] = open_accounts(cis, 1)
        good = [accepted(account) for _ in range(3)]
        first, second, third = records(good)
        headers = second.headers
        poison = [
            OutboundRecord(topic="payments.v1", key=first.key, value=value, headers=headers)
            for value in (b"{not json", b'{"amount_cents": -1}', b"\xff\xfe")
        ]
        unstorable = records([accepted(account).model_copy(update={"reference": "a\x00b"})])
        await producer.publish([first, *poison[:2], second, *unstorable, poison[2], third])
        await eventually(lambda: len(cis.posted(account)) == 3)
        assert cis.posted(account) == [str(fact.posting_key) for fact in good]
        assert service.metric("cis_poster_dead_letters_total") == 4

    async def test_lets_an_operator_in_with_a_key_only(
        self, service: Service, cis: ReferenceCis, producer: RecordProducer, kafka: KafkaBackend
    ) -> None:
        [account] = open_accounts(cis, 1)
        payment = accepted(None)
        await producer.publish(records([payment, reversed_(payment)]))
        key = str(payment.posting_key)

        def listed() -> list[str]:
            return [each["id"] for each in service.call("GET", "/suspense?limit=1000")]

        await eventually(lambda: key in listed())
        for wrong in ("", "wrong"):
            with pytest.raises(HTTPError) as refused:
                service.call("GET", "/suspense", key=wrong)
            assert refused.value.code == 401
        act = {"operator": "kim", "note": "by phone"}
        for path, body, status in (
            (f"/suspense/{key}/release", act, 404),
            (f"/suspense/{uuid4()}/release", {**act, "to_account": account}, 404),
            (f"/suspense/{uuid4()}/return", act, 404),
            (f"/suspense/{key}/release", {"to_account": account}, 422),
            (f"/suspense/{key}/release", {**act, "to_account": "has space"}, 422),
        ):
            with pytest.raises(HTTPError) as refused:
                service.call("POST", path, body)
            assert refused.value.code == status
            assert refused.value.headers["content-type"] == "application/problem+json"
        service.call("POST", f"/suspense/{key}/release", {**act, "to_account": account})
        # The reversal, which named no account either, follows its payment.
        await eventually(lambda: len(cis.posted(account)) == 2)
        assert key not in listed()

    async def test_asked_to_stop_gives_back_what_it_has_not_sent(
        self,
        service: Service,
        cis: ReferenceCis,
        rows: PosterDatabase,
        producer: RecordProducer,
    ) -> None:
        accounts = open_accounts(cis, 400)
        cis.switch(latency_ms=900)
        facts = [accepted(account) for account in accounts] + [
            accepted(account) for account in accounts for _ in range(4)
        ]
        await producer.publish(records(facts))

        async def more_than_can_be_sent() -> bool:
            return await rows.count("status = 'attempting'") > 1_000

        await eventually(more_than_can_be_sent)
        began = time.monotonic()
        code = await asyncio.to_thread(service.stop)
        assert code == 0
        assert time.monotonic() - began < 8
        assert await rows.count("status = 'attempting'") == 0
        assert await rows.count("status = 'due'") > 0
        cis.switch()
        service.start()
        await eventually(lambda: is_settled(rows))
        mine = set(accounts)
        posted = [line["key"] for line in cis.journal() if line["account"] in mine]
        assert sorted(posted) == sorted(str(fact.posting_key) for fact in facts)


async def has_said(kafka: KafkaBackend, keys: set[UUID], kinds: list[str]) -> bool:
    found = await stated(kafka, keys)
    return set(found) == keys and all(kind in said for said in found.values() for kind in kinds)


async def is_settled(rows: PosterDatabase) -> bool:
    return await rows.count("status IN ('due', 'attempting', 'unknown')") == 0

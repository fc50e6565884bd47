import asyncio
import os

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from tests.support.backends import start_kafka

from paypost.stack.kafka import (
    BrokerRunningError,
    ClientDoor,
    KafkaBroker,
    KafkaCluster,
    prepare_runtime,
    serves,
)
from paypost.stack.ports import PortBlock


@pytest.fixture(scope="module")
def broker(tmp_path_factory, watchdog):
    with PortBlock.claim() as ports:
        broker = start_kafka(
            directory=tmp_path_factory.mktemp("broker"), ports=ports, watchdog=watchdog
        )
        yield broker
        broker.stop()


async def topics(broker) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()


async def write(broker, value: bytes) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic("kept", 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, enable_idempotence=True)
    await producer.start()
    await producer.send_and_wait("kept", value)
    await producer.stop()


async def read(broker) -> bytes | None:
    consumer = AIOKafkaConsumer(
        "kept", bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        return (await consumer.getone()).value
    finally:
        await consumer.stop()


class TestKafkaBroker:
    async def test_keeps_its_data_over_a_stop_and_loses_them_with_its_disk(self, broker):
        await write(broker, b"one")

        broker.stop()
        assert not broker.running
        broker.start()
        assert await read(broker) == b"one"

        broker.kill()
        broker.wipe()
        broker.start()
        assert "kept" not in await topics(broker)

    async def test_comes_back_with_its_data_after_a_crash(self, broker):
        await write(broker, b"two")
        broker.kill()
        assert not broker.running
        assert not serves(port=broker.port)
        broker.start()
        assert await read(broker) == b"two"

    async def test_makes_no_topic_by_itself(self, broker):
        producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, request_timeout_ms=1000)
        await producer.start()
        with pytest.raises(Exception, match=r"Unknown|Timeout|UNKNOWN"):
            await producer.send_and_wait("never-made", b"x")
        await producer.stop()
        assert "never-made" not in await topics(broker)

    def test_does_not_let_its_data_go_while_it_runs(self, broker):
        with pytest.raises(BrokerRunningError) as caught:
            broker.wipe()
        assert caught.value.pid == broker.identity.pid

    def test_is_small(self, broker):
        pages = int((open(f"/proc/{broker.identity.pid}/statm")).read().split()[1])  # noqa: PTH123, SIM115
        assert pages * os.sysconf("SC_PAGE_SIZE") < 450_000_000


class TestPrepareRuntime:
    def test_needs_nothing_from_outside_once_it_was_prepared(self, watchdog, monkeypatch):
        prepared = prepare_runtime(watchdog=watchdog)

        def refuse(*_args: object) -> None:
            raise AssertionError("asked the network")

        monkeypatch.setattr("socket.getaddrinfo", refuse)
        monkeypatch.setattr("paypost.stack.kafka.fetch_with_jgo", refuse)
        assert prepare_runtime(watchdog=watchdog) == prepared
        assert prepared.aot_cache is not None
        assert prepared.aot_cache.exists()


class TestKafkaCluster:
    async def test_takes_writes_with_one_node_down_and_none_with_two(
        self, tmp_path, watchdog
    ) -> None:
        with PortBlock.claim() as ports:
            cluster = KafkaCluster(
                runtime=prepare_runtime(watchdog=watchdog),
                data_dir=tmp_path / "data",
                ports=tuple(ports.port(f"kafka {n}") for n in range(3)),
                controller_ports=tuple(ports.port(f"controller {n}") for n in range(3)),
                log_dir=tmp_path,
                watchdog=watchdog,
            )
            try:
                cluster.start()
                assert cluster.running
                admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
                await admin.start()
                topic = NewTopic("kept", 1, 3, topic_configs={"min.insync.replicas": "2"})
                await admin.create_topics([topic])
                await admin.close()
                first, second, _ = cluster.brokers

                first.kill()
                assert not cluster.running
                await send(cluster.bootstrap, b"two are enough")

                second.kill()
                with pytest.raises((KafkaError, TimeoutError)):
                    async with asyncio.timeout(8):
                        await send(cluster.bootstrap, b"one is not")

                cluster.start()
                assert cluster.running
                await send(cluster.bootstrap, b"three again")
            finally:
                cluster.stop()


class TestClientDoor:
    async def test_sends_clients_round_by_the_address_that_it_advertises(
        self, tmp_path, watchdog
    ) -> None:
        with PortBlock.claim() as ports:
            door = ClientDoor(
                port=ports.port("door"), advertised_host="127.0.0.1", advertised_port=19_999
            )
            broker = KafkaBroker(
                runtime=prepare_runtime(watchdog=watchdog),
                data_dir=tmp_path / "data",
                port=ports.port("kafka"),
                controller_port=ports.port("controller"),
                log_path=tmp_path / "kafka.log",
                watchdog=watchdog,
                door=door,
            )
            try:
                broker.start()
                assert await sent_to(broker.bootstrap) == broker.port
                assert await sent_to(f"127.0.0.1:{door.port}") == 19_999
            finally:
                broker.stop()


async def send(bootstrap: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    try:
        await producer.send_and_wait("kept", value)
    finally:
        await asyncio.wait_for(producer.stop(), timeout=5)


async def sent_to(bootstrap: str) -> int:
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        [broker] = client.cluster.brokers()
        port: int = broker.port
        return port
    finally:
        await client.close()

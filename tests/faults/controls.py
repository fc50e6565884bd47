"""What one needs to break a running stack: switches, SQL, Kafka's admin, processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.structs import OffsetAndMetadata
from tests.faults.journals import Sample

from paypost.remote import Remote
from paypost.stack.local import SERVICES, LocalStack, process_spec
from paypost.stack.state import StackState
from paypost.stack.supervisor import answers
from paypost.traffic.processes import read_usage
from shared.contracts.streams import STREAMS

READY_SECONDS_MAX = 60.0
SAMPLE_SECONDS = 0.25
AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, KafkaError, aiohttp.ClientError)
"""What says that a server is away: in a mix another fault may be under way."""


async def until(holds: Callable[[], Awaitable[bool]], *, timeout_seconds: float, what: str) -> None:
    """Wait until it holds; who cannot be asked meanwhile is asked again.

    Raises TimeoutError, saying what did not hold.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        with contextlib.suppress(*AWAY):
            if await holds():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_seconds:g} s")
        await asyncio.sleep(0.05)


@dataclass(kw_only=True)
class Controls:
    """Everything of one stack that may be turned, stopped or asked."""

    stack: LocalStack

    @property
    def state(self) -> StackState:
        return self.stack.state

    async def switch(self, counterpart: str, **switches: Any) -> None:
        """Turn switches of `cis`, `mail` or `processor`."""
        async with Remote(base_url=self.state.http_urls[counterpart]) as remote:
            await remote.put("/_switches", switches)

    async def switches(self, counterpart: str) -> dict[str, Any]:
        """How the switches of a counterpart stand."""
        async with Remote(base_url=self.state.http_urls[counterpart]) as remote:
            found: dict[str, Any] = await remote.get("/_switches")
            return found

    async def reset(self, counterpart: str) -> None:
        """Turn every switch of a counterpart off."""
        async with Remote(base_url=self.state.http_urls[counterpart]) as remote:
            await remote.post("/_switches/reset")

    async def deliveries_under_way(self) -> int:
        """How many trains of events the processor is still sending, or will send again."""
        async with Remote(base_url=self.state.http_urls["processor"]) as remote:
            found: int = (await remote.get("/deliveries", limit="0"))["under_way"]
            return found

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        """A session of the superuser."""
        connection = await asyncpg.connect(self.state.superuser_dsn, timeout=10)
        try:
            yield connection
        finally:
            await connection.close()

    async def rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """What a query returns, as superuser."""
        async with self.database() as connection:
            return list(await connection.fetch(query, *arguments))

    async def value(self, query: str, *arguments: object) -> Any:
        """The first column of the first row that a query returns."""
        async with self.database() as connection:
            return await connection.fetchval(query, *arguments)

    async def until_ready(
        self,
        *services: str,
        timeout_seconds: float = READY_SECONDS_MAX,
    ) -> None:
        """Wait until these services, or all, are ready. Raises TimeoutError."""

        async def all_are() -> bool:
            urls = [f"{self.state.ops_urls[each]}/readyz" for each in services or SERVICES]
            found = await asyncio.gather(
                *(asyncio.to_thread(answers, url=url, timeout_seconds=2.0) for url in urls)
            )
            return all(found)

        await until(all_are, timeout_seconds=timeout_seconds, what="services ready")

    def freeze(self, *pids: int) -> None:
        """SIGSTOP to each of these processes and their groups."""
        for pid in pids:
            os.killpg(pid, signal.SIGSTOP)

    def thaw(self, *pids: int) -> None:
        """SIGCONT; those that are gone are passed over."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGCONT)

    def add_instance(self, service: str, *, name: str) -> None:
        """Start one more process of a service under this name, kept by the stack's supervisor.

        It is no static member of its group, so partitions are shared out anew.
        """
        running = self.stack.supervisor._get(service).spec
        prefix = service.replace("-", "_").upper()
        ports = {f"{prefix}_OPS_PORT": str(free_port())}
        if service in self.state.http_urls:
            ports[f"{prefix}_HTTP_PORT"] = str(free_port())
        environment = dict(running.env) | ports
        environment.pop(f"{prefix}_KAFKA_GROUP_INSTANCE_ID", None)
        spec = process_spec(name=service, state=self.state, environ={}, overrides={})
        self.stack.supervisor.start(
            type(spec)(
                name=name,
                command=spec.command,
                env=environment,
                ready_url=f"http://127.0.0.1:{ports[f'{prefix}_OPS_PORT']}/readyz",
                drain_timeout_seconds=spec.drain_timeout_seconds,
            )
        )

    async def members(self, group: str) -> int:
        """How many members a consumer group has."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.state.kafka_bootstrap)
        await admin.start()
        try:
            (response,) = await admin.describe_consumer_groups([group])
            # error code, group id, state, protocol type, protocol, members, …
            return len(response.groups[0][5])
        finally:
            await admin.close()

    async def describe_groups(self) -> dict[str, Any]:
        """How each service's group stands (state, members, offsets), and where streams end.

        For whoever reads a failure: what cannot be had is said in its place.
        """
        found: dict[str, Any] = {}
        admin = AIOKafkaAdminClient(bootstrap_servers=self.state.kafka_bootstrap)
        try:
            await admin.start()
            for group in SERVICES:
                try:
                    async with asyncio.timeout(5):
                        (response,) = await admin.describe_consumer_groups([group])
                        committed = await admin.list_consumer_group_offsets(group)
                except (KafkaError, TimeoutError) as error:
                    found[group] = repr(error)
                else:
                    found[group] = {
                        "state": response.groups[0][2],
                        "members": len(response.groups[0][5]),
                        "committed": {
                            f"{place.topic}-{place.partition}": each.offset
                            for place, each in sorted(committed.items())
                        },
                    }
            for stream in STREAMS:
                found[stream] = await self.end_offsets(stream)
        except (KafkaError, OSError, TimeoutError) as error:
            found["kafka"] = repr(error)
        finally:
            await admin.close()
        return found

    async def set_offsets(self, group: str, *, to: int = 0) -> None:
        """Set every offset of a group that has no members. Raises TimeoutError if it has some."""

        async def is_empty() -> bool:
            return await self.members(group) == 0

        # A static member leaves its group only when its session has run out.
        await until(is_empty, timeout_seconds=30, what=f"{group} without members")
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.state.kafka_bootstrap, group_id=group, enable_auto_commit=False
        )
        await consumer.start()
        try:
            places = [
                TopicPartition(stream.name, partition)
                for stream in STREAMS.values()
                for partition in range(stream.partitions)
            ]
            consumer.assign(places)
            await consumer.commit({each: OffsetAndMetadata(to, "") for each in places})
        finally:
            await consumer.stop()

    async def delete_group(self, group: str) -> None:
        """Have Kafka forget a group without members. Raises TimeoutError if it keeps some."""

        async def is_empty() -> bool:
            return await self.members(group) == 0

        await until(is_empty, timeout_seconds=30, what=f"{group} without members")
        admin = AIOKafkaAdminClient(bootstrap_servers=self.state.kafka_bootstrap)
        await admin.start()
        try:
            node = await admin.find_coordinator(group)
            answer = await admin._send_request(DeleteGroupsRequest([group]), node)
            ((_, code),) = answer.results
            if code:
                raise TimeoutError(f"Kafka did not delete the group {group}: error {code}")
        finally:
            await admin.close()

    async def publish_again(self, stream: str) -> int:
        """Produce every record of a stream once more, with its key and headers; how many."""
        records = await self.read_stream(stream)
        producer = AIOKafkaProducer(
            bootstrap_servers=self.state.kafka_bootstrap,
            acks="all",
            enable_idempotence=True,
            # Whatever a broker has taken once.
            max_request_size=2_000_000,
        )
        await producer.start()
        try:
            sent = [
                await producer.send(stream, key=key, value=value, headers=list(headers))
                for key, value, headers in records
            ]
            await asyncio.gather(*sent)
        finally:
            await producer.stop()
        return len(records)

    async def read_stream(
        self, stream: str, *, after: dict[int, int] | None = None
    ) -> list[tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]]:
        """Key, value and headers of all records of a stream, or of those from these offsets on."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.state.kafka_bootstrap, enable_auto_commit=False
        )
        await consumer.start()
        try:
            places = await _places(consumer, stream)
            if not places:
                return []
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            begins = await consumer.beginning_offsets(places)
            found = []
            for place in places:
                start = max(begins[place], min((after or {}).get(place.partition, 0), ends[place]))
                consumer.seek(place, start)
            while any([await consumer.position(each) < ends[each] for each in places]):
                batches = await consumer.getmany(timeout_ms=200)
                for records in batches.values():
                    found += [(each.key, each.value, each.headers) for each in records]
            return found
        finally:
            await consumer.stop()

    async def end_offsets(self, stream: str) -> dict[int, int]:
        """By partition, where a stream ends; empty where there is no such stream."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.state.kafka_bootstrap, enable_auto_commit=False
        )
        await consumer.start()
        try:
            places = await _places(consumer, stream)
            ends = await consumer.end_offsets(places) if places else {}
            return {place.partition: offset for place, offset in ends.items()}
        finally:
            await consumer.stop()

    async def counters(self, service: str) -> dict[str, float]:
        """Every sample of a service's metrics, by name and labels; empty without an answer."""
        return await self.counters_at(self.state.ops_urls[service])

    async def counters_at(self, ops_url: str) -> dict[str, float]:
        """The same of any process, by the address of its operations."""
        url = f"{ops_url}/metrics"
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session,
                session.get(url, headers={"accept": "text/plain"}) as response,
            ):
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError):
            return {}
        found = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                name, _, number = line.rpartition(" ")
                found[name] = float(number)
        return found

    async def sample(self) -> list[Sample]:
        """How each service is now; asked beside the load, so nothing here may take long."""
        usage = await asyncio.to_thread(read_usage, processes=self.state.processes)
        urls = [f"{self.state.ops_urls[each]}/readyz" for each in SERVICES]
        ready = await asyncio.gather(
            *(asyncio.to_thread(answers, url=url, timeout_seconds=1.0) for url in urls)
        )
        commits: int | None = None
        with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError):
            async with asyncio.timeout(1.0):
                commits = await self.value("SELECT sum(xact_commit)::bigint FROM pg_stat_database")
        now = time.time()
        return [
            Sample(
                at=now,
                process=name,
                ready=is_ready,
                starts=self.stack.supervisor.starts(name=name),
                cpu_seconds=usage[name].cpu_seconds if name in usage else 0.0,
                commits=commits,
            )
            for name, is_ready in zip(SERVICES, ready, strict=True)
        ]


async def _places(consumer: AIOKafkaConsumer, stream: str) -> list[TopicPartition]:
    await consumer._client.force_metadata_update()
    partitions = consumer.partitions_for_topic(stream) or ()
    return [TopicPartition(stream, each) for each in sorted(partitions)]


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def watch(controls: Controls, *, samples: list[Sample]) -> None:
    """Add samples until cancelled."""
    while True:
        samples += await controls.sample()
        await asyncio.sleep(SAMPLE_SECONDS)

"""Faults of the broker and of what consumer groups remember."""

from __future__ import annotations

import asyncio

from tests.faults.registry import Fault, fault
from tests.faults.run import Run

from paypost.stack.local import SERVICES
from shared.contracts.topics import create_topics


@fault(
    6,
    title="the broker frozen",
    how="SIGSTOP to Kafka for 8 s, SIGCONT",
    oracles="LDAN",
    touches=("kafka",),
)
class FrozenBroker(Fault):
    hold_seconds = 8.0

    async def inject(self, run: Run) -> None:
        identity = run.stack.kafka.identity
        assert identity is not None
        self.pid = identity.pid
        run.controls.freeze(self.pid)

    async def heal(self, run: Run) -> None:
        run.controls.thaw(self.pid)


@fault(
    9,
    title="Kafka down for minutes",
    how="stopped; started after 30 s (a session of these settings five times over)",
    oracles="LDANOT",
    touches=("kafka",),
    mixes=False,
)
class KafkaDown(Fault):
    hold_seconds = 30.0

    async def inject(self, run: Run) -> None:
        self.answered = len(run.load.deliveries)
        await run.blocking(run.stack.kafka.stop)

    async def heal(self, run: Run) -> None:
        await run.blocking(run.stack.kafka.start)


@fault(
    10,
    title="Kafka's disk wiped",
    how="killed, its data deleted, started empty, topics made; the feed of bills states them again",
    oracles="LDAN",
    touches=("kafka",),
    short=True,
    mixes=False,
)
class WipedKafka(Fault):
    hold_seconds = 0.0

    async def inject(self, run: Run) -> None:
        kafka = run.stack.kafka
        await run.blocking(kafka.kill)
        await run.blocking(kafka.wipe)
        await asyncio.sleep(1.0)

    async def heal(self, run: Run) -> None:
        await run.blocking(run.stack.kafka.start)
        await create_topics(bootstrap_servers=run.stack.state.kafka_bootstrap, replication_factor=1)
        await run.load.state_bills_again()


@fault(
    25,
    title="a group's offsets set back to 0, and a stream published again",
    how="services stopped, the admin's commit of 0 for each group, every record of payments.v1 and "
    "postings.v1 produced anew, services started",
    oracles="LDAN",
    touches=(*SERVICES, "kafka"),
    short=True,
    mixes=False,
)
class RewoundGroups(Fault):
    hold_seconds = 1.0

    async def inject(self, run: Run) -> None:
        await _stop_all(run)
        for service in SERVICES:
            await run.controls.set_offsets(service, to=0)
        again = 0
        for stream in ("payments.v1", "postings.v1"):
            again += await run.controls.publish_again(stream)
        run.note(republished=again)
        await _start_all(run)

    async def heal(self, run: Run) -> None:
        await _start_all(run)


@fault(
    26,
    title="a group's offsets deleted",
    how="services stopped, every consumer group deleted, services started",
    oracles="LDAN",
    touches=(*SERVICES, "kafka"),
    mixes=False,
)
class ForgottenGroups(Fault):
    hold_seconds = 1.0

    async def inject(self, run: Run) -> None:
        await _stop_all(run)
        for service in SERVICES:
            await run.controls.delete_group(service)
        await _start_all(run)

    async def heal(self, run: Run) -> None:
        await _start_all(run)


async def _stop_all(run: Run) -> None:
    await asyncio.gather(*(run.blocking(run.stack.supervisor.stop, name=each) for each in SERVICES))


async def _start_all(run: Run) -> None:
    for service in SERVICES:
        await run.blocking(run.stack.supervisor.resume, name=service)
    await run.controls.until_ready()

"""Faults of consumer groups: members that come and go, and that come back too late."""

from __future__ import annotations

import asyncio
import contextlib

from aiokafka import AIOKafkaConsumer
from tests.faults.registry import Fault, fault
from tests.faults.run import Run
from tests.faults.stacks import SESSION_SECONDS

from shared.contracts.streams import PARTITIONS, PAYMENTS

STORMED = ("cis-poster", "notifier")
ROUNDS = 2
ROUND_SECONDS = 5.0
IDLERS = PARTITIONS + 1


@fault(
    24,
    title="rebalance storm; more consumers than partitions; the owner idle too long and killed",
    how="a second process of two services comes and goes every 5 s; thirteen members that take "
    "partitions and do nothing with them come and go; the first cis-poster stopped for a session "
    "and 2 s, then killed",
    oracles="LDAH",
    touches=(*STORMED, "kafka"),
    repeats_mails=True,
    mixes=False,
)
class RebalanceStorm(Fault):
    """The poll interval (300 s, no setting) is longer than a run; who is idle for it or for a
    session loses its partitions in the same way, so the session stands for both."""

    hold_seconds = 0.5
    breaking_seconds = 28.0

    async def inject(self, run: Run) -> None:
        supervisor = run.stack.supervisor
        self.pids: list[int] = []
        for number in range(ROUNDS):
            for service in STORMED:
                await run.blocking(
                    run.controls.add_instance, service, name=f"{service} storm {number}"
                )
            await asyncio.sleep(ROUND_SECONDS)
            for service in STORMED:
                await run.blocking(supervisor.stop, name=f"{service} storm {number}")
        run.note(members_come_and_gone=ROUNDS * len(STORMED) + await self._idle(run))
        pid = supervisor.pid(name="cis-poster")
        assert pid is not None
        self.pids.append(pid)
        run.controls.freeze(pid)
        await asyncio.sleep(SESSION_SECONDS + 2.0)
        await run.blocking(supervisor.kill, name="cis-poster")

    async def _idle(self, run: Run) -> int:
        """Have more members than partitions for a while, who never come round to their records."""
        async with contextlib.AsyncExitStack() as members:
            for _ in range(IDLERS):
                member = AIOKafkaConsumer(
                    PAYMENTS.name,
                    bootstrap_servers=run.stack.state.kafka_bootstrap,
                    group_id="cis-poster",
                    enable_auto_commit=False,
                    auto_offset_reset="earliest",
                    session_timeout_ms=6_000,
                    heartbeat_interval_ms=500,
                )
                members.push_async_callback(member.stop)
                # One after the other, as pods do: every one of them rebalances the group.
                starting = asyncio.create_task(member.start())
                members.callback(starting.cancel)
                await asyncio.sleep(0.2)
            await asyncio.sleep(1.0)
        return IDLERS

    async def heal(self, run: Run) -> None:
        run.controls.thaw(*self.pids)
        for number in range(ROUNDS):
            for service in STORMED:
                name = f"{service} storm {number}"
                if name in run.stack.supervisor.names:
                    await run.blocking(run.stack.supervisor.stop, name=name)
        await run.blocking(run.stack.supervisor.resume, name="cis-poster")
        await run.controls.until_ready()

"""Faults of a cluster of three brokers: every topic on all of them, a write on two at least."""

from __future__ import annotations

import asyncio
import time

from tests.faults.journals import read_attempts
from tests.faults.registry import Fault, Needs, fault
from tests.faults.run import Run
from tests.faults.tools.stacks import clustered
from tests.faults.violations import Violation

THREE_BROKERS = Needs(key="three", open=clustered)


@fault(
    7,
    title="each of three brokers killed and restarted, one after another; then all at once",
    how="SIGKILL and start of each; SIGKILL of all three, start",
    oracles="LDANH",
    touches=("kafka",),
    recovery_seconds_max=60.0,
    mixes=False,
)
class KilledBrokers(Fault):
    needs = THREE_BROKERS
    hold_seconds = 1.0
    breaking_seconds = 18.0

    async def inject(self, run: Run) -> None:
        for broker in run.chance.sample(run.stack.brokers, k=3):
            await run.blocking(broker.kill)
            await asyncio.sleep(1.5)
            await run.blocking(broker.start)
        await run.blocking(run.stack.kafka.kill)

    async def heal(self, run: Run) -> None:
        await run.blocking(run.stack.kafka.start)
        run.note(brokers_killed=6)


@fault(
    8,
    title="two of three brokers killed",
    how="SIGKILL of two drawn by the seed; started after 10 s",
    oracles="LDAN",
    touches=("kafka",),
    recovery_seconds_max=60.0,
    mixes=False,
)
class KilledMajority(Fault):
    """No write is taken any more: what is accepted waits in the outbox."""

    needs = THREE_BROKERS
    hold_seconds = 10.0

    async def inject(self, run: Run) -> None:
        victims = run.chance.sample(run.stack.brokers, k=2)
        await asyncio.gather(*(run.blocking(each.kill) for each in victims))
        self.killed_at = time.time()

    async def heal(self, run: Run) -> None:
        self.started_at = time.time()
        await run.blocking(run.stack.kafka.start)

    async def check(self, run: Run) -> list[Violation]:
        attempts = [
            each
            for each in read_attempts(run.load.folder / "sent.jsonl")
            if self.killed_at <= each.sent_at.timestamp() <= self.started_at
        ]
        refused = [each for each in attempts if not each.taken]
        run.note(webhooks_meanwhile=len(attempts), refused_meanwhile=len(refused))
        if not attempts:
            return [Violation(oracle="fault", what="no webhook came while two brokers were down")]
        return [
            Violation(oracle="fault", what=f"{each.event_id} was not answered 2xx meanwhile")
            for each in refused
        ]

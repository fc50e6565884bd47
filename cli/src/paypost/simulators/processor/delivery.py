"""Delivering signed events: concurrent, repeated until taken, doubled and reordered on request.

Invariant: an event keeps its id and its bytes across attempts and duplicates, and is signed anew
for each; every attempt and its answer stand in the journal.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from paypost.simulators.append_log import AppendLog
from paypost.simulators.processor.connections import Connections, NoAnswerError
from paypost.simulators.processor.events import Event
from paypost.simulators.processor.signatures import sign_stripe


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When an event that was not taken is sent again; the defaults are Stripe's, much shortened."""

    attempts_max: int = 12
    first_seconds: float = 0.5
    longest_seconds: float = 30.0

    def delay_seconds(self, *, attempt: int, chance: random.Random) -> float:
        """Return how long to wait after this attempt (counted from 1), with jitter."""
        longest = min(self.longest_seconds, self.first_seconds * 2.0 ** (attempt - 1))
        return longest * chance.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Disorder:
    """How deliveries differ from one of each, in order."""

    duplicates: int = 0
    """Extra copies of an event that is doubled, sent at the same time."""
    duplicate_share: float = 1.0
    """Which share of the events is doubled, if `duplicates` is above 0."""
    reorder: bool = False
    """Whether the events of a payment leave in a random order and all at once."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one copy of an event."""

    event_id: str
    type: str
    reference: str
    account: str
    attempts: int
    status: int | None
    """The last answer's status; None when the last attempt had no answer."""
    sent_at: datetime
    latency_seconds: float
    """Of the last attempt."""

    @property
    def taken(self) -> bool:
        """Say whether the receiver answered 2xx."""
        return self.status is not None and 200 <= self.status < 300


class DeliveryJournal:
    """The record of every attempt, one JSON line each, fsynced in the background.

    It does not hold deliveries up; `flush` returns when everything recorded so far is on disk.
    """

    def __init__(self, *, path: Path) -> None:
        self._log = AppendLog(path=path)
        self._log.open()

    def record(
        self,
        *,
        event: Event,
        attempt: int,
        sent_at: datetime,
        latency_seconds: float,
        status: int | None,
        error: str | None,
    ) -> None:
        """Write down an attempt and its answer."""
        self._log.write(
            orjson.dumps(
                {
                    "event_id": event.id,
                    "type": event.type,
                    "reference": event.reference,
                    "account": event.account,
                    "amount_cents": event.amount_cents,
                    "fee_cents": event.fee_cents,
                    "attempt": attempt,
                    "sent_at": sent_at,
                    "latency_seconds": round(latency_seconds, 6),
                    "status": status,
                    "error": error,
                },
                option=orjson.OPT_APPEND_NEWLINE,
            )
        )

    async def flush(self) -> None:
        """Return when everything recorded so far is on disk."""
        await self._log.append(b"")

    async def close(self) -> None:
        """Write what is waiting, then close the file."""
        await self._log.close()


def read_deliveries(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the attempts of a delivery journal in the order of their answers."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield orjson.loads(line)


@dataclass(frozen=True, slots=True)
class WebhookSender:
    """Sends events to one endpoint, signed for it."""

    connections: Connections
    secrets: Sequence[str]
    clock: Callable[[], datetime]
    chance: random.Random
    journal: DeliveryJournal | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    async def send(self, event: Event) -> Delivery:
        """Send an event until it is taken or the attempts are used up."""
        delivery = await self._attempt(event, 1)
        return delivery if delivery.taken else await self._repeat(event, delivery)

    async def send_all(
        self,
        trains: Iterable[Sequence[Callable[[datetime], Event]]],
        *,
        concurrency: int,
        disorder: Disorder | None = None,
        trains_per_second: float | None = None,
    ) -> list[Delivery]:
        """Send trains of events, each built when it leaves; return every copy's delivery.

        Within a train the next event leaves when the one before was answered, whatever the answer:
        repetitions happen beside, as with Stripe. At most `concurrency` trains are under way.
        """
        chaos = disorder or Disorder()
        deliveries: list[Delivery] = []
        repeating: set[asyncio.Task[None]] = set()

        async def send_one(event: Event) -> None:
            delivery = await self._attempt(event, 1)
            if delivery.taken:
                deliveries.append(delivery)
                return
            repeating.add(task := asyncio.create_task(repeat(event, delivery)))
            task.add_done_callback(repeating.discard)

        async def repeat(event: Event, failed: Delivery) -> None:
            deliveries.append(await self._repeat(event, failed))

        async def send_train(builds: Sequence[Callable[[datetime], Event]]) -> None:
            if not chaos.duplicates and not chaos.reorder:
                for build in builds:
                    await send_one(build(self.clock()))
                return
            for group in self._disordered([build(self.clock()) for build in builds], chaos):
                await asyncio.gather(*(send_one(event) for event in group))

        await _share_out(
            trains, send_train, concurrency=concurrency, trains_per_second=trains_per_second
        )
        while repeating:
            await asyncio.wait(repeating)
        return deliveries

    def _disordered(self, events: list[Event], disorder: Disorder) -> list[list[Event]]:
        groups = []
        for event in events:
            doubled = disorder.duplicates and self.chance.random() < disorder.duplicate_share
            groups.append([event] * (1 + (disorder.duplicates if doubled else 0)))
        if not disorder.reorder:
            return groups
        together = [event for group in groups for event in group]
        self.chance.shuffle(together)
        return [together]

    async def _repeat(self, event: Event, failed: Delivery) -> Delivery:
        delivery = failed
        while not delivery.taken and delivery.attempts < self.retry.attempts_max:
            await asyncio.sleep(
                self.retry.delay_seconds(attempt=delivery.attempts, chance=self.chance)
            )
            delivery = await self._attempt(event, delivery.attempts + 1)
        return delivery

    async def _attempt(self, event: Event, attempt: int) -> Delivery:
        sent_at = self.clock()
        signature = sign_stripe(
            body=event.body, secrets=self.secrets, timestamp=int(sent_at.timestamp())
        )
        started = time.perf_counter()
        status: int | None = None
        error: str | None = None
        try:
            answer = await self.connections.post(
                body=event.body, headers=b"stripe-signature: %b\r\n" % signature.encode()
            )
            status = answer.status
        except NoAnswerError as no_answer:
            error = str(no_answer)
        latency_seconds = time.perf_counter() - started
        if self.journal is not None:
            self.journal.record(
                event=event,
                attempt=attempt,
                sent_at=sent_at,
                latency_seconds=latency_seconds,
                status=status,
                error=error,
            )
        return Delivery(
            event_id=event.id,
            type=event.type,
            reference=event.reference,
            account=event.account,
            attempts=attempt,
            status=status,
            sent_at=sent_at,
            latency_seconds=latency_seconds,
        )


async def _share_out(
    trains: Iterable[Sequence[Callable[[datetime], Event]]],
    send_train: Callable[[Sequence[Callable[[datetime], Event]]], Awaitable[None]],
    *,
    concurrency: int,
    trains_per_second: float | None,
) -> None:
    waiting = iter(trains)
    started = time.perf_counter()
    numbers = itertools.count()

    async def work() -> None:
        for builds in waiting:
            if trains_per_second is not None:
                due = started + next(numbers) / trains_per_second
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await send_train(builds)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())

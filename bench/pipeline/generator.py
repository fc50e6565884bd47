"""Sends a load to a yardstick and notes when each payment was accepted.

Two ways: a closed loop, in which the next payment leaves when one was answered, for maxima; and an
open model, in which payments leave at their own times whether or not the ones before were answered,
for latencies. In the open model a latency counts from the time at which the event was to leave: a
generator or a server that falls behind cannot hide it.

Every event is signed as it leaves. One that is not taken is sent again, as Stripe does; its latency
then lasts until it was taken.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from bench.pipeline.load import Payment
from paypost.simulators.processor.connections import Connections, NoAnswerError
from paypost.simulators.processor.signatures import sign_stripe

ANSWER_TIMEOUT_SECONDS = 20.0
CONNECTIONS_MAX = 256
REPEAT_FIRST_SECONDS = 0.1
REPEAT_LONGEST_SECONDS = 2.0
REPEAT_FOR_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A payment and its events, ready to be signed.

    `accepting` is the place of the event with which it counts as accepted.
    """

    payment: Payment
    bodies: Sequence[bytes]
    accepting: int


@dataclass(slots=True)
class Sending:
    """What became of a load; times are of this machine's clock, in seconds since 1970.

    Attributes:
        payments: those that left, in that order.
        left_at: of each payment: when its first event left, or was to leave.
        accepted_at: of each payment by its number: when its accepting event was answered 2xx.
        ack_seconds: of each event, in the order of the answers: how long until it was taken.
        ack_ended_at: of each event: when that was.
        repeats: events that had to be sent again.
        given_up: events that were never taken.
        cpu_seconds: what sending cost this process.
    """

    payments: list[Payment] = field(default_factory=list)
    left_at: dict[int, float] = field(default_factory=dict)
    accepted_at: dict[int, float] = field(default_factory=dict)
    ack_seconds: list[float] = field(default_factory=list)
    ack_ended_at: list[float] = field(default_factory=list)
    repeats: int = 0
    given_up: int = 0
    cpu_seconds: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0

    @property
    def events_per_second(self) -> float:
        """Answered, from the first that left to the last answer."""
        return len(self.ack_seconds) / max(self.ended_at - self.started_at, 1e-9)

    def without(self, *, numbers: Collection[int]) -> Sending:
        """The same without these payments; the answers to their events stay counted."""
        return replace(
            self, payments=[each for each in self.payments if each.number not in numbers]
        )


class Generator:
    """Sends to one yardstick; made by `generator_for`."""

    def __init__(self, *, connections: Sequence[Connections], secret: str) -> None:
        self._connections = connections
        self._secrets = [secret]
        self._next = 0

    async def as_fast_as_answered(
        self, load: Iterable[Outgoing], *, concurrency: int, sending: Sending | None = None
    ) -> Sending:
        """A closed loop: at most `concurrency` payments are being answered at a time."""
        into = sending if sending is not None else Sending()
        waiting = iter(load)
        into.started_at = time.time()
        cpu_seconds = time.process_time()

        async def work() -> None:
            for outgoing in waiting:
                await self._send(outgoing, time.perf_counter(), into)

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
        into.ended_at = time.time()
        into.cpu_seconds = time.process_time() - cpu_seconds
        return into

    async def at_times(
        self,
        load: Iterable[Outgoing],
        offsets_seconds: Sequence[float],
        *,
        sending: Sending | None = None,
    ) -> Sending:
        """The open model: each payment leaves at its time after the start, come what may."""
        into = sending if sending is not None else Sending()
        into.started_at = time.time()
        cpu_seconds = time.process_time()
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for outgoing, offset_seconds in zip(load, offsets_seconds, strict=True):
                due = started + offset_seconds
                if (wait_seconds := due - time.perf_counter()) > 0:
                    await asyncio.sleep(wait_seconds)
                group.create_task(self._send(outgoing, due, into))
        into.ended_at = time.time()
        into.cpu_seconds = time.process_time() - cpu_seconds
        return into

    async def _send(self, outgoing: Outgoing, due: float, into: Sending) -> None:
        payment = outgoing.payment
        into.payments.append(payment)
        into.left_at[payment.number] = time.time() - (time.perf_counter() - due)
        for place, body in enumerate(outgoing.bodies):
            taken = await self._deliver(body, into)
            now, now_at = time.perf_counter(), time.time()
            if not taken:
                into.given_up += 1
                return
            into.ack_seconds.append(now - due)
            into.ack_ended_at.append(now_at)
            if place == outgoing.accepting:
                into.accepted_at[payment.number] = now_at
            # The next of a train leaves with the answer to the one before.
            due = now

    async def _deliver(self, body: bytes, into: Sending) -> bool:
        pause_seconds = REPEAT_FIRST_SECONDS
        give_up_at = time.perf_counter() + REPEAT_FOR_SECONDS
        while not await self._attempt(body):
            if time.perf_counter() + pause_seconds > give_up_at:
                return False
            into.repeats += 1
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, REPEAT_LONGEST_SECONDS)
        return True

    async def _attempt(self, body: bytes) -> bool:
        signature = sign_stripe(body=body, secrets=self._secrets, timestamp=int(time.time()))
        self._next = (self._next + 1) % len(self._connections)
        try:
            answer = await self._connections[self._next].post(
                body=body, headers=b"stripe-signature: %b\r\n" % signature.encode()
            )
        except NoAnswerError:
            return False
        return 200 <= answer.status < 300


@asynccontextmanager
async def generator_for(*, urls: Sequence[str], secret: str) -> AsyncIterator[Generator]:
    """A generator that shares its events out among these addresses in turn."""
    connections = [
        Connections(
            url=url,
            connections_max=CONNECTIONS_MAX // len(urls),
            timeout_seconds=ANSWER_TIMEOUT_SECONDS,
        )
        for url in urls
    ]
    try:
        yield Generator(connections=connections, secret=secret)
    finally:
        for each in connections:
            each.close()


def poisson_offsets(*, per_second: float, seconds: float, seed: int) -> list[float]:
    """When payments leave that know nothing of each other: so many a second on average."""
    return list(_poisson(per_second, seconds, random.Random(seed)))


def _poisson(per_second: float, seconds: float, chance: random.Random) -> Iterator[float]:
    at = chance.expovariate(per_second)
    while at < seconds:
        yield at
        at += chance.expovariate(per_second)

"""The processor as one object: orders in, deliveries out, with a clock that can be moved.

Usable inside another process (`paypost trigger`, the demo, a load generator) as well as behind the
HTTP control of `python -m paypost.simulators.processor`.
"""

import asyncio
import collections
import heapq
import itertools
import random
import re
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from paypost.simulators.processor.delivery import Delivery, Disorder, WebhookSender
from paypost.simulators.processor.events import API_VERSION_OLD, Event, EventBuilder, Ids, Purchase
from paypost.simulators.processor.scenarios import (
    SCENARIOS,
    SINGLE_EVENTS,
    Scenarios,
    Step,
    Train,
)

DELIVERIES_KEPT_MAX = 200_000

_T = TypeVar("_T")


class UnknownScenarioError(Exception):
    """Neither a scenario nor a single event has this name."""

    def __init__(self, *, name: str) -> None:
        super().__init__(f"unknown scenario or event type: {name}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Order:
    """What is to happen: `count` payments of one scenario, spread over the accounts in turn."""

    scenario: str
    accounts: Sequence[str]
    amount_cents: int | None = None
    """Of the bill; None draws one between 5.00 and 400.00 for each payment."""
    fee_cents: int = 0
    count: int = 1
    bill_reference: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


class MovableClock:
    """The real time, plus what it was moved by; it only moves forward."""

    def __init__(self, *, real: Callable[[], datetime]) -> None:
        self._real = real
        self._moved = timedelta()

    def __call__(self) -> datetime:
        """Return the processor's time."""
        return self._real() + self._moved

    @property
    def moved(self) -> timedelta:
        """Return how far it was moved."""
        return self._moved

    def advance(self, by: timedelta) -> datetime:
        """Move the clock; return the new time. Raises ValueError when that would be backwards."""
        if by < timedelta():
            raise ValueError("the clock only moves forward")
        self._moved += by
        return self()


class Processor:
    """Makes payments happen and tells the endpoint about them.

    Signatures are made at the sender's own time: moving the processor's clock ages the events, not
    the signatures, as with a webhook that is sent days after.
    """

    def __init__(
        self,
        *,
        sender: WebhookSender,
        clock: MovableClock,
        chance: random.Random,
        api_version: str = API_VERSION_OLD,
        concurrency: int = 32,
    ) -> None:
        ids = Ids(chance=chance)
        self._scenarios = Scenarios(ids=ids, builder=EventBuilder(ids=ids, api_version=api_version))
        self._sender = sender
        self._clock = clock
        self._chance = chance
        self._concurrency = concurrency
        self._agenda: list[tuple[datetime, int, Step]] = []
        self._numbers = itertools.count()
        self._under_way: set[asyncio.Task[list[Delivery]]] = set()
        self._announcing: set[asyncio.Task[Any]] = set()
        self.deliveries: collections.deque[Delivery] = collections.deque(maxlen=DELIVERIES_KEPT_MAX)

    @property
    def scheduled(self) -> int:
        """Return how many events wait for their time."""
        return len(self._agenda)

    @property
    def under_way(self) -> int:
        """Return how many orders are being delivered."""
        return len(self._under_way) + len(self._announcing)

    def prepare(self, order: Order) -> Iterator[Train]:
        """Make an order's trains, one by one as they are asked for.

        Raises UnknownScenarioError, ValueError when the order makes no sense; at once, not later.
        """
        if order.scenario not in SCENARIOS and order.scenario not in SINGLE_EVENTS:
            raise UnknownScenarioError(name=order.scenario)
        if not order.accounts or order.count < 1 or order.fee_cents < 0:
            raise ValueError("an order needs accounts, a count of 1 or more and no negative fee")
        if order.amount_cents is not None and order.amount_cents < 1:
            raise ValueError("an amount is 1 cent or more")
        return self._trains(order)

    async def deliver(
        self,
        trains: Iterable[Train],
        *,
        disorder: Disorder | None = None,
        trains_per_second: float | None = None,
    ) -> list[Delivery]:
        """Deliver what of these trains is due now, and schedule the rest; return the deliveries.

        Returns when each event was taken or given up.
        """
        deliveries = await self._sender.send_all(
            (self._due_of(train) for train in trains),
            concurrency=self._concurrency,
            disorder=disorder,
            trains_per_second=trains_per_second,
        )
        self.deliveries.extend(deliveries)
        return deliveries

    def start(self, trains: Iterable[Train], *, disorder: Disorder | None = None) -> None:
        """Deliver in the background; `settle` waits for it."""
        task = asyncio.create_task(self.deliver(trains, disorder=disorder))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def settle(self) -> None:
        """Return when nothing is being delivered; what waits for its time stays so."""
        while self._under_way or self._announcing:
            await asyncio.wait({*self._under_way, *self._announcing})

    def announce(self, events: Sequence[Event]) -> "asyncio.Task[None]":
        """Deliver the events of one payment in the background, in order; `settle` waits for it."""
        return self.run(self._announce(events))

    def run(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        """Run a delivery in the background; `settle` waits for it."""
        task = asyncio.create_task(work)
        self._announcing.add(task)
        task.add_done_callback(self._announcing.discard)
        return task

    async def announce_all(self, trains: Iterable[Sequence[Event]]) -> list[Delivery]:
        """Deliver the events of many payments, those of one in order; return the deliveries."""
        deliveries = await self._sender.send_all(
            ([_built(event) for event in train] for train in trains),
            concurrency=self._concurrency,
        )
        self.deliveries.extend(deliveries)
        return deliveries

    async def _announce(self, events: Sequence[Event]) -> None:
        builds = [_built(event) for event in events]
        self.deliveries.extend(await self._sender.send_all([builds], concurrency=1))

    async def advance(self, by: timedelta) -> list[Delivery]:
        """Move the clock and deliver what has become due by that; return the deliveries.

        Raises ValueError when that would be backwards.
        """
        now = self._clock.advance(by)
        return await self.deliver_due(now=now)

    async def deliver_due(self, *, now: datetime) -> list[Delivery]:
        """Deliver the scheduled events whose time has come, in the order of their times."""
        due: list[Step] = []
        while self._agenda and self._agenda[0][0] <= now:
            due.append(heapq.heappop(self._agenda)[2])
        deliveries = await self._sender.send_all(
            ([self._at_own_time(step)] for step in due), concurrency=1
        )
        self.deliveries.extend(deliveries)
        return deliveries

    def _trains(self, order: Order) -> Iterator[Train]:
        for number in range(order.count):
            purchase = Purchase(
                account=order.accounts[number % len(order.accounts)],
                amount_cents=order.amount_cents or self._chance.randint(500, 40_000),
                fee_cents=order.fee_cents,
                bill_reference=order.bill_reference,
                metadata=order.metadata,
            )
            if order.scenario in SCENARIOS:
                yield self._scenarios.make(order.scenario, purchase=purchase)
            else:
                yield self._scenarios.single(order.scenario, purchase)

    def _due_of(self, train: Train) -> list[Callable[[datetime], Event]]:
        now = self._clock()
        due = []
        for step in train.steps:
            if step.delay:
                entry = (now + step.delay, next(self._numbers), step)
                heapq.heappush(self._agenda, entry)
            else:
                due.append(self._at_own_time(step))
        return due

    def _at_own_time(self, step: Step) -> Callable[[datetime], Event]:
        # The sender gives its own, unmoved time; events carry the processor's.
        return lambda _: step.build(self._clock())


def _built(event: Event) -> Callable[[datetime], Event]:
    return lambda _: event


def real_time() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)


def expand_accounts(pattern: str, *, count: int) -> list[str]:
    """Return `count` account numbers: the run of `#` in the pattern becomes 1, 2, … with zeros.

    `ACC-####` gives ACC-0001, ACC-0002, …; a pattern without `#` is an account's number itself.
    """
    place = re.search("#+", pattern)
    if place is None:
        return [pattern]
    width = len(place[0])
    before, after = pattern[: place.start()], pattern[place.end() :]
    return [f"{before}{number:0{width}d}{after}" for number in range(1, count + 1)]

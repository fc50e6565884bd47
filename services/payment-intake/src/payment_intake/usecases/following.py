"""Follows movements to their end, says again what was not heard, states what is late."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf
from time import monotonic
from typing import NamedTuple

import structlog

from payment_intake.domain import MovementKind
from payment_intake.ports import Announce, Heard, Store, Told
from payment_intake.usecases.facts import encoded_delay, movement_fact
from payment_intake.usecases.taking import IntakeMetrics
from shared.contracts.streams import PAYMENTS
from shared.contracts.wire import encode
from shared.runtime.tracing import trace_id

_log = structlog.get_logger(__name__)

CAUGHT_UP_MIN = 10
CAUGHT_UP_SECONDS = 5.0
"""For so long one batch of at least so many, all of them late, says that the others are too."""

NEXT_IN_TURN = timedelta(seconds=15)
"""What was accepted within so long of what is being posted now is posted within a moment."""


class Wait(NamedTuple):
    """How long a movement has waited for what has now come through."""

    since: datetime
    """When it was accepted."""
    until: datetime

    @property
    def seconds(self) -> float:
        return (self.until - self.since).total_seconds()


class Turn(NamedTuple):
    """Between when and when was accepted what is being posted now, or next."""

    since: datetime
    until: datetime


class CatchingUp:
    """Whether the services behind intake work off what waited while they could not.

    Then all that waits is late, and lateness is no sign of a loss. A few that are late say nothing:
    one account's trouble must not keep the others from being announced again.
    """

    def __init__(self, *, late_seconds: float, monotonic: Callable[[], float] = monotonic) -> None:
        self._late_seconds = late_seconds
        self._monotonic = monotonic
        self._seen_at = -inf
        self._posted: Turn | None = None
        self._posted_at = -inf

    def came_through(self, waits: Sequence[Wait], *, are_posted: bool) -> None:
        """Note how long those had waited of which one batch has told, of postings or otherwise."""
        late = [each.since for each in waits if each.seconds > self._late_seconds]
        if len(late) < CAUGHT_UP_MIN:
            return
        if len(late) == len(waits):
            self._seen_at = self._monotonic()
        if are_posted:
            self._posted = Turn(min(late) - NEXT_IN_TURN, max(late) + NEXT_IN_TURN)
            self._posted_at = self._monotonic()

    @property
    def is_under_way(self) -> bool:
        return self._monotonic() - self._seen_at < CAUGHT_UP_SECONDS

    @property
    def turn(self) -> Turn | None:
        """Whose turn it is of those that waited; None where nothing late comes through."""
        is_posting = self._monotonic() - self._posted_at < CAUGHT_UP_SECONDS
        return self._posted if is_posting else None


@dataclass(frozen=True, kw_only=True)
class FollowMovements:
    """Keeps up with what the other services state about movements, in any order."""

    store: Store
    metrics: IntakeMetrics
    catching_up: CatchingUp

    async def hear(self, heard: Sequence[Heard]) -> None:
        posted = await self.store.hear(heard)
        said = {each.movement_id: each for each in heard}
        waited = []
        for movement_id, kind, accepted_at in posted:
            it = said[movement_id]
            wait = Wait(since=accepted_at, until=it.at)
            waited.append(wait)
            if kind is MovementKind.PAYMENT:
                self.metrics.posted_after(wait.seconds, traceparent=it.traceparent)
        self.catching_up.came_through(waited, are_posted=True)

    async def tell(self, told: Sequence[Told]) -> None:
        ended = await self.store.tell(told)
        # Measured until the mail server's yes: when that is heard of here depends on how long
        # notifications gather on their way. A payment's movement has the payment's own id.
        said = {each.movement_id or each.payment_id: each for each in told}
        waited = []
        for movement_id, kind, accepted_at in ended:
            if kind is MovementKind.PAYMENT and movement_id in said:
                it = said[movement_id]
                wait = Wait(since=accepted_at, until=it.at)
                waited.append(wait)
                self.metrics.confirmed_after(wait.seconds, traceparent=it.traceparent)
        self.catching_up.came_through(waited, are_posted=False)


@dataclass(frozen=True, kw_only=True)
class AnnounceAgain:
    """Says again what has not come through, so that no lost broker loses a payment."""

    store: Store
    announce: Announce
    metrics: IntakeMetrics
    catching_up: CatchingUp
    first_seconds: float
    cap_seconds: float

    async def __call__(self, *, now: datetime, limit: int) -> int:
        if self.announce.was_behind(within_seconds=self.first_seconds):
            # What Kafka has not taken yet, or only just, need not be said a second time.
            return 0
        if self.catching_up.is_under_way:
            return 0
        async with self.store.transaction() as unit:
            unfinished = await unit.claim_unfinished(
                now=now,
                limit=limit,
                first_seconds=self.first_seconds,
                cap_seconds=self.cap_seconds,
            )
            records = []
            for owned in unfinished:
                fact = movement_fact(movement=owned.movement, payment=owned.payment)
                records.append(encode(fact, stream=PAYMENTS, traceparent=owned.traceparent))
                if owned.delayed_at is not None and owned.posted_at is None:
                    records.append(encoded_delay(owned, delayed_at=owned.delayed_at))
            await unit.announce(records)
        self.metrics.announced_again(len(unfinished))
        return len(unfinished)


@dataclass(frozen=True, kw_only=True)
class StateDelays:
    """States `payment.delayed` when the city's limit passes, whatever the reason.

    Not of those whose turn it is after an outage, until as much time again has passed: nobody is
    to read that posting is delayed next to the mail that says it is done.
    """

    store: Store
    metrics: IntakeMetrics
    catching_up: CatchingUp
    limit_seconds: float

    async def __call__(self, *, now: datetime, limit: int) -> int:
        patience = timedelta(seconds=self.limit_seconds)
        limit_at = now - patience
        since, until = self.catching_up.turn or (limit_at, limit_at)
        async with self.store.transaction() as unit:
            delayed = await unit.claim_delayed(
                accepted_before=limit_at,
                spared=(max(since, limit_at - patience), until),
                now=now,
                limit=limit,
            )
            await unit.announce([encoded_delay(owned, delayed_at=now) for owned in delayed])
        for owned in delayed:
            _log.warning(
                "payment.delayed",
                payment_id=str(owned.payment.id),
                trace_id=trace_id(owned.traceparent),
                reason=owned.wait_reason,
            )
        self.metrics.delayed(len(delayed))
        return len(delayed)

"""Follows movements to their end, says again what was not heard, states what is late."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from payment_intake.domain import MovementKind
from payment_intake.ports import Announce, Heard, Store, Told
from payment_intake.usecases.facts import encoded_delay, movement_fact
from payment_intake.usecases.taking import IntakeMetrics
from shared.contracts.streams import PAYMENTS
from shared.contracts.wire import encode
from shared.runtime.tracing import trace_id

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class FollowMovements:
    """Keeps up with what the other services state about movements, in any order."""

    store: Store
    metrics: IntakeMetrics

    async def hear(self, heard: Sequence[Heard]) -> None:
        posted = await self.store.hear(heard)
        said = {each.movement_id: each for each in heard}
        for movement_id, kind, accepted_at in posted:
            if kind is MovementKind.PAYMENT:
                it = said[movement_id]
                seconds = (it.at - accepted_at).total_seconds()
                self.metrics.posted_after(seconds, traceparent=it.traceparent)

    async def tell(self, told: Sequence[Told]) -> None:
        ended = await self.store.tell(told)
        # Measured until the mail server's yes: when that is heard of here depends on how long
        # notifications gather on their way. A payment's movement has the payment's own id.
        said = {each.movement_id or each.payment_id: each for each in told}
        for movement_id, kind, accepted_at in ended:
            if kind is MovementKind.PAYMENT and movement_id in said:
                it = said[movement_id]
                seconds = (it.at - accepted_at).total_seconds()
                self.metrics.confirmed_after(seconds, traceparent=it.traceparent)


@dataclass(frozen=True, kw_only=True)
class AnnounceAgain:
    """Says again what has not come through, so that no lost broker loses a payment."""

    store: Store
    announce: Announce
    metrics: IntakeMetrics
    first_seconds: float
    cap_seconds: float

    async def __call__(self, *, now: datetime, limit: int) -> int:
        if self.announce.was_behind(within_seconds=self.first_seconds):
            # What Kafka has not taken yet, or only just, need not be said a second time.
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
    """States `payment.delayed` when the city's limit passes, whatever the reason."""

    store: Store
    metrics: IntakeMetrics
    limit_seconds: float

    async def __call__(self, *, now: datetime, limit: int) -> int:
        async with self.store.transaction() as unit:
            delayed = await unit.claim_delayed(
                accepted_before=now - timedelta(seconds=self.limit_seconds), now=now, limit=limit
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

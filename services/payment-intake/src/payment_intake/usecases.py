"""What is decided: take an event, follow a movement to its end, say again what was not heard."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import structlog

from payment_intake.domain import (
    ANNOUNCED_BY,
    Conflict,
    Movement,
    MovementKind,
    MovementStatus,
    NewId,
    Observation,
    Payment,
    PaymentStatus,
    Policy,
    merged,
    observe,
)
from payment_intake.ports import (
    Announce,
    Heard,
    Incoming,
    Outcome,
    OwnedMovement,
    RecordedConflict,
    Reference,
    Store,
    Told,
    UnitOfWork,
)
from shared.contracts.fact import Fact
from shared.contracts.payments import (
    ChargeDeclined,
    PaymentAccepted,
    PaymentDelayed,
    PaymentPending,
)
from shared.contracts.streams import PAYMENTS
from shared.contracts.wire import OutboundRecord, encode
from shared.errors import TransientError
from shared.runtime.tracing import trace_id

_log = structlog.get_logger(__name__)


class ConcurrentTakeError(TransientError):
    """Another writer has just created a payment of this batch; the whole is to be done again."""


class IntakeMetrics(Protocol):
    """What the use cases count."""

    def taken(self, *, source: str, outcome: str) -> None: ...
    def moved(self, *, kind: str) -> None: ...
    def conflict(self, *, kind: str) -> None: ...
    def posted_after(self, seconds: float) -> None: ...
    def confirmed_after(self, seconds: float) -> None: ...
    def announced_again(self, count: int) -> None: ...
    def delayed(self, count: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class TakeEvents:
    """Takes a batch of verified events in one transaction: kept, understood, announced."""

    store: Store
    policy: Policy
    new_id: NewId
    metrics: IntakeMetrics

    async def __call__(self, events: Sequence[Incoming]) -> Sequence[Outcome]:
        """Return what became of each event.

        Raises:
            TransientError: nothing was kept; the whole batch may be taken again.
        """
        async with self.store.transaction() as unit:
            are_new = await unit.keep_events(events)
            taking = _Taking(unit=unit, policy=self.policy, new_id=self.new_id)
            contradictions = await taking.contradictions(
                [event for event, is_new in zip(events, are_new, strict=True) if not is_new]
            )
            fresh = [event for event, is_new in zip(events, are_new, strict=True) if is_new]
            contradicted = await taking.take(fresh)
        outcomes = [
            _outcome(event, is_new=is_new, conflicts=contradicted | contradictions)
            for event, is_new in zip(events, are_new, strict=True)
        ]
        for event, outcome in zip(events, outcomes, strict=True):
            self.metrics.taken(source=event.source, outcome=outcome)
        for movement, _, _ in taking.movements:
            self.metrics.moved(kind=movement.kind)
        for recorded in taking.conflicts:
            self.metrics.conflict(kind=recorded.conflict.kind)
            _log.error(
                "event.conflict",
                kind=recorded.conflict.kind,
                source=recorded.source,
                event_id=recorded.event_id,
                payment_id=str(recorded.payment_id) if recorded.payment_id else None,
            )
        return outcomes


def _outcome(event: Incoming, *, is_new: bool, conflicts: set[tuple[str, str]]) -> Outcome:
    if (event.source, event.event_id) in conflicts:
        return Outcome.CONFLICT
    if not is_new:
        return Outcome.DUPLICATE
    if event.is_untrusted:
        return Outcome.UNTRUSTED
    if event.observation is None and event.relay is None:
        return Outcome.IGNORED
    return Outcome.ACCEPTED


class _Taking:
    """The taking of one batch: gathers what changes, writes it at once."""

    def __init__(self, *, unit: UnitOfWork, policy: Policy, new_id: NewId) -> None:
        self._unit = unit
        self._policy = policy
        self._new_id = new_id
        self._held: dict[Reference, Payment] = {}
        self._created: dict[UUID, None] = {}
        self._changed: dict[UUID, Payment] = {}
        self._removed: list[tuple[Payment, Payment]] = []
        self._records: list[OutboundRecord] = []
        self.movements: list[tuple[Movement, Payment, str]] = []
        self.conflicts: list[RecordedConflict] = []

    async def contradictions(self, repeated: Sequence[Incoming]) -> set[tuple[str, str]]:
        """Record the events that came again under the same id with another body."""
        if not repeated:
            return set()
        digests = await self._unit.digests(repeated)
        for event in repeated:
            if digests[event.source, event.event_id] != event.digest:
                self._record(event, None, Conflict(kind="event_body", detail={}))
        return {(recorded.source, recorded.event_id) for recorded in self.conflicts}

    async def take(self, events: Sequence[Incoming]) -> set[tuple[str, str]]:
        """Apply new events in their order and write everything that follows from them."""
        observations = [event.observation for event in events if event.observation is not None]
        references = sorted({r for observation in observations for r in _references(observation)})
        if references:
            for payment in await self._unit.lock_payments(references):
                self._hold(payment)
        for event in events:
            if event.observation is not None:
                self._observe(event, event.observation)
            if event.relay is not None:
                self._records.append(event.relay)
        created = [self._changed[payment_id] for payment_id in self._created]
        changed = [p for p in self._changed.values() if p.id not in self._created]
        if created or changed or self.movements or self.conflicts:
            await self._unit.save(
                created=created,
                changed=changed,
                removed=self._removed,
                movements=self.movements,
                conflicts=self.conflicts,
            )
        if self._records:
            await self._unit.announce(self._records)
        return {(recorded.source, recorded.event_id) for recorded in self.conflicts}

    def _observe(self, event: Incoming, observation: Observation) -> None:
        before, observation = self._payment_of(event, observation)
        change = observe(
            payment=before,
            observation=observation,
            policy=self._policy,
            now=event.received_at,
            new_id=self._new_id,
        )
        payment = change.payment
        if payment != before or payment.id in self._created:
            self._changed[payment.id] = payment
        self._hold(payment)
        for conflict in change.conflicts:
            self._record(event, payment.id, conflict)
        traceparent = payment.traceparent or event.traceparent
        if change.became_pending:
            self._announce(pending_fact(payment), traceparent)
        for movement in change.movements:
            self.movements.append((movement, payment, traceparent))
            self._announce(movement_fact(movement=movement, payment=payment), traceparent)

    def _payment_of(self, event: Incoming, observation: Observation) -> tuple[Payment, Observation]:
        found = {
            self._held[reference].id: self._held[reference]
            for reference in _references(observation)
            if reference in self._held
        }
        if not found:
            payment = Payment(
                id=self._new_id(),
                processor=observation.processor,
                references=frozenset(observation.references),
                status=PaymentStatus.SEEN,
                created_at=event.received_at,
                traceparent=event.traceparent,
            )
            self._created[payment.id] = None
            return payment, observation
        # What is only SEEN knows no charge: whichever knows more takes the other in.
        first, *others = sorted(
            found.values(),
            key=lambda p: (not p.book.credited, p.status is PaymentStatus.SEEN, p.created_at),
        )
        for other in others:
            if other.book.credited:
                detail: dict[str, str | int | None] = {"other_payment_id": str(other.id)}
                self._record(event, first.id, Conflict(kind="two_payments", detail=detail))
                names = tuple(n for n in observation.references if n not in other.references)
                observation = replace(observation, references=names)
                continue
            first = merged(into=first, other=other)
            self._forget(other, first)
        return first, observation

    def _forget(self, other: Payment, into: Payment) -> None:
        self._changed.pop(other.id, None)
        if other.id in self._created:
            del self._created[other.id]
            self.movements = [
                (movement, into if payment.id == other.id else payment, traceparent)
                for movement, payment, traceparent in self.movements
            ]
        else:
            self._removed.append((other, into))

    def _hold(self, payment: Payment) -> None:
        for reference in payment.references:
            self._held[payment.processor, reference] = payment

    def _announce(self, fact: Fact, traceparent: str) -> None:
        self._records.append(encode(fact, stream=PAYMENTS, traceparent=traceparent))

    def _record(self, event: Incoming, payment_id: UUID | None, conflict: Conflict) -> None:
        self.conflicts.append(
            RecordedConflict(
                source=event.source,
                event_id=event.event_id,
                payment_id=payment_id,
                conflict=conflict,
                at=event.received_at,
            )
        )


@dataclass(frozen=True, kw_only=True)
class FollowMovements:
    """Keeps up with what the other services state about movements, in any order."""

    store: Store
    metrics: IntakeMetrics

    async def hear(self, heard: Sequence[Heard]) -> None:
        async with self.store.transaction() as unit:
            posted = await unit.hear(heard)
        at = {each.movement_id: each.at for each in heard}
        for movement_id, kind, accepted_at in posted:
            if kind is MovementKind.PAYMENT:
                self.metrics.posted_after((at[movement_id] - accepted_at).total_seconds())

    async def tell(self, told: Sequence[Told], *, now: datetime) -> None:
        async with self.store.transaction() as unit:
            ended = await unit.tell(told)
        for _, kind, accepted_at in ended:
            if kind is MovementKind.PAYMENT:
                self.metrics.confirmed_after((now - accepted_at).total_seconds())


@dataclass(frozen=True, kw_only=True)
class AnnounceAgain:
    """Says again what has not come through, so that no lost broker loses a payment."""

    store: Store
    announce: Announce
    metrics: IntakeMetrics
    first_seconds: float
    cap_seconds: float

    async def __call__(self, *, now: datetime, limit: int) -> int:
        if self.announce.is_behind:
            # What Kafka has not taken yet need not be said a second time.
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
                    records.append(_encoded_delay(owned, delayed_at=owned.delayed_at))
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
            await unit.announce([_encoded_delay(owned, delayed_at=now) for owned in delayed])
        for owned in delayed:
            _log.warning(
                "payment.delayed",
                payment_id=str(owned.payment.id),
                trace_id=trace_id(owned.traceparent),
                reason=owned.wait_reason,
            )
        self.metrics.delayed(len(delayed))
        return len(delayed)


def movement_fact(*, movement: Movement, payment: Payment) -> Fact:
    """Return the fact that announces a movement: the same, by id, however often it is built."""
    about = {
        "payment_id": payment.id,
        "account_id": payment.account_id,
        "processor": payment.processor,
        "reference": primary_reference(payment),
        "amount_cents": movement.amount_cents,
        "currency": payment.currency,
    }
    if movement.kind is MovementKind.DECLINE:
        return ChargeDeclined(
            **about,
            declined_at=movement.accepted_at,
            reason_code=movement.reason_code,
            attempt=movement.attempt or "",
        )
    ledger = {
        "posting_key": movement.id,
        "effective_date": movement.effective_date,
        "accepted_at": movement.accepted_at,
    }
    if movement.kind is MovementKind.PAYMENT:
        return PaymentAccepted(
            **about,
            **ledger,
            fee_cents=payment.fee_cents,
            method=payment.method,
            bill_reference=payment.bill_reference,
        )
    announced: Fact = ANNOUNCED_BY[movement.kind](
        **about, **ledger, reason=movement.reason, reason_code=movement.reason_code
    )
    return announced


def pending_fact(payment: Payment) -> PaymentPending:
    """Return the fact that a payment was submitted to the bank and has not settled."""
    return PaymentPending(
        payment_id=payment.id,
        account_id=payment.account_id,
        processor=payment.processor,
        reference=primary_reference(payment),
        amount_cents=payment.amount_cents or 0,
        currency=payment.currency or "",
        pending_at=payment.pending_at or payment.created_at,
        method=payment.method,
    )


def primary_reference(payment: Payment) -> str:
    """Return the name by which clerks find the payment at the processor.

    Stripe's PaymentIntent (`pi_`) names the payment, its charges (`ch_`) only the attempts.
    """
    return min(payment.references, key=lambda name: (not name.startswith("pi_"), name))


def _references(observation: Observation) -> list[Reference]:
    return [(observation.processor, reference) for reference in observation.references]


def _encoded_delay(owned: OwnedMovement, *, delayed_at: datetime) -> OutboundRecord:
    payment, movement = owned.payment, owned.movement
    suspended = owned.status is MovementStatus.SUSPENDED
    fact = PaymentDelayed(
        payment_id=payment.id,
        account_id=payment.account_id,
        processor=payment.processor,
        reference=primary_reference(payment),
        amount_cents=movement.amount_cents,
        currency=payment.currency or "",
        posting_key=movement.id,
        accepted_at=movement.accepted_at,
        delayed_at=delayed_at,
        reason=owned.wait_reason or ("suspended" if suspended else "not_posted_yet"),
    )
    return encode(fact, stream=PAYMENTS, traceparent=owned.traceparent)

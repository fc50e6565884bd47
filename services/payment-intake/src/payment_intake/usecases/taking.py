"""Takes what was observed of payments: in one transaction kept, understood and announced."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol
from uuid import UUID

import structlog

from payment_intake.domain import (
    Conflict,
    Movement,
    NewId,
    Observation,
    Payment,
    PaymentStatus,
    Policy,
    merged,
    observe,
)
from payment_intake.domain.charges import ChargeStatus, charge_name, heard
from payment_intake.ports import (
    Incoming,
    Outcome,
    RecordedConflict,
    Reference,
    Store,
    UnitOfWork,
)
from payment_intake.usecases.facts import (
    charge_of,
    movement_fact,
    pending_fact,
    primary_reference,
    withdrawn_fact,
)
from shared.contracts.fact import Fact
from shared.contracts.streams import PAYMENTS
from shared.contracts.wire import OutboundRecord, encode
from shared.errors import TransientError

_log = structlog.get_logger(__name__)


class ConcurrentTakeError(TransientError):
    """Another writer has just created a payment of this batch; the whole is to be done again."""


class IntakeMetrics(Protocol):
    """What the use cases count."""

    def taken(self, *, source: str, outcome: str) -> None: ...
    def moved(self, *, kind: str) -> None: ...
    def conflict(self, *, kind: str) -> None: ...
    def posted_after(self, seconds: float, *, traceparent: str | None) -> None: ...
    def confirmed_after(self, seconds: float, *, traceparent: str | None) -> None: ...
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
            taking = Taking(unit=unit, policy=self.policy, new_id=self.new_id)
            outcomes = await taking.take(events)
        taking.count(self.metrics)
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


class Taking:
    """The taking of one batch inside a transaction: gathers what changes, writes it at once."""

    def __init__(self, *, unit: UnitOfWork, policy: Policy, new_id: NewId) -> None:
        self._unit = unit
        self._policy = policy
        self._new_id = new_id
        self._held: dict[Reference, Payment] = {}
        self._created: dict[UUID, None] = {}
        self._changed: dict[UUID, Payment] = {}
        self._removed: list[tuple[Payment, Payment]] = []
        self._records: list[OutboundRecord] = []
        self._taken: list[tuple[str, Outcome]] = []
        self.movements: list[tuple[Movement, Payment, str]] = []
        self.conflicts: list[RecordedConflict] = []

    async def take(self, events: Sequence[Incoming]) -> Sequence[Outcome]:
        """Keep the events, apply what is new, announce what follows; say what became of each."""
        are_new = await self._unit.keep_events(events)
        contradictions = await self._contradictions(
            [event for event, is_new in zip(events, are_new, strict=True) if not is_new]
        )
        fresh = [event for event, is_new in zip(events, are_new, strict=True) if is_new]
        contradicted = await self._apply(fresh)
        outcomes = [
            _outcome(event, is_new=is_new, conflicts=contradicted | contradictions)
            for event, is_new in zip(events, are_new, strict=True)
        ]
        self._taken = [(e.source, outcome) for e, outcome in zip(events, outcomes, strict=True)]
        return outcomes

    def payment(self, reference: Reference) -> Payment | None:
        """Return the payment of a name, as this batch has left it; None if it spoke of none."""
        return self._held.get(reference)

    def count(self, metrics: IntakeMetrics) -> None:
        """Count, and log, what was taken; to be called after the commit."""
        for source, outcome in self._taken:
            metrics.taken(source=source, outcome=outcome)
        for movement, _, _ in self.movements:
            metrics.moved(kind=movement.kind)
        for recorded in self.conflicts:
            metrics.conflict(kind=recorded.conflict.kind)
            _log.error(
                "event.conflict",
                kind=recorded.conflict.kind,
                source=recorded.source,
                event_id=recorded.event_id,
                payment_id=str(recorded.payment_id) if recorded.payment_id else None,
            )

    async def _contradictions(self, repeated: Sequence[Incoming]) -> set[tuple[str, str]]:
        """Record the events that came again under the same id with another body."""
        if not repeated:
            return set()
        digests = await self._unit.digests(repeated)
        for event in repeated:
            if digests[event.source, event.event_id] != event.digest:
                self._record(event, None, Conflict(kind="event_body", detail={}))
        return {(recorded.source, recorded.event_id) for recorded in self.conflicts}

    async def _apply(self, events: Sequence[Incoming]) -> set[tuple[str, str]]:
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
        followed = {c: p for p in self._changed.values() if (c := charge_of(p)) is not None}
        if followed:
            await self._follow(followed, now=max(event.received_at for event in events))
        if created or changed or self.movements or self.conflicts or self._records:
            await self._unit.save(
                created=created,
                changed=changed,
                removed=self._removed,
                movements=self.movements,
                conflicts=self.conflicts,
                records=self._records,
            )
        return {(recorded.source, recorded.event_id) for recorded in self.conflicts}

    async def _follow(self, payments: Mapping[UUID, Payment], *, now: datetime) -> None:
        """Bring the charges to where their payments are: whoever told of them first.

        Payments are locked before charges, here and where answers are settled.
        """
        changed = []
        for charge in await self._unit.charges.lock(sorted(payments)):
            payment = payments[charge.id]
            name = primary_reference(payment)
            followed = heard(
                charge=charge,
                payment=payment.status,
                reference=None if charge_name(name) else name,
                grace=self._policy.cancellation_grace,
                now=now,
            )
            if followed == charge:
                continue
            changed.append(followed)
            if followed.status is ChargeStatus.WITHDRAWN and charge.status is not followed.status:
                self._announce(withdrawn_fact(followed), followed.traceparent)
        if changed:
            await self._unit.charges.save(changed)

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

    def _announce(self, fact: Fact, traceparent: str | None) -> None:
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


def _references(observation: Observation) -> list[Reference]:
    return [(observation.processor, reference) for reference in observation.references]

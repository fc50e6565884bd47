"""The charge: take what autopay asks for, make it once, settle what became of it.

Invariant: before a charge is sent its row says that it may have been; after a call without an
answer the processor is asked before anything is sent again; and an outcome is written in the same
transaction as the payment that it is, so that answer and webhook count once in either order.
"""

import hashlib
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import orjson
import structlog

from payment_intake.domain import Conflict, NewId, Payment, PaymentStatus, Policy
from payment_intake.domain.charges import (
    EXPIRED,
    NO_MONEY,
    NOT_DECIDED,
    Answer,
    AnswerKind,
    Cancellation,
    Charge,
    ChargeRequest,
    ChargeStatus,
    Hand,
    Heeded,
    Heeding,
    answered,
    cancelled,
    given_back,
    is_expired,
    observation_of,
    requested,
    withdrawn,
)
from payment_intake.ports import (
    ChargeCall,
    ChargeGateway,
    Incoming,
    Permit,
    RecordedConflict,
    Reference,
    Store,
    Switch,
    UnitOfWork,
)
from payment_intake.usecases.facts import charge_of, movement_fact, pending_fact, withdrawn_fact
from payment_intake.usecases.taking import ConcurrentTakeError, IntakeMetrics, Taking
from shared.clock import Clock
from shared.contracts.fact import Fact
from shared.contracts.streams import PAYMENTS
from shared.contracts.wire import encode
from shared.errors import TransientError
from shared.runtime.tracing import traceparent_or_new
from shared.work.backoff import Backoff
from shared.work.batcher import MicroBatcher
from shared.work.lanes import Lanes
from shared.work.limit import AdaptiveLimit, Breaker, RateLimit

_log = structlog.get_logger(__name__)

SOURCE = "stripe-api"
"""Where observations come from that were read off the processor's answers."""
REFUSAL_PAUSE = timedelta(hours=1)
"""What the processor would not give back is tried again this often; somebody is told each time."""

_HELD = Answer(kind=AnswerKind.HELD, reason="not_sent")
_PAUSED = Answer(kind=AnswerKind.HELD, reason="paused")
_UNREACHABLE = Answer(kind=AnswerKind.HELD, reason="processor_unavailable")
_OTHER_PROCESSOR = Answer(kind=AnswerKind.REFUSED, reason="unknown_processor", category="hard")


class ChargeMetrics(IntakeMetrics, Protocol):
    """What the use cases of charges count."""

    def heeded(self, *, kind: str, outcome: str, count: int) -> None: ...
    def settled(self, *, status: str) -> None: ...
    def resolved(self, *, outcome: str) -> None: ...
    def our_trouble(self, *, reason: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ChargeDue:
    """Leases charges that are due, as many as can be sent soon, and hands them to the lanes."""

    store: Store
    lanes: Lanes[Hand]
    breaker: Breaker
    owner: UUID
    lease: timedelta

    async def __call__(self, *, now: datetime, limit: int) -> int:
        """Return how many were taken up."""
        match self.breaker.state:
            case "open":
                return 0
            case "half_open":
                limit = 1
            case _:
                limit = min(limit, self.lanes.room)
        if limit == 0:
            return 0
        ticket = self.lanes.ticket()
        async with self.store.transaction() as unit:
            hands = await unit.charges.claim(
                now=now, limit=limit, owner=self.owner, leased_until=now + self.lease
            )
        await self.lanes.put(hands, ticket=ticket)
        return len(hands)


@dataclass(frozen=True, kw_only=True)
class TakeCharges:
    """Takes what autopay asks for, and what it takes back, in one transaction a batch.

    Nothing is sent here: what is taken is due, and leased a moment later by `ChargeDue`, so that a
    day on which a million charges fall due waits in the database and not in memory.
    """

    store: Store
    policy: Policy
    clock: Clock
    metrics: ChargeMetrics

    async def __call__(self, wanted: Sequence[ChargeRequest | Cancellation]) -> None:
        """Take requests and cancellations in their order.

        Raises:
            TransientError: nothing was taken; the whole batch may be taken again.
        """
        now = self.clock()
        async with self.store.transaction() as unit:
            heeding = _Heeding(unit=unit, policy=self.policy, now=now)
            outcomes = await heeding.heed(wanted)
        counts: dict[tuple[str, str], int] = {}
        for each, outcome in zip(wanted, outcomes, strict=True):
            kind = "request" if isinstance(each, ChargeRequest) else "cancellation"
            counts[kind, outcome] = counts.get((kind, outcome), 0) + 1
            if outcome is Heeding.CONTRADICTED:
                self.metrics.conflict(kind="charge_request")
                _log.error("charge.contradicted", charge_id=str(each.charge_id))
        for (kind, outcome_name), count in counts.items():
            self.metrics.heeded(kind=kind, outcome=outcome_name, count=count)


class _Heeding:
    """The taking of one batch of requests and cancellations."""

    def __init__(self, *, unit: UnitOfWork, policy: Policy, now: datetime) -> None:
        self._unit = unit
        self._policy = policy
        self._now = now
        self._charges: dict[UUID, Charge] = {}
        self._restated: dict[UUID, None] = {}
        self._conflicts: list[RecordedConflict] = []

    async def heed(self, wanted: Sequence[ChargeRequest | Cancellation]) -> Sequence[Heeding]:
        ids = sorted({each.charge_id for each in wanted})
        before = {charge.id: charge for charge in await self._unit.charges.lock(ids)}
        self._charges = dict(before)
        names = await self._names(wanted, before)
        outcomes = []
        for each in wanted:
            heeded = self._heed(each, names)
            self._charges[each.charge_id] = heeded.charge
            if heeded.heeding is not Heeding.NEW:
                self._restated[each.charge_id] = None
            if heeded.heeding is Heeding.CONTRADICTED:
                self._conflicts.append(self._contradiction(each))
            outcomes.append(heeded.heeding)
        await self._write(before)
        return outcomes

    def _heed(
        self, wanted: ChargeRequest | Cancellation, names: Mapping[UUID, frozenset[str]]
    ) -> Heeded:
        charge = self._charges.get(wanted.charge_id)
        if isinstance(wanted, ChargeRequest):
            known = names.get(wanted.charge_id, frozenset())
            return requested(charge=charge, request=wanted, names=known, now=self._now)
        grace = self._policy.cancellation_grace
        return cancelled(charge=charge, cancellation=wanted, grace=grace, now=self._now)

    async def _names(
        self, wanted: Sequence[ChargeRequest | Cancellation], before: Mapping[UUID, Charge]
    ) -> Mapping[UUID, frozenset[str]]:
        """Return the names that the payments of further attempts have had so far."""
        further = {
            _reference_of(before[each.charge_id])
            for each in wanted
            if isinstance(each, ChargeRequest)
            and each.charge_id in before
            and each.attempt > before[each.charge_id].attempt
        }
        if not further:
            return {}
        payments = await self._unit.payments_of(sorted(further))
        return {c: p.references for p in payments if (c := charge_of(p)) is not None}

    async def _write(self, before: Mapping[UUID, Charge]) -> None:
        new = [charge for charge in self._charges.values() if charge.id not in before]
        changed = [c for c in self._charges.values() if c.id in before and before[c.id] != c]
        if new:
            inserted = await self._unit.charges.insert(sorted(new, key=lambda c: c.id))
            if inserted < len(new):
                raise ConcurrentTakeError("a charge of this batch was taken by somebody else")
        if changed:
            await self._unit.charges.save(changed)
        if self._conflicts:
            await self._unit.save(conflicts=self._conflicts)
        stated = [self._charges[charge_id] for charge_id in self._restated]
        await self._state(stated)

    async def _state(self, charges: Sequence[Charge]) -> None:
        """State what has become of charges: whoever asks again has not heard of it."""
        facts: list[tuple[Fact, str | None]] = []
        ended = (ChargeStatus.WITHDRAWN, ChargeStatus.REFUNDED)
        facts += [(withdrawn_fact(c), c.traceparent) for c in charges if c.status in ended]
        told = [
            _reference_of(c)
            for c in charges
            if c.processor and c.status not in (ChargeStatus.DUE, ChargeStatus.CHARGING)
        ]
        if told:
            for payment in await self._unit.payments_of(told):
                if payment.status is PaymentStatus.PENDING:
                    facts.append((pending_fact(payment), payment.traceparent))
            for owned in await self._unit.movements_of(told):
                fact = movement_fact(movement=owned.movement, payment=owned.payment)
                facts.append((fact, owned.traceparent))
        if facts:
            await self._unit.announce(
                [encode(fact, stream=PAYMENTS, traceparent=trace) for fact, trace in facts]
            )

    def _contradiction(self, wanted: ChargeRequest | Cancellation) -> RecordedConflict:
        held = self._charges[wanted.charge_id]
        detail: dict[str, str | int | None] = {
            "charge_id": str(wanted.charge_id),
            "attempt": wanted.attempt,
            "held_cents": held.amount_cents,
            "heard_cents": wanted.amount_cents,
        }
        return RecordedConflict(
            source="autopay",
            event_id=f"{wanted.charge_id}:{wanted.attempt}",
            payment_id=None,
            conflict=Conflict(kind="charge_request", detail=detail),
            at=self._now,
        )


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """What was learnt about a charge in hand, ready to be written."""

    hand: Hand
    answer: Answer
    again_at: datetime
    at: datetime
    calls: Sequence[ChargeCall]


@dataclass(frozen=True, kw_only=True)
class SettleCharges:
    """Writes answers: the payment that each is, the charge, the evidence, the facts; at once."""

    store: Store
    policy: Policy
    new_id: NewId
    metrics: ChargeMetrics

    async def __call__(self, settlements: Sequence[Settlement]) -> Sequence[Charge]:
        """Return each charge as it is now.

        Raises:
            TransientError: nothing was written; the whole batch may be settled again.
        """
        async with self.store.transaction() as unit:
            taking = Taking(unit=unit, policy=self.policy, new_id=self.new_id)
            await taking.take([e for s in settlements if (e := _event(s)) is not None])
            settled = await self._charges(unit, taking, settlements)
            calls = [call for settlement in settlements for call in settlement.calls]
            if calls:
                await unit.charges.record(calls)
        taking.count(self.metrics)
        return settled

    async def _charges(
        self, unit: UnitOfWork, taking: Taking, settlements: Sequence[Settlement]
    ) -> Sequence[Charge]:
        ids = sorted({settlement.hand.charge.id for settlement in settlements})
        now_held = {charge.id: charge for charge in await unit.charges.lock(ids)}
        changed: dict[UUID, Charge] = {}
        facts = []
        for settlement in settlements:
            before = now_held[settlement.hand.charge.id]
            after = self._after(before, settlement, taking.payment(_reference_of(before)))
            now_held[after.id] = after
            if after == before:
                continue
            changed[after.id] = after
            is_over = after.status in (ChargeStatus.WITHDRAWN, ChargeStatus.REFUNDED)
            if is_over and after.status is not before.status:
                facts.append((withdrawn_fact(after), after.traceparent))
        if changed:
            await unit.charges.save(list(changed.values()))
        if facts:
            await unit.announce(
                [encode(fact, stream=PAYMENTS, traceparent=trace) for fact, trace in facts]
            )
        return [now_held[settlement.hand.charge.id] for settlement in settlements]

    def _after(self, charge: Charge, settlement: Settlement, payment: Payment | None) -> Charge:
        hand, answer = settlement.hand, settlement.answer
        is_ours = charge.lease_owner == hand.charge.lease_owner
        if not is_ours or charge.attempt != hand.charge.attempt:
            # Another process has it by now, or its webhook was faster; its payment is taken above.
            return charge
        if charge.status is ChargeStatus.REFUNDING:
            return given_back(
                charge=charge, answer=answer, now=settlement.at, again_at=settlement.again_at
            )
        if charge.status is not ChargeStatus.CHARGING:
            return charge
        return answered(
            hand=hand,
            charge=charge,
            answer=answer,
            payment=payment.status if payment else None,
            grace=self.policy.cancellation_grace,
            now=settlement.at,
            again_at=settlement.again_at,
        )


@dataclass(frozen=True, kw_only=True)
class Charging:
    """Makes the calls for what a lane hands over; asks first where it must."""

    gateway: ChargeGateway
    store: Store
    settle: MicroBatcher[Settlement, Charge]
    breaker: Breaker
    limit: AdaptiveLimit
    rate: RateLimit
    backoff: Backoff
    clock: Clock
    randomness: random.Random
    metrics: ChargeMetrics
    call_seconds_max: float

    async def __call__(self, hands: Sequence[Hand]) -> Sequence[Settlement]:
        """Return what was learnt about each charge; written down by `settled`."""
        return [await self._one(hand) for hand in hands]

    async def settled(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """Write down what was learnt; return for each charge whether its account may go on."""
        return [await self._settled(settlement) for settlement in settlements]

    async def _one(self, hand: Hand) -> Settlement:
        calling = _Calling(gateway=self.gateway, clock=self.clock)
        await self.rate.wait()
        hand, answer = await self._answer(hand, calling)
        now = self.clock()
        return Settlement(
            hand=hand,
            answer=answer,
            again_at=now + self._pause(hand, answer),
            at=now,
            calls=calling.calls,
        )

    async def _settled(self, settlement: Settlement) -> bool:
        charge = await self.settle.submit(settlement)
        self._count(settlement.hand, settlement.answer, charge)
        return charge.status not in (ChargeStatus.DUE, ChargeStatus.UNKNOWN)

    async def _answer(self, hand: Hand, calling: "_Calling") -> tuple[Hand, Answer]:
        if hand.charge.processor != self.gateway.processor:
            return hand, _OTHER_PROCESSOR
        # A lease that would run out during the calls belongs to the recovery already.
        calls = 2 if hand.ask_first or hand.charge.status is ChargeStatus.REFUNDING else 1
        latest = self.clock() + timedelta(seconds=self.call_seconds_max * calls)
        if hand.leased_until <= latest:
            return hand, _HELD
        if not hand.ask_first and (held := await self._held(hand)) is not None:
            return hand, held
        if not self.breaker.allow():
            return hand, _UNREACHABLE
        works = False
        try:
            hand, answer = await self._call(hand, calling)
            works = answer.kind not in NOT_DECIDED
        finally:
            # After a defect too: a probe that is never judged would keep the breaker open.
            if works:
                self.breaker.succeeded()
                self.limit.succeeded()
            else:
                self.breaker.failed()
                self.limit.overloaded()
        return hand, answer

    async def _call(self, hand: Hand, calling: "_Calling") -> tuple[Hand, Answer]:
        if hand.charge.status is ChargeStatus.REFUNDING:
            return hand, await self._give_back(hand.charge, calling)
        if hand.ask_first:
            found = await calling.find(hand.charge)
            self.metrics.resolved(outcome=found.kind)
            if found.kind is not AnswerKind.NOT_FOUND:
                return hand, found
            # Known now not to have taken effect: whatever holds it, it is not unknown any more.
            hand = replace(hand, ask_first=False)
            if (held := await self._held(hand)) is not None:
                return hand, held
        return hand, await calling.charge(hand.charge)

    async def _held(self, hand: Hand) -> Answer | None:
        """Return why a charge is not to be sent now, asked right before it would be."""
        charge = hand.charge
        if charge.status is not ChargeStatus.CHARGING:
            return None
        if is_expired(charge, now=self.clock()):
            return Answer(kind=AnswerKind.HELD, reason=EXPIRED)
        try:
            async with self.store.transaction() as unit:
                owner = charge.lease_owner
                permit = await unit.charges.permit(charge.id, owner=owner) if owner else Permit.LOST
        except TransientError:
            # Whoever cannot read the switch does not charge.
            return _HELD
        match permit:
            case Permit.GRANTED:
                return None
            case Permit.PAUSED:
                return _PAUSED
            case _:
                return _HELD

    async def _give_back(self, charge: Charge, calling: "_Calling") -> Answer:
        found = await calling.find(replace(charge, earlier=()))
        match found.kind:
            case AnswerKind.SUCCEEDED:
                return await calling.refund(_named(charge, found))
            case AnswerKind.PROCESSING:
                return await calling.cancel(_named(charge, found))
            case AnswerKind.DECLINED | AnswerKind.ACTION_REQUIRED | AnswerKind.NOT_FOUND:
                return Answer(
                    kind=AnswerKind.CANCELLED, reason="nothing_taken", reference=found.reference
                )
            case _:
                return found

    def _pause(self, hand: Hand, answer: Answer) -> timedelta:
        if answer.kind is AnswerKind.HELD:
            return timedelta(seconds=max(self.breaker.wait_seconds, 0.25))
        if answer.kind is AnswerKind.REFUSED:
            return REFUSAL_PAUSE
        return self.backoff.delay(attempts=hand.charge.tries + 1, randomness=self.randomness)

    def _count(self, hand: Hand, answer: Answer, charge: Charge) -> None:
        self.metrics.settled(status=charge.status)
        about = {
            "charge_id": str(charge.id),
            "attempt": charge.attempt,
            "status": str(charge.status),
            "reason": answer.reason,
            "request_id": answer.request_id,
        }
        if answer.is_our_trouble:
            # Nobody's card is to blame: nothing is declined, and somebody has to look at once.
            self.metrics.our_trouble(reason=answer.reason or "unknown")
            _log.error("charge.not_possible", **about)
        elif hand.charge.status is ChargeStatus.REFUNDING and answer.kind in NO_MONEY:
            self.metrics.our_trouble(reason="refund_refused")
            _log.error("charge.refund_refused", **about)
        elif answer.kind in NOT_DECIDED:
            _log.warning("charge.not_decided", **about)


class _Calling:
    """The calls for one charge in hand, and the evidence of them."""

    def __init__(self, *, gateway: ChargeGateway, clock: Clock) -> None:
        self._gateway = gateway
        self._clock = clock
        self.calls: list[ChargeCall] = []

    async def charge(self, charge: Charge) -> Answer:
        started = time.monotonic()
        return self._recorded("charge", charge, started, await self._gateway.charge(charge))

    async def find(self, charge: Charge) -> Answer:
        started = time.monotonic()
        return self._recorded("find", charge, started, await self._gateway.find(charge))

    async def refund(self, charge: Charge) -> Answer:
        started = time.monotonic()
        return self._recorded("refund", charge, started, await self._gateway.refund(charge))

    async def cancel(self, charge: Charge) -> Answer:
        started = time.monotonic()
        return self._recorded("cancel", charge, started, await self._gateway.cancel(charge))

    def _recorded(self, operation: str, charge: Charge, started: float, answer: Answer) -> Answer:
        self.calls.append(
            ChargeCall(
                charge_id=charge.id,
                attempt=charge.attempt,
                operation=operation,
                outcome=answer.kind,
                reason=answer.reason,
                reference=answer.reference,
                request_id=answer.request_id,
                at=self._clock(),
                duration_ms=int((time.monotonic() - started) * 1000),
            )
        )
        return answer


@dataclass(frozen=True, kw_only=True)
class WithdrawExpired:
    """Withdraws what was never sent and was asked for too long ago; paused or not."""

    store: Store
    metrics: ChargeMetrics

    async def __call__(self, *, now: datetime, limit: int) -> int:
        async with self.store.transaction() as unit:
            expired = [
                withdrawn(charge, reason=EXPIRED, now=now)
                for charge in await unit.charges.claim_expired(now=now, limit=limit)
            ]
            if expired:
                await unit.charges.save(expired)
                await unit.announce(
                    [
                        encode(withdrawn_fact(c), stream=PAYMENTS, traceparent=c.traceparent)
                        for c in expired
                    ]
                )
        for charge in expired:
            self.metrics.settled(status=charge.status)
            _log.warning("charge.expired", charge_id=str(charge.id), attempt=charge.attempt)
        return len(expired)


@dataclass(frozen=True, kw_only=True)
class TurnSwitch:
    """The kill switch: nothing is charged while it is off, from this second on."""

    store: Store
    clock: Clock

    async def read(self) -> Switch:
        async with self.store.transaction() as unit:
            return await unit.charges.switch()

    async def turn(self, *, is_paused: bool, operator: str, note: str) -> Switch:
        """Pause or resume, with an audit entry; saying it twice is recorded twice."""
        turned = Switch(is_paused=is_paused, operator=operator, note=note, changed_at=self.clock())
        async with self.store.transaction() as unit:
            await unit.charges.turn(turned)
        _log.warning("charges.switched", is_paused=is_paused, operator=operator)
        return turned


def _reference_of(charge: Charge) -> Reference:
    return charge.processor or "", charge.name


def _named(charge: Charge, found: Answer) -> Charge:
    return replace(charge, reference=found.reference or charge.reference)


def _event(settlement: Settlement) -> Incoming | None:
    """Return an answer as an event to take, where it says something about the payment."""
    charge, answer = settlement.hand.charge, settlement.answer
    observation = observation_of(charge=charge, answer=answer, now=settlement.at)
    if observation is None:
        return None
    # What is kept is what was understood: an answer names more than may be stored.
    body = orjson.dumps(
        {
            "amount_cents": observation.amount_cents,
            "code": answer.reason,
            "currency": observation.currency,
            "outcome": answer.kind,
            "reference": answer.reference,
        }
    )
    return Incoming(
        source=SOURCE,
        event_id=f"{charge.id}:{charge.attempt}:{answer.kind}",
        event_type=f"charge.{answer.kind}",
        body=body,
        digest=hashlib.sha256(body).digest(),
        received_at=settlement.at,
        observation=observation,
        traceparent=traceparent_or_new(charge.traceparent),
    )

"""payment-intake's store in memory: what SqlStore does, said a second time in plain Python."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from payment_intake.domain import (
    ENDED,
    Movement,
    MovementKind,
    MovementStatus,
    Payment,
)
from payment_intake.domain.charges import UNSETTLED, Charge, ChargeStatus, Hand
from payment_intake.ports import (
    ChargeCall,
    ChargeView,
    Heard,
    Incoming,
    OwnedMovement,
    PaymentView,
    Permit,
    RecordedConflict,
    Reference,
    Rejected,
    Switch,
    Told,
)
from shared.contracts.wire import OutboundRecord


@dataclass
class Held:
    """A movement and when it is to be announced again."""

    owned: OwnedMovement
    announce_at: datetime | None


@dataclass
class State:
    events: dict[tuple[str, str], Incoming] = field(default_factory=dict)
    payments: dict[UUID, Payment] = field(default_factory=dict)
    references: dict[Reference, UUID] = field(default_factory=dict)
    movements: dict[UUID, Held] = field(default_factory=dict)
    conflicts: list[RecordedConflict] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    announced: list[OutboundRecord] = field(default_factory=list)
    charges: dict[UUID, Charge] = field(default_factory=dict)
    calls: list[ChargeCall] = field(default_factory=list)
    switch: Switch = field(default_factory=lambda: Switch(is_paused=False))
    turned: list[Switch] = field(default_factory=list)


class InMemoryCharges:
    """See `payment_intake.ports.Charges`."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def insert(self, new: Sequence[Charge]) -> int:
        fresh = [charge for charge in new if charge.id not in self._state.charges]
        self._state.charges |= {charge.id: charge for charge in fresh}
        return len(fresh)

    async def lock(self, charge_ids: Sequence[UUID]) -> Sequence[Charge]:
        known = sorted(set(charge_ids) & self._state.charges.keys())
        return [self._state.charges[charge_id] for charge_id in known]

    async def save(self, changed: Sequence[Charge]) -> None:
        self._state.charges |= {charge.id: charge for charge in changed}

    async def record(self, calls: Sequence[ChargeCall]) -> None:
        self._state.calls.extend(calls)

    async def claim(
        self, *, now: datetime, limit: int, owner: UUID, leased_until: datetime
    ) -> Sequence[Hand]:
        due = [
            charge
            for charge in self._state.charges.values()
            if charge.status in UNSETTLED
            and charge.due_at <= now
            and not (charge.status is ChargeStatus.DUE and self._state.switch.is_paused)
        ]
        hands = []
        for charge in sorted(due, key=lambda charge: charge.due_at)[:limit]:
            gives_back = charge.status in (ChargeStatus.REFUND_DUE, ChargeStatus.REFUNDING)
            leased = replace(
                charge,
                status=ChargeStatus.REFUNDING if gives_back else ChargeStatus.CHARGING,
                lease_owner=owner,
                due_at=leased_until,
            )
            self._state.charges[charge.id] = leased
            may_be_sent = charge.status in (ChargeStatus.CHARGING, ChargeStatus.UNKNOWN)
            is_new_name = charge.attempt > 1 and charge.reference is None and not gives_back
            hands.append(
                Hand(charge=leased, ask_first=may_be_sent or is_new_name, leased_until=leased_until)
            )
        return sorted(
            hands, key=lambda h: (h.charge.requested_at or h.charge.created_at, h.charge.id)
        )

    async def claim_expired(self, *, now: datetime, limit: int) -> Sequence[Charge]:
        expired = [
            charge
            for charge in self._state.charges.values()
            if charge.status is ChargeStatus.DUE and charge.valid_until and charge.valid_until < now
        ]
        return sorted(expired, key=lambda charge: charge.valid_until)[:limit]

    async def release(self, hands: Sequence[Hand], *, owner: UUID, now: datetime) -> None:
        for hand in hands:
            charge = self._state.charges[hand.charge.id]
            if charge.lease_owner != owner:
                continue
            status = ChargeStatus.UNKNOWN if hand.ask_first else ChargeStatus.DUE
            if charge.status is ChargeStatus.REFUNDING:
                status = ChargeStatus.REFUND_DUE
            elif charge.status is not ChargeStatus.CHARGING:
                continue
            self._state.charges[charge.id] = replace(
                charge, status=status, lease_owner=None, due_at=now
            )

    async def permit(self, charge_id: UUID, *, owner: UUID) -> Permit:
        charge = self._state.charges.get(charge_id)
        is_held = charge and charge.status is ChargeStatus.CHARGING and charge.lease_owner == owner
        if charge is None or not is_held:
            return Permit.LOST
        if charge.cancelled_at is not None:
            return Permit.CANCELLED
        return Permit.PAUSED if self._state.switch.is_paused else Permit.GRANTED

    async def switch(self) -> Switch:
        return self._state.switch

    async def turn(self, switch: Switch) -> None:
        self._state.switch = switch
        self._state.turned.append(switch)


class InMemoryUnitOfWork:
    """See `payment_intake.ports.UnitOfWork`."""

    def __init__(self, state: State, announce_again: timedelta) -> None:
        self._state = state
        self._announce_again = announce_again
        self.charges = InMemoryCharges(state)

    async def keep_events(self, events: Sequence[Incoming]) -> Sequence[bool]:
        fresh = []
        for event in events:
            key = (event.source, event.event_id)
            fresh.append(key not in self._state.events)
            self._state.events.setdefault(key, event)
        return fresh

    async def digests(self, events: Sequence[Incoming]) -> Mapping[tuple[str, str], bytes]:
        keys = {(event.source, event.event_id) for event in events}
        return {key: self._state.events[key].digest for key in keys}

    async def lock_payments(self, references: Sequence[Reference]) -> Sequence[Payment]:
        ids = {self._state.references[r] for r in references if r in self._state.references}
        return [self._payment(payment_id) for payment_id in sorted(ids)]

    async def save(
        self,
        *,
        created: Sequence[Payment] = (),
        changed: Sequence[Payment] = (),
        removed: Sequence[tuple[Payment, Payment]] = (),
        movements: Sequence[tuple[Movement, Payment, str]] = (),
        conflicts: Sequence[RecordedConflict] = (),
        records: Sequence[OutboundRecord] = (),
    ) -> None:
        for other, into in removed:
            for reference, payment_id in self._state.references.items():
                if payment_id == other.id:
                    self._state.references[reference] = into.id
        for payment in (*created, *changed):
            self._state.payments[payment.id] = payment
            for name in payment.references:
                self._state.references.setdefault((payment.processor, name), payment.id)
        for movement, payment, traceparent in movements:
            owned = OwnedMovement(
                movement=movement,
                payment=payment,
                status=MovementStatus.ANNOUNCED,
                wait_reason=None,
                posted_at=None,
                confirmed_at=None,
                delayed_at=None,
                announcements=1,
                traceparent=traceparent,
            )
            again_at = movement.accepted_at + self._announce_again
            self._state.movements[movement.id] = Held(owned, again_at)
        self._state.conflicts.extend(conflicts)
        self._state.announced.extend(records)

    async def announce(self, records: Sequence[OutboundRecord]) -> None:
        self._state.announced.extend(records)

    async def payments_of(self, references: Sequence[Reference]) -> Sequence[Payment]:
        return await self.lock_payments(references)

    async def movements_of(self, references: Sequence[Reference]) -> Sequence[OwnedMovement]:
        ids = {payment.id for payment in await self.payments_of(references)}
        found = [
            self._current(held.owned)
            for held in self._state.movements.values()
            if held.owned.payment.id in ids
        ]
        return sorted(found, key=lambda owned: (owned.movement.accepted_at, owned.movement.id))

    async def hear(self, heard: Sequence[Heard]) -> Sequence[tuple[UUID, MovementKind, datetime]]:
        newly = []
        for each in heard:
            held = self._state.movements.get(each.movement_id)
            if held is None:
                continue
            before = held.owned
            held.owned = self._after(before, each)
            if held.owned.status in ENDED:
                held.announce_at = None
            if before.posted_at is None and held.owned.posted_at is not None:
                newly.append(_news(held.owned))
        return newly

    async def tell(self, told: Sequence[Told]) -> Sequence[tuple[UUID, MovementKind, datetime]]:
        news = []
        for each in told:
            for held in self._state.movements.values():
                owned = held.owned
                if (
                    owned.payment.id != each.payment_id
                    or owned.movement.kind is not each.kind
                    or owned.confirmed_at is not None
                    or each.movement_id not in (None, owned.movement.id)
                ):
                    continue
                owned = replace(owned, confirmed_at=each.at, notification=each.outcome)
                if owned.posted_at is not None or each.kind is MovementKind.DECLINE:
                    owned = replace(owned, status=MovementStatus.CONFIRMED)
                    held.announce_at = None
                held.owned = owned
                news.append(_news(owned))
        return news

    async def claim_unfinished(
        self, *, now: datetime, limit: int, first_seconds: float, cap_seconds: float
    ) -> Sequence[OwnedMovement]:
        due = [h for h in self._state.movements.values() if h.announce_at and h.announce_at <= now]
        claimed = []
        for held in sorted(due, key=lambda h: h.announce_at)[:limit]:
            seconds = min(cap_seconds, first_seconds * 2 ** min(held.owned.announcements, 20))
            held.announce_at = now + timedelta(seconds=seconds)
            held.owned = replace(held.owned, announcements=held.owned.announcements + 1)
            claimed.append(self._current(held.owned))
        return claimed

    async def claim_delayed(
        self,
        *,
        accepted_before: datetime,
        spared: tuple[datetime, datetime],
        now: datetime,
        limit: int,
    ) -> Sequence[OwnedMovement]:
        spared_since, spared_until = spared
        late = [
            held
            for held in self._state.movements.values()
            if held.owned.movement.kind is MovementKind.PAYMENT
            and held.owned.posted_at is None
            and held.owned.delayed_at is None
            and held.owned.status is not MovementStatus.RETURNED
            and held.owned.movement.accepted_at <= accepted_before
            and not (
                held.owned.status is MovementStatus.ANNOUNCED
                and spared_since < held.owned.movement.accepted_at <= spared_until
            )
        ]
        claimed = []
        for held in sorted(late, key=lambda h: h.owned.movement.accepted_at)[:limit]:
            held.owned = replace(held.owned, delayed_at=now)
            claimed.append(self._current(held.owned))
        return claimed

    def _after(self, owned: OwnedMovement, heard: Heard) -> OwnedMovement:
        owned = replace(
            owned,
            cis_reference=heard.cis_reference or owned.cis_reference,
            balance_after_cents=(
                owned.balance_after_cents
                if heard.balance_after_cents is None
                else heard.balance_after_cents
            ),
        )
        if heard.status is MovementStatus.POSTED:
            status = owned.status
            if status not in ENDED:
                is_told = owned.confirmed_at is not None
                status = MovementStatus.CONFIRMED if is_told else MovementStatus.POSTED
            posted_at = owned.posted_at or heard.at
            return replace(owned, status=status, posted_at=posted_at, wait_reason=None)
        if owned.posted_at is not None:
            return replace(owned, wait_reason=None)
        if owned.status in ENDED or heard.status is MovementStatus.ANNOUNCED:
            return replace(owned, wait_reason=heard.reason)
        return replace(owned, status=heard.status, wait_reason=heard.reason)

    def _payment(self, payment_id: UUID) -> Payment:
        names = {name for (_, name), held in self._state.references.items() if held == payment_id}
        return replace(self._state.payments[payment_id], references=frozenset(names))

    def _current(self, owned: OwnedMovement) -> OwnedMovement:
        return replace(owned, payment=self._payment(owned.payment.id))


class InMemoryStore:
    """See `payment_intake.ports.Store`; one transaction at a time, all of it or nothing."""

    def __init__(self, *, announce_again_seconds: float = 30.0) -> None:
        self.state = State()
        self._announce_again = timedelta(seconds=announce_again_seconds)
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[InMemoryUnitOfWork]:
        async with self._turn:
            state = deepcopy(self.state)
            yield InMemoryUnitOfWork(state, self._announce_again)
            self.state = state

    async def hear(self, heard: Sequence[Heard]) -> Sequence[tuple[UUID, MovementKind, datetime]]:
        async with self.transaction() as unit:
            return await unit.hear(heard)

    async def tell(self, told: Sequence[Told]) -> Sequence[tuple[UUID, MovementKind, datetime]]:
        async with self.transaction() as unit:
            return await unit.tell(told)

    async def keep_rejected(self, rejected: Rejected) -> None:
        self.state.rejected.append(rejected)

    async def rejections(self, *, limit: int) -> Sequence[Rejected]:
        return sorted(self.state.rejected, key=lambda each: each.id, reverse=True)[:limit]

    async def payment(self, payment_id: UUID) -> PaymentView | None:
        return self._view(payment_id) if payment_id in self.state.payments else None

    async def payment_by_reference(self, *, processor: str, reference: str) -> PaymentView | None:
        payment_id = self.state.references.get((processor, reference))
        return self._view(payment_id) if payment_id else None

    async def payments_of_account(
        self, *, account_id: str, before: UUID | None, limit: int
    ) -> Sequence[PaymentView]:
        found = [each for each in self.state.payments.values() if each.account_id == account_id]
        found.sort(key=lambda payment: (payment.created_at, payment.id), reverse=True)
        if before is not None:
            found = found[[payment.id for payment in found].index(before) + 1 :]
        return [self._view(payment.id) for payment in found[:limit]]

    async def backlog(self, *, now: datetime) -> Sequence[tuple[str, int, float]]:
        backlog = []
        for status in sorted(str(each) for each in MovementStatus if each not in ENDED):
            since = [
                held.owned.movement.accepted_at
                for held in self.state.movements.values()
                if held.announce_at is not None and held.owned.status == status
            ]
            age_seconds = (now - min(since)).total_seconds() if since else 0.0
            backlog.append((status, len(since), age_seconds))
        return backlog

    async def charge(self, charge_id: UUID) -> ChargeView | None:
        charge = self.state.charges.get(charge_id)
        if charge is None:
            return None
        return ChargeView(
            charge=charge,
            payment_id=self.state.references.get((charge.processor or "", charge.name)),
            calls=[call for call in self.state.calls if call.charge_id == charge_id],
        )

    async def charge_backlog(self, *, now: datetime) -> Sequence[tuple[str, int, float]]:
        backlog = []
        for status in sorted(str(each) for each in UNSETTLED):
            since = [c.created_at for c in self.state.charges.values() if c.status == status]
            age_seconds = (now - min(since)).total_seconds() if since else 0.0
            backlog.append((status, len(since), age_seconds))
        return backlog

    def _view(self, payment_id: UUID) -> PaymentView:
        unit = InMemoryUnitOfWork(self.state, self._announce_again)
        payment = unit._payment(payment_id)
        moved = [
            replace(held.owned, payment=payment)
            for held in self.state.movements.values()
            if held.owned.payment.id == payment_id
        ]
        moved.sort(key=lambda owned: (owned.movement.accepted_at, owned.movement.id))
        return PaymentView(payment=payment, status=payment.status, movements=moved)


def _news(owned: OwnedMovement) -> tuple[UUID, MovementKind, datetime]:
    return owned.movement.id, owned.movement.kind, owned.movement.accepted_at

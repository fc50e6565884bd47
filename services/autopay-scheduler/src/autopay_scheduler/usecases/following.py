"""Following what intake states: the end of each charge, and what the processor says of methods."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol
from uuid import UUID

import structlog

from autopay_scheduler.domain.charges import Status
from autopay_scheduler.domain.city import City
from autopay_scheduler.domain.enrolments import ON, EnrolmentRecord, Method
from autopay_scheduler.domain.outcomes import Followed, Outcome, OutcomeKind, follow
from autopay_scheduler.domain.planning import ChargeRecord
from autopay_scheduler.ports.store import Failure, Store, UnitOfWork
from autopay_scheduler.usecases import facts
from autopay_scheduler.usecases.endings import stop
from autopay_scheduler.usecases.planning import reason_label
from shared.clock import Clock
from shared.contracts.autopay import ChargeFailed, ChargeOutcome, StopReason
from shared.contracts.fact import Fact

_log = structlog.get_logger(__name__)


class FollowingMetrics(Protocol):
    """What is counted of outcomes."""

    def charge(self, *, status: str, reason: str) -> None: ...
    def declined(self, *, category: str, next_step: str) -> None: ...
    def stopped(self, *, reason: str) -> None: ...
    def method(self, *, outcome: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class FollowCharges:
    """Brings charges to what intake states of them, each statement once."""

    store: Store
    city: City
    clock: Clock
    metrics: FollowingMetrics

    async def __call__(self, outcomes: Sequence[Outcome]) -> None:
        async with self.store.transaction() as unit:
            following = _Following(unit=unit, city=self.city, now=self.clock())
            await following.follow(outcomes)
        for record in following.changed.values():
            # A decline's code is the processor's word, without bound: counted by its category.
            is_declined = record.status in (Status.RETRYING, Status.FAILED)
            reason = "declined" if is_declined else reason_label(record)
            self.metrics.charge(status=record.status, reason=reason)
        for category, step in following.declines:
            self.metrics.declined(category=category, next_step=step)
        for reason in following.stops:
            self.metrics.stopped(reason=reason)


class _Following:
    """The following of one batch."""

    def __init__(self, *, unit: UnitOfWork, city: City, now: datetime) -> None:
        self._unit = unit
        self._city = city
        self._now = now
        self._stated: list[Fact] = []
        self._enrolments: dict[UUID, EnrolmentRecord] = {}
        self._touched: set[UUID] = set()
        self._failures: list[Failure] = []
        self._again: list[tuple[UUID, str]] = []
        self._stop: dict[UUID, StopReason] = {}
        self.changed: dict[UUID, ChargeRecord] = {}
        self.declines: list[tuple[str, str]] = []
        self.stops: list[str] = []

    async def follow(self, outcomes: Sequence[Outcome]) -> None:
        ids = sorted({outcome.charge_id for outcome in outcomes}, key=str)
        # What is owed, or under way, changes: later due dates of the account follow it.
        await self._unit.plan_charged(ids, at=self._now)
        locked = await self._unit.lock_charges(ids)
        held = {record.id: record for record, _ in locked}
        self._enrolments = {enrolment.id: enrolment for _, enrolment in locked}
        for outcome in outcomes:
            record = held.get(outcome.charge_id)
            if record is None:
                _log.error("charge.unknown", charge_id=str(outcome.charge_id), kind=outcome.kind)
                continue
            enrolment = self._enrolments[record.enrolment_id]
            followed = follow(
                record,
                outcome,
                is_bank_debit=_is_bank_debit(enrolment),
                city=self._city,
                now=self._now,
            )
            if outcome.kind is OutcomeKind.DISPUTED:
                self._stop[enrolment.id] = "disputed"
            if followed is None:
                continue
            if followed.is_told_again and outcome.decline is not None:
                self._again.append((record.id, outcome.decline.id))
                continue
            held[record.id] = self.changed[record.id] = followed.record
            self._say(record, followed, outcome, enrolment)
        await self._write()

    def _say(
        self,
        before: ChargeRecord,
        followed: Followed,
        outcome: Outcome,
        enrolment: EnrolmentRecord,
    ) -> None:
        record = followed.record
        if followed.following is not None and outcome.decline is not None:
            self._say_decline(followed, outcome, enrolment)
        elif record.status is not before.status:
            amount_cents = outcome.amount_cents
            match record.status:
                case Status.PAID:
                    self._closed(record, enrolment, "paid", amount_cents)
                    self._count_given_up(enrolment, 0)
                case Status.REFUNDED:
                    self._closed(record, enrolment, "refunded", amount_cents)
                case Status.CANCELLED:
                    self._closed(record, enrolment, "cancelled", 0)
                case Status.MISSED:
                    self._closed(record, enrolment, "missed", 0)
                case _:
                    pass

    def _say_decline(
        self, followed: Followed, outcome: Outcome, enrolment: EnrolmentRecord
    ) -> None:
        assert followed.following is not None
        assert outcome.decline is not None
        step = followed.following.step
        self.declines.append((outcome.decline.category, step))
        if outcome.payment_id is not None:
            fact = facts.failed(
                followed.record,
                enrolment,
                payment_id=outcome.payment_id,
                decline=outcome.decline,
                following=followed.following,
                amount_cents=outcome.amount_cents,
                at=self._now,
            )
            self._stated.append(fact)
            self._failures.append(
                Failure(
                    charge_id=followed.record.id,
                    decline=outcome.decline.id,
                    document=fact.model_dump_json(),
                    at=self._now,
                )
            )
        if followed.is_aftermath:
            return
        match step:
            case "stop":
                is_withdrawn = outcome.decline.category == "withdrawn"
                self._stop[enrolment.id] = (
                    "mandate_withdrawn" if is_withdrawn else "declined_for_good"
                )
            case "give_up":
                given_up = self._enrolments[enrolment.id].given_up + 1
                self._count_given_up(enrolment, given_up)
                if given_up >= self._city.given_up_max:
                    self._stop.setdefault(enrolment.id, "declined_too_often")
            case _:
                pass

    def _closed(
        self,
        record: ChargeRecord,
        enrolment: EnrolmentRecord,
        outcome: ChargeOutcome,
        amount_cents: int,
    ) -> None:
        self._stated.append(
            facts.closed(
                record, enrolment, outcome=outcome, amount_cents=amount_cents, at=self._now
            )
        )

    def _count_given_up(self, enrolment: EnrolmentRecord, given_up: int) -> None:
        held = self._enrolments[enrolment.id]
        if held.given_up != given_up:
            self._enrolments[enrolment.id] = replace(held, given_up=given_up)
            self._touched.add(enrolment.id)

    async def _write(self) -> None:
        unit = self._unit
        if self.changed:
            await unit.save_charges(list(self.changed.values()))
            await unit.note_posted(
                [each.payment_id for each in self.changed.values() if each.payment_id]
            )
        if self._touched:
            await unit.save_enrolments(
                [self._enrolments[key] for key in sorted(self._touched, key=str)]
            )
        await unit.keep_failures(self._failures)
        # Who tells of a decline again has not heard what follows from it.
        self._stated += [
            ChargeFailed.model_validate_json(document)
            for document in await unit.failures(self._again)
        ]
        if self._stated:
            await unit.state([facts.recorded(fact) for fact in self._stated])
        for reason in sorted(set(self._stop.values())):
            records = [
                self._enrolments[key]
                for key, why in self._stop.items()
                if why == reason and self._enrolments[key].status in ON
            ]
            await stop(unit, records, reason=reason, said_at=self._now, now=self._now)
            self.stops.extend(reason for _ in records)


def _is_bank_debit(enrolment: EnrolmentRecord) -> bool:
    held = enrolment.enrolment
    return held is not None and held.method.kind == "us_bank_account"


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodNews:
    """What a processor says of a payment method."""

    processor: str
    token: str
    is_withdrawn: bool
    at: datetime
    label: str | None = None
    last4: str | None = None
    expires: str | None = None


@dataclass(frozen=True, kw_only=True)
class FollowMethods:
    """Keeps methods' new particulars; stops enrolments whose mandate was withdrawn."""

    store: Store
    clock: Clock
    metrics: FollowingMetrics

    async def __call__(self, news: Sequence[MethodNews]) -> None:
        now = self.clock()
        async with self.store.transaction() as unit:
            outcomes = [await self._follow(unit, each, now) for each in news]
        for outcome in outcomes:
            self.metrics.method(outcome=outcome)

    async def _follow(self, unit: UnitOfWork, news: MethodNews, now: datetime) -> str:
        found = await unit.enrolments_by_method(processor=news.processor, token=news.token)
        if not found:
            return "unknown"
        if news.is_withdrawn:
            await stop(unit, found, reason="mandate_withdrawn", said_at=news.at, now=now)
            return "withdrawn"
        changed = [
            replace(
                record,
                enrolment=replace(record.enrolment, method=_updated(record.enrolment.method, news)),
            )
            for record in found
            if record.enrolment is not None and not _is_old(record.enrolment.method, news)
        ]
        if changed:
            await unit.save_enrolments(changed)
        return "updated" if changed else "outdated"


def _is_old(method: Method, news: MethodNews) -> bool:
    """Return whether it was said before what is known: a card's validity is only prolonged."""
    return bool(news.expires and method.expires and news.expires < method.expires)


def _updated(method: Method, news: MethodNews) -> Method:
    return replace(
        method,
        label=news.label or method.label,
        last4=news.last4 or method.last4,
        expires=news.expires or method.expires,
    )

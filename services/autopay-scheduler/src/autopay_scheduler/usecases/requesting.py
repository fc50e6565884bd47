"""Asking for the charge on its day, asking again, and closing what cannot be asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Protocol

import structlog

from autopay_scheduler.domain.amounts import Charge, Hold, Limits, Skip
from autopay_scheduler.domain.charges import (
    Miss,
    Status,
    Wait,
    decide,
    is_lost,
    valid_until,
)
from autopay_scheduler.domain.city import City
from autopay_scheduler.domain.enrolments import ON, EnrolmentRecord
from autopay_scheduler.domain.notices import is_owed
from autopay_scheduler.domain.planning import ChargeRecord
from autopay_scheduler.ports.store import Announce, DueCharge, Store
from autopay_scheduler.usecases import facts
from autopay_scheduler.usecases.planning import reason_label
from shared.contracts.autopay import ChargeOutcome
from shared.contracts.fact import Fact

_log = structlog.get_logger(__name__)

_OUTCOMES: Mapping[Status, ChargeOutcome] = {
    Status.SKIPPED: "skipped",
    Status.MISSED: "missed",
    Status.CANCELLED: "cancelled",
}


class RequestingMetrics(Protocol):
    """What is counted of requests."""

    def charge(self, *, status: str, reason: str) -> None: ...
    def requested(self, *, attempt: int, lateness_seconds: float) -> None: ...
    def restated(self, *, what: str, count: int) -> None: ...
    def undecidable(self, *, what: str) -> None: ...


UNDECIDABLE_AGAIN = timedelta(hours=1)
"""When what failed by a defect is looked at again: it is on the alarm by then."""


@dataclass(frozen=True, kw_only=True)
class RequestCharges:
    """Asks intake for the charges whose moment has come, first attempts and later ones."""

    store: Store
    city: City
    metrics: RequestingMetrics
    restate_after_seconds: float

    async def __call__(self, *, now: datetime, limit: int) -> int:
        """Return how many charges were looked at; none while an operator has paused all."""
        async with self.store.transaction() as unit:
            due = await unit.claim_due(now=now, limit=limit)
            asked_cents: dict[str, int] = {}
            changed: list[ChargeRecord] = []
            stated: list[Fact] = []
            for each in due:
                # Two due dates of one account in one batch: the second knows of the first.
                before = asked_cents.get(each.record.account_id, 0)
                record, fact = self._decide_or_put_off(each, before, now)
                if record.status is Status.REQUESTED:
                    asked_cents[record.account_id] = before + (record.requested_cents or 0)
                changed.append(record)
                if fact is not None:
                    stated.append(fact)
            if due:
                await unit.save_charges(changed)
                await unit.state([facts.recorded(fact) for fact in stated])
        for each, record in zip(due, changed, strict=True):
            self._count(each, record, now)
        return len(due)

    def _decide_or_put_off(
        self, due: DueCharge, asked_cents: int, now: datetime
    ) -> tuple[ChargeRecord, Fact | None]:
        try:
            return self._decide(due, asked_cents, now)
        except Exception:
            # A defect in one charge's decision holds up no other's, of the same batch or a later.
            _log.exception("charge.undecidable", charge_id=str(due.record.id))
            self.metrics.undecidable(what="request")
            return replace(due.record, act_at=now + UNDECIDABLE_AGAIN), None

    def _decide(
        self, due: DueCharge, asked_cents: int, now: datetime
    ) -> tuple[ChargeRecord, Fact | None]:
        record, enrolment = due.record, due.enrolment
        held = enrolment.enrolment
        if (ended := ended_by_others(due, now)) is not None:
            return ended
        assert held is not None
        calendar = self.city.calendar
        today = calendar.today(now=now)
        is_retry = record.status is Status.RETRYING
        decision = decide(
            limits=held.rule.limits,
            owed=replace(due.owed, open_cents=due.owed.open_cents + asked_cents),
            announcements=due.announcements,
            is_paused=held.is_paused(on=today),
            has_old_draft=due.has_old_draft,
            charge_on=record.charge_on,
            due_date=record.due_date,
            today=today,
            notice=self.city.notice,
            late_grace_days=self.city.late_grace_days,
            least_cents=self.city.least_cents,
            limit_cents=self.city.limit_cents,
            asked_cents=record.requested_cents if is_retry else None,
        )
        lost = None if is_retry else self._why_notice_is_lost(due, held.rule.limits, today)
        if lost is not None and not isinstance(decision, Skip):
            # Who need not be charged does not hear that a charge was missed.
            return _closed(record, enrolment, Status.MISSED, lost.reason, now)
        match decision:
            case Charge(amount_cents):
                return self._requested(record, enrolment, amount_cents, now)
            case Skip("charge_under_way"):
                # Another one of the account is with intake: what is left is known when it ended.
                return replace(record, act_at=now + timedelta(hours=1)), None
            case Skip(reason):
                return _closed(record, enrolment, Status.SKIPPED, reason, now)
            case Hold(amount_cents, maximum_cents):
                asked = replace(
                    record,
                    status=Status.HELD,
                    reason=f"above_maximum:{maximum_cents}",
                    amount_cents=amount_cents,
                    act_at=calendar.instant_of(record.due_date + timedelta(days=1)),
                )
                return asked, facts.held(asked, enrolment, maximum_cents=maximum_cents, at=now)
            case Wait("day_not_come"):
                return replace(record, act_at=calendar.instant_of(record.charge_on)), None
            case Wait(reason):
                tomorrow = calendar.instant_of(today + timedelta(days=1))
                return replace(record, reason=reason, act_at=tomorrow), None
            case Miss(reason):
                return _closed(record, enrolment, Status.MISSED, reason, now)

    def _why_notice_is_lost(self, due: DueCharge, limits: Limits, today: date) -> Miss | None:
        if not is_owed(limits):
            return None
        if due.is_undeliverable and not self.city.notice.charge_unnotified:
            return Miss("notice_not_delivered")
        is_too_late = today <= due.record.charge_on and is_lost(
            limits=limits,
            announcements=due.announcements,
            charge_on=due.record.charge_on,
            today=today,
            notice=self.city.notice,
            late_grace_days=self.city.late_grace_days,
        )
        return Miss("notice_not_kept") if is_too_late else None

    def _requested(
        self,
        record: ChargeRecord,
        enrolment: EnrolmentRecord,
        amount_cents: int,
        now: datetime,
    ) -> tuple[ChargeRecord, Fact]:
        assert enrolment.enrolment is not None
        method = enrolment.enrolment.method
        asked = replace(
            record,
            status=Status.REQUESTED,
            reason=None,
            attempt=record.attempt + 1,
            first_attempt_on=record.first_attempt_on or self.city.calendar.today(now=now),
            requested_cents=amount_cents,
            requested_at=now,
            # By its day and not by when it is looked at: waiting does not prolong the grace.
            valid_until=valid_until(
                charge_at=self.city.calendar.instant_of(record.charge_on),
                late_grace_days=self.city.late_grace_days,
            ),
            processor=method.processor,
            payment_method_token=method.token,
            customer_token=method.customer_token,
            mandate_token=method.mandate_token,
            act_at=now + timedelta(seconds=self.restate_after_seconds),
        )
        return asked, facts.requested(asked, enrolment)

    def _count(self, due: DueCharge, record: ChargeRecord, now: datetime) -> None:
        if record.status is due.record.status:
            return
        self.metrics.charge(status=record.status, reason=reason_label(record))
        if record.status is Status.REQUESTED:
            lateness = now - self.city.calendar.instant_of(due.record.charge_on)
            self.metrics.requested(
                attempt=record.attempt, lateness_seconds=lateness.total_seconds()
            )
        if record.status is Status.MISSED:
            _log.error("charge.missed", charge_id=str(record.id), reason=record.reason)


@dataclass(frozen=True, kw_only=True)
class RestateRequests:
    """States requests, and cancellations, again of which intake has said nothing."""

    store: Store
    announce: Announce
    metrics: RequestingMetrics
    first_seconds: float
    cap_seconds: float

    async def __call__(self, *, now: datetime, limit: int) -> int:
        if self.announce.was_behind(within_seconds=self.first_seconds):
            return 0
        async with self.store.transaction() as unit:
            unheard = await unit.claim_unheard(
                now=now,
                limit=limit,
                first_seconds=self.first_seconds,
                cap_seconds=self.cap_seconds,
            )
            stated: list[Fact] = []
            for record, enrolment in unheard:
                if record.cancelled_at is not None:
                    # First: a request that was lost is not to be heard without it.
                    stated.append(facts.cancelled(record, enrolment))
                stated.append(facts.requested(record, enrolment))
            await unit.state([facts.recorded(fact) for fact in stated])
        self.metrics.restated(what="request", count=len(unheard))
        return len(unheard)


@dataclass(frozen=True, kw_only=True)
class CloseHeld:
    """Closes charges that were held above the customer's maximum when their bill was due."""

    store: Store
    metrics: RequestingMetrics

    async def __call__(self, *, now: datetime, limit: int) -> int:
        async with self.store.transaction() as unit:
            held = await unit.claim_held(now=now, limit=limit)
            ended = [self._end(each, now) for each in held]
            if held:
                await unit.save_charges([record for record, _ in ended])
                await unit.state([facts.recorded(fact) for _, fact in ended])
        for record, _ in ended:
            self.metrics.charge(status=record.status, reason=reason_label(record))
        return len(held)

    def _end(self, due: DueCharge, now: datetime) -> tuple[ChargeRecord, Fact]:
        if (ended := ended_by_others(due, now)) is not None:
            return ended
        owed = due.owed
        left = owed.statement_cents - owed.paid_since_cents
        if owed.balance_cents is not None:
            left = min(left, owed.balance_cents)
        if left <= 0:
            return _closed(due.record, due.enrolment, Status.SKIPPED, "paid", now)
        return _closed(due.record, due.enrolment, Status.MISSED, "above_maximum", now)


def ended_by_others(due: DueCharge, now: datetime) -> tuple[ChargeRecord, Fact] | None:
    """Return how a charge ended whose enrolment is off, or whose bill asks for it no more.

    Planning finds out as well, a moment later: what became of the bill is not waited for.
    """
    record, enrolment = due.record, due.enrolment
    if enrolment.status not in ON or enrolment.enrolment is None:
        return _closed(record, enrolment, Status.CANCELLED, enrolment.reason or "stopped", now)
    if due.unbilled is not None:
        return _closed(record, enrolment, Status.SKIPPED, due.unbilled, now)
    return None


def _closed(
    record: ChargeRecord,
    enrolment: EnrolmentRecord,
    status: Status,
    reason: str,
    now: datetime,
) -> tuple[ChargeRecord, Fact]:
    ended = replace(record, status=status, reason=reason, act_at=None, closed_at=now)
    outcome = _OUTCOMES[status]
    return ended, facts.closed(ended, enrolment, outcome=outcome, amount_cents=0, at=now)

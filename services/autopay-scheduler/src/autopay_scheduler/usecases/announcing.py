"""Announcing: the customer is told before money moves, and what became of the notice is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Protocol
from uuid import UUID

import structlog

from autopay_scheduler.domain.charges import Status
from autopay_scheduler.domain.city import City
from autopay_scheduler.domain.enrolments import EnrolmentRecord
from autopay_scheduler.domain.expiry import last_good_day, warning_due
from autopay_scheduler.domain.notices import Announce as ToAnnounce
from autopay_scheduler.domain.notices import Announcement, TooLate, announcement
from autopay_scheduler.domain.planning import ChargeRecord
from autopay_scheduler.ports.store import (
    Announce,
    DueCharge,
    NewAnnouncement,
    Noticed,
    Store,
)
from autopay_scheduler.usecases import facts
from autopay_scheduler.usecases.planning import reason_label
from autopay_scheduler.usecases.requesting import UNDECIDABLE_AGAIN, ended_by_others
from shared.clock import Clock
from shared.contracts.fact import Fact

_log = structlog.get_logger(__name__)


class AnnouncingMetrics(Protocol):
    """What is counted of announcements."""

    def charge(self, *, status: str, reason: str) -> None: ...
    def notice_asked(self, *, anew: bool) -> None: ...
    def noticed(self, *, outcome: str, count: int) -> None: ...
    def restated(self, *, what: str, count: int) -> None: ...
    def undecidable(self, *, what: str) -> None: ...
    def expiring(self, *, days: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class AnnounceCharges:
    """Announces planned charges, or says at once that no notice can be kept."""

    store: Store
    city: City
    metrics: AnnouncingMetrics
    restate_after_seconds: float

    async def __call__(self, *, now: datetime, limit: int) -> int:
        async with self.store.transaction() as unit:
            planned = await unit.claim_planned(now=now, limit=limit)
            changed: list[ChargeRecord] = []
            stated: list[Fact] = []
            told: list[NewAnnouncement] = []
            for due in planned:
                record, new, fact = self._announce_or_put_off(due, now)
                changed.append(record)
                if new is not None:
                    told.append(new)
                if fact is not None:
                    stated.append(fact)
            if planned:
                await unit.save_charges(changed)
                await unit.announce_charges(told)
                await unit.state([facts.recorded(fact) for fact in stated])
        for record in changed:
            self.metrics.charge(status=record.status, reason=reason_label(record))
        for new in told:
            self.metrics.notice_asked(anew=new.announcement.version > 1)
        return len(planned)

    def _announce_or_put_off(
        self, due: DueCharge, now: datetime
    ) -> tuple[ChargeRecord, NewAnnouncement | None, Fact | None]:
        try:
            return self._announce(due, now)
        except Exception:
            # A defect in one charge's notice holds up no other's.
            _log.exception("charge.undecidable", charge_id=str(due.record.id))
            self.metrics.undecidable(what="announcement")
            return replace(due.record, act_at=now + UNDECIDABLE_AGAIN), None, None

    def _announce(
        self, due: DueCharge, now: datetime
    ) -> tuple[ChargeRecord, NewAnnouncement | None, Fact | None]:
        record, enrolment = due.record, due.enrolment
        held = enrolment.enrolment
        if (found := ended_by_others(due, now)) is not None:
            return found[0], None, found[1]
        assert held is not None
        today = self.city.calendar.today(now=now)
        earlier = due.announcements[-1] if due.announcements else None
        decided = announcement(
            amount_cents=record.amount_cents,
            earlier=earlier,
            limits=held.rule.limits,
            charge_on=record.charge_on,
            due_date=record.due_date,
            today=today,
            rule=self.city.notice,
            calendar=self.city.calendar,
        )
        match decided:
            case TooLate():
                ended = replace(
                    record,
                    status=Status.MISSED,
                    reason="notice_too_short",
                    act_at=None,
                    closed_at=now,
                )
                fact = facts.closed(ended, enrolment, outcome="missed", amount_cents=0, at=now)
                return ended, None, fact
            case None:
                # Not before the day that was announced, nor before the one chosen since.
                told_on = earlier.charge_on if earlier is not None else record.charge_on
                return self._waiting(record, max(told_on, record.charge_on)), None, None
            case ToAnnounce():
                return self._told(record, enrolment, decided, earlier, today, now)

    def _told(
        self,
        record: ChargeRecord,
        enrolment: EnrolmentRecord,
        decided: ToAnnounce,
        earlier: Announcement | None,
        today: date,
        now: datetime,
    ) -> tuple[ChargeRecord, NewAnnouncement, Fact]:
        stated = Announcement(
            version=earlier.version + 1 if earlier is not None else 1,
            amount_cents=decided.amount_cents,
            left_cents=decided.left_cents,
            charge_on=decided.charge_on,
            announced_on=today,
            noticed_on=None,
        )
        waiting = self._waiting(record, decided.charge_on)
        fact = facts.announced(waiting, enrolment, stated, at=now)
        new = NewAnnouncement(
            charge_id=record.id,
            announcement=stated,
            fact_id=fact.id(),
            announced_at=now,
            restate_at=now + timedelta(seconds=self.restate_after_seconds),
        )
        return waiting, new, fact

    def _waiting(self, record: ChargeRecord, day: date) -> ChargeRecord:
        return replace(
            record,
            status=Status.ANNOUNCED,
            reason=None,
            charge_on=day,
            act_at=self.city.calendar.instant_of(day),
        )


@dataclass(frozen=True, kw_only=True)
class RestateAnnouncements:
    """States announcements again of which notifier has said nothing, so that none is lost."""

    store: Store
    announce: Announce
    metrics: AnnouncingMetrics
    first_seconds: float
    cap_seconds: float

    async def __call__(self, *, now: datetime, limit: int) -> int:
        if self.announce.was_behind(within_seconds=self.first_seconds):
            return 0
        async with self.store.transaction() as unit:
            stale = await unit.claim_unnoticed(
                now=now,
                limit=limit,
                first_seconds=self.first_seconds,
                cap_seconds=self.cap_seconds,
            )
            await unit.state(
                [
                    facts.recorded(
                        facts.announced(
                            each.record, each.enrolment, each.announcement, at=each.announced_at
                        )
                    )
                    for each in stale
                ]
            )
        self.metrics.restated(what="announcement", count=len(stale))
        return len(stale)


@dataclass(frozen=True, kw_only=True)
class KeepNotices:
    """Keeps what became of telling customers of announcements."""

    store: Store
    clock: Clock
    metrics: AnnouncingMetrics

    async def __call__(self, noticed: Sequence[Noticed]) -> None:
        async with self.store.transaction() as unit:
            await unit.notice(noticed, now=self.clock())
        for each in noticed:
            self.metrics.noticed(outcome=each.status, count=1)


@dataclass(frozen=True, kw_only=True)
class WarnOfExpiry:
    """Warns customers that their card is good for so many days only, each warning once."""

    store: Store
    city: City
    metrics: AnnouncingMetrics

    async def __call__(self, *, now: datetime, limit: int, after: UUID | None) -> UUID | None:
        """Look at one page of enrolments; return where the next page begins, None at the end."""
        today = self.city.calendar.today(now=now)
        days = self.city.expiry_warning_days
        until = f"{today + timedelta(days=max(days)):%Y-%m}"
        async with self.store.transaction() as unit:
            page = await unit.claim_expiring(until=until, after=after, limit=limit)
            due: list[tuple[EnrolmentRecord, str, int]] = []
            for record, given in page:
                expires = record.enrolment.method.expires if record.enrolment else None
                warning = expires and warning_due(expires=expires, today=today, warning_days=days)
                if expires and warning and warning not in given:
                    due.append((record, expires, warning))
            are_new = await unit.keep_warnings(
                [(record.id, expires, warning) for record, expires, warning in due], now=now
            )
            fresh = [each for each, is_new in zip(due, are_new, strict=True) if is_new]
            await unit.state(
                [
                    facts.recorded(
                        facts.expiring(
                            record.enrolment,
                            expires_on=last_good_day(expires),
                            days_left=warning,
                            at=now,
                        )
                    )
                    for record, expires, warning in fresh
                    if record.enrolment is not None
                ]
            )
        for _, _, warning in fresh:
            self.metrics.expiring(days=warning)
        return page[-1][0].id if len(page) == limit else None

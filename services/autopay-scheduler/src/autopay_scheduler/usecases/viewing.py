"""What may be looked at: an account, a day to come, the figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from autopay_scheduler.domain.amounts import Skip
from autopay_scheduler.domain.charges import Decision, Status, decide
from autopay_scheduler.domain.city import City
from autopay_scheduler.domain.enrolments import ON
from autopay_scheduler.ports.store import AccountView, DueCharge, Report, Store, SwitchState
from shared.clock import Clock

REPORT_DAYS = 30

_UNDECIDED = frozenset({Status.PLANNED, Status.ANNOUNCED, Status.RETRYING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """A charge of a day, and what would be decided about it on that day as things stand now."""

    due: DueCharge
    decision: Decision | None
    """None where it is decided already."""


@dataclass(frozen=True, kw_only=True)
class ViewAutopay:
    """Answers questions; changes nothing."""

    store: Store
    city: City
    clock: Clock

    async def account(self, account_id: str) -> AccountView | None:
        """Return everything about one account's autopay; None where nothing is known of it."""
        return await self.store.account(account_id)

    async def preview(
        self, *, day: date, after: tuple[str, str] | None, limit: int
    ) -> Sequence[Foreseen]:
        """Return a page of the charges of a day with what would be decided about each."""
        page = await self.store.preview(day=day, after=after, limit=limit)
        return [Foreseen(due=due, decision=self._decision(due, day)) for due in page]

    async def report(self, *, since: date | None) -> tuple[date, Report]:
        """Return the figures since a day, by default of the last thirty days."""
        now = self.clock()
        day = since or self.city.calendar.today(now=now) - timedelta(days=REPORT_DAYS)
        return day, await self.store.report(since=day, now=now)

    async def switch(self) -> SwitchState:
        """Return whether charges are asked for, and since when it is so."""
        return await self.store.switch_state()

    def _decision(self, due: DueCharge, day: date) -> Decision | None:
        record, held = due.record, due.enrolment.enrolment
        if record.status not in _UNDECIDED or held is None or due.enrolment.status not in ON:
            return None
        if due.unbilled is not None:
            return Skip(due.unbilled)
        is_retry = record.status is Status.RETRYING
        return decide(
            limits=held.rule.limits,
            owed=due.owed,
            announcements=due.announcements,
            is_paused=held.is_paused(on=day),
            has_old_draft=due.has_old_draft,
            charge_on=record.charge_on,
            due_date=record.due_date,
            today=max(day, record.charge_on),
            notice=self.city.notice,
            late_grace_days=self.city.late_grace_days,
            least_cents=self.city.least_cents,
            limit_cents=self.city.limit_cents,
            asked_cents=record.requested_cents if is_retry else None,
        )

"""What an account's bills, enrolment and payments make of its charges; pure.

Invariant: planning the same situation again changes nothing, so it may run at any time, twice, or
on two machines. A charge that intake was asked for is never planned again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import lru_cache
from uuid import UUID

from autopay_scheduler.domain.amounts import Charge, Hold, Owed, Skip, Verdict, judge
from autopay_scheduler.domain.charges import Status, charge_id
from autopay_scheduler.domain.city import City
from autopay_scheduler.domain.days import charge_day
from autopay_scheduler.domain.enrolments import Enrolment

REPLANNED = frozenset({Status.PLANNED, Status.ANNOUNCED, Status.HELD, Status.SKIPPED})
"""What planning may still change, as long as intake was never asked for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BillState:
    """An open bill, and what was paid since it was stated."""

    bill_reference: str
    due_date: date
    statement_cents: int
    paid_since_cents: int
    currency: str
    stated_at: datetime
    has_old_draft: bool = False
    """Whether the old portal still drafts this due date."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeRecord:
    """A charge as it is kept."""

    id: UUID
    enrolment_id: UUID
    account_id: str
    bill_reference: str
    due_date: date
    planned_on: date
    chosen_on: date
    """The day by the customer's rule."""
    charge_on: date
    """The day on which it is made, or presented again: the notice may put it off."""
    amount_cents: int
    currency: str
    status: Status
    reason: str | None = None
    act_at: datetime | None = None
    attempt: int = 0
    first_attempt_on: date | None = None
    requested_cents: int | None = None
    requested_at: datetime | None = None
    valid_until: datetime | None = None
    processor: str | None = None
    payment_method_token: str | None = None
    customer_token: str | None = None
    mandate_token: str | None = None
    cancelled_at: datetime | None = None
    payment_id: UUID | None = None
    declines: tuple[str, ...] = ()
    paid_cents: int | None = None
    closed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that planning needs to know of one account."""

    account_id: str
    enrolment: Enrolment
    taken_on: date
    """The city's day on which the enrolment came: bills due before it are none of its business."""
    bills: Sequence[BillState]
    charges: Mapping[UUID, ChargeRecord]
    """Of the enrolment, those that are open or not past."""
    balance_cents: int | None
    open_cents: int


def plan(situation: Situation, *, now: datetime, city: City) -> list[ChargeRecord]:
    """Return the charges that are new or changed; the rest stays as it is."""
    today = city.calendar.today(now=now)
    changed: list[ChargeRecord] = []
    wanted: set[UUID] = set()
    open_cents = situation.open_cents
    for bill in _one_for_each_due_date(situation.bills):
        if bill.due_date < situation.taken_on:
            continue
        key = charge_id(enrolment_id=situation.enrolment.id, due_date=bill.due_date)
        wanted.add(key)
        known = situation.charges.get(key)
        if known is not None and (known.status not in REPLANNED or known.attempt > 0):
            continue
        planned = _planned(key, bill, known, situation, open_cents, today, now, city)
        if planned.status in (Status.PLANNED, Status.ANNOUNCED):
            # What an earlier due date will take is not announced for a later one as well.
            open_cents += planned.amount_cents
        if planned != known:
            changed.append(planned)
    for key, known in situation.charges.items():
        if key not in wanted and _is_superseded(known, situation):
            changed.append(_superseded(known, situation, now))
    return changed


def _one_for_each_due_date(bills: Sequence[BillState]) -> Sequence[BillState]:
    """Return the bills by due date; of two that are due on one day, the one that was stated last.

    They are one charge, and a bill's total takes in what was left of the one before it.
    """
    if len(bills) <= 1:
        return bills
    by_due_date = {
        bill.due_date: bill
        for bill in sorted(bills, key=lambda each: (each.stated_at, each.bill_reference))
    }
    return [by_due_date[due_date] for due_date in sorted(by_due_date)]


def _planned(
    key: UUID,
    bill: BillState,
    known: ChargeRecord | None,
    situation: Situation,
    open_cents: int,
    today: date,
    now: datetime,
    city: City,
) -> ChargeRecord:
    rule = situation.enrolment.rule
    chosen_on = _charge_day(
        charge_on=rule.charge_on,
        days_before=rule.days_before,
        day_of_month=rule.day_of_month,
        due_date=bill.due_date,
        not_before=known.planned_on if known else today,
        calendar=city.calendar,
    )
    if known is None:
        verdict = _verdict(bill, situation, open_cents, chosen_on, city)
        return _first(key, bill, verdict, situation, chosen_on, today, now, city)
    if _is_over(known, bill, situation, today, city):
        return known
    same_day = known.chosen_on == chosen_on
    charge_on = known.charge_on if same_day else chosen_on
    base = replace(known, bill_reference=bill.bill_reference)
    match _verdict(bill, situation, open_cents, charge_on, city):
        case Skip(reason):
            is_known = base.status is Status.SKIPPED and base.reason == reason
            return base if is_known else _ended(base, Status.SKIPPED, reason, now)
        case Hold() as hold:
            held = _held(base, bill, hold, city)
            is_known = (base.status, base.amount_cents, base.reason) == (
                held.status,
                held.amount_cents,
                held.reason,
            )
            return base if is_known else held
        case Charge(amount_cents):
            is_told = base.status is Status.ANNOUNCED and amount_cents <= base.amount_cents
            is_waiting = base.status is Status.PLANNED and amount_cents == base.amount_cents
            if same_day and (is_told or is_waiting):
                return base
            return replace(
                base,
                status=Status.PLANNED,
                reason=None,
                amount_cents=amount_cents,
                chosen_on=chosen_on,
                charge_on=charge_on,
                act_at=now,
                closed_at=None,
            )


def _first(
    key: UUID,
    bill: BillState,
    verdict: Verdict,
    situation: Situation,
    day: date,
    today: date,
    now: datetime,
    city: City,
) -> ChargeRecord:
    """Return the charge of a due date that is heard of for the first time."""
    if isinstance(verdict, Skip):
        # Nothing was missed where nothing is to be charged, however late it is.
        base = _new(key, bill, situation, day, 0, today, now)
        return _ended(base, Status.SKIPPED, verdict.reason, now)
    if today > day + timedelta(days=city.late_grace_days):
        base = _new(key, bill, situation, day, 0, today, now)
        return _ended(base, Status.MISSED, "late", now)
    planned = _new(key, bill, situation, day, verdict.amount_cents, today, now)
    return planned if isinstance(verdict, Charge) else _held(planned, bill, verdict, city)


def _held(base: ChargeRecord, bill: BillState, hold: Hold, city: City) -> ChargeRecord:
    return replace(
        base,
        status=Status.HELD,
        reason=f"above_maximum:{hold.maximum_cents}",
        amount_cents=hold.amount_cents,
        act_at=city.calendar.instant_of(bill.due_date + timedelta(days=1)),
        closed_at=None,
    )


_charge_day = lru_cache(maxsize=4096)(charge_day)
"""A million bills are due on few days and charged by few rules."""


def _new(
    key: UUID,
    bill: BillState,
    situation: Situation,
    day: date,
    amount_cents: int,
    today: date,
    now: datetime,
) -> ChargeRecord:
    return ChargeRecord(
        id=key,
        enrolment_id=situation.enrolment.id,
        account_id=situation.account_id,
        bill_reference=bill.bill_reference,
        due_date=bill.due_date,
        planned_on=today,
        chosen_on=day,
        charge_on=day,
        amount_cents=amount_cents,
        currency=bill.currency,
        status=Status.PLANNED,
        act_at=now,
    )


def _verdict(
    bill: BillState, situation: Situation, open_cents: int, charge_on: date, city: City
) -> Verdict:
    if bill.has_old_draft:
        return Skip("drafted_by_old_portal")
    if situation.enrolment.is_paused(on=charge_on):
        return Skip("paused_by_customer")
    owed = Owed(
        statement_cents=bill.statement_cents,
        paid_since_cents=bill.paid_since_cents,
        balance_cents=situation.balance_cents,
        open_cents=open_cents,
        is_newest=all(each.due_date <= bill.due_date for each in situation.bills),
    )
    return judge(
        limits=situation.enrolment.rule.limits,
        owed=owed,
        least_cents=city.least_cents,
        limit_cents=city.limit_cents,
    )


def _is_over(
    known: ChargeRecord, bill: BillState, situation: Situation, today: date, city: City
) -> bool:
    """Return whether a skipped charge stays skipped: its day is past, or its bill is paid.

    What is owed on the account by then is a later bill's, which has a day and a notice of its own.
    Where another charge was to cover it and did not, it is looked at all the same: whoever is not
    charged for a due date is told.
    """
    if known.status is not Status.SKIPPED or known.reason == "charge_under_way":
        return False
    if today > known.charge_on + timedelta(days=city.late_grace_days):
        return True
    is_newer = any(each.due_date > bill.due_date for each in situation.bills)
    return is_newer and bill.statement_cents <= bill.paid_since_cents


def _is_superseded(known: ChargeRecord, situation: Situation) -> bool:
    is_ours = known.enrolment_id == situation.enrolment.id
    return is_ours and known.attempt == 0 and known.status in REPLANNED - {Status.SKIPPED}


def _superseded(known: ChargeRecord, situation: Situation, now: datetime) -> ChargeRecord:
    is_moved = any(bill.bill_reference == known.bill_reference for bill in situation.bills)
    reason = "due_date_changed" if is_moved else "bill_cancelled"
    return _ended(known, Status.SKIPPED, reason, now)


def _ended(record: ChargeRecord, status: Status, reason: str, now: datetime) -> ChargeRecord:
    return replace(record, status=status, reason=reason, act_at=None, closed_at=now)

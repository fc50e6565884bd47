"""On which day, and at which instant, a charge is made."""

import calendar
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

_DAY = timedelta(days=1)
CLOSED_DAYS_MAX = 14
"""No country closes its banks for longer: past it the calendar itself is wrong."""


class ChargeOn(StrEnum):
    """Which day the customer chose."""

    DUE_DATE = "due_date"
    DAYS_BEFORE_DUE = "days_before_due"
    DAY_OF_MONTH = "day_of_month"


class BusinessDays(StrEnum):
    """What the city does with a charge that falls on a weekend or a holiday."""

    BEFORE = "before"
    AFTER = "after"
    SAME = "same"


class EndlessClosureError(ValueError):
    """The holiday calendar knows no open day near a date."""

    def __init__(self, *, near: date) -> None:
        super().__init__(f"no open day within {CLOSED_DAYS_MAX} days of {near.isoformat()}")
        self.near = near


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """The city's days: its zone, its closed days, and when in the day it charges."""

    zone: ZoneInfo
    is_closed: Callable[[date], bool]
    """Weekends and holidays."""
    business_days: BusinessDays
    charge_time: time

    def today(self, *, now: datetime) -> date:
        """Return the city's date at an instant."""
        return now.astimezone(self.zone).date()

    def instant_of(self, day: date) -> datetime:
        """Return when charges are made on a day, in UTC.

        On the day on which clocks go forward, a charge time that does not exist is taken by the
        offset before the change (PEP 495, fold 0), which is the same instant an hour later by the
        clock; where it exists twice, the first is meant.
        """
        return datetime.combine(day, self.charge_time, self.zone).astimezone(UTC)


def charge_day(
    *,
    charge_on: ChargeOn,
    days_before: int | None,
    day_of_month: int | None,
    due_date: date,
    not_before: date,
    calendar: Calendar,
) -> date:
    """Return the day on which a bill is charged.

    Never before `not_before`, the day of planning, and never after the due date but by the city's
    rule for closed days. A number of days before that is past already is the day of planning; a
    day of the month that is past already is the due date. Where planning comes after the due date
    itself, that date by the city's rule is returned, as far as the rule does not move it further
    back: whether it may still be charged is for the rule of lateness to say.
    """
    match charge_on:
        case ChargeOn.DUE_DATE:
            chosen = due_date
        case ChargeOn.DAYS_BEFORE_DUE:
            chosen = max(due_date - (days_before or 0) * _DAY, min(not_before, due_date))
        case ChargeOn.DAY_OF_MONTH:
            chosen = last_day_of_month_before(day_of_month or 1, due_date=due_date)
            if chosen < not_before:
                chosen = due_date
    return open_day_between(
        chosen,
        not_before=not_before,
        not_after=latest_day(due_date=due_date, calendar=calendar),
        calendar=calendar,
    )


def latest_day(*, due_date: date, calendar: Calendar) -> date:
    """Return the last day on which a bill is charged in time: a closed due date may move on."""
    return max(due_date, open_day(due_date, calendar=calendar))


def last_day_of_month_before(day_of_month: int, *, due_date: date) -> date:
    """Return the last such day of a month that is not after the due date; 31 is a month's last."""
    this_month = _in_month(due_date, day_of_month)
    if this_month <= due_date:
        return this_month
    return _in_month(due_date.replace(day=1) - _DAY, day_of_month)


def open_day(day: date, *, calendar: Calendar) -> date:
    """Return the day itself where the city is open or does not care, else the one it moves to.

    Raises:
        EndlessClosureError: the calendar has no open day near.
    """
    match calendar.business_days:
        case BusinessDays.SAME:
            return day
        case BusinessDays.BEFORE:
            return _next_open(day, -_DAY, calendar)
        case BusinessDays.AFTER:
            return _next_open(day, _DAY, calendar)


def open_day_between(day: date, *, not_before: date, not_after: date, calendar: Calendar) -> date:
    """Return the open day for a day, where the city's rule may not lead before `not_before`.

    A day that would move before it moves on instead, to the next open day up to `not_after`. Where
    there is none either, it stays where it is: the one way in which a charge comes to be planned
    for a closed day although the city's rule says otherwise.
    """
    moved = open_day(day, calendar=calendar)
    if moved >= not_before or calendar.business_days is not BusinessDays.BEFORE:
        return moved
    later = _next_open(day, _DAY, calendar)
    return later if later <= not_after else day


def open_day_from(day: date, *, calendar: Calendar) -> date:
    """Return the day itself or the next open one, for what must not come any earlier."""
    if calendar.business_days is BusinessDays.SAME:
        return day
    return _next_open(day, _DAY, calendar)


def _next_open(day: date, step: timedelta, calendar: Calendar) -> date:
    found = day
    for _ in range(CLOSED_DAYS_MAX):
        if not calendar.is_closed(found):
            return found
        found += step
    raise EndlessClosureError(near=day)


def _in_month(any_day: date, day_of_month: int) -> date:
    length = calendar.monthrange(any_day.year, any_day.month)[1]
    return any_day.replace(day=min(day_of_month, length))

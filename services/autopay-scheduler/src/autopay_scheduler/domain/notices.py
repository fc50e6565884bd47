"""The advance notice: when it is owed, what it allows, and what happens where it is too late.

Source: Regulation E, 12 CFR 1005.10(d): written notice at least 10 days before a transfer that
varies in amount (1), or a range agreed with the customer within which none is owed (2).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from autopay_scheduler.domain.amounts import AmountRule, Limits
from autopay_scheduler.domain.days import BusinessDays, Calendar, open_day

NOTICE_DAYS_MIN = 10
"""12 CFR 1005.10(d)(1); a city may give more, never less."""


class NoticeStatus(StrEnum):
    """What became of telling the customer of an announcement."""

    WAITING = "waiting"
    SENT = "sent"
    FAILED = "failed"
    SKIPPED = "skipped"
    """There is nobody to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One announcement of a charge, and what became of telling the customer."""

    version: int
    amount_cents: int
    left_cents: int
    charge_on: date
    announced_on: date
    noticed_on: date | None
    """The day on which the mail server took the notice; None while that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeRule:
    """The city's rule."""

    days: int
    charge_unnotified: bool
    """Whether a charge whose notice could not be delivered is made all the same: only where the
    bill itself, on paper, names amount and day."""


@dataclass(frozen=True, slots=True)
class Announce:
    """The customer is to be told of this charge."""

    amount_cents: int
    left_cents: int
    charge_on: date


@dataclass(frozen=True, slots=True)
class TooLate:
    """No notice can be kept before the bill is due."""


def is_owed(limits: Limits) -> bool:
    """Return whether a charge under these limits needs its notice days.

    Not where the amount never varies upward (fixed), nor where the customer agreed on a range by
    setting a maximum. The notice itself is always sent.
    """
    return limits.amount is not AmountRule.FIXED and limits.maximum_cents is None


def announcement(
    *,
    amount_cents: int,
    earlier: Announcement | None,
    limits: Limits,
    charge_on: date,
    due_date: date,
    today: date,
    rule: NoticeRule,
    calendar: Calendar,
) -> Announce | TooLate | None:
    """Return what is to be announced for a charge of this amount; None where nothing new is.

    A charge whose notice would be too short is put off, at most to the due date. A rise that
    cannot be announced in time leaves the charge at what was announced, and says what is left.
    """
    if earlier is not None and amount_cents <= earlier.amount_cents:
        return None
    day = charge_on if earlier is None else max(charge_on, earlier.charge_on)
    if is_owed(limits):
        noticed = _noticed_day(day, today=today, rule=rule, calendar=calendar)
        if noticed > max(due_date, day):
            if earlier is None:
                return TooLate()
            left_cents = amount_cents - earlier.amount_cents
            if left_cents == earlier.left_cents:
                return None
            return Announce(earlier.amount_cents, left_cents, earlier.charge_on)
        day = noticed
    return Announce(amount_cents, 0, day)


def ceiling_cents(
    announcements: Iterable[Announcement], *, limits: Limits, today: date, rule: NoticeRule
) -> int | None:
    """Return the most that may be charged today: what was announced with its notice kept.

    None where nothing may: no announcement is old enough, or none is known to have been sent.
    """
    allowed = [
        each.amount_cents
        for each in announcements
        if not is_owed(limits) or _is_kept(each, today=today, rule=rule)
    ]
    return max(allowed, default=None)


def _is_kept(announcement: Announcement, *, today: date, rule: NoticeRule) -> bool:
    noticed_on = announcement.noticed_on
    if noticed_on is None and rule.charge_unnotified:
        noticed_on = announcement.announced_on
    return noticed_on is not None and noticed_on + timedelta(days=rule.days) <= today


def _noticed_day(day: date, *, today: date, rule: NoticeRule, calendar: Calendar) -> date:
    earliest = today + timedelta(days=rule.days)
    if day >= earliest:
        return day
    moved = open_day(earliest, calendar=calendar)
    # The day before would break the notice again.
    is_kept = moved >= earliest or calendar.business_days is not BusinessDays.BEFORE
    return moved if is_kept else earliest

"""The advance notice: when it is owed, what it allows, and what happens where it is too late.

Source: Regulation E, 12 CFR 1005.10(d): written notice at least 10 days before a transfer that
varies in amount (1), or a range agreed with the customer within which none is owed (2).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from autopay_scheduler.domain.amounts import AmountRule, Limits
from autopay_scheduler.domain.days import Calendar, latest_day, open_day_between

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
    is_void: bool = False
    """Whether the charge was held after it: that told the customer that nothing is charged, so
    that it allows nothing any more."""


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

    Not where the customer agreed on a range: by setting a maximum, or by a fixed amount, which is
    the most that is ever charged (less, where less is owed). The notice itself is always sent.
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

    A charge whose notice would be too short is put off, at most to the due date or the open day
    to which that moves. A rise that cannot be announced in time leaves the charge at what was
    announced, and says what is left; where that changes, it is said again. A fall is not
    announced: what is announced is the most that is charged, and never gets less.

    Args:
        amount_cents: what the rule asks for now.
        earlier: the announcement of the charge that was made last.
        limits: what the customer set.
        charge_on: the day by the customer's rule.
        due_date: the bill's.
        today: the day on which it would be announced.
        rule: the city's.
        calendar: the city's.
    """
    if earlier is None or earlier.is_void:
        day = charge_on
    elif amount_cents <= earlier.amount_cents:
        # Nothing is left any more of which the customer was told that it would be.
        return _announced_again(earlier, left_cents=0)
    else:
        day = max(charge_on, earlier.charge_on)
    if is_owed(limits):
        latest = max(latest_day(due_date=due_date, calendar=calendar), day)
        noticed = _noticed_day(day, latest=latest, today=today, rule=rule, calendar=calendar)
        if noticed > latest:
            if earlier is None or earlier.is_void:
                return TooLate()
            return _announced_again(earlier, left_cents=amount_cents - earlier.amount_cents)
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
        if not each.is_void and _is_kept(each, limits=limits, today=today, rule=rule)
    ]
    return max(allowed, default=None)


def allowed_on(
    announcements: Iterable[Announcement],
    *,
    above_cents: int = 0,
    limits: Limits,
    today: date,
    rule: NoticeRule,
) -> date:
    """Return the first day, from today on, on which more than `above_cents` may be charged.

    At the best: a notice of which nothing was heard is taken to be sent today.
    """
    notice_days = timedelta(days=rule.days if is_owed(limits) else 0)
    noticed = [
        _noticed_on(each, rule) or today
        for each in announcements
        if not each.is_void and each.amount_cents > above_cents
    ]
    return max(today, min(noticed, default=today) + notice_days)


def _announced_again(earlier: Announcement, *, left_cents: int) -> Announce | None:
    if left_cents == earlier.left_cents:
        return None
    return Announce(earlier.amount_cents, left_cents, earlier.charge_on)


def _is_kept(announcement: Announcement, *, limits: Limits, today: date, rule: NoticeRule) -> bool:
    if not is_owed(limits):
        return True
    noticed_on = _noticed_on(announcement, rule)
    return noticed_on is not None and noticed_on + timedelta(days=rule.days) <= today


def _noticed_on(announcement: Announcement, rule: NoticeRule) -> date | None:
    if announcement.noticed_on is None and rule.charge_unnotified:
        return announcement.announced_on
    return announcement.noticed_on


def _noticed_day(
    day: date, *, latest: date, today: date, rule: NoticeRule, calendar: Calendar
) -> date:
    earliest = today + timedelta(days=rule.days)
    if day >= earliest:
        return day
    return open_day_between(earliest, not_before=earliest, not_after=latest, calendar=calendar)

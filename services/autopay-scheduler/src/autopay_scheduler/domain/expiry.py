"""When a customer is warned that a card is good for so many days only."""

import calendar
from collections.abc import Sequence
from datetime import date


def last_good_day(expires: str) -> date:
    """Return the last day on which a card with this `YYYY-MM` is good: the month's last."""
    year, month = (int(part) for part in expires.split("-"))
    return date(year, month, calendar.monthrange(year, month)[1])


def warning_due(*, expires: str, today: date, warning_days: Sequence[int]) -> int | None:
    """Return which warning is due today: the nearest that has come, or None.

    A warning that was slept through is not sent late beside the next: one a card and a day. None
    once the card is past: the decline says it then.
    """
    days_left = (last_good_day(expires) - today).days
    if days_left < 0:
        return None
    return min((days for days in warning_days if days_left <= days), default=None)

"""The city's closed days: weekends, the country's holidays, and what the city adds."""

from collections.abc import Callable, Iterable
from datetime import date

import holidays

SATURDAY = 5


def closed_days(
    *, country: str, subdivision: str | None, extra: Iterable[date]
) -> Callable[[date], bool]:
    """Return whether a day is closed, by the `holidays` package; observed days count."""
    calendar = holidays.country_holidays(country, subdiv=subdivision)
    own = frozenset(extra)
    known: dict[date, bool] = {}

    def is_closed(day: date) -> bool:
        # The package looks a day up in 5 µs, and millions of charges fall on few days.
        found = known.get(day)
        if found is None:
            found = known[day] = day.weekday() >= SATURDAY or day in own or day in calendar
        return found

    return is_closed

"""Time as an argument: whoever needs it takes a `Clock`, so that tests can hold it still."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present instant in UTC, always aware."""
    return datetime.now(UTC)


def moved(clock: Clock, *, by: timedelta) -> Clock:
    """Return a clock that is ahead of another one; for trying out what days to come will bring."""
    return lambda: clock() + by

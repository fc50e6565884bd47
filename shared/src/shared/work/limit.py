"""How many calls an outside system takes: found by trying, never above a bound.

Slow start, additive increase, multiplicative decrease, as TCP does it (RFC 5681): a system that
answers in time is given more, one that times out or refuses gets half.
"""

import asyncio
import time
from collections.abc import Callable


class AdaptiveLimit:
    """A concurrency limit between `minimum` and `maximum`.

    Each round of answers doubles it, up to half of what it was when the system last failed; from
    there each round adds one. By ones alone a system that takes 200 ms for a call would wait ten
    seconds for its 64th connection, at first and after every outage.
    """

    def __init__(self, *, minimum: int, initial: int, maximum: int) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._value = float(initial)
        self._threshold = float(maximum)
        self._failing = False

    @property
    def now(self) -> int:
        return int(self._value)

    def succeeded(self) -> None:
        """Note a call that was answered."""
        self._failing = False
        gain = 1.0 if self._value < self._threshold else 1 / self._value
        self._value = min(self._maximum, self._value + gain)

    def overloaded(self) -> None:
        """Note a call that timed out or was refused for load.

        All that fails in a row is one failure, which tells what the system took before it.
        """
        if not self._failing:
            self._threshold = self._value / 2
        self._failing = True
        self._value = max(self._minimum, self._value / 2)


class FixedLimit:
    """A limit that does not move."""

    def __init__(self, *, calls: int) -> None:
        self._calls = calls

    @property
    def now(self) -> int:
        return self._calls


class RateLimit:
    """So many calls a second, evenly spaced after a first burst (the generic cell rate algorithm).

    A system that states a rate answers more than it with refusals: callers wait their turn here.
    """

    def __init__(
        self,
        *,
        per_second: float,
        burst: int = 1,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_seconds = 1 / per_second
        self._tolerance_seconds = (burst - 1) * self._interval_seconds
        self._monotonic = monotonic
        self._next_at = monotonic() - self._tolerance_seconds

    def reserve(self) -> float:
        """Take a turn and return how many seconds it is away; 0 when it is now."""
        now = self._monotonic()
        turn_at = max(self._next_at, now - self._tolerance_seconds)
        self._next_at = turn_at + self._interval_seconds
        return max(0.0, turn_at - now)

    async def wait(self) -> None:
        """Return when it is the caller's turn."""
        seconds = self.reserve()
        if seconds > 0:
            await asyncio.sleep(seconds)


class Breaker:
    """Stops calling a system that has failed several times in a row; then tries with one call.

    Closed: calls pass. Open: none pass until `pause_seconds` are over. Half open: one probe
    passes; its success closes the breaker, its failure opens it again for longer.
    """

    def __init__(
        self,
        *,
        failures_max: int,
        pause_seconds: float,
        pause_seconds_max: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures_max = failures_max
        self._pause_seconds_first = pause_seconds
        self._pause_seconds = pause_seconds
        self._pause_seconds_max = pause_seconds_max
        self._monotonic = monotonic
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`; open too while the one probe is under way."""
        if self._opened_at is None:
            return "closed"
        return "open" if self.wait_seconds > 0 or self._probing else "half_open"

    @property
    def holds(self) -> bool:
        """Whether calls are held back: open, or half open with its probe at most."""
        return self._opened_at is not None

    @property
    def wait_seconds(self) -> float:
        """How long nothing is to be sent; 0 when a call may be tried."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._pause_seconds - self._monotonic())

    def allow(self) -> bool:
        """Return whether a call may be made now; a half-open breaker lets one probe through."""
        if self._opened_at is None:
            return True
        if self.wait_seconds > 0 or self._probing:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._opened_at = None
        self._probing = False
        self._pause_seconds = self._pause_seconds_first

    def failed(self) -> None:
        self._failures += 1
        if self._probing:
            self._probing = False
            self._pause_seconds = min(self._pause_seconds * 2, self._pause_seconds_max)
            self._opened_at = self._monotonic()
        elif self._opened_at is None and self._failures >= self._failures_max:
            self._opened_at = self._monotonic()

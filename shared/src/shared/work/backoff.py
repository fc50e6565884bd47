"""When to try again: exponential, capped, with full jitter."""

import random
from dataclasses import dataclass
from datetime import timedelta

EXPONENT_MAX = 200
"""Far past every cap; an outage of hours would otherwise overflow a float."""


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """A capped exponential schedule; jitter spreads a herd that failed together."""

    initial_seconds: float = 0.5
    factor: float = 2.0
    cap_seconds: float = 60.0

    def delay(self, *, attempts: int, randomness: random.Random) -> timedelta:
        """Return the pause after this many failed attempts: between half and all of the step."""
        exponent = min(max(0, attempts - 1), EXPONENT_MAX)
        step = min(self.initial_seconds * self.factor**exponent, self.cap_seconds)
        return timedelta(seconds=step * (0.5 + randomness.random() / 2))

"""When to try again: exponential, capped, with full jitter."""

import random
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """A capped exponential schedule; jitter spreads a herd that failed together."""

    initial_seconds: float = 0.5
    factor: float = 2.0
    cap_seconds: float = 60.0

    def delay(self, *, attempts: int, randomness: random.Random) -> timedelta:
        """Return the pause after this many failed attempts: between half and all of the step."""
        step = min(self.initial_seconds * self.factor ** max(0, attempts - 1), self.cap_seconds)
        return timedelta(seconds=step * (0.5 + randomness.random() / 2))

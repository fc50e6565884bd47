"""Percentiles, medians and ratios; pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def percentile(values: Iterable[float], *, share: float) -> float | None:
    """The value that this share of all does not exceed, by nearest rank; None of nothing.

    Args:
        values: in any order.
        share: above 0, up to 1: 0.99 for p99.

    Raises:
        ValueError: the share is none.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share is above 0 and at most 1, not {share}")
    known = sorted(values)
    return known[math.ceil(share * len(known)) - 1] if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Middle:
    """The median of several rounds with the least and the greatest."""

    median: float
    least: float
    greatest: float
    rounds: int

    def as_json(self) -> dict[str, float | int]:
        """For machines."""
        return {
            "median": self.median,
            "min": self.least,
            "max": self.greatest,
            "rounds": self.rounds,
        }


def middle(values: Sequence[float | None]) -> Middle | None:
    """The middle of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Middle(
        median=statistics.median(known),
        least=min(known),
        greatest=max(known),
        rounds=len(known),
    )


def ratio(of: float | None, to: float | None) -> float | None:
    """One divided by the other; None where either is unknown or there is nothing to divide by."""
    if of is None or to is None or to == 0:
        return None
    return of / to


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """How long something took, over many times; in milliseconds."""

    count: int
    p50_ms: float
    p99_ms: float
    worst_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latencies | None:
        """Of these durations; None where there is none."""
        p50, p99 = percentile(seconds, share=0.5), percentile(seconds, share=0.99)
        if p50 is None or p99 is None:
            return None
        return cls(
            count=len(seconds), p50_ms=p50 * 1e3, p99_ms=p99 * 1e3, worst_ms=max(seconds) * 1e3
        )

"""What a minute without Kafka or the CIS did to webhooks, to the backlog and to the order. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from bench.pipeline.statistics import percentile


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """When it was, in seconds since 1970."""

    began_at: float
    ended_at: float


def backlog_at(*, accepted_at: Sequence[float], confirmed_at: Sequence[float], at: float) -> int:
    """How many payments were accepted and not confirmed at a time; both lists in order."""
    return bisect.bisect_right(accepted_at, at) - bisect.bisect_right(confirmed_at, at)


def drain_seconds(
    *, accepted_at: Sequence[float], confirmed_at: Sequence[float], outage: Outage
) -> float | None:
    """How long after the end of an outage the backlog was again what it had been before it.

    Before it means the greatest backlog from the first payment to the outage. None where it never
    was again.
    """
    accepted, confirmed = sorted(accepted_at), sorted(confirmed_at)

    def backlog(at: float) -> int:
        return backlog_at(accepted_at=accepted, confirmed_at=confirmed, at=at)

    usual = max((backlog(at) for at in accepted if at < outage.began_at), default=0)
    if backlog(outage.ended_at) <= usual:
        return 0.0
    # The backlog shrinks only at a confirmation.
    for at in confirmed[bisect.bisect_right(confirmed, outage.ended_at) :]:
        if backlog(at) <= usual:
            return at - outage.ended_at
    return None


def ack_p99_ms(
    *, ack_seconds: Sequence[float], ended_at: Sequence[float], since: float, until: float
) -> float | None:
    """The p99 of the answers that were given between two times; None where none was."""
    found = percentile(
        [seconds for seconds, at in zip(ack_seconds, ended_at, strict=True) if since <= at < until],
        share=0.99,
    )
    return None if found is None else found * 1000

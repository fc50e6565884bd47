"""How long payments took: from accepted to posted to confirmed, as payment-intake has it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

_JOURNEYS = """
SELECT m.payment_id, r.reference, p.account_id, m.kind, m.status, m.accepted_at, m.posted_at,
       m.confirmed_at
FROM unnest($1::text[]) AS wanted(reference)
JOIN payment_intake.payment_references r
  ON r.processor = $2 AND r.reference = wanted.reference
JOIN payment_intake.payments p ON p.id = r.payment_id
JOIN payment_intake.movements m ON m.payment_id = p.id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """One movement of a payment, with the times at which it got on."""

    payment_id: UUID
    reference: str
    account_id: str | None
    kind: str
    status: str
    accepted_at: datetime
    posted_at: datetime | None
    confirmed_at: datetime | None

    @property
    def posted_after_seconds(self) -> float | None:
        """From accepted to posted."""
        return None if self.posted_at is None else _seconds(self.accepted_at, self.posted_at)

    @property
    def confirmed_after_seconds(self) -> float | None:
        """From accepted until the customer was told."""
        return None if self.confirmed_at is None else _seconds(self.accepted_at, self.confirmed_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a set of durations lies."""

    count: int
    p50_seconds: float
    p99_seconds: float
    worst_seconds: float

    def as_json(self) -> dict[str, float | int]:
        """In milliseconds."""
        return {
            "count": self.count,
            "p50_ms": round(self.p50_seconds * 1000, 3),
            "p99_ms": round(self.p99_seconds * 1000, 3),
            "worst_ms": round(self.worst_seconds * 1000, 3),
        }


def spread(durations: Iterable[float | None]) -> Spread | None:
    """The spread of those that are known; None where there is none. Percentiles by nearest rank."""
    known = sorted(each for each in durations if each is not None)
    if not known:
        return None
    return Spread(
        count=len(known),
        p50_seconds=_rank(known, 0.50),
        p99_seconds=_rank(known, 0.99),
        worst_seconds=known[-1],
    )


def _rank(known: Sequence[float], share: float) -> float:
    return known[max(0, math.ceil(share * len(known)) - 1)]


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()


async def read_journeys(
    *,
    connection: asyncpg.Connection[Any],
    references: Sequence[str],
    processor: str = "stripe",
) -> list[Journey]:
    """Every movement of these payments, found by what the processor calls them."""
    rows = await connection.fetch(_JOURNEYS, references, processor)
    return [Journey(**dict(row)) for row in rows]


def payments_per_second(journeys: Iterable[Journey]) -> float | None:
    """End to end: from the first accepted to the last confirmed."""
    paid = [each for each in journeys if each.kind == "payment" and each.confirmed_at is not None]
    if not paid:
        return None
    first = min(each.accepted_at for each in paid)
    last = max(each.confirmed_at for each in paid if each.confirmed_at is not None)
    return len(paid) / max(_seconds(first, last), 1e-9)

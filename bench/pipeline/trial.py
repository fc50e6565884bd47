"""What one trial of a run came to: one yardstick, once, proven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.pipeline.books import Books, Match
from bench.pipeline.generator import Sending
from bench.pipeline.readings import GENERATOR, Memory, Reading, cpu_seconds
from bench.pipeline.statistics import Latencies


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One yardstick's trial of one run.

    Attributes:
        run: the run's name.
        yardstick: whose.
        turn: which round, from 1.
        payments: how many were measured, without the warm-up.
        seconds: from the first webhook to the last mail of them.
        payments_per_second: those divided.
        acks_per_second: events answered, while there were any to send.
        ack: from the time an event was to leave until it was answered 2xx.
        posted: from the acceptance of a payment until the CIS had it.
        confirmed: from the acceptance until the mail sink had the mail.
        cpu_us: CPU µs per payment by process; `generator` is this benchmark itself.
        memory: by process, at the end of the load.
        wal_bytes: written by PostgreSQL per payment, the CIS's ledger included.
        repeats: webhooks that had to be sent again.
        extra: what only some runs measure, by name.
    """

    run: str
    yardstick: str
    turn: int
    payments: int
    seconds: float
    payments_per_second: float
    acks_per_second: float
    ack: Latencies | None
    posted: Latencies | None
    confirmed: Latencies | None
    cpu_us: Mapping[str, float]
    memory: Mapping[str, Memory]
    wal_bytes: float
    repeats: int
    extra: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A trial that is no result: the yardstick did not start, or its books do not hold."""

    run: str
    yardstick: str
    turn: int
    reason: str
    available: bool = True
    """False where the machine lacks what the yardstick needs: it was not run at all."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


class NotProvenError(Exception):
    """The books of a trial do not hold, so that its figures mean nothing.

    Attributes:
        why: what does not hold.
    """

    def __init__(self, *, why: str) -> None:
        super().__init__(why)
        self.why = why


def prove(*, found: Match) -> None:
    """Raises NotProvenError unless every payment is posted and mailed exactly once."""
    if not found.holds:
        faults = ", ".join(f"{count} {name}" for name, count in found.faults.items())
        raise NotProvenError(why=f"{faults}; {found.once} are there exactly once")


def seconds_until_confirmed(*, sending: Sending, books: Books) -> float:
    """From the first webhook of a load to the last mail of it.

    Raises:
        NotProvenError: a payment has no mail.
    """
    last = sending.started_at
    for payment in sending.payments:
        times = books.mailed.get((payment.account, payment.amount_cents))
        if not times:
            raise NotProvenError(why=f"payment {payment.number} was not mailed")
        last = max(last, times[0])
    return last - sending.started_at


def waits(*, sending: Sending, times: Mapping[tuple[str, int], list[float]]) -> list[float]:
    """How long after its acceptance each payment is in a book; those that are in it."""
    found = []
    for payment in sending.payments:
        entered = times.get((payment.account, payment.amount_cents))
        accepted_at = sending.accepted_at.get(payment.number)
        if entered and accepted_at is not None:
            found.append(entered[0] - accepted_at)
    return found


def make_trial(
    *,
    run: str,
    yardstick: str,
    turn: int,
    sending: Sending,
    books: Books,
    before: Reading,
    after: Reading,
    memory: Mapping[str, Memory],
    extra: Mapping[str, float] | None = None,
) -> Trial:
    """Work a trial's figures out of what was sent, what the books hold and what was read.

    Raises:
        NotProvenError: a payment has no mail.
    """
    count = len(sending.payments)
    seconds = seconds_until_confirmed(sending=sending, books=books)
    used = cpu_seconds(before=before, after=after) | {GENERATOR: sending.cpu_seconds}
    return Trial(
        run=run,
        yardstick=yardstick,
        turn=turn,
        payments=count,
        seconds=seconds,
        payments_per_second=count / max(seconds, 1e-9),
        acks_per_second=sending.events_per_second,
        ack=Latencies.of(sending.ack_seconds),
        posted=Latencies.of(waits(sending=sending, times=books.posted)),
        confirmed=Latencies.of(waits(sending=sending, times=books.mailed)),
        cpu_us={name: spent * 1e6 / count for name, spent in used.items()},
        memory=dict(memory),
        wal_bytes=(after.wal_bytes - before.wal_bytes) / count,
        repeats=sending.repeats,
        extra=dict(extra or {}),
    )

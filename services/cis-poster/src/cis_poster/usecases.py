"""What is decided: take → act → settle → announce, and what an operator may do."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import structlog

from cis_poster.domain import (
    HELD_BACK,
    NOT_SENT,
    UNSETTLED,
    Answer,
    Attempt,
    Outcome,
    Posting,
    Status,
    decide,
    next_status,
    states_deferral,
)
from cis_poster.ports import Announce, CisGateway, Postings, Settlement, Suspended
from shared.clock import Clock
from shared.errors import PermanentError
from shared.runtime.tracing import trace_id
from shared.work.backoff import Backoff
from shared.work.batcher import MicroBatcher
from shared.work.lanes import Lanes
from shared.work.limit import AdaptiveLimit, Breaker

_log = structlog.get_logger(__name__)


class PosterMetrics(Protocol):
    """What the use cases count."""

    def taken(self, *, inserted: int, duplicates: int) -> None: ...
    def settled(self, *, kind: str, status: str) -> None: ...
    def called(self, *, operation: str, outcome: str, seconds: float, size: int) -> None: ...
    def posted_after(self, seconds: float, *, traceparent: str | None) -> None: ...
    def conflict(self) -> None: ...


class SuspenseNotFoundError(PermanentError):
    """No posting with this id is in suspense."""

    def __init__(self, *, posting_id: UUID) -> None:
        super().__init__(f"{posting_id} is not in suspense")
        self.posting_id = posting_id


@dataclass(frozen=True, kw_only=True)
class PostPayments:
    """Takes postings and hands what is free to the lanes: durable first, then sent."""

    postings: Postings
    lanes: Lanes[Attempt]
    breaker: Breaker
    announce: Announce
    clock: Clock
    metrics: PosterMetrics

    async def __call__(self, batch: Sequence[Posting]) -> None:
        ticket = self.lanes.ticket()
        # A fact that was announced twice can stand twice in one batch.
        once: dict[UUID, Posting] = {}
        for posting in batch:
            once.setdefault(posting.id, posting)
        taken = await self.postings.take(
            list(once.values()),
            now=self.clock(),
            hold=self.breaker.holds,
            lanes_held=self.lanes,
        )
        repeated = len(batch) - len(once)
        self.metrics.taken(inserted=taken.inserted, duplicates=taken.duplicates + repeated)
        for posting in taken.suspended:
            self.metrics.settled(kind=posting.kind, status=Status.SUSPENDED)
        self.announce.offer(taken.rows)
        await self.lanes.put(taken.attempts, ticket=ticket)


@dataclass(frozen=True, kw_only=True)
class PostDue:
    """Takes up what did not settle: due again, of unknown outcome, or left by a crash."""

    postings: Postings
    lanes: Lanes[Attempt]
    breaker: Breaker

    async def __call__(self, *, now: datetime, limit: int) -> int:
        match self.breaker.state:
            case "open":
                return 0
            case "half_open":
                limit = 1
            case _:
                limit = min(limit, self.lanes.room)
        if limit == 0:
            return 0
        ticket = self.lanes.ticket()
        attempts = await self.postings.claim_due(now=now, limit=limit)
        await self.lanes.put(attempts, ticket=ticket)
        return len(attempts)


@dataclass(frozen=True, kw_only=True)
class Attempting:
    """Sends what a lane hands over and settles the outcome; asks first where it must."""

    gateway: CisGateway
    settle: MicroBatcher[Sequence[Settlement], None]
    breaker: Breaker
    limit: AdaptiveLimit
    backoff: Backoff
    clock: Clock
    randomness: random.Random
    metrics: PosterMetrics
    call_seconds_max: float

    async def __call__(self, attempts: Sequence[Attempt]) -> Sequence[Settlement]:
        """Return what became of each attempt; written down by `settled`."""
        started_at = self.clock()
        # A lease that would run out during the call belongs to the recovery job already.
        calls = 2 if any(attempt.ask_first for attempt in attempts) else 1
        latest = started_at + timedelta(seconds=self.call_seconds_max * calls)
        held = [attempt for attempt in attempts if attempt.leased_until > latest]
        if len(held) < len(attempts) or not self.breaker.allow():
            answers: Sequence[Answer] = [NOT_SENT for _ in attempts]
        else:
            answers = await self._learning(attempts)
        return self._settlements(attempts, answers, started_at)

    async def settled(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """Write down what became of a call; return for each whether its account may go on."""
        await self.settle.submit(settlements)
        for settlement in settlements:
            self._count(settlement)
        return [settlement.status not in UNSETTLED for settlement in settlements]

    async def _answers(self, attempts: Sequence[Attempt]) -> Sequence[Answer]:
        asked = [attempt.posting for attempt in attempts if attempt.ask_first]
        known: dict[UUID, Answer] = {}
        if asked:
            found = await self.gateway.find(asked)
            known = {
                posting.id: answer
                for posting, answer in zip(asked, found, strict=True)
                if answer.outcome is not Outcome.NOT_FOUND
            }
        # An account goes on only behind what is certain: nothing is sent past an open question.
        open_accounts = {
            attempt.posting.account_id
            for attempt in attempts
            if attempt.posting.id in known
            and known[attempt.posting.id].outcome is not Outcome.EXISTS
        }
        to_send = [
            attempt.posting
            for attempt in attempts
            if attempt.posting.id not in known and attempt.posting.account_id not in open_accounts
        ]
        if to_send:
            sent = await self.gateway.post(to_send)
            known |= {posting.id: answer for posting, answer in zip(to_send, sent, strict=True)}
        return [known.get(attempt.posting.id, HELD_BACK) for attempt in attempts]

    async def _learning(self, attempts: Sequence[Attempt]) -> Sequence[Answer]:
        """Let breaker and limit see one call as one: answered, or not.

        A CIS that decided about any posting works: one closed account is not its failure.
        """
        works = False
        try:
            answers = await self._answers(attempts)
            works = any(a.outcome not in (Outcome.UNAVAILABLE, Outcome.LOST) for a in answers)
        finally:
            # After a defect too: a probe that is never judged would keep the breaker open.
            if works:
                self.breaker.succeeded()
                self.limit.succeeded()
            else:
                self.breaker.failed()
                self.limit.overloaded()
        return answers

    def _settlements(
        self, attempts: Sequence[Attempt], answers: Sequence[Answer], started_at: datetime
    ) -> list[Settlement]:
        now = self.clock()
        duration_ms = int((now - started_at).total_seconds() * 1000)
        settlements = []
        for attempt, answer in zip(attempts, answers, strict=True):
            decision = decide(posting=attempt.posting, answer=answer)
            settlement = Settlement(
                attempt=attempt,
                answer=answer,
                status=next_status(attempt=attempt, answer=answer, decision=decision),
                reason=decision.reason,
                due_at=now + self._pause(attempt, answer),
                at=now,
                duration_ms=duration_ms,
                states_deferral=states_deferral(attempt=attempt, decision=decision),
            )
            settlements.append(settlement)
        return settlements

    def _pause(self, attempt: Attempt, answer: Answer) -> timedelta:
        if not answer.attempted:
            return timedelta(seconds=max(self.breaker.wait_seconds, 0.25))
        return self.backoff.delay(attempts=attempt.attempts + 1, randomness=self.randomness)

    def _count(self, settlement: Settlement) -> None:
        posting = settlement.attempt.posting
        self.metrics.settled(kind=posting.kind, status=settlement.status)
        if settlement.status is Status.POSTED:
            seconds = (settlement.at - posting.accepted_at).total_seconds()
            self.metrics.posted_after(seconds, traceparent=posting.traceparent)
            return
        if settlement.status is Status.CONFLICTED:
            self.metrics.conflict()
        if settlement.status not in UNSETTLED or settlement.states_deferral:
            _log.warning(
                "posting.not_posted",
                posting_key=str(posting.id),
                payment_id=str(posting.payment_id),
                trace_id=trace_id(posting.traceparent),
                status=settlement.status,
                reason=settlement.reason,
                attempts=settlement.attempt.attempts + 1,
            )


@dataclass(frozen=True, kw_only=True)
class ManageSuspense:
    """What an operator may do with a posting in suspense; each act leaves an audit entry."""

    postings: Postings
    announce: Announce
    clock: Clock

    async def list(self, *, limit: int) -> Sequence[Suspended]:
        return await self.postings.suspense(limit=limit)

    async def release(
        self, *, posting_id: UUID, to_account: str | None, operator: str, note: str
    ) -> None:
        """Send it again, to another account where one is given.

        Raises:
            SuspenseNotFoundError: it is not in suspense (any more).
        """
        found = await self.postings.release_suspended(
            posting_id=posting_id,
            to_account=to_account,
            operator=operator,
            note=note,
            now=self.clock(),
        )
        if not found:
            raise SuspenseNotFoundError(posting_id=posting_id)

    async def give_back(self, *, posting_id: UUID, operator: str, note: str) -> None:
        """Close it for good: the payer gets the money back at the processor.

        Raises:
            SuspenseNotFoundError: it is not in suspense (any more).
        """
        rows = await self.postings.return_suspended(
            posting_id=posting_id, operator=operator, note=note, now=self.clock()
        )
        if rows is None:
            raise SuspenseNotFoundError(posting_id=posting_id)
        self.announce.offer(rows)

"""What is decided: take → act → settle → announce, and whose contact is kept."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import structlog

from notifier.domain import (
    NOT_SENT,
    UNCOMPOSABLE,
    UNSETTLED,
    Answer,
    Attempt,
    Contact,
    Kind,
    Notification,
    Outcome,
    Status,
    decide,
    latest_contacts,
)
from notifier.ports import (
    Announce,
    Composer,
    Contacts,
    MailGateway,
    MailMessage,
    Notifications,
    Settlement,
)
from shared.clock import Clock
from shared.runtime.tracing import trace_id
from shared.work.backoff import Backoff
from shared.work.batcher import MicroBatcher
from shared.work.lanes import Lanes
from shared.work.limit import Breaker

_log = structlog.get_logger(__name__)


class NotifierMetrics(Protocol):
    """What the use cases count."""

    def taken(self, *, inserted: int, duplicates: int) -> None: ...
    def settled(self, *, kind: str, status: str) -> None: ...
    def repeated(self, count: int) -> None: ...
    def confirmed_after(self, seconds: float, *, traceparent: str | None) -> None: ...
    def contacts(self, *, kept: int, outdated: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class KeepContacts:
    """Keeps how customers are to be reached; the last word by the portal's own time wins."""

    contacts: Contacts
    metrics: NotifierMetrics

    async def __call__(self, stated: Sequence[Contact]) -> None:
        latest = latest_contacts(stated)
        kept = await self.contacts.keep(latest)
        self.metrics.contacts(kept=kept, outdated=len(stated) - kept)


@dataclass(frozen=True, kw_only=True)
class TellCustomers:
    """Takes notifications and hands what can be sent to the lanes: durable first, then sent."""

    notifications: Notifications
    lanes: Lanes[Attempt]
    breaker: Breaker
    announce: Announce
    clock: Clock
    metrics: NotifierMetrics

    async def __call__(self, batch: Sequence[Notification]) -> None:
        ticket = self.lanes.ticket()
        taken = await self.notifications.take(
            batch,
            now=self.clock(),
            hold=self.breaker.holds,
            lanes_held=self.lanes,
        )
        self.metrics.taken(inserted=taken.inserted, duplicates=taken.duplicates)
        for notification in taken.skipped:
            self.metrics.settled(kind=notification.kind, status=Status.SKIPPED)
        self.announce.offer(taken.rows)
        await self.lanes.put(taken.attempts, ticket=ticket)


@dataclass(frozen=True, kw_only=True)
class TellDue:
    """Takes up what did not settle: due again, or left by a crash."""

    notifications: Notifications
    lanes: Lanes[Attempt]
    breaker: Breaker
    announce: Announce
    metrics: NotifierMetrics
    probe_size: int

    async def __call__(self, *, now: datetime, limit: int) -> int:
        match self.breaker.state:
            case "open":
                return 0
            case "half_open":
                # One call tries whether the mail server is back; the rest stays due until then.
                probe_size = min(self.probe_size, self.lanes.room)
                limit = 0 if self.lanes.held else min(limit, probe_size)
            case _:
                limit = min(limit, self.lanes.room)
        if limit == 0:
            return 0
        ticket = self.lanes.ticket()
        claimed = await self.notifications.claim_due(now=now, limit=limit)
        self.metrics.repeated(claimed.repeats)
        for notification in claimed.skipped:
            self.metrics.settled(kind=notification.kind, status=Status.SKIPPED)
        self.announce.offer(claimed.rows)
        await self.lanes.put(claimed.attempts, ticket=ticket)
        return len(claimed.attempts) + len(claimed.skipped)


@dataclass(frozen=True, kw_only=True)
class Sending:
    """Sends what the lanes hand over and settles the outcome."""

    gateway: MailGateway
    composer: Composer
    settle: MicroBatcher[Sequence[Settlement], None]
    breaker: Breaker
    backoff: Backoff
    clock: Clock
    randomness: random.Random
    metrics: NotifierMetrics
    attempts_max: int
    call_seconds_max: float

    async def __call__(self, attempts: Sequence[Attempt]) -> Sequence[Settlement]:
        """Return what became of each attempt; written down by `settled`."""
        started_at = self.clock()
        # A lease that would run out during the call belongs to the recovery job already.
        latest = started_at + timedelta(seconds=self.call_seconds_max)
        if all(attempt.leased_until > latest for attempt in attempts):
            answers, message_ids = await self._answers(attempts, started_at)
        else:
            answers, message_ids = [NOT_SENT for _ in attempts], {}
        return self._settlements(attempts, answers, message_ids, started_at)

    async def settled(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """Write down what became of a call; return for each whether its account may go on."""
        await self.settle.submit(settlements)
        for settlement in settlements:
            self._count(settlement)
        return [settlement.decision.status not in UNSETTLED for settlement in settlements]

    async def _answers(
        self, attempts: Sequence[Attempt], now: datetime
    ) -> tuple[Sequence[Answer], dict[UUID, str]]:
        messages: dict[UUID, MailMessage] = {}
        for attempt in attempts:
            message = self._composed(attempt, now)
            if message is not None:
                messages[attempt.notification.id] = message
        sent: Sequence[Answer] = []
        if messages:
            sent = await self._sent(list(messages.values()))
        known = dict(zip(messages, sent, strict=True))
        answers = [known.get(attempt.notification.id, UNCOMPOSABLE) for attempt in attempts]
        return answers, {key: message.message_id for key, message in messages.items()}

    def _composed(self, attempt: Attempt, now: datetime) -> MailMessage | None:
        try:
            return self.composer.compose(
                notification=attempt.notification, contact=attempt.contact, now=now
            )
        except Exception:
            # A defect of one message is loud, and fails that message only.
            _log.exception(
                "notification.uncomposable", notification_id=str(attempt.notification.id)
            )
            return None

    async def _sent(self, messages: Sequence[MailMessage]) -> Sequence[Answer]:
        if not self.breaker.allow():
            return [NOT_SENT for _ in messages]
        answers: Sequence[Answer] = []
        try:
            answers = await self.gateway.send(messages)
        finally:
            # One call is one sign: a server that takes or judges anything at all is there.
            if any(answer.outcome in (Outcome.SENT, Outcome.REFUSED) for answer in answers):
                self.breaker.succeeded()
            else:
                self.breaker.failed()
        return answers

    def _settlements(
        self,
        attempts: Sequence[Attempt],
        answers: Sequence[Answer],
        message_ids: dict[UUID, str],
        started_at: datetime,
    ) -> list[Settlement]:
        now = self.clock()
        duration_ms = int((now - started_at).total_seconds() * 1000)
        return [
            Settlement(
                attempt=attempt,
                answer=answer,
                decision=decide(attempt=attempt, answer=answer, attempts_max=self.attempts_max),
                message_id=message_ids.get(attempt.notification.id),
                due_at=now + self._pause(attempt, answer),
                at=now,
                duration_ms=duration_ms,
            )
            for attempt, answer in zip(attempts, answers, strict=True)
        ]

    def _pause(self, attempt: Attempt, answer: Answer) -> timedelta:
        if answer.outcome is Outcome.UNAVAILABLE:
            return timedelta(seconds=max(self.breaker.wait_seconds, 0.25))
        return self.backoff.delay(attempts=attempt.attempts + 1, randomness=self.randomness)

    def _count(self, settlement: Settlement) -> None:
        notification, decision = settlement.attempt.notification, settlement.decision
        self.metrics.settled(kind=notification.kind, status=decision.status)
        if decision.status is Status.SENT:
            if notification.kind is Kind.POSTED and notification.accepted_at is not None:
                seconds = (settlement.at - notification.accepted_at).total_seconds()
                self.metrics.confirmed_after(seconds, traceparent=notification.traceparent)
            return
        if settlement.answer.outcome is Outcome.LOST and decision.status is Status.DUE:
            self.metrics.repeated(1)
        if decision.status is Status.FAILED or (
            settlement.answer.attempted and settlement.attempt.attempts == 0
        ):
            _log.warning(
                "notification.not_sent",
                notification_id=str(notification.id),
                kind=notification.kind,
                about=str(notification.about),
                payment_id=str(notification.payment_id) if notification.payment_id else None,
                trace_id=trace_id(notification.traceparent),
                status=decision.status,
                reason=decision.reason,
                attempts=decision.attempts,
            )

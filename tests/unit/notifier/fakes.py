"""The fakes of notifier's ports; the suites under tests/contract hold them to the real ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4, uuid5

from notifier.domain import (
    UNSETTLED,
    Answer,
    Attempt,
    Contact,
    Kind,
    Notification,
    Outcome,
    SkipReason,
    Status,
    addressee,
    is_past,
    skip_reason,
    superseding_ids,
)
from notifier.ports import Claimed, HeldLanes, MailMessage, Settlement, Taken
from shared.contracts.fact import Fact
from shared.contracts.notifications import (
    NotificationFailed,
    NotificationSent,
    NotificationSkipped,
    notification_id,
)
from shared.contracts.streams import NOTIFICATIONS
from shared.contracts.wire import encode
from shared.outbox.table import OutboxRow

NOON = datetime(2026, 3, 5, 18, 0, 0, tzinfo=UTC)


def a_notification(
    *,
    kind: Kind = Kind.POSTED,
    posting_key: UUID | None = None,
    account_id: str | None = "4711-0815",
    amount_cents: int = 12_034,
    balance_after_cents: int = 3_410,
    paid_at: datetime = NOON,
    seconds: float = 2.0,
) -> Notification:
    key = posting_key or uuid4()
    on_ledger = kind in (Kind.POSTED, Kind.REVERSED, Kind.REINSTATED)
    return Notification(
        id=notification_id(kind=kind, key=key),
        kind=kind,
        about=uuid5(key, kind),
        payment_id=key,
        posting_key=None if kind is Kind.DECLINED else key,
        account_id=account_id,
        amount_cents=amount_cents,
        currency="USD",
        effective_date=date(2026, 3, 5) if on_ledger else None,
        balance_after_cents=balance_after_cents if on_ledger else None,
        accepted_at=None if kind is Kind.DECLINED else paid_at,
        happened_at=paid_at + timedelta(seconds=seconds),
        traceparent=None,
    )


def a_contact(
    *,
    account_id: str = "4711-0815",
    name: str = "Ada Byron",
    email: str | None = "ada@example.org",
    locale: str = "en",
    opted_out: bool | None = False,
    changed_at: datetime = NOON,
) -> Contact:
    return Contact(
        account_id=account_id,
        name=name,
        email=email,
        locale="es" if locale == "es" else "en",
        email_opted_out=opted_out,
        changed_at=changed_at,
    )


def an_attempt(
    notification: Notification | None = None,
    *,
    attempts: int = 0,
    leased_until: datetime = NOON + timedelta(minutes=2),
) -> Attempt:
    notification = notification or a_notification()
    return Attempt(
        notification=notification,
        contact=a_contact(account_id=notification.account_id or ""),
        attempts=attempts,
        repeats=0,
        lease=uuid4(),
        leased_until=leased_until,
    )


class InMemoryMailGateway:
    """A mail server in memory: `inbox` is what it took."""

    def __init__(self) -> None:
        self.inbox: list[tuple[str, bytes]] = []
        self.calls: list[Sequence[MailMessage]] = []
        self._rules: dict[str, Answer] = {}
        self._down = False

    def answer_with(self, *, recipient: str, answer: Answer) -> None:
        self._rules[recipient] = answer

    def drop_answer_of(self, recipient: str) -> None:
        self._rules[recipient] = Answer(outcome=Outcome.LOST, reason="connection_closed")

    def go_down(self) -> None:
        self._down = True

    def come_back(self) -> None:
        self._down = False

    async def send(self, messages: Sequence[MailMessage]) -> Sequence[Answer]:
        self.calls.append(messages)
        answers: list[Answer] = []
        for message in messages:
            last = answers[-1] if answers else None
            if self._down or (last and last.outcome in (Outcome.LOST, Outcome.UNAVAILABLE)):
                answers.append(Answer(outcome=Outcome.UNAVAILABLE, reason="unreachable"))
                continue
            if not message.recipient.isascii():
                answers.append(Answer(outcome=Outcome.REFUSED, reason="address_not_ascii"))
                continue
            answer = self._rules.get(message.recipient, Answer(outcome=Outcome.SENT))
            if answer.outcome in (Outcome.SENT, Outcome.LOST):
                self.inbox.append((message.recipient, message.content))
            answers.append(answer)
        return answers


@dataclass(slots=True)
class _Row:
    notification: Notification
    status: Status
    seq: int
    due_at: datetime
    taken_at: datetime
    lease: UUID | None = None
    reason: str | None = None
    attempts: int = 0
    repeats: int = 0
    message_id: str | None = None
    settled_at: datetime | None = None


@dataclass
class InMemoryNotifications:
    """`notifier.ports.Notifications` and `Contacts` in memory."""

    lease_seconds: float = 90.0
    rows: dict[UUID, _Row] = field(default_factory=dict)
    contacts: dict[str, Contact] = field(default_factory=dict)
    announced: int = 0

    async def keep(self, contacts: Sequence[Contact]) -> int:
        kept = 0
        for contact in contacts:
            known = self.contacts.get(contact.account_id)
            if known is not None and known.changed_at > contact.changed_at:
                continue
            if contact.email_opted_out is None and known is not None:
                contact = replace(contact, email_opted_out=known.email_opted_out)  # noqa: PLW2901
            self.contacts[contact.account_id] = contact
            kept += 1
        return kept

    async def take(
        self, batch: Sequence[Notification], *, now: datetime, hold: bool, lanes_held: HeldLanes
    ) -> Taken:
        lease, leased_until = uuid4(), now + timedelta(seconds=self.lease_seconds)
        open_accounts = {
            row.notification.account_id
            for row in self.rows.values()
            if row.status in UNSETTLED
            and row.notification
            not in [each.notification for each in lanes_held.in_hand(row.notification.account_id)]
        }
        attempts: list[Attempt] = []
        skipped: list[Notification] = []
        facts: list[Fact] = []
        inserted = 0
        for each in {notification.id: notification for notification in batch}.values():
            if each.id in self.rows:
                if (fact := _restate(self.rows[each.id])) is not None:
                    facts.append(fact)
                continue
            inserted += 1
            contact = addressee(notification=each, contact=self.contacts.get(each.account_id or ""))
            reason = skip_reason(notification=each, contact=contact)
            if reason is None and self._is_superseded(each, beside=batch):
                reason = "superseded"
            row = _Row(
                notification=each,
                status=Status.SENDING,
                seq=len(self.rows),
                due_at=leased_until,
                taken_at=now,
                lease=lease,
            )
            self.rows[each.id] = row
            behind = each.account_id in open_accounts
            if reason is not None:
                facts.append(_skip(row, reason, now))
                skipped.append(each)
            elif hold or behind:
                row.status, row.due_at, row.lease = Status.DUE, now, None
            elif contact is not None:
                attempts.append(_attempt(row, contact, leased_until))
        return Taken(
            attempts=attempts,
            inserted=inserted,
            duplicates=len(batch) - inserted,
            skipped=skipped,
            rows=self._announce(facts),
        )

    async def claim_due(self, *, now: datetime, limit: int) -> Claimed:
        leased_until, lease = now + timedelta(seconds=self.lease_seconds), uuid4()
        unsettled = [row for row in self.rows.values() if row.status in UNSETTLED]
        free = [row for row in unsettled if row.due_at <= now and not _is_behind(row, unsettled)]
        claimed = sorted(free, key=lambda row: (row.due_at, row.seq))[:limit]
        repeats = 0
        attempts: list[Attempt] = []
        skipped: list[Notification] = []
        facts: list[Fact] = []
        for row in sorted(claimed, key=lambda row: row.seq):
            was_sending = row.status is Status.SENDING
            row.status, row.lease, row.due_at = Status.SENDING, lease, leased_until
            row.repeats += was_sending
            repeats += was_sending
            contact = addressee(
                notification=row.notification,
                contact=self.contacts.get(row.notification.account_id or ""),
            )
            reason = skip_reason(notification=row.notification, contact=contact)
            if self._is_superseded(row.notification) or is_past(
                notification=row.notification, taken_at=row.taken_at, now=now
            ):
                reason = reason or "superseded"
            if reason is not None:
                facts.append(_skip(row, reason, now))
                skipped.append(row.notification)
            elif contact is not None:
                attempts.append(_attempt(row, contact, leased_until))
        return Claimed(
            attempts=attempts, repeats=repeats, skipped=skipped, rows=self._announce(facts)
        )

    async def release(self, attempts: Sequence[Attempt], *, now: datetime) -> None:
        for attempt in attempts:
            row = self.rows[attempt.notification.id]
            if row.status is Status.SENDING and row.lease == attempt.lease:
                row.status, row.due_at = Status.DUE, now

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[OutboxRow]:
        facts: list[Fact] = []
        for settlement in settlements:
            row, decision = self.rows[settlement.attempt.notification.id], settlement.decision
            is_ours = row.lease == settlement.attempt.lease or decision.status is Status.SENT
            if row.status is not Status.SENDING or not is_ours:
                continue
            row.status, row.reason, row.due_at = (
                decision.status,
                decision.reason,
                settlement.due_at,
            )
            row.attempts, row.repeats = decision.attempts, decision.repeats
            row.message_id = settlement.message_id
            row.settled_at = None if decision.status in UNSETTLED else settlement.at
            if (fact := _restate(row)) is not None:
                facts.append(fact)
        return self._announce(facts)

    async def backlog(self, *, now: datetime) -> Sequence[tuple[str, int, float]]:
        found = []
        for status in sorted(UNSETTLED):
            taken = [row.taken_at for row in self.rows.values() if row.status is status]
            age_seconds = (now - min(taken)).total_seconds() if taken else 0.0
            found.append((str(status), len(taken), age_seconds))
        return found

    def _is_superseded(
        self, notification: Notification, *, beside: Sequence[Notification] = ()
    ) -> bool:
        taken = {*self.rows, *(each.id for each in beside)}
        return any(found in taken for found in superseding_ids(notification))

    def _announce(self, facts: Sequence[Fact]) -> list[OutboxRow]:
        first = self.announced
        self.announced += len(facts)
        return [
            OutboxRow(id=first + number, record=encode(fact, stream=NOTIFICATIONS))
            for number, fact in enumerate(facts)
        ]


def _attempt(row: _Row, contact: Contact, leased_until: datetime) -> Attempt:
    assert row.lease is not None
    return Attempt(
        notification=row.notification,
        contact=contact,
        attempts=row.attempts,
        repeats=row.repeats,
        lease=row.lease,
        leased_until=leased_until,
    )


def _is_behind(row: _Row, unsettled: Sequence[_Row]) -> bool:
    return any(
        earlier.notification.account_id == row.notification.account_id
        and earlier.seq < row.seq
        and earlier.due_at > row.due_at
        for earlier in unsettled
    )


def _skip(row: _Row, reason: SkipReason, now: datetime) -> Fact:
    row.status, row.reason, row.settled_at = Status.SKIPPED, reason, now
    fact = _restate(row)
    assert fact is not None
    return fact


def _restate(row: _Row) -> Fact | None:
    about = {
        "notification_id": row.notification.id,
        "kind": str(row.notification.kind),
        "payment_id": row.notification.payment_id,
        "posting_key": row.notification.posting_key,
        "about": row.notification.about,
        "account_id": row.notification.account_id,
    }
    match row.status:
        case Status.SENT:
            return NotificationSent.model_validate(
                {**about, "sent_at": row.settled_at, "message_id": row.message_id}
            )
        case Status.FAILED:
            return NotificationFailed.model_validate(
                {**about, "failed_at": row.settled_at, "reason": row.reason}
            )
        case Status.SKIPPED:
            return NotificationSkipped.model_validate(
                {**about, "skipped_at": row.settled_at, "reason": row.reason}
            )
        case _:
            return None

"""Notifications and contacts in PostgreSQL: whole batches a statement, one transaction a method."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from pydantic import ValidationError
from sqlalchemy import Row, bindparam, func, select, text
from sqlalchemy.ext.asyncio.engine import AsyncConnection, AsyncEngine

from notifier.adapters.tables import contacts, failed_attempts, notifications
from notifier.domain import (
    FACT_TOLD,
    UNSETTLED,
    Attempt,
    AutopayFact,
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
from notifier.ports import Claimed, HeldLanes, Settlement, Taken
from shared.contracts.fact import Fact
from shared.contracts.notifications import (
    NotificationFailed,
    NotificationSent,
    NotificationSkipped,
)
from shared.contracts.streams import NOTIFICATIONS
from shared.contracts.wire import OutboundRecord, describe, encode
from shared.db.bulk import arrays, insert_rows, update_rows
from shared.db.engine import one_statement, transaction
from shared.ids import uuid7
from shared.outbox.settling import Settling
from shared.outbox.table import Outbox, OutboxRow

_log = structlog.get_logger(__name__)

_NOTIFICATION_COLUMNS = (
    "id",
    "kind",
    "about",
    "payment_id",
    "posting_key",
    "account_id",
    "amount_cents",
    "currency",
    "effective_date",
    "balance_after_cents",
    "accepted_at",
    "happened_at",
    "traceparent",
    "fact",
)
_STATE_COLUMNS = ("status", "reason", "due_at", "lease", "taken_at", "settled_at")
_INSERT = insert_rows(
    notifications,
    (*_NOTIFICATION_COLUMNS, *_STATE_COLUMNS),
    on_conflict="(id) DO NOTHING",
    returning="id",
)
_SETTLED_COLUMNS = (
    "status",
    "reason",
    "attempts",
    "repeats",
    "due_at",
    "lease",
    "message_id",
    "settled_at",
)
_RELEASE = update_rows(
    notifications,
    key="id",
    columns=("lease",),
    also_set="status = 'due', due_at = :now",
    where="t.status = 'sending' AND t.lease = r.lease",
)
_SKIP_COLUMNS = ("status", "reason", "settled_at")
_SKIP = update_rows(notifications, key="id", columns=_SKIP_COLUMNS)
_FAILURE_COLUMNS = ("notification_id", "at", "outcome", "reason", "duration_ms")
_INSERT_FAILURES = insert_rows(failed_attempts, _FAILURE_COLUMNS)

_CONTACT_COLUMNS = ("account_id", "name", "email", "locale", "email_opted_out", "changed_at")
_KEEP = insert_rows(
    contacts,
    _CONTACT_COLUMNS,
    on_conflict="""(account_id) DO UPDATE SET
        name = EXCLUDED.name, email = EXCLUDED.email, locale = EXCLUDED.locale,
        email_opted_out = coalesce(EXCLUDED.email_opted_out, contacts.email_opted_out),
        changed_at = EXCLUDED.changed_at
        WHERE contacts.changed_at <= EXCLUDED.changed_at""",
)

_RECIPIENTS = text(
    """
    SELECT a.account_id, c.name, c.email, c.locale, c.email_opted_out, c.changed_at,
           EXISTS (
               SELECT 1 FROM notifier.notifications n
               WHERE n.account_id = a.account_id AND n.status IN ('due', 'sending')
                 AND n.id <> ALL(:in_hand)
           ) AS has_others
    FROM unnest(CAST(:accounts AS text[])) AS a(account_id)
    LEFT JOIN notifier.contacts c ON c.account_id = a.account_id
    """
)
# A kind that this version does not know was taken by a later one, which will send it.
# A row waits for an earlier one of its account that is tried later than it would be: messages
# about one account go out in the order in which they were taken.
_CLAIM = text(
    """
    WITH candidates AS MATERIALIZED (
        SELECT n.id, n.status FROM notifier.notifications n
        WHERE n.status IN ('due', 'sending') AND n.due_at <= :now AND n.kind = ANY(:kinds)
          AND NOT EXISTS (
              SELECT 1 FROM notifier.notifications e
              WHERE e.account_id = n.account_id AND e.seq < n.seq
                AND e.status IN ('due', 'sending') AND e.due_at > n.due_at
          )
        ORDER BY n.due_at, n.seq LIMIT :limit
        FOR UPDATE OF n SKIP LOCKED
    )
    UPDATE notifier.notifications t SET
        status = 'sending', lease = :lease, due_at = :leased_until,
        repeats = t.repeats + CASE WHEN c.status = 'sending' THEN 1 ELSE 0 END
    FROM candidates c WHERE t.id = c.id
    RETURNING t.*, c.status AS was
    """
)
_BACKLOG = text(
    """
    SELECT s.status, count(n.id), coalesce(extract(epoch FROM :now - min(n.taken_at)), 0)
    FROM unnest(CAST(:statuses AS text[])) AS s(status)
    LEFT JOIN LATERAL (
        SELECT id, taken_at FROM notifier.notifications
        WHERE notifications.status = s.status
          AND notifications.status IN ('due', 'sending') LIMIT 10000
    ) n ON true
    GROUP BY s.status
    """
)


@dataclass(frozen=True, slots=True)
class _Recipient:
    contact: Contact | None
    has_others: bool
    """Whether something of the account is unsettled, and not in this process's own lane."""


_NOBODY = _Recipient(contact=None, has_others=False)


class SqlNotifications:
    """See `notifier.ports.Notifications`."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        outbox: Outbox,
        lease_seconds: float,
        new_lease: Callable[[], UUID] = uuid7,
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._settling = Settling(
            outbox=outbox,
            table=notifications,
            columns=_SETTLED_COLUMNS,
            # A mail that was sent is sent, whoever holds the lease by now; anything else is for
            # the holder.
            where="t.status = 'sending' AND (t.lease = r.lease OR r.status = 'sent')",
        )
        self._lease = timedelta(seconds=lease_seconds)
        self._new_lease = new_lease

    async def take(
        self, batch: Sequence[Notification], *, now: datetime, hold: bool, lanes_held: HeldLanes
    ) -> Taken:
        # The same fact may have come twice in one batch.
        wanted = list({notification.id: notification for notification in batch}.values())
        lease = self._new_lease()
        accounts = {each.account_id for each in wanted if each.account_id is not None}
        # Asked before the database: what leaves a lane from now on is settled, or stops it.
        in_hand = [each.notification.id for lane in accounts for each in lanes_held.in_hand(lane)]
        async with one_statement(self._engine) as connection:
            # Nothing is locked by these: they would see no more inside the transaction below.
            recipients = await _recipients(connection, wanted, in_hand=in_hand)
            superseded = await _superseded(connection, wanted)
        skips: dict[UUID, SkipReason] = {}
        rows: dict[UUID, Mapping[str, Any]] = {}
        contacts_of: dict[UUID, Contact | None] = {}
        for each in wanted:
            recipient = recipients.get(each.account_id or "", _NOBODY)
            contact = addressee(notification=each, contact=recipient.contact)
            contacts_of[each.id] = contact
            reason = skip_reason(notification=each, contact=contact)
            if reason is None and each.id in superseded:
                reason = "superseded"
            if reason is not None:
                skips[each.id] = reason
                rows[each.id] = _new_row(each, now, Status.SKIPPED, reason=reason)
            elif hold or recipient.has_others:
                rows[each.id] = _new_row(each, now, Status.DUE)
            else:
                rows[each.id] = _new_row(
                    each, now, Status.SENDING, lease=lease, due_at=now + self._lease
                )
        # Without a fact to state of it, a notification is taken by one statement. What else may
        # follow says again what is settled, and is asked for anew where it comes to nothing.
        opened = transaction if skips else one_statement
        async with opened(self._engine) as connection:
            inserted = await _insert(connection, list(rows.values()))
            new = [each for each in wanted if each.id in inserted]
            skipped = [each for each in new if each.id in skips]
            records = [_record(_skipped(each, skips[each.id], now), each) for each in skipped]
            known = [each.id for each in wanted if each.id not in inserted]
            records += await _restated(connection, known)
            outbox_rows = await self._outbox.append(connection, records)
        return Taken(
            attempts=[
                Attempt(
                    notification=each,
                    contact=contact,
                    attempts=0,
                    repeats=0,
                    lease=lease,
                    leased_until=now + self._lease,
                )
                for each in new
                if rows[each.id]["status"] is Status.SENDING
                and (contact := contacts_of[each.id]) is not None
            ],
            inserted=len(new),
            duplicates=len(batch) - len(new),
            skipped=skipped,
            rows=outbox_rows,
        )

    async def claim_due(self, *, now: datetime, limit: int) -> Claimed:
        lease, leased_until = self._new_lease(), now + self._lease
        async with transaction(self._engine, plans_anew=True) as connection:
            result = await connection.execute(
                _CLAIM,
                {
                    "now": now,
                    "limit": limit,
                    "kinds": [str(kind) for kind in Kind],
                    "lease": lease,
                    "leased_until": leased_until,
                },
            )
            claimed = sorted(result, key=lambda row: row.seq)
            notifications_of = {row.id: _notification(row) for row in claimed}
            recipients = await _recipients(connection, list(notifications_of.values()))
            superseded = await _superseded(connection, list(notifications_of.values()))
            attempts: list[Attempt] = []
            skips: list[tuple[Notification, SkipReason]] = []
            for row in claimed:
                notification = notifications_of[row.id]
                contact = addressee(
                    notification=notification, contact=recipients[row.account_id].contact
                )
                reason = skip_reason(notification=notification, contact=contact)
                if row.id in superseded or is_past(
                    notification=notification, taken_at=row.taken_at, now=now
                ):
                    reason = reason or "superseded"
                if reason is not None or contact is None:
                    skips.append((notification, reason or "no_address"))
                    continue
                attempts.append(
                    Attempt(
                        notification=notification,
                        contact=contact,
                        attempts=row.attempts,
                        repeats=row.repeats,
                        lease=lease,
                        leased_until=leased_until,
                    )
                )
            if skips:
                rows = [
                    {"id": each.id, "status": Status.SKIPPED, "reason": reason, "settled_at": now}
                    for each, reason in skips
                ]
                await connection.execute(_SKIP, arrays(rows, ("id", *_SKIP_COLUMNS)))
            outbox_rows = await self._outbox.append(
                connection, [_record(_skipped(each, reason, now), each) for each, reason in skips]
            )
        return Claimed(
            attempts=attempts,
            repeats=sum(row.was == Status.SENDING for row in claimed),
            skipped=[each for each, _ in skips],
            rows=outbox_rows,
        )

    async def release(self, attempts: Sequence[Attempt], *, now: datetime) -> None:
        async with one_statement(self._engine) as connection:
            await connection.execute(
                _RELEASE,
                {
                    "id": [attempt.notification.id for attempt in attempts],
                    "lease": [attempt.lease for attempt in attempts],
                    "now": now,
                },
            )

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[OutboxRow]:
        failed = [each for each in settlements if _is_failure(each)]
        opened = transaction if failed else one_statement
        async with opened(self._engine) as connection:
            ours, rows = await self._settling.run(
                connection, [(_settled_row(each), _record_of(each)) for each in settlements]
            )
            failures = [_failure(each) for each in failed if each.attempt.notification.id in ours]
            if failures:
                await connection.execute(_INSERT_FAILURES, arrays(failures, _FAILURE_COLUMNS))
        return rows

    async def backlog(self, *, now: datetime) -> Sequence[tuple[str, int, float]]:
        statuses = sorted(str(status) for status in UNSETTLED)
        async with one_statement(self._engine) as connection:
            result = await connection.execute(_BACKLOG, {"statuses": statuses, "now": now})
            return [(row[0], int(row[1]), float(row[2])) for row in result]


class SqlContacts:
    """See `notifier.ports.Contacts`."""

    def __init__(self, *, engine: AsyncEngine) -> None:
        self._engine = engine

    async def keep(self, stated: Sequence[Contact]) -> int:
        rows = [{name: getattr(each, name) for name in _CONTACT_COLUMNS} for each in stated]
        async with one_statement(self._engine) as connection:
            result = await connection.execute(_KEEP, arrays(rows, _CONTACT_COLUMNS))
            return int(result.rowcount)


async def _recipients(
    connection: AsyncConnection, batch: Sequence[Notification], *, in_hand: Sequence[UUID] = ()
) -> Mapping[str, _Recipient]:
    accounts = {each.account_id for each in batch if each.account_id is not None}
    if not accounts:
        return {}
    result = await connection.execute(
        _RECIPIENTS, {"accounts": sorted(accounts), "in_hand": list(in_hand)}
    )
    return {
        row.account_id: _Recipient(
            contact=_contact(row) if row.changed_at is not None else None,
            has_others=row.has_others,
        )
        for row in result
    }


async def _superseded(connection: AsyncConnection, batch: Sequence[Notification]) -> set[UUID]:
    """Return those of the batch that are no news: what came after them was taken, or is here."""
    answers = [(answer, each.id) for each in batch for answer in superseding_ids(each)]
    if not answers:
        return set()
    result = await connection.execute(
        select(notifications.c.id).where(notifications.c.id == func.any(bindparam("ids"))),
        {"ids": [answer for answer, _ in answers]},
    )
    found = {*result.scalars(), *(each.id for each in batch)}
    return {told for answer, told in answers if answer in found}


def _new_row(
    notification: Notification,
    now: datetime,
    status: Status,
    *,
    reason: str | None = None,
    lease: UUID | None = None,
    due_at: datetime | None = None,
) -> Mapping[str, Any]:
    row: dict[str, Any] = {name: getattr(notification, name) for name in _NOTIFICATION_COLUMNS}
    return row | {
        "fact": notification.fact.model_dump_json() if notification.fact is not None else None,
        "status": status,
        "reason": reason,
        "due_at": due_at or now,
        "lease": lease,
        "taken_at": now,
        "settled_at": now if status is Status.SKIPPED else None,
    }


async def _insert(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> set[UUID]:
    result = await connection.execute(
        _INSERT, arrays(rows, (*_NOTIFICATION_COLUMNS, *_STATE_COLUMNS))
    )
    return set(result.scalars())


async def _restated(connection: AsyncConnection, ids: Sequence[UUID]) -> list[OutboundRecord]:
    """Return again the facts of what is settled: an owner that asks has not heard them."""
    if not ids:
        return []
    result = await connection.execute(
        select(notifications).where(notifications.c.id == func.any(bindparam("ids"))),
        {"ids": list(ids)},
    )
    return [_record(fact, row) for row in result if (fact := _restate(row)) is not None]


def _record(fact: Fact, about: Notification | Row[Any]) -> OutboundRecord:
    return encode(fact, stream=NOTIFICATIONS, traceparent=about.traceparent)


def _notification(row: Row[Any]) -> Notification:
    values = {name: getattr(row, name) for name in _NOTIFICATION_COLUMNS}
    kind = Kind(row.kind)
    return Notification(**values | {"kind": kind, "fact": _fact_told(kind, row)})


def _fact_told(kind: Kind, row: Row[Any]) -> AutopayFact | None:
    """Return the fact that a row holds; one that cannot be read fails its own message only."""
    if row.fact is None:
        return None
    try:
        return FACT_TOLD[kind].model_validate(row.fact)
    except ValidationError as error:
        _log.error("notification.unreadable", notification_id=str(row.id), detail=describe(error))
        return None


def _contact(row: Row[Any]) -> Contact:
    return Contact(**{name: getattr(row, name) for name in _CONTACT_COLUMNS})


def _settled_row(settlement: Settlement) -> Mapping[str, Any]:
    attempt, decision = settlement.attempt, settlement.decision
    return {
        "id": attempt.notification.id,
        "status": decision.status,
        "reason": decision.reason,
        "attempts": decision.attempts,
        "repeats": decision.repeats,
        "due_at": settlement.due_at,
        "lease": attempt.lease,
        "message_id": settlement.message_id,
        "settled_at": None if decision.status in UNSETTLED else settlement.at,
    }


def _is_failure(settlement: Settlement) -> bool:
    return settlement.answer.attempted and settlement.answer.outcome is not Outcome.SENT


def _failure(settlement: Settlement) -> Mapping[str, Any]:
    return {
        "notification_id": settlement.attempt.notification.id,
        "at": settlement.at,
        "outcome": settlement.answer.outcome,
        "reason": settlement.decision.reason,
        "duration_ms": settlement.duration_ms,
    }


def _about(notification: Notification | Row[Any]) -> dict[str, Any]:
    """Return what every notification fact says of its notification."""
    return {
        "notification_id": notification.id,
        "kind": str(notification.kind),
        "payment_id": notification.payment_id,
        "posting_key": notification.posting_key,
        "about": notification.about,
        "account_id": notification.account_id,
    }


def _skipped(notification: Notification, reason: SkipReason, now: datetime) -> Fact:
    return NotificationSkipped(**_about(notification), skipped_at=now, reason=reason)


def _fact_of(settlement: Settlement) -> Fact | None:
    """Return the fact that states an outcome, where one is due."""
    about = _about(settlement.attempt.notification)
    match settlement.decision.status:
        case Status.SENT:
            return NotificationSent(
                **about, sent_at=settlement.at, message_id=settlement.message_id
            )
        case Status.FAILED:
            return NotificationFailed(
                **about, failed_at=settlement.at, reason=settlement.decision.reason or "failed"
            )
        case _:
            return None


def _record_of(settlement: Settlement) -> OutboundRecord | None:
    fact = _fact_of(settlement)
    return None if fact is None else _record(fact, settlement.attempt.notification)


def _restate(row: Row[Any]) -> Fact | None:
    """Return the fact that states what has become of a settled notification, from its row."""
    match Status(row.status):
        case Status.SENT:
            return NotificationSent(
                **_about(row), sent_at=row.settled_at, message_id=row.message_id
            )
        case Status.FAILED:
            return NotificationFailed(
                **_about(row), failed_at=row.settled_at, reason=row.reason or "failed"
            )
        case Status.SKIPPED:
            return NotificationSkipped(**_about(row), skipped_at=row.settled_at, reason=row.reason)
        case _:
            return None

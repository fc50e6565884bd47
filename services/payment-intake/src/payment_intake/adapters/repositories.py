"""What payment-intake keeps, in PostgreSQL: whole batches a statement, one transaction a unit."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row, TextClause, bindparam, func, insert, select, text, tuple_
from sqlalchemy.ext.asyncio.engine import AsyncConnection, AsyncEngine

from payment_intake.adapters.charge_rows import SqlCharges
from payment_intake.adapters.tables import (
    conflicts,
    events,
    movements,
    payment_references,
    payments,
    rejections,
)
from payment_intake.domain import (
    ENDED,
    Book,
    Claim,
    Movement,
    MovementKind,
    MovementStatus,
    Payment,
    PaymentStatus,
)
from payment_intake.ports import (
    Announce,
    ChargeView,
    Heard,
    Incoming,
    OwnedMovement,
    PaymentView,
    RecordedConflict,
    Reference,
    Rejected,
    Told,
)
from payment_intake.usecases import ConcurrentTakeError
from shared.contracts.wire import OutboundRecord
from shared.db.bulk import arrays, insert_rows, update_rows
from shared.db.engine import one_statement, transaction
from shared.outbox.table import OUTBOX_COLUMNS, Outbox, OutboxRow, outbox_rows, outbox_values

_EVENT_COLUMNS = (
    "source",
    "event_id",
    "type",
    "processor",
    "reference",
    "digest",
    "body",
    "received_at",
)
_INSERT_EVENTS = insert_rows(
    events,
    _EVENT_COLUMNS,
    on_conflict="(source, event_id) DO NOTHING",
    returning="source, event_id",
)
_DIGESTS = text(
    """
    SELECT e.source, e.event_id, e.digest
    FROM unnest(CAST(:sources AS text[]), CAST(:ids AS text[])) AS r(source, event_id)
    JOIN payment_intake.events e ON e.source = r.source AND e.event_id = r.event_id
    """
)
# Locked in the order of their ids, so that two takers of the same payments never wait in a circle.
_LOCK_PAYMENTS = text(
    """
    WITH named AS MATERIALIZED (
        SELECT DISTINCT p.payment_id
        FROM unnest(CAST(:processors AS text[]), CAST(:names AS text[])) AS r(processor, name)
        JOIN payment_intake.payment_references p
          ON p.processor = r.processor AND p.reference = r.name
    )
    SELECT payments.* FROM payment_intake.payments
    WHERE id = ANY(ARRAY(SELECT payment_id FROM named)) ORDER BY id FOR UPDATE
    """
)
_NAMED = text(
    """
    SELECT DISTINCT p.payment_id
    FROM unnest(CAST(:processors AS text[]), CAST(:names AS text[])) AS r(processor, name)
    JOIN payment_intake.payment_references p
      ON p.processor = r.processor AND p.reference = r.name
    """
)
_REFERENCES_OF = select(payment_references.c.payment_id, payment_references.c.reference).where(
    payment_references.c.payment_id == func.any(bindparam("ids"))
)

_PAYMENT_COLUMNS = (
    "id",
    "processor",
    "status",
    "account_id",
    "amount_cents",
    "fee_cents",
    "currency",
    "method",
    "bill_reference",
    "book",
    "credited",
    "created_at",
    "submitted_at",
    "pending_at",
    "captured_at",
    "failed_at",
    "traceparent",
)
_UPDATE_PAYMENTS = update_rows(payments, key="id", columns=_PAYMENT_COLUMNS[1:])
_REFERENCE_COLUMNS = ("processor", "reference", "payment_id")
_REPOINT_REFERENCES = text(
    """
    UPDATE payment_intake.payment_references SET payment_id = :into WHERE payment_id = :other
    """
)
_MOVEMENT_COLUMNS = (
    "id",
    "payment_id",
    "kind",
    "amount_cents",
    "effective_date",
    "accepted_at",
    "reason",
    "reason_code",
    "attempt",
    "category",
    "status",
    "announce_at",
    "traceparent",
)
_CONFLICT_COLUMNS = ("kind", "source", "event_id", "payment_id", "detail", "at")
_INSERT_CONFLICTS = insert_rows(conflicts, _CONFLICT_COLUMNS)

# The status follows from what has been heard so far, in whichever order it came.
_HEAR = text(
    """
    UPDATE payment_intake.movements AS t SET
        status = CASE
            WHEN t.status IN ('confirmed', 'returned') THEN t.status
            WHEN r.status = 'posted' AND t.confirmed_at IS NOT NULL THEN 'confirmed'
            WHEN r.status = 'posted' THEN 'posted'
            WHEN t.posted_at IS NOT NULL THEN t.status
            WHEN r.status = 'announced' THEN t.status
            ELSE r.status END,
        posted_at = CASE WHEN r.status = 'posted' THEN coalesce(t.posted_at, r.at)
                         ELSE t.posted_at END,
        cis_reference = coalesce(r.cis_reference, t.cis_reference),
        balance_after_cents = coalesce(r.balance_after_cents, t.balance_after_cents),
        wait_reason = CASE WHEN r.status = 'posted' OR t.posted_at IS NOT NULL THEN NULL
                           ELSE r.reason END,
        announce_at = CASE
            WHEN t.status IN ('confirmed', 'returned') OR r.status = 'returned' THEN NULL
            WHEN r.status = 'posted' AND t.confirmed_at IS NOT NULL THEN NULL
            ELSE t.announce_at END
    FROM unnest(
        CAST(:ids AS uuid[]), CAST(:statuses AS text[]), CAST(:ats AS timestamptz[]),
        CAST(:reasons AS text[]), CAST(:cis_references AS text[]), CAST(:balances AS bigint[])
    ) AS r(id, status, at, reason, cis_reference, balance_after_cents),
    LATERAL (SELECT posted_at AS before FROM payment_intake.movements m WHERE m.id = r.id) AS old
    WHERE t.id = r.id
    RETURNING t.id, t.kind, t.accepted_at, old.before IS NULL AND t.posted_at IS NOT NULL AS newly
    """
)
_TELL = text(
    """
    UPDATE payment_intake.movements AS t SET
        confirmed_at = r.at, notification = r.outcome,
        status = CASE WHEN t.posted_at IS NOT NULL OR t.kind = 'decline' THEN 'confirmed'
                      ELSE t.status END,
        announce_at = CASE WHEN t.posted_at IS NOT NULL OR t.kind = 'decline' THEN NULL
                           ELSE t.announce_at END
    FROM unnest(
        CAST(:movement_ids AS uuid[]), CAST(:payment_ids AS uuid[]), CAST(:kinds AS text[]),
        CAST(:ats AS timestamptz[]), CAST(:outcomes AS text[])
    ) AS r(movement_id, payment_id, kind, at, outcome)
    WHERE t.payment_id = r.payment_id AND t.kind = r.kind AND t.confirmed_at IS NULL
      AND (t.id = r.movement_id OR r.movement_id IS NULL)
    RETURNING t.id, t.kind, t.accepted_at
    """
)
_CLAIM_UNFINISHED = text(
    """
    WITH due AS MATERIALIZED (
        SELECT id FROM payment_intake.movements
        WHERE announce_at IS NOT NULL AND announce_at <= :now
        ORDER BY announce_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE payment_intake.movements m SET
        announcements = m.announcements + 1,
        announce_at = CAST(:now AS timestamptz)
            + least(:cap, :first * power(2, least(m.announcements, 20))) * interval '1 second'
    WHERE id = ANY(ARRAY(SELECT id FROM due))
    RETURNING m.*
    """
)
_CLAIM_DELAYED = text(
    """
    WITH due AS MATERIALIZED (
        SELECT id FROM payment_intake.movements
        WHERE kind = 'payment' AND posted_at IS NULL AND delayed_at IS NULL
          AND status <> 'returned' AND accepted_at <= :accepted_before
          AND (status <> 'announced'
               OR accepted_at <= :spared_since OR accepted_at > :spared_until)
        ORDER BY accepted_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE payment_intake.movements m SET delayed_at = :now
    WHERE id = ANY(ARRAY(SELECT id FROM due))
    RETURNING m.*
    """
)
_BACKLOG = text(
    """
    SELECT s.status, coalesce(m.count, 0), coalesce(extract(epoch FROM :now - m.oldest), 0)
    FROM unnest(CAST(:statuses AS text[])) AS s(status)
    LEFT JOIN (
        SELECT status, count(*) AS count, min(accepted_at) AS oldest
        FROM (
            SELECT status, accepted_at FROM payment_intake.movements
            WHERE announce_at IS NOT NULL ORDER BY announce_at LIMIT 10000
        ) AS waiting
        GROUP BY status
    ) m ON m.status = s.status
    ORDER BY s.status
    """
)


def _keep_new(outbox: Outbox) -> TextClause:
    """Return the one statement that inserts what a batch has brought, each part maybe empty."""
    new_payments = insert_rows(payments, _PAYMENT_COLUMNS, prefix="payment_")
    new_names = insert_rows(
        payment_references,
        _REFERENCE_COLUMNS,
        on_conflict="(processor, reference) DO NOTHING",
        returning="1",
        prefix="name_",
    )
    new_movements = insert_rows(movements, _MOVEMENT_COLUMNS, prefix="movement_")
    stated = insert_rows(outbox.table, OUTBOX_COLUMNS, returning="id", prefix="fact_")
    return text(
        f"""
        WITH paid AS ({new_payments.text}), moved AS ({new_movements.text}),
             named AS ({new_names.text}), stated AS ({stated.text})
        SELECT (SELECT count(*) FROM named) AS named, ARRAY(SELECT id FROM stated) AS stated
        """  # noqa: S608
    )


class SqlUnitOfWork:
    """See `payment_intake.ports.UnitOfWork`."""

    def __init__(
        self,
        *,
        connection: AsyncConnection,
        outbox: Outbox,
        keep_new: TextClause,
        announce_again: timedelta,
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._keep_new = keep_new
        self._announce_again = announce_again
        self._known: set[Reference] = set()
        self.charges = SqlCharges(connection=connection)
        self.rows: list[OutboxRow] = []

    async def keep_events(self, incoming: Sequence[Incoming]) -> Sequence[bool]:
        # In one order for all, so that two takers of the same events never wait in a circle.
        ordered = sorted(incoming, key=lambda event: (event.source, event.event_id))
        rows = [_event_row(event) for event in ordered]
        result = await self._connection.execute(_INSERT_EVENTS, arrays(rows, _EVENT_COLUMNS))
        inserted = {(row.source, row.event_id) for row in result}
        fresh = []
        for event in incoming:
            key = (event.source, event.event_id)
            # The same event twice in one batch: the first of them is the new one.
            fresh.append(key in inserted)
            inserted.discard(key)
        return fresh

    async def digests(self, incoming: Sequence[Incoming]) -> Mapping[tuple[str, str], bytes]:
        result = await self._connection.execute(
            _DIGESTS,
            {
                "sources": [event.source for event in incoming],
                "ids": [event.event_id for event in incoming],
            },
        )
        return {(row.source, row.event_id): bytes(row.digest) for row in result}

    async def lock_payments(self, references: Sequence[Reference]) -> Sequence[Payment]:
        result = await self._connection.execute(
            _LOCK_PAYMENTS,
            {
                "processors": [processor for processor, _ in references],
                "names": [name for _, name in references],
            },
        )
        found = await _payments(self._connection, result.all())
        self._known |= {(p.processor, reference) for p in found for reference in p.references}
        return found

    async def save(
        self,
        *,
        created: Sequence[Payment] = (),
        changed: Sequence[Payment] = (),
        removed: Sequence[tuple[Payment, Payment]] = (),
        movements: Sequence[tuple[Movement, Payment, str]] = (),
        conflicts: Sequence[RecordedConflict] = (),
        records: Sequence[OutboundRecord] = (),
    ) -> None:
        run = self._connection.execute
        if changed:
            await run(_UPDATE_PAYMENTS, arrays(map(_payment_row, changed), _PAYMENT_COLUMNS))
        for other, into in removed:
            # The other was only a name of the same payment; its row stays, found by nobody.
            await run(_REPOINT_REFERENCES, {"into": into.id, "other": other.id})
        if conflicts:
            await run(_INSERT_CONFLICTS, arrays(map(_conflict_row, conflicts), _CONFLICT_COLUMNS))
        names = self._new_names((*created, *changed))
        if not (created or names or movements or records):
            return
        moved = [_movement_row(*each, self._announce_again) for each in movements]
        found = await run(
            self._keep_new,
            {
                **arrays(map(_payment_row, created), _PAYMENT_COLUMNS, prefix="payment_"),
                **arrays(names, _REFERENCE_COLUMNS, prefix="name_"),
                **arrays(moved, _MOVEMENT_COLUMNS, prefix="movement_"),
                **arrays(map(outbox_values, records), OUTBOX_COLUMNS, prefix="fact_"),
            },
        )
        named, stated = found.one()
        if named < len(names):
            raise ConcurrentTakeError("a payment of this batch was named by somebody else")
        self.rows += outbox_rows(stated, records)

    async def announce(self, records: Sequence[OutboundRecord]) -> None:
        self.rows += await self._outbox.append(self._connection, records)

    async def payments_of(self, references: Sequence[Reference]) -> Sequence[Payment]:
        named = await self._connection.execute(
            _NAMED,
            {
                "processors": [processor for processor, _ in references],
                "names": [name for _, name in references],
            },
        )
        found = await self._connection.execute(
            select(payments).where(payments.c.id == func.any(bindparam("ids"))),
            {"ids": list(named.scalars())},
        )
        return await _payments(self._connection, found.all())

    async def movements_of(self, references: Sequence[Reference]) -> Sequence[OwnedMovement]:
        by_id = {payment.id: payment for payment in await self.payments_of(references)}
        if not by_id:
            return []
        rows = await self._connection.execute(
            select(movements)
            .where(movements.c.payment_id == func.any(bindparam("ids")))
            .order_by(movements.c.accepted_at, movements.c.id),
            {"ids": list(by_id)},
        )
        return [_owned_movement(row, by_id[row.payment_id]) for row in rows]

    async def claim_unfinished(
        self, *, now: datetime, limit: int, first_seconds: float, cap_seconds: float
    ) -> Sequence[OwnedMovement]:
        result = await self._connection.execute(
            _CLAIM_UNFINISHED,
            {"now": now, "limit": limit, "first": first_seconds, "cap": cap_seconds},
        )
        return await self._owned(result.all())

    async def claim_delayed(
        self,
        *,
        accepted_before: datetime,
        spared: tuple[datetime, datetime],
        now: datetime,
        limit: int,
    ) -> Sequence[OwnedMovement]:
        spared_since, spared_until = spared
        result = await self._connection.execute(
            _CLAIM_DELAYED,
            {
                "accepted_before": accepted_before,
                "spared_since": spared_since,
                "spared_until": spared_until,
                "now": now,
                "limit": limit,
            },
        )
        return await self._owned(result.all())

    async def _owned(self, rows: Sequence[Row[Any]]) -> Sequence[OwnedMovement]:
        if not rows:
            return []
        found = await self._connection.execute(
            select(payments).where(payments.c.id == func.any(bindparam("ids"))),
            {"ids": [row.payment_id for row in rows]},
        )
        by_id = {p.id: p for p in await _payments(self._connection, found.all())}
        return [_owned_movement(row, by_id[row.payment_id]) for row in rows]

    def _new_names(self, saved: Sequence[Payment]) -> list[Mapping[str, Any]]:
        # In one order for all, so that two takers of the same names never wait in a circle.
        new = {
            (payment.processor, reference): payment.id
            for payment in saved
            for reference in payment.references
            if (payment.processor, reference) not in self._known
        }
        return [
            {"processor": processor, "reference": reference, "payment_id": payment_id}
            for (processor, reference), payment_id in sorted(new.items())
        ]


class SqlStore:
    """See `payment_intake.ports.Store`."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        outbox: Outbox,
        announce: Announce,
        announce_again_seconds: float,
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._keep_new = _keep_new(outbox)
        self._announce = announce
        self._announce_again = timedelta(seconds=announce_again_seconds)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqlUnitOfWork]:
        async with transaction(self._engine) as connection:
            unit = SqlUnitOfWork(
                connection=connection,
                outbox=self._outbox,
                keep_new=self._keep_new,
                announce_again=self._announce_again,
            )
            yield unit
        self._announce.offer(unit.rows)

    async def hear(self, heard: Sequence[Heard]) -> Sequence[tuple[UUID, MovementKind, datetime]]:
        # One statement updates a row once: of several facts about it, the later ones follow.
        newly = []
        for batch in _one_each(heard):
            said = {
                "ids": [each.movement_id for each in batch],
                "statuses": [each.status for each in batch],
                "ats": [each.at for each in batch],
                "reasons": [each.reason for each in batch],
                "cis_references": [each.cis_reference for each in batch],
                "balances": [each.balance_after_cents for each in batch],
            }
            async with one_statement(self._engine) as connection:
                result = await connection.execute(_HEAR, said)
            newly += [
                (row.id, MovementKind(row.kind), row.accepted_at) for row in result if row.newly
            ]
        return newly

    async def tell(self, told: Sequence[Told]) -> Sequence[tuple[UUID, MovementKind, datetime]]:
        said = {
            "movement_ids": [each.movement_id for each in told],
            "payment_ids": [each.payment_id for each in told],
            "kinds": [each.kind for each in told],
            "ats": [each.at for each in told],
            "outcomes": [each.outcome for each in told],
        }
        async with one_statement(self._engine) as connection:
            result = await connection.execute(_TELL, said)
        return [(row.id, MovementKind(row.kind), row.accepted_at) for row in result]

    async def keep_rejected(self, rejected: Rejected) -> None:
        async with one_statement(self._engine) as connection:
            await connection.execute(
                insert(rejections).values(
                    id=rejected.id,
                    source=rejected.source,
                    reason=rejected.reason,
                    field=rejected.field,
                    body=rejected.body,
                    received_at=rejected.received_at,
                )
            )

    async def rejections(self, *, limit: int) -> Sequence[Rejected]:
        statement = select(rejections).order_by(rejections.c.id.desc()).limit(limit)
        async with one_statement(self._engine) as connection:
            return [
                Rejected(
                    id=row.id,
                    source=row.source,
                    reason=row.reason,
                    field=row.field,
                    body=bytes(row.body),
                    received_at=row.received_at,
                )
                for row in await connection.execute(statement)
            ]

    async def payment(self, payment_id: UUID) -> PaymentView | None:
        views = await self._views(select(payments).where(payments.c.id == payment_id))
        return views[0] if views else None

    async def payment_by_reference(self, *, processor: str, reference: str) -> PaymentView | None:
        named = select(payment_references.c.payment_id).where(
            payment_references.c.processor == processor,
            payment_references.c.reference == reference,
        )
        views = await self._views(select(payments).where(payments.c.id == named.scalar_subquery()))
        return views[0] if views else None

    async def payments_of_account(
        self, *, account_id: str, before: UUID | None, limit: int
    ) -> Sequence[PaymentView]:
        statement = (
            select(payments)
            .where(payments.c.account_id == account_id)
            .order_by(payments.c.created_at.desc(), payments.c.id.desc())
            .limit(limit)
        )
        if before is not None:
            # By time and id: payments of one instant stand on one side of a page's end each.
            last = select(payments.c.created_at, payments.c.id).where(payments.c.id == before)
            statement = statement.where(
                tuple_(payments.c.created_at, payments.c.id) < last.scalar_subquery()
            )
        return await self._views(statement)

    async def backlog(self, *, now: datetime) -> Sequence[tuple[str, int, float]]:
        statuses = sorted(str(status) for status in MovementStatus if status not in ENDED)
        async with one_statement(self._engine) as connection:
            result = await connection.execute(_BACKLOG, {"statuses": statuses, "now": now})
            return [(row[0], int(row[1]), float(row[2])) for row in result]

    async def charge(self, charge_id: UUID) -> ChargeView | None:
        async with transaction(self._engine) as connection:
            held = SqlCharges(connection=connection)
            charge = await held.read(charge_id)
            if charge is None:
                return None
            named = await connection.execute(
                select(payment_references.c.payment_id).where(
                    payment_references.c.reference == charge.name,
                    payment_references.c.processor == charge.processor,
                )
            )
            return ChargeView(
                charge=charge,
                payment_id=named.scalar_one_or_none(),
                calls=await held.calls_of(charge_id),
            )

    async def charge_backlog(self, *, now: datetime) -> Sequence[tuple[str, int, float]]:
        async with one_statement(self._engine) as connection:
            return await SqlCharges(connection=connection).backlog(now=now)

    async def _views(self, statement: Any) -> list[PaymentView]:
        async with transaction(self._engine) as connection:
            found = await _payments(connection, (await connection.execute(statement)).all())
            if not found:
                return []
            rows = await connection.execute(
                select(movements)
                .where(movements.c.payment_id == func.any(bindparam("ids")))
                .order_by(movements.c.accepted_at, movements.c.id),
                {"ids": [payment.id for payment in found]},
            )
            moved: dict[UUID, list[Row[Any]]] = {}
            for row in rows:
                moved.setdefault(row.payment_id, []).append(row)
        return [
            PaymentView(
                payment=payment,
                status=payment.status,
                movements=[_owned_movement(row, payment) for row in moved.get(payment.id, [])],
            )
            for payment in found
        ]


def _event_row(event: Incoming) -> Mapping[str, Any]:
    observation = event.observation
    spoken_of = (observation.processor, observation.references[0]) if observation else event.about
    processor, reference = spoken_of or (None, None)
    return {
        "source": event.source,
        "event_id": event.event_id,
        "type": event.event_type,
        "processor": processor,
        "reference": reference,
        "digest": event.digest,
        "body": event.body,
        "received_at": event.received_at,
    }


def _payment_row(payment: Payment) -> Mapping[str, Any]:
    return {
        "id": payment.id,
        "processor": payment.processor,
        "status": payment.status,
        "account_id": payment.account_id,
        "amount_cents": payment.amount_cents,
        "fee_cents": payment.fee_cents,
        "currency": payment.currency,
        "method": payment.method,
        "bill_reference": payment.bill_reference,
        "book": _packed(payment.book),
        "credited": payment.book.credited,
        "created_at": payment.created_at,
        "submitted_at": payment.submitted_at,
        "pending_at": payment.pending_at,
        "captured_at": payment.captured_at,
        "failed_at": payment.failed_at,
        "traceparent": payment.traceparent,
    }


def _movement_row(
    movement: Movement, payment: Payment, traceparent: str, announce_again: timedelta
) -> Mapping[str, Any]:
    return {
        "id": movement.id,
        "payment_id": payment.id,
        "kind": movement.kind,
        "amount_cents": movement.amount_cents,
        "effective_date": movement.effective_date,
        "accepted_at": movement.accepted_at,
        "reason": movement.reason,
        "reason_code": movement.reason_code,
        "attempt": movement.attempt,
        "category": movement.category,
        "status": MovementStatus.ANNOUNCED,
        "announce_at": movement.accepted_at + announce_again,
        "traceparent": traceparent,
    }


def _conflict_row(recorded: RecordedConflict) -> Mapping[str, Any]:
    return {
        "kind": recorded.conflict.kind,
        "source": recorded.source,
        "event_id": recorded.event_id,
        "payment_id": recorded.payment_id,
        "detail": orjson.dumps(recorded.conflict.detail).decode(),
        "at": recorded.at,
    }


def _packed(book: Book) -> str:
    return orjson.dumps(book).decode()


def _unpacked(packed: Mapping[str, Any]) -> Book:
    return Book(
        refunded=_claim(packed["refunded"]),
        refunds_failed=_claims(packed["refunds_failed"]),
        disputes=_claims(packed["disputes"]),
        returned=_claim(packed["returned"]),
        declines=tuple(packed["declines"]),
        credited=packed["credited"],
        reversed_cents=packed["reversed_cents"],
    )


def _claim(packed: Mapping[str, Any] | None) -> Claim | None:
    if packed is None:
        return None
    undone_at = packed["undone_at"]
    return Claim(
        cents=packed["cents"],
        since=datetime.fromisoformat(packed["since"]),
        undone_at=datetime.fromisoformat(undone_at) if undone_at else None,
        code=packed["code"],
        # Books of before it was kept do not have it.
        currency=packed.get("currency"),
    )


def _claims(packed: Mapping[str, Mapping[str, Any]]) -> dict[str, Claim]:
    return {part: claim for part, each in packed.items() if (claim := _claim(each)) is not None}


async def _payments(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> list[Payment]:
    if not rows:
        return []
    named: dict[UUID, set[str]] = {row.id: set() for row in rows}
    for row in await connection.execute(_REFERENCES_OF, {"ids": list(named)}):
        named[row.payment_id].add(row.reference)
    return [_payment(row, named[row.id]) for row in rows]


def _payment(row: Row[Any], references: Iterable[str]) -> Payment:
    book = row.book if isinstance(row.book, dict) else orjson.loads(row.book)
    return Payment(
        id=row.id,
        processor=row.processor,
        references=frozenset(references),
        status=PaymentStatus(row.status),
        account_id=row.account_id,
        amount_cents=row.amount_cents,
        fee_cents=row.fee_cents,
        currency=row.currency,
        method=row.method,
        bill_reference=row.bill_reference,
        book=_unpacked(book),
        created_at=row.created_at,
        submitted_at=row.submitted_at,
        pending_at=row.pending_at,
        captured_at=row.captured_at,
        failed_at=row.failed_at,
        traceparent=row.traceparent,
    )


def _owned_movement(row: Row[Any], payment: Payment) -> OwnedMovement:
    return OwnedMovement(
        movement=Movement(
            id=row.id,
            kind=MovementKind(row.kind),
            amount_cents=row.amount_cents,
            effective_date=row.effective_date,
            accepted_at=row.accepted_at,
            reason=row.reason,
            reason_code=row.reason_code,
            attempt=row.attempt,
            category=row.category,
        ),
        payment=payment,
        status=MovementStatus(row.status),
        wait_reason=row.wait_reason,
        posted_at=row.posted_at,
        confirmed_at=row.confirmed_at,
        delayed_at=row.delayed_at,
        announcements=row.announcements,
        traceparent=row.traceparent,
        cis_reference=row.cis_reference,
        balance_after_cents=row.balance_after_cents,
        notification=row.notification,
    )


def _one_each(heard: Sequence[Heard]) -> list[list[Heard]]:
    """Split into batches in which each movement stands once, keeping the order for each."""
    batches: list[dict[UUID, Heard]] = []
    for each in heard:
        for batch in batches:
            if each.movement_id not in batch:
                batch[each.movement_id] = each
                break
        else:
            batches.append({each.movement_id: each})
    return [list(batch.values()) for batch in batches]

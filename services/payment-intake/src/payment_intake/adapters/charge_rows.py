"""The charges in PostgreSQL, inside the unit of work's transaction: whole batches a statement."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row, bindparam, func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio.engine import AsyncConnection

from payment_intake.adapters.tables import charge_attempts, charges, switch_changes, switches
from payment_intake.domain.charges import UNSETTLED, Charge, ChargeStatus, Hand
from payment_intake.ports import ChargeCall, Permit, Switch
from shared.db.bulk import arrays, insert_rows, update_rows

SWITCH = "charges"

_COLUMNS = (
    "id",
    "account_id",
    "enrolment_id",
    "due_date",
    "bill_reference",
    "method_kind",
    "currency",
    "attempt",
    "amount_cents",
    "processor",
    "payment_method_token",
    "customer_token",
    "mandate_token",
    "requested_at",
    "valid_until",
    "status",
    "reason",
    "category",
    "tries",
    "keys_spent",
    "due_at",
    "lease_owner",
    "reference",
    "earlier",
    "created_at",
    "answered_at",
    "cancelled_at",
    "ended_at",
    "traceparent",
)
_INSERT = insert_rows(charges, _COLUMNS, on_conflict="(id) DO NOTHING", returning="id")
_SAVE = update_rows(charges, key="id", columns=_COLUMNS[1:])
# Locked in the order of their ids, so that two takers of the same charges never wait in a circle.
_LOCK = (
    select(charges)
    .where(charges.c.id == func.any(bindparam("ids")))
    .order_by(charges.c.id)
    .with_for_update()
)
# The switch is read by the statement that leases: what is paused is not leased to be charged, and
# what may have been charged is asked about all the same.
_CLAIM = text(
    """
    WITH due AS MATERIALIZED (
        SELECT id, status AS was FROM payment_intake.charges
        WHERE status IN ('due', 'charging', 'unknown', 'refund_due', 'refunding')
          AND due_at <= :now
          AND (status <> 'due' OR NOT EXISTS (
                SELECT FROM payment_intake.switches WHERE name = :switch AND is_paused))
        ORDER BY due_at LIMIT :limit
        FOR UPDATE SKIP LOCKED
    )
    UPDATE payment_intake.charges c SET
        status = CASE WHEN d.was IN ('refund_due', 'refunding') THEN 'refunding'
                      ELSE 'charging' END,
        lease_owner = :owner, due_at = :leased_until
    FROM due d WHERE c.id = d.id AND c.id = ANY(ARRAY(SELECT id FROM due))
    RETURNING c.*, d.was
    """
)
_CLAIM_EXPIRED = (
    select(charges)
    .where(charges.c.status == ChargeStatus.DUE, charges.c.valid_until < bindparam("now"))
    .order_by(charges.c.valid_until)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_RELEASE = text(
    """
    UPDATE payment_intake.charges SET
        status = CASE WHEN status = 'refunding' THEN 'refund_due'
                      WHEN id = ANY(:unknown) THEN 'unknown' ELSE 'due' END,
        lease_owner = NULL, due_at = :now
    WHERE id = ANY(:ids) AND status IN ('charging', 'refunding') AND lease_owner = :owner
    """
)
_PERMIT = text(
    """
    SELECT c.status = 'charging' AND c.lease_owner = :owner AS held,
           c.cancelled_at IS NOT NULL AS cancelled,
           EXISTS (SELECT FROM payment_intake.switches WHERE name = :switch AND is_paused)
               AS paused
    FROM payment_intake.charges c WHERE c.id = :id
    """
)
_CALL_COLUMNS = (
    "charge_id",
    "attempt",
    "operation",
    "outcome",
    "reason",
    "reference",
    "request_id",
    "at",
    "duration_ms",
)
_INSERT_CALLS = insert_rows(charge_attempts, _CALL_COLUMNS)
_BACKLOG = text(
    """
    SELECT s.status, coalesce(c.count, 0), coalesce(extract(epoch FROM :now - c.oldest), 0)
    FROM unnest(CAST(:statuses AS text[])) AS s(status)
    LEFT JOIN (
        SELECT status, count(*) AS count, min(created_at) AS oldest
        FROM (
            SELECT status, created_at FROM payment_intake.charges
            WHERE status IN ('due', 'charging', 'unknown', 'refund_due', 'refunding')
            ORDER BY due_at LIMIT 10000
        ) AS waiting
        GROUP BY status
    ) c ON c.status = s.status
    """
)


class SqlCharges:
    """See `payment_intake.ports.Charges`."""

    def __init__(self, *, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, new: Sequence[Charge]) -> int:
        result = await self._connection.execute(_INSERT, arrays(map(_row, new), _COLUMNS))
        return len(result.all())

    async def lock(self, charge_ids: Sequence[UUID]) -> Sequence[Charge]:
        result = await self._connection.execute(_LOCK, {"ids": list(charge_ids)})
        return [charge_of(row) for row in result]

    async def read(self, charge_id: UUID) -> Charge | None:
        result = await self._connection.execute(select(charges).where(charges.c.id == charge_id))
        row = result.one_or_none()
        return charge_of(row) if row else None

    async def save(self, changed: Sequence[Charge]) -> None:
        await self._connection.execute(_SAVE, arrays(map(_row, changed), _COLUMNS))

    async def record(self, calls: Sequence[ChargeCall]) -> None:
        rows = [{name: getattr(call, name) for name in _CALL_COLUMNS} for call in calls]
        await self._connection.execute(_INSERT_CALLS, arrays(rows, _CALL_COLUMNS))

    async def claim(
        self, *, now: datetime, limit: int, owner: UUID, leased_until: datetime
    ) -> Sequence[Hand]:
        result = await self._connection.execute(
            _CLAIM,
            {
                "now": now,
                "limit": limit,
                "owner": owner,
                "leased_until": leased_until,
                "switch": SWITCH,
            },
        )
        # A charge that leaves and comes back keeps its place by when it was first asked for.
        rows = sorted(result.all(), key=lambda row: (row.requested_at or row.created_at, row.id))
        return [
            Hand(
                charge=charge_of(row), ask_first=_may_have_been_sent(row), leased_until=leased_until
            )
            for row in rows
        ]

    async def claim_expired(self, *, now: datetime, limit: int) -> Sequence[Charge]:
        result = await self._connection.execute(_CLAIM_EXPIRED, {"now": now, "limit": limit})
        return [charge_of(row) for row in result]

    async def release(self, hands: Sequence[Hand], *, owner: UUID, now: datetime) -> None:
        await self._connection.execute(
            _RELEASE,
            {
                "ids": [hand.charge.id for hand in hands],
                "unknown": [hand.charge.id for hand in hands if hand.ask_first],
                "owner": owner,
                "now": now,
            },
        )

    async def permit(self, charge_id: UUID, *, owner: UUID) -> Permit:
        result = await self._connection.execute(
            _PERMIT, {"id": charge_id, "owner": owner, "switch": SWITCH}
        )
        row = result.one_or_none()
        if row is None or not row.held:
            return Permit.LOST
        if row.cancelled:
            return Permit.CANCELLED
        return Permit.PAUSED if row.paused else Permit.GRANTED

    async def switch(self) -> Switch:
        result = await self._connection.execute(select(switches).where(switches.c.name == SWITCH))
        row = result.one_or_none()
        if row is None:
            return Switch(is_paused=False)
        return Switch(
            is_paused=row.is_paused,
            operator=row.operator,
            note=row.note,
            changed_at=row.changed_at,
        )

    async def turn(self, switch: Switch) -> None:
        values = {
            "is_paused": switch.is_paused,
            "operator": switch.operator,
            "note": switch.note,
            "changed_at": switch.changed_at,
        }
        await self._connection.execute(
            upsert(switches)
            .values(name=SWITCH, **values)
            .on_conflict_do_update(index_elements=[switches.c.name], set_=values)
        )
        await self._connection.execute(insert(switch_changes).values(name=SWITCH, **values))

    async def calls_of(self, charge_id: UUID) -> Sequence[ChargeCall]:
        result = await self._connection.execute(
            select(charge_attempts)
            .where(charge_attempts.c.charge_id == charge_id)
            .order_by(charge_attempts.c.id)
        )
        return [
            ChargeCall(**{name: getattr(row, name) for name in _CALL_COLUMNS}) for row in result
        ]

    async def backlog(self, *, now: datetime) -> Sequence[tuple[str, int, float]]:
        statuses = sorted(str(status) for status in UNSETTLED)
        result = await self._connection.execute(_BACKLOG, {"statuses": statuses, "now": now})
        return [(row[0], int(row[1]), float(row[2])) for row in result]


def charge_of(row: Row[Any]) -> Charge:
    """Return the charge that a row holds."""
    values = {name: getattr(row, name) for name in _COLUMNS}
    earlier = row.earlier if isinstance(row.earlier, list) else orjson.loads(row.earlier)
    return Charge(**values | {"status": ChargeStatus(row.status), "earlier": tuple(earlier)})


def _row(charge: Charge) -> Mapping[str, Any]:
    values: dict[str, Any] = {name: getattr(charge, name) for name in _COLUMNS}
    return values | {"earlier": orjson.dumps(charge.earlier).decode()}


def _may_have_been_sent(row: Row[Any]) -> bool:
    if row.was in (ChargeStatus.CHARGING, ChargeStatus.UNKNOWN):
        return True
    # A further attempt of what the processor is not known to know: an earlier one may be there.
    return bool(row.was == ChargeStatus.DUE and row.attempt > 1 and row.reference is None)

"""The timeline of one payment: what each service noted of it, in the order of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from paypost.remote import Remote
from paypost.stack.state import StackState
from paypost.trace.autopay import INTAKE, ChargeStory, charge_of_payment, read_charge
from paypost.trace.moments import (
    Moment,
    as_json,
    at_mail_server,
    at_notifier,
    in_order,
    read_inbox,
)

__all__ = [
    "Moment",
    "PaymentNotFoundError",
    "Timeline",
    "find_payment",
    "read_heard",
    "read_inbox",
    "read_timeline",
]

WAIT_TOLD_SECONDS = 1.0

_FIND = """
SELECT id FROM payment_intake.payments WHERE id = $1
UNION SELECT payment_id FROM payment_intake.movements WHERE id = $1
UNION SELECT payment_id FROM notifier.notifications WHERE id = $1
"""
_FIND_NAMED = "SELECT payment_id FROM payment_intake.payment_references WHERE reference = $1"
# The index of events goes by day.
_EVENTS = """
SELECT e.source, e.event_id, e.type, e.received_at
FROM payment_intake.payment_references r
JOIN payment_intake.events e ON e.processor = r.processor AND e.reference = r.reference
WHERE r.payment_id = $1 AND (e.received_at AT TIME ZONE 'UTC')::date = ANY($2::date[])
"""


class PaymentNotFoundError(Exception):
    """Nothing is known under this name.

    Attributes:
        name: what was asked for.
    """

    def __init__(self, *, name: str) -> None:
        super().__init__(
            f"nothing is known as {name!r}; give Paypost's id of a payment, a charge or an "
            "enrolment, or the processor's reference"
        )
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A payment's whole way so far.

    Attributes:
        payment_id: Paypost's.
        names: the processor's names for it.
        payment: its row at payment-intake.
        movements: what was to reach the ledger and the customer, with how far each has come.
        moments: in the order of time.
        start: what the times are relative to: its acceptance, or the first word of it.
        charge: the charge of autopay that it is, where it is one.
    """

    payment_id: UUID
    names: tuple[str, ...]
    payment: Mapping[str, Any]
    movements: tuple[Mapping[str, Any], ...]
    moments: tuple[Moment, ...]
    start: datetime
    charge: ChargeStory | None = None

    def waits(self) -> list[str]:
        """What has not come yet, for each movement, and why as far as it is known."""
        found = list(self.charge.waits()) if self.charge is not None else []
        for movement in self.movements:
            step = {
                "announced": "to be posted",
                "suspended": "for an operator (`paypost suspense list`)",
                "posted": "for the customer to be told",
            }.get(movement["status"])
            if movement["kind"] == "decline" and movement["status"] == "announced":
                step = "for the customer to be told"
            if step is not None:
                why = f": {movement['wait_reason']}" if movement["wait_reason"] else ""
                found.append(f"{movement['kind']} waits {step}{why}")
        return found

    def as_json(self) -> dict[str, Any]:
        """Everything, for machines."""
        return {
            "payment_id": self.payment_id,
            "names": list(self.names),
            "processor": self.payment["processor"],
            "status": self.payment["status"],
            "account_id": self.payment["account_id"],
            "amount_cents": self.payment["amount_cents"],
            "fee_cents": self.payment["fee_cents"],
            "currency": self.payment["currency"],
            "charge_id": self.charge.charge_id if self.charge is not None else None,
            "enrolment_id": self.charge.enrolment_id if self.charge is not None else None,
            "waits": self.waits(),
            "moments": as_json(self.moments, start=self.start),
        }


async def find_payment(*, connection: asyncpg.Connection[Any], name: str) -> UUID:
    """The payment of this name: Paypost's id, a posting's key, a notice's id or a reference.

    Raises:
        PaymentNotFoundError: nothing is known under it.
    """
    try:
        found = await connection.fetchval(_FIND, UUID(name))
    except ValueError:
        found = await connection.fetchval(_FIND_NAMED, name)
    if found is None:
        raise PaymentNotFoundError(name=name)
    return UUID(int=found.int)


async def read_timeline(
    *, connection: asyncpg.Connection[Any], state: StackState, payment_id: UUID
) -> Timeline:
    """Gather what every service, the CIS and the mail server know of a payment.

    Raises:
        PaymentNotFoundError: there is none of this id.
        RefusedRequestError, aiohttp.ClientError: the CIS or the mail server does not answer.
    """
    payment = await connection.fetchrow(
        "SELECT * FROM payment_intake.payments WHERE id = $1", payment_id
    )
    if payment is None:
        raise PaymentNotFoundError(name=str(payment_id))
    movements = await connection.fetch(
        "SELECT * FROM payment_intake.movements WHERE payment_id = $1 ORDER BY accepted_at, id",
        payment_id,
    )
    names = await connection.fetch(
        "SELECT reference FROM payment_intake.payment_references WHERE payment_id = $1"
        " ORDER BY reference DESC",
        payment_id,
    )
    told = await connection.fetch(
        "SELECT id FROM notifier.notifications WHERE payment_id = $1", payment_id
    )
    notices = [row["id"] for row in told]
    charge_id = await charge_of_payment(connection=connection, payment_id=payment_id)
    charge = await read_charge(connection=connection, charge_id=charge_id) if charge_id else None
    if charge is not None:
        notices += charge.notification_ids
    moments = [
        *(charge.moments if charge is not None else ()),
        *await _at_intake(connection, payment_id, payment, movements),
        *await _at_poster(connection, payment_id),
        *await _at_cis(state, [row["id"] for row in movements if row["kind"] != "decline"]),
        *await at_notifier(connection, notices),
        *await at_mail_server(connection, state, notices),
    ]
    start = movements[0]["accepted_at"] if movements else payment["created_at"]
    return Timeline(
        payment_id=payment_id,
        names=tuple(row["reference"] for row in names),
        payment=dict(payment),
        movements=tuple(dict(row) for row in movements),
        moments=in_order(moments),
        start=start,
        charge=charge,
    )


async def read_heard(
    *, connection: asyncpg.Connection[Any], payment_id: UUID, created_at: datetime
) -> list[Moment]:
    """What was heard of a payment under any of its names, from a year before it was made.

    Of two payments that turn out to be one, one may have been heard of long before the other.
    """
    first = created_at.astimezone(UTC).date() - timedelta(days=366)
    count = (datetime.now(UTC).date() - first).days + 2
    days = [first + timedelta(days=each) for each in range(count)]
    return [
        Moment(
            at=row["received_at"],
            where=INTAKE,
            what=f"heard {row['type']}",
            detail=f"{row['source']} {row['event_id']}",
        )
        for row in await connection.fetch(_EVENTS, payment_id, days)
    ]


async def _at_intake(
    connection: asyncpg.Connection[Any],
    payment_id: UUID,
    payment: Mapping[str, Any],
    movements: Sequence[Mapping[str, Any]],
) -> list[Moment]:
    where = INTAKE
    moments = await read_heard(
        connection=connection, payment_id=payment_id, created_at=payment["created_at"]
    )
    for movement in movements:
        about = movement["id"]
        kind = movement["kind"]
        because = " ".join(part for part in (movement["reason"], movement["reason_code"]) if part)
        amount = f"{movement['amount_cents'] / 100:,.2f} {payment['currency']}"
        steps = (
            (movement["accepted_at"], f"accepted {kind}", f"{amount} {because}".strip()),
            (
                movement["delayed_at"],
                "stated payment.delayed",
                movement["wait_reason"] or "not posted in the city's limit",
            ),
            (
                movement["confirmed_at"],
                f"{kind} confirmed",
                f"customer: notification {movement['notification']}",
            ),
        )
        moments += [
            Moment(at=at, where=where, what=what, detail=detail, movement_id=about)
            for at, what, detail in steps
            if at is not None
        ]
        if movement["announcements"] > 1:
            moments.append(
                Moment(
                    at=movement["confirmed_at"] or movement["accepted_at"],
                    where=where,
                    what=f"{kind} announced {movement['announcements']} times",
                    detail="nothing had come back in time",
                    movement_id=about,
                )
            )
    conflicts = await connection.fetch(
        "SELECT at, kind, detail FROM payment_intake.conflicts WHERE payment_id = $1", payment_id
    )
    moments += [
        Moment(at=row["at"], where=where, what=f"conflict: {row['kind']}", detail=row["detail"])
        for row in conflicts
    ]
    return moments


async def _at_poster(connection: asyncpg.Connection[Any], payment_id: UUID) -> list[Moment]:
    where = "cis-poster"
    moments = []
    postings = await connection.fetch(
        "SELECT p.*, m.accepted_at AS movement_accepted_at"
        " FROM cis_poster.postings p JOIN payment_intake.movements m ON m.id = p.id"
        " WHERE m.payment_id = $1",
        payment_id,
    )
    ids = [row["id"] for row in postings]
    attempts = await connection.fetch(
        "SELECT * FROM cis_poster.failed_attempts WHERE posting_id = ANY($1::uuid[])", ids
    )
    for row in postings:
        moments.append(
            Moment(
                at=row["taken_at"],
                where=where,
                what=f"took {row['kind']}",
                detail=f"for {row['account_id'] or 'no account'}"
                + on_its_way(accepted_at=row["movement_accepted_at"], taken_at=row["taken_at"]),
                movement_id=row["id"],
            )
        )
        if row["settled_at"] is not None:
            outcome = row["reason"] or (
                f"{row['cis_reference']}, balance now {row['balance_after_cents'] / 100:,.2f}"
                if row["cis_reference"]
                else ""
            )
            moments.append(
                Moment(
                    at=row["settled_at"],
                    where=where,
                    what=f"{row['kind']} {row['status']}",
                    detail=outcome + _waited(row, tried={each["posting_id"] for each in attempts}),
                    movement_id=row["id"],
                )
            )
        elif row["reason"]:
            moments.append(
                Moment(
                    at=row["due_at"],
                    where=where,
                    what=f"{row['kind']} {row['status']}, next try",
                    detail=row["reason"],
                    movement_id=row["id"],
                )
            )
    moments += [
        Moment(
            at=row["at"],
            where=where,
            what=f"attempt: {row['outcome']}",
            detail=f"{row['reason'] or ''} after {row['duration_ms']} ms".strip(),
            movement_id=row["posting_id"],
        )
        for row in attempts
    ]
    audits = await connection.fetch(
        "SELECT * FROM cis_poster.audit_entries WHERE posting_id = ANY($1::uuid[])", ids
    )
    moments += [
        Moment(
            at=row["at"],
            where="operator",
            what=f"{row['action']} by {row['operator']}",
            detail=f"{row['from_account']} → {row['to_account']}: {row['note']}",
            movement_id=row["posting_id"],
        )
        for row in audits
    ]
    return moments


def on_its_way(*, accepted_at: datetime, taken_at: datetime) -> str:
    """Why the poster heard of a movement late, as far as two times tell; empty if it did not."""
    seconds = (taken_at - accepted_at).total_seconds()
    if seconds < WAIT_TOLD_SECONDS:
        return ""
    return f"; {seconds:.1f} s on its way: Kafka was away, or a service on either side of it"


def _waited(row: Mapping[str, Any], *, tried: set[UUID]) -> str:
    """Why it took longer than a call, as far as the poster's tables tell."""
    seconds = (row["settled_at"] - row["taken_at"]).total_seconds()
    if seconds < WAIT_TOLD_SECONDS:
        return ""
    if row["id"] in tried:
        return f"; {seconds:.1f} s in hand, see its attempts"
    return (
        f"; held back unsent for {seconds:.1f} s: the CIS was known to be away, "
        "or something before it on the account was open"
    )


async def _at_cis(state: StackState, keys: Sequence[UUID]) -> list[Moment]:
    if not keys:
        return []
    async with Remote(base_url=state.http_urls["cis"], bearer_key=state.secrets.cis_api_key) as cis:
        answer = await cis.post("/v1/postings/find", {"keys": [str(key) for key in keys]})
    return [
        Moment(
            at=datetime.fromisoformat(found["posted_at"]),
            where="CIS ledger",
            what=f"{found['kind']} stands",
            detail=f"{found['cis_reference']} on {found['account']}: "
            f"{found['amount_cents'] / 100:,.2f} {found['currency']}",
            movement_id=UUID(found["key"]),
        )
        for found in answer["answers"]
        if found["outcome"] == "exists"
    ]

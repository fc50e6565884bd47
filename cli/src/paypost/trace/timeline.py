"""The timeline of one payment: what each service noted of it, in the order of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from paypost.remote import Remote
from paypost.stack.state import StackState

MAILS_READ_MAX = 20_000
MAILS_IN_PAGE = 1_000
WAIT_TOLD_SECONDS = 1.0

_FIND = """
SELECT id FROM payment_intake.payments WHERE id = $1
UNION SELECT payment_id FROM payment_intake.movements WHERE id = $1
UNION SELECT payment_id FROM notifier.notifications WHERE id = $1
"""
_FIND_NAMED = "SELECT payment_id FROM payment_intake.payment_references WHERE reference = $1"
_EVENTS = """
SELECT e.source, e.event_id, e.type, e.received_at
FROM payment_intake.payment_references r
JOIN payment_intake.events e ON e.processor = r.processor AND e.reference = r.reference
WHERE r.payment_id = $1
"""


class PaymentNotFoundError(Exception):
    """Nothing is known under this name.

    Attributes:
        name: what was asked for.
    """

    def __init__(self, *, name: str) -> None:
        super().__init__(
            f"no payment is known as {name!r}; give Paypost's id or the processor's reference"
        )
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One thing that happened to a payment.

    Attributes:
        at: when.
        where: the service, or who else.
        what: the step.
        detail: with what outcome, or why.
        movement_id: which of the payment's movements it is about, where it is about one.
    """

    at: datetime
    where: str
    what: str
    detail: str = ""
    movement_id: UUID | None = None


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
    """

    payment_id: UUID
    names: tuple[str, ...]
    payment: Mapping[str, Any]
    movements: tuple[Mapping[str, Any], ...]
    moments: tuple[Moment, ...]
    start: datetime

    def waits(self) -> list[str]:
        """What has not come yet, for each movement, and why as far as it is known."""
        found = []
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
            "waits": self.waits(),
            "moments": [
                {
                    "at": moment.at,
                    "after_seconds": round((moment.at - self.start).total_seconds(), 6),
                    "where": moment.where,
                    "what": moment.what,
                    "detail": moment.detail,
                    "movement_id": moment.movement_id,
                }
                for moment in self.moments
            ],
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
    moments = [
        *await _at_intake(connection, payment_id, payment, movements),
        *await _at_poster(connection, payment_id),
        *await _at_cis(state, [row["id"] for row in movements if row["kind"] != "decline"]),
        *await _at_notifier(connection, payment_id),
        *await _at_mail(connection, state, payment_id),
    ]
    start = movements[0]["accepted_at"] if movements else payment["created_at"]
    return Timeline(
        payment_id=payment_id,
        names=tuple(row["reference"] for row in names),
        payment=dict(payment),
        movements=tuple(dict(row) for row in movements),
        moments=tuple(sorted(moments, key=lambda moment: moment.at)),
        start=start,
    )


async def _at_intake(
    connection: asyncpg.Connection[Any],
    payment_id: UUID,
    payment: Mapping[str, Any],
    movements: Sequence[Mapping[str, Any]],
) -> list[Moment]:
    where = "payment-intake"
    moments = [
        Moment(
            at=row["received_at"],
            where=where,
            what=f"heard {row['type']}",
            detail=f"{row['source']} {row['event_id']}",
        )
        for row in await connection.fetch(_EVENTS, payment_id)
    ]
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
        "SELECT p.* FROM cis_poster.postings p JOIN payment_intake.movements m ON m.id = p.id"
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
                detail=f"for {row['account_id'] or 'no account'}",
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


async def _at_notifier(connection: asyncpg.Connection[Any], payment_id: UUID) -> list[Moment]:
    where = "notifier"
    moments = []
    notices = await connection.fetch(
        "SELECT * FROM notifier.notifications WHERE payment_id = $1", payment_id
    )
    for row in notices:
        moments.append(
            Moment(
                at=row["taken_at"],
                where=where,
                what=f"took {row['kind']!r}",
                movement_id=row["posting_key"],
            )
        )
        if row["settled_at"] is not None:
            moments.append(
                Moment(
                    at=row["settled_at"],
                    where=where,
                    what=f"{row['kind']!r} {row['status']}",
                    detail=row["reason"] or row["message_id"] or "",
                    movement_id=row["posting_key"],
                )
            )
    attempts = await connection.fetch(
        "SELECT * FROM notifier.failed_attempts WHERE notification_id = ANY($1::uuid[])",
        [row["id"] for row in notices],
    )
    moments += [
        Moment(
            at=row["at"],
            where=where,
            what=f"attempt: {row['outcome']}",
            detail=f"{row['reason'] or ''} after {row['duration_ms']} ms".strip(),
        )
        for row in attempts
    ]
    return moments


async def _at_mail(
    connection: asyncpg.Connection[Any], state: StackState, payment_id: UUID
) -> list[Moment]:
    rows = await connection.fetch(
        "SELECT n.message_id, n.posting_key, c.email FROM notifier.notifications n"
        " JOIN notifier.contacts c ON c.account_id = n.account_id"
        " WHERE n.payment_id = $1 AND n.message_id IS NOT NULL AND c.email IS NOT NULL",
        payment_id,
    )
    wanted = {row["message_id"]: row["posting_key"] for row in rows}
    moments = []
    async with Remote(base_url=state.http_urls["mail"]) as mail:
        for address in sorted({row["email"] for row in rows}):
            moments += [
                Moment(
                    at=datetime.fromisoformat(message["received_at"]),
                    where="mail server",
                    what=f"has mail {message['id']}",
                    detail=message["subject"],
                    movement_id=wanted[message["message_id"]],
                )
                for message in await read_inbox(mail=mail, to=address)
                if message["message_id"] in wanted
            ]
    return moments


async def read_inbox(*, mail: Remote, to: str) -> list[dict[str, Any]]:
    """The mails to an address, oldest first, without their bodies."""
    found: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None and len(found) < MAILS_READ_MAX:
        page = await mail.get("/messages", to=to, after=after, limit=MAILS_IN_PAGE)
        found += page["messages"]
        after = page["next"]
    return found

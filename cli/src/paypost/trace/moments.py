"""One thing that happened, and the mails that came of it: what every timeline is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from paypost.remote import Remote
from paypost.stack.state import StackState

MAILS_READ_MAX = 20_000
MAILS_IN_PAGE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One thing that happened to a payment or a charge.

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


def in_order(moments: Sequence[Moment]) -> tuple[Moment, ...]:
    """By time, each once: what two books tell alike is one thing."""
    return tuple(sorted(dict.fromkeys(moments), key=lambda moment: moment.at))


def as_json(moments: Sequence[Moment], *, start: datetime) -> list[dict[str, Any]]:
    """Moments for machines, with the seconds since `start`."""
    return [
        {
            "at": moment.at,
            "after_seconds": round((moment.at - start).total_seconds(), 6),
            "where": moment.where,
            "what": moment.what,
            "detail": moment.detail,
            "movement_id": moment.movement_id,
        }
        for moment in moments
    ]


async def at_notifier(
    connection: asyncpg.Connection[Any], notification_ids: Sequence[UUID]
) -> list[Moment]:
    """What notifier did to tell the customer."""
    where = "notifier"
    moments = []
    notices = await connection.fetch(
        "SELECT * FROM notifier.notifications WHERE id = ANY($1::uuid[])", notification_ids
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


async def at_mail_server(
    connection: asyncpg.Connection[Any], state: StackState, notification_ids: Sequence[UUID]
) -> list[Moment]:
    """The mails that the mail server has of these notifications.

    Raises:
        RefusedRequestError, aiohttp.ClientError: it does not answer.
    """
    rows = await connection.fetch(
        "SELECT n.message_id, n.posting_key, c.email FROM notifier.notifications n"
        " JOIN notifier.contacts c ON c.account_id = n.account_id"
        " WHERE n.id = ANY($1::uuid[]) AND n.message_id IS NOT NULL AND c.email IS NOT NULL",
        notification_ids,
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

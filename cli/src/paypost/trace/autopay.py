"""A charge of autopay from the customer's first word to its end, and why it waited on its way.

| where | what it tells |
|---|---|
| `autopay_scheduler.mandates` | what the customer said: the evidence |
| `charges`, `announcements`, `failures` | planned, announced, asked for, declined, closed |
| `payment_intake.charges`, `charge_attempts` | every call of the processor |
| both services' audit entries | what an operator held, and when |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from paypost.stack.state import StackState
from paypost.trace.moments import Moment, as_json, at_mail_server, at_notifier, in_order
from shared.contracts.notifications import notification_id
from shared.ids import fact_id

SCHEDULER = "autopay-scheduler"
INTAKE = "payment-intake"
REFERENCE_PREFIX = "autopay:"
ATTEMPTS_MAX = 9
CHARGES_READ_MAX = 500

_FIND = """
SELECT 'charge' AS kind, id FROM autopay_scheduler.charges WHERE id = $1
UNION ALL SELECT 'charge', id FROM payment_intake.charges WHERE id = $1
UNION ALL SELECT 'enrolment', id FROM autopay_scheduler.enrolments WHERE id = $1
LIMIT 1
"""
_PAUSES = """
SELECT at, operator, action, note, 'asking' AS half FROM autopay_scheduler.audit_entries
WHERE subject = 'requests' AND at BETWEEN $1 AND $2
UNION ALL
SELECT changed_at, operator, CASE WHEN is_paused THEN 'pause' ELSE 'resume' END, note, 'charging'
FROM payment_intake.switch_changes WHERE changed_at BETWEEN $1 AND $2
ORDER BY 1
"""
_IS_PAUSED = """
SELECT EXISTS (SELECT FROM autopay_scheduler.switches
               WHERE name = 'requests' AND is_paused) AS asking,
       EXISTS (SELECT FROM payment_intake.switches
               WHERE name = 'charges' AND is_paused) AS charging
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeStory:
    """One due date of an enrolment.

    Attributes:
        charge_id: Paypost's.
        enrolment_id: whose it is.
        asked: its row at autopay-scheduler; None where that knows of none.
        made: its row at payment-intake; None while that was not asked.
        announcements: oldest first.
        is_asking_paused, is_charging_paused: the halves of the kill switch.
        moments: what both services noted of it and of its enrolment.
        notification_ids: of everything that its customer may have been told.
    """

    charge_id: UUID
    enrolment_id: UUID
    asked: Mapping[str, Any] | None
    made: Mapping[str, Any] | None
    announcements: tuple[Mapping[str, Any], ...]
    is_asking_paused: bool
    is_charging_paused: bool
    moments: tuple[Moment, ...]
    notification_ids: tuple[UUID, ...]

    @property
    def account_id(self) -> str:
        """The utility's account."""
        return str(self._row["account_id"])

    @property
    def _row(self) -> Mapping[str, Any]:
        row = self.asked or self.made
        assert row is not None
        return row

    def waits(self) -> list[str]:
        """What has not come yet, and why as far as it is known."""
        if self.asked is None:
            return ["charge: payment-intake has it, and autopay-scheduler knows of none"]
        status = self.asked["status"]
        why = f": {self.asked['reason']}" if self.asked["reason"] else ""
        act_at = _instant(self.asked["act_at"])
        match status:
            case "planned":
                step = f"to be announced{why}"
            case "announced":
                step = self._wait_for_day(act_at, why)
            case "held":
                step = f"for the customer, who was asked{why}"
            case "requested":
                step = self._wait_for_intake()
            case "pending":
                step = "for the bank: a debit settles, or comes back, within days"
            case "retrying":
                held = "; all charges are paused by an operator" if self.is_asking_paused else ""
                step = f"to be presented again at {act_at}, after a decline{why}{held}"
            case _:
                return []
        return [f"charge waits {step}"]

    def _wait_for_day(self, act_at: str, why: str) -> str:
        step = f"for its day: it is looked at again at {act_at}{why}"
        untold = [row for row in self.announcements if row["status"] == "waiting"]
        if untold:
            step += f"; announcement {untold[-1]['version']} has not reached the customer yet"
        if self.is_asking_paused:
            step += "; all charges are paused by an operator"
        return step

    def _wait_for_intake(self) -> str:
        if self.made is None:
            return "for payment-intake to take the request"
        reason = f" ({self.made['reason']})" if self.made["reason"] else ""
        due_at = _instant(self.made["due_at"])
        match self.made["status"]:
            case "due" if self.is_charging_paused:
                return "at payment-intake: all charges are paused by an operator"
            case "due":
                return f"at payment-intake to be sent at {due_at}{reason}"
            case "charging":
                return "for the processor's answer"
            case "unknown":
                return f"for an outcome: the processor is asked about it at {due_at}{reason}"
            case "refund_due" | "refunding":
                return f"to be given back{reason}"
            case status:
                return f"to hear what payment-intake says of it: {status}{reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopayTimeline:
    """An enrolment's way, or that of a charge of which there is no payment.

    Attributes:
        kind: `charge` or `enrolment`.
        id: Paypost's.
        account_id: the utility's.
        about: one line of what it is.
        charges: those that it is about, by due date.
        moments: in the order of time.
        start: what the times are relative to: the first of them.
    """

    kind: str
    id: UUID
    account_id: str
    about: str
    charges: tuple[ChargeStory, ...]
    moments: tuple[Moment, ...]
    start: datetime

    def waits(self) -> list[str]:
        """What each charge waits for, and why."""
        return [
            f"{story.asked['due_date'] if story.asked else '?'}: {line}"
            for story in self.charges
            for line in story.waits()
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything, for machines."""
        return {
            "kind": self.kind,
            "id": self.id,
            "account_id": self.account_id,
            "about": self.about,
            "charges": [
                {
                    "charge_id": story.charge_id,
                    "due_date": story.asked["due_date"] if story.asked else None,
                    "status": story.asked["status"] if story.asked else None,
                    "reason": story.asked["reason"] if story.asked else None,
                    "payment_id": story.asked["payment_id"] if story.asked else None,
                }
                for story in self.charges
            ],
            "waits": self.waits(),
            "moments": as_json(self.moments, start=self.start),
        }


async def find_autopay(
    *, connection: asyncpg.Connection[Any], name: str
) -> tuple[str, UUID] | None:
    """The charge or enrolment of this id, as (`charge` or `enrolment`, id); None of any other."""
    try:
        key = UUID(name.removeprefix(REFERENCE_PREFIX))
    except ValueError:
        return None
    if not await _is_here(connection):
        return None
    row = await connection.fetchrow(_FIND, key)
    return None if row is None else (row["kind"], row["id"])


async def payment_of_charge(*, connection: asyncpg.Connection[Any], charge_id: UUID) -> UUID | None:
    """The payment that a charge became, if it has."""
    found = await connection.fetchval(
        "SELECT payment_id FROM payment_intake.payment_references WHERE reference = $1",
        f"{REFERENCE_PREFIX}{charge_id}",
    )
    return None if found is None else UUID(int=found.int)


async def charge_of_payment(
    *, connection: asyncpg.Connection[Any], payment_id: UUID
) -> UUID | None:
    """The charge of autopay that a payment is, if it is one."""
    references = await connection.fetch(
        "SELECT reference FROM payment_intake.payment_references"
        " WHERE payment_id = $1 AND reference LIKE 'autopay:%'",
        payment_id,
    )
    for row in references:
        found = await find_autopay(connection=connection, name=row["reference"])
        if found is not None:
            return found[1]
    return None


async def read_autopay(
    *, connection: asyncpg.Connection[Any], state: StackState, kind: str, key: UUID
) -> AutopayTimeline:
    """The timeline of an enrolment, or of a charge; see `find_autopay`."""
    if kind == "charge":
        ids = [key]
    else:
        rows = await connection.fetch(
            "SELECT c.id FROM autopay_scheduler.enrolments e"
            " JOIN autopay_scheduler.charges c"
            " ON c.account_id = e.account_id AND c.enrolment_id = e.id"
            " WHERE e.id = $1 ORDER BY c.due_date DESC LIMIT $2",
            key,
            CHARGES_READ_MAX,
        )
        ids = [row["id"] for row in reversed(rows)]
    stories = [await read_charge(connection=connection, charge_id=one) for one in ids]
    enrolment_id = key if kind == "enrolment" else stories[0].enrolment_id
    moments, notices = await _of_enrolment(connection, enrolment_id)
    for story in stories:
        moments += story.moments
        notices += story.notification_ids
    moments += await at_notifier(connection, notices)
    moments += await at_mail_server(connection, state, notices)
    enrolment = await connection.fetchrow(
        "SELECT * FROM autopay_scheduler.enrolments WHERE id = $1", enrolment_id
    )
    ordered = in_order(moments)
    row = stories[0].asked if kind == "charge" else enrolment
    return AutopayTimeline(
        kind=kind,
        id=key,
        account_id=stories[0].account_id if enrolment is None else enrolment["account_id"],
        about=_about(kind, row),
        charges=tuple(stories),
        moments=ordered,
        start=ordered[0].at if ordered else datetime.now(UTC),
    )


def _about(kind: str, row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "autopay-scheduler knows nothing of it"
    why = f" ({row['reason']})" if row["reason"] else ""
    if kind == "charge":
        return (
            f"{_money(row['amount_cents'], row['currency'])} due {row['due_date']}, "
            f"to be charged on {row['charge_on']}: {row['status']}{why}"
        )
    return f"{row['reference']}: {row['status']}{why}"


async def read_charge(*, connection: asyncpg.Connection[Any], charge_id: UUID) -> ChargeStory:
    """Everything that the services noted of a charge, and of the words that led to it."""
    asked = await connection.fetchrow(
        "SELECT * FROM autopay_scheduler.charges WHERE id = $1", charge_id
    )
    made = await connection.fetchrow(
        "SELECT * FROM payment_intake.charges WHERE id = $1", charge_id
    )
    row = asked or made
    assert row is not None
    announced = await connection.fetch(
        "SELECT * FROM autopay_scheduler.announcements WHERE charge_id = $1 ORDER BY version",
        charge_id,
    )
    failures = await connection.fetch(
        "SELECT decline, document::text AS document, at FROM autopay_scheduler.failures"
        " WHERE charge_id = $1 ORDER BY at",
        charge_id,
    )
    calls = await connection.fetch(
        "SELECT * FROM payment_intake.charge_attempts WHERE charge_id = $1 ORDER BY id", charge_id
    )
    moments, notices = await _of_enrolment(connection, row["enrolment_id"])
    if asked is not None:
        moments += _at_scheduler(asked, announced, failures)
        notices += _notices_of(asked, announced, failures)
    if made is not None:
        moments += _at_intake(made, calls)
    moments += await _pauses(connection, row)
    paused = await connection.fetchrow(_IS_PAUSED)
    assert paused is not None
    return ChargeStory(
        charge_id=charge_id,
        enrolment_id=row["enrolment_id"],
        asked=dict(asked) if asked else None,
        made=dict(made) if made else None,
        announcements=tuple(dict(each) for each in announced),
        is_asking_paused=paused["asking"],
        is_charging_paused=paused["charging"],
        moments=in_order(moments),
        notification_ids=tuple(notices),
    )


def _at_scheduler(
    row: Mapping[str, Any],
    announced: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
) -> list[Moment]:
    moments = [
        Moment(
            at=row["created_at"],
            where=SCHEDULER,
            what="planned",
            detail=f"bill {row['bill_reference']}, due {row['due_date']}; "
            f"by the customer's rule on {row['chosen_on']}",
        )
    ]
    for each in announced:
        moments += _of_announcement(each, row["currency"])
    if row["requested_at"] is not None:
        moments.append(
            Moment(
                at=row["requested_at"],
                where=SCHEDULER,
                what=f"asked for attempt {row['attempt']}",
                detail=f"{_money(row['requested_cents'] or 0, row['currency'])}, valid until "
                f"{_instant(row['valid_until'])}",
            )
        )
        if row["restatements"]:
            moments.append(
                Moment(
                    at=row["closed_at"] or row["requested_at"],
                    where=SCHEDULER,
                    what=f"asked again {row['restatements']} times",
                    detail="nothing had been heard of it in time",
                )
            )
    moments += [_of_failure(each) for each in failures]
    if row["cancelled_at"] is not None:
        moments.append(
            Moment(
                at=row["cancelled_at"],
                where="customer or operator",
                what="ended the enrolment",
                detail="payment-intake was told to withdraw the charge, or to give it back",
            )
        )
    if row["closed_at"] is not None:
        moments.append(
            Moment(
                at=row["closed_at"],
                where=SCHEDULER,
                what=f"charge {row['status']}",
                detail=row["reason"]
                or (_money(row["paid_cents"], row["currency"]) if row["paid_cents"] else ""),
            )
        )
    return moments


def _of_announcement(row: Mapping[str, Any], currency: str) -> list[Moment]:
    left = f", {row['left_cents'] / 100:,.2f} more is left" if row["left_cents"] else ""
    void = "; void since the charge was held" if row["is_void"] else ""
    moments = [
        Moment(
            at=row["announced_at"],
            where=SCHEDULER,
            what=f"announced (notice {row['version']})",
            detail=f"{_money(row['amount_cents'], currency)} on {row['charge_on']}{left}{void}",
        )
    ]
    if row["noticed_at"] is not None:
        again = f", stated {row['restatements'] + 1} times" if row["restatements"] else ""
        moments.append(
            Moment(
                at=row["noticed_at"],
                where=SCHEDULER,
                what=f"notice {row['version']}: {row['status']}",
                detail=f"the notice days count from here{again}"
                if row["status"] == "sent"
                else f"the customer could not be told{again}",
            )
        )
    return moments


def _of_failure(row: Mapping[str, Any]) -> Moment:
    said = orjson.loads(row["document"])
    following = said.get("next_step")
    on = f" on {said['next_attempt_on']}" if said.get("next_attempt_on") else ""
    return Moment(
        at=row["at"],
        where=SCHEDULER,
        what=f"attempt {said.get('attempt')} declined",
        detail=f"{said.get('reason_code') or 'no code'} ({said.get('category')}); "
        f"next: {following}{on}",
    )


def _at_intake(row: Mapping[str, Any], calls: Sequence[Mapping[str, Any]]) -> list[Moment]:
    moments = [Moment(at=row["created_at"], where=INTAKE, what="took the charge")]
    for call in calls:
        named = " ".join(
            part for part in (call["reason"], call["reference"], call["request_id"]) if part
        )
        moments.append(
            Moment(
                at=call["at"],
                where=INTAKE,
                what=f"{call['operation']}, attempt {call['attempt']}: {call['outcome']}",
                detail=f"{named} after {call['duration_ms']} ms".strip(),
            )
        )
    if row["cancelled_at"] is not None and row["ended_at"] is None:
        moments.append(
            Moment(
                at=row["cancelled_at"],
                where=INTAKE,
                what="cancelled by then",
                detail=f"the charge is {row['status']}",
            )
        )
    if row["ended_at"] is not None:
        moments.append(
            Moment(
                at=row["ended_at"],
                where=INTAKE,
                what="given back" if row["status"] == "refunded" else row["status"],
                detail=row["reason"] or "",
            )
        )
    return moments


async def _of_enrolment(
    connection: asyncpg.Connection[Any], enrolment_id: UUID
) -> tuple[list[Moment], list[UUID]]:
    """What the customer said of it, how it ended, and the ids of what the customer was told."""
    enrolment = await connection.fetchrow(
        "SELECT * FROM autopay_scheduler.enrolments WHERE id = $1", enrolment_id
    )
    if enrolment is None:
        return [], []
    words = await connection.fetch(
        "SELECT * FROM autopay_scheduler.mandates WHERE account_id = $1 AND enrolment_id = $2"
        " ORDER BY id",
        enrolment["account_id"],
        enrolment_id,
    )
    moments = []
    notices = [
        notification_id(kind="autopay_stopped", key=_fact("enrolment.stopped", str(enrolment_id)))
    ]
    for word in words:
        terms = word["authorisation_version"]
        moments.append(
            Moment(
                at=word["said_at"],
                where="customer",
                what=word["type"],
                detail=f"{word['event_source']} {word['event_id']}"
                + (f", terms {terms}" if terms else ""),
            )
        )
        for kind, about, at in (
            ("autopay_started", "enrolment.activated", word["authorised_at"]),
            ("autopay_refused", "enrolment.refused", word["said_at"]),
        ):
            if at is not None:
                fact = _fact(about, f"{enrolment_id}:{at.isoformat()}")
                notices.append(notification_id(kind=kind, key=fact))
    moments.append(Moment(at=enrolment["taken_at"], where=SCHEDULER, what="took the enrolment"))
    if enrolment["ended_at"] is not None:
        moments.append(
            Moment(
                at=enrolment["ended_at"],
                where=SCHEDULER,
                what=f"enrolment {enrolment['status']}",
                detail=enrolment["reason"] or "",
            )
        )
    audits = await connection.fetch(
        "SELECT * FROM autopay_scheduler.audit_entries WHERE subject = $1", str(enrolment_id)
    )
    moments += [
        Moment(
            at=row["at"],
            where="operator",
            what=f"{row['action']} by {row['operator']}",
            detail=row["note"],
        )
        for row in audits
    ]
    return moments, notices


async def _pauses(connection: asyncpg.Connection[Any], row: Mapping[str, Any]) -> list[Moment]:
    """When an operator held all charges, while this one was on its way."""
    until = row.get("closed_at") or row.get("ended_at") or datetime.now(UTC)
    found = await connection.fetch(_PAUSES, row["created_at"], until)
    return [
        Moment(
            at=each["at"],
            where="operator",
            what=f"{each['action']} of all charges by {each['operator']}",
            detail=f"{'autopay-scheduler' if each['half'] == 'asking' else INTAKE}: {each['note']}",
        )
        for each in found
    ]


def _notices_of(
    row: Mapping[str, Any],
    announced: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
) -> list[UUID]:
    """The ids that notices of this charge have: each follows from what it tells of."""
    charge_id = row["id"]
    told = [("charge_announced", each["fact_id"]) for each in announced]
    told += [
        ("charge_declined", _fact("charge.failed", f"{charge_id}:{each['decline']}"))
        for each in failures
    ]
    told += [
        (f"charge_{outcome}", _fact("charge.closed", f"{charge_id}:{outcome}:{attempt}"))
        for outcome in ("missed", "refunded")
        for attempt in range(ATTEMPTS_MAX + 1)
    ]
    name, _, maximum = (row["reason"] or "").partition(":")
    if name == "above_maximum" and maximum:
        key = f"{charge_id}:{row['amount_cents']}:{maximum}"
        told.append(("charge_held", _fact("charge.held", key)))
    return [notification_id(kind=kind, key=about) for kind, about in told]


def _fact(fact_type: str, key: str) -> UUID:
    return fact_id(fact_type=fact_type, key=key)


async def _is_here(connection: asyncpg.Connection[Any]) -> bool:
    return bool(
        await connection.fetchval(
            "SELECT to_regclass('autopay_scheduler.charges') IS NOT NULL"
            " AND to_regclass('payment_intake.charges') IS NOT NULL"
        )
    )


def _money(cents: int, currency: str) -> str:
    return f"{cents / 100:,.2f} {currency}"


def _instant(at: datetime | None) -> str:
    return "an unknown time" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"

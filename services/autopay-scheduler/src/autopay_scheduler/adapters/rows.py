"""Rows of the tables, and what they stand for in the domain."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from sqlalchemy import Row

from autopay_scheduler.domain.amounts import AmountRule, Limits
from autopay_scheduler.domain.charges import Status
from autopay_scheduler.domain.days import ChargeOn
from autopay_scheduler.domain.enrolments import (
    Enrolment,
    EnrolmentRecord,
    EnrolmentStatus,
    Method,
    Rule,
)
from autopay_scheduler.domain.notices import Announcement, NoticeStatus
from autopay_scheduler.domain.planning import ChargeRecord
from autopay_scheduler.domain.words import Word, WordKind
from autopay_scheduler.ports.store import Evidence, NewAnnouncement
from shared.contracts.portal import AutopayPaused

ENROLMENT_COLUMNS = (
    "id",
    "account_id",
    "reference",
    "status",
    "reason",
    "processor",
    "payment_method_token",
    "customer_token",
    "mandate_token",
    "method_kind",
    "method_label",
    "method_last4",
    "method_expires",
    "charge_on",
    "days_before",
    "day_of_month",
    "amount_rule",
    "fixed_cents",
    "minimum_cents",
    "maximum_cents",
    "authorisation_version",
    "authorised_at",
    "locale",
    "resume_on",
    "word_at",
    "given_up",
    "taken_at",
    "ended_at",
)
CHARGE_COLUMNS = (
    "id",
    "enrolment_id",
    "account_id",
    "bill_reference",
    "due_date",
    "planned_on",
    "chosen_on",
    "charge_on",
    "amount_cents",
    "currency",
    "status",
    "reason",
    "act_at",
    "attempt",
    "first_attempt_on",
    "requested_cents",
    "requested_at",
    "valid_until",
    "processor",
    "payment_method_token",
    "customer_token",
    "mandate_token",
    "cancelled_at",
    "payment_id",
    "paid_cents",
    "closed_at",
)
"""All but `declines`, which only grows, by the decline that is added."""
NEW_CHARGE_COLUMNS = (*CHARGE_COLUMNS[:13], "closed_at")
"""What a charge has that intake was never asked for."""
ANNOUNCEMENT_COLUMNS = (
    "charge_id",
    "version",
    "fact_id",
    "amount_cents",
    "left_cents",
    "charge_on",
    "announced_at",
    "status",
    "restate_at",
)
EVIDENCE_COLUMNS = (
    "enrolment_id",
    "account_id",
    "event_source",
    "event_id",
    "type",
    "said_at",
    "authorisation_version",
    "authorised_at",
    "document",
    "heard_at",
)


def prefixed(alias: str, columns: Sequence[str], prefix: str) -> str:
    """Return a select list of a table's columns under a prefix, for joins."""
    return ", ".join(f"{alias}.{name} AS {prefix}{name}" for name in columns)


def enrolment_row(record: EnrolmentRecord) -> Mapping[str, Any]:
    """Return an enrolment as its row."""
    held = record.enrolment
    method, rule = (held.method, held.rule) if held else (None, None)
    limits = rule.limits if rule else None
    return {
        "id": record.id,
        "account_id": record.account_id,
        "reference": record.reference,
        "status": record.status,
        "reason": record.reason,
        "processor": method and method.processor,
        "payment_method_token": method and method.token,
        "customer_token": method and method.customer_token,
        "mandate_token": method and method.mandate_token,
        "method_kind": method and method.kind,
        "method_label": method and method.label,
        "method_last4": method and method.last4,
        "method_expires": method and method.expires,
        "charge_on": rule and rule.charge_on,
        "days_before": rule and rule.days_before,
        "day_of_month": rule and rule.day_of_month,
        "amount_rule": limits and limits.amount,
        "fixed_cents": limits and limits.fixed_cents,
        "minimum_cents": limits and limits.minimum_cents,
        "maximum_cents": limits and limits.maximum_cents,
        "authorisation_version": held and held.authorisation_version,
        "authorised_at": held and held.authorised_at,
        "locale": held and held.locale,
        "resume_on": held and held.resume_on,
        "word_at": record.word_at,
        "given_up": record.given_up,
        "taken_at": record.taken_at,
        "ended_at": record.ended_at,
    }


def enrolment_record(row: Row[Any], prefix: str = "") -> EnrolmentRecord:
    """Return an enrolment from its row; its columns may stand under a prefix."""
    found = row._mapping
    return enrolment_of([found[prefix + name] for name in ENROLMENT_COLUMNS])


def enrolment_of(values: Sequence[Any]) -> EnrolmentRecord:
    """Return an enrolment from the values of `ENROLMENT_COLUMNS`, in their order.

    By position and with few objects: planning reads one for each account that is due.
    """
    key, account_id, reference, status, reason = values[:5]
    known = _STATUSES[status]
    word_at, given_up, taken_at, ended_at = values[24:]
    enrolment = None
    if values[6] is not None:
        version, authorised_at, locale, resume_on = values[20:24]
        processor, token, customer, mandate, kind, label, last4, expires = values[5:13]
        enrolment = Enrolment(
            id=key,
            account_id=account_id,
            reference=reference,
            status=known,
            method=Method(
                processor=processor,
                token=token,
                customer_token=customer,
                mandate_token=mandate,
                kind=kind,
                label=label or "",
                last4=last4,
                expires=expires,
            ),
            rule=_rule(*values[13:20]),
            authorisation_version=version,
            authorised_at=authorised_at,
            locale=locale,
            resume_on=resume_on,
            word_at=word_at,
        )
    return EnrolmentRecord(
        id=key,
        account_id=account_id,
        reference=reference,
        status=known,
        reason=reason,
        enrolment=enrolment,
        word_at=word_at,
        given_up=given_up,
        taken_at=taken_at,
        ended_at=ended_at,
    )


_STATUSES = {status.value: status for status in EnrolmentStatus}


@lru_cache(maxsize=4096)
def _rule(
    charge_on: str,
    days_before: int | None,
    day_of_month: int | None,
    amount: str,
    fixed_cents: int | None,
    minimum_cents: int | None,
    maximum_cents: int | None,
) -> Rule:
    return Rule(
        charge_on=ChargeOn(charge_on),
        days_before=days_before,
        day_of_month=day_of_month,
        limits=Limits(
            amount=AmountRule(amount),
            fixed_cents=fixed_cents,
            minimum_cents=minimum_cents,
            maximum_cents=maximum_cents,
        ),
    )


_charge_values = attrgetter(*CHARGE_COLUMNS)
_new_charge_values = attrgetter(*NEW_CHARGE_COLUMNS)


def charge_arrays(records: Sequence[ChargeRecord]) -> dict[str, Sequence[Any]]:
    """Return charges as one array a column."""
    columns = zip(*map(_charge_values, records), strict=True)
    return dict(zip(CHARGE_COLUMNS, columns, strict=True))


def new_charge_values(
    records: Iterable[ChargeRecord], *, now: datetime
) -> Iterator[tuple[Any, ...]]:
    """Yield the values of `NEW_CHARGE_COLUMNS`, and when the charge was planned."""
    return ((*_new_charge_values(record), now) for record in records)


def charge_record(row: Row[Any], prefix: str = "") -> ChargeRecord:
    """Return a charge from its row; its columns may stand under a prefix."""
    found = row._mapping
    values = {name: found[prefix + name] for name in CHARGE_COLUMNS}
    values["status"] = Status(values["status"])
    return ChargeRecord(**values, declines=tuple(found[f"{prefix}declines"]))


def announcement_row(new: NewAnnouncement) -> Mapping[str, Any]:
    """Return a new announcement as its row."""
    stated = new.announcement
    return {
        "charge_id": new.charge_id,
        "version": stated.version,
        "fact_id": new.fact_id,
        "amount_cents": stated.amount_cents,
        "left_cents": stated.left_cents,
        "charge_on": stated.charge_on,
        "announced_at": new.announced_at,
        "status": NoticeStatus.WAITING,
        "restate_at": new.restate_at,
    }


def announcement(row: Row[Any], *, zone: ZoneInfo) -> Announcement:
    """Return an announcement from its row; its days are the city's."""
    is_sent = row.status == NoticeStatus.SENT
    return Announcement(
        version=row.version,
        amount_cents=row.amount_cents,
        left_cents=row.left_cents,
        charge_on=row.charge_on,
        announced_on=_city_day(row.announced_at, zone),
        noticed_on=_city_day(row.noticed_at, zone) if is_sent else None,
        is_void=row.is_void,
    )


def evidence_row(word: Evidence, *, now: datetime) -> Mapping[str, Any]:
    """Return a word of the customer as its row."""
    return {
        "enrolment_id": word.enrolment_id,
        "account_id": word.account_id,
        "event_source": word.event_source,
        "event_id": word.event_id,
        "type": word.type,
        "said_at": word.said_at,
        "authorisation_version": word.authorisation_version,
        "authorised_at": word.authorised_at,
        "document": orjson.dumps(word.document).decode(),
        "heard_at": now,
    }


def evidence(row: Row[Any]) -> Evidence:
    """Return a word of the customer from its row."""
    document = row.document if isinstance(row.document, dict) else orjson.loads(row.document)
    return Evidence(
        enrolment_id=row.enrolment_id,
        account_id=row.account_id,
        event_source=row.event_source,
        event_id=row.event_id,
        type=row.type,
        said_at=row.said_at,
        authorisation_version=row.authorisation_version,
        authorised_at=row.authorised_at,
        document=document,
    )


def pause(said: Evidence) -> Word:
    """Return a pause, or the end of one, from its evidence."""
    document = said.document
    until = document.get("resume_on")
    is_pause = said.type == AutopayPaused.TYPE
    return Word(
        kind=WordKind.PAUSED if is_pause else WordKind.RESUMED,
        account_id=said.account_id,
        reference=document["enrolment_reference"],
        at=said.said_at,
        resume_on=date.fromisoformat(until) if until else None,
    )


def _city_day(instant: datetime, zone: ZoneInfo) -> date:
    return instant.astimezone(zone).date()

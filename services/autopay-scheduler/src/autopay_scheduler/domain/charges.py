"""A charge: one due date of one enrolment, from its plan to its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from uuid import UUID

from autopay_scheduler.domain.amounts import Charge, Hold, Limits, Owed, Skip, judge
from autopay_scheduler.domain.notices import Announcement, NoticeRule, ceiling_cents
from shared.contracts.autopay import (
    ChargeAnnounced,
    ChargeClosed,
    ChargeFailed,
    ChargeHeld,
    ChargeRequested,
)
from shared.ids import fact_id


class Status(StrEnum):
    """Where a charge stands."""

    PLANNED = "planned"
    """Its day and amount are known; the customer is to be told."""
    ANNOUNCED = "announced"
    """The customer was told, and may still pay, pause or cancel."""
    HELD = "held"
    """Above the customer's maximum: the customer was asked."""
    REQUESTED = "requested"
    """Intake was asked for it; only intake can say what became of it."""
    PENDING = "pending"
    """Submitted to the bank, not settled (ACH)."""
    RETRYING = "retrying"
    """Declined, and to be presented again."""
    PAID = "paid"
    FAILED = "failed"
    """Declined, and not presented again."""
    SKIPPED = "skipped"
    """Nothing to charge: paid otherwise, in credit, paused, below the minimum. Planned again when
    that changes before its day."""
    MISSED = "missed"
    """It should have been charged and could not be: the customer is told and a clerk sees it."""
    CANCELLED = "cancelled"
    REFUNDED = "refunded"


TRANSITIONS: Mapping[tuple[Status | None, Status], str | None] = MappingProxyType(
    {
        (None, Status.PLANNED): None,
        (None, Status.SKIPPED): ChargeClosed.TYPE,
        (None, Status.HELD): ChargeHeld.TYPE,
        (None, Status.MISSED): ChargeClosed.TYPE,
        (Status.PLANNED, Status.ANNOUNCED): ChargeAnnounced.TYPE,
        (Status.PLANNED, Status.HELD): ChargeHeld.TYPE,
        (Status.PLANNED, Status.SKIPPED): ChargeClosed.TYPE,
        (Status.PLANNED, Status.MISSED): ChargeClosed.TYPE,
        (Status.PLANNED, Status.CANCELLED): ChargeClosed.TYPE,
        (Status.HELD, Status.PLANNED): None,
        (Status.HELD, Status.HELD): ChargeHeld.TYPE,
        (Status.HELD, Status.SKIPPED): ChargeClosed.TYPE,
        (Status.HELD, Status.MISSED): ChargeClosed.TYPE,
        (Status.HELD, Status.CANCELLED): ChargeClosed.TYPE,
        # The bill rose: announced anew.
        (Status.ANNOUNCED, Status.PLANNED): None,
        (Status.ANNOUNCED, Status.HELD): ChargeHeld.TYPE,
        (Status.ANNOUNCED, Status.REQUESTED): ChargeRequested.TYPE,
        (Status.ANNOUNCED, Status.SKIPPED): ChargeClosed.TYPE,
        (Status.ANNOUNCED, Status.MISSED): ChargeClosed.TYPE,
        (Status.ANNOUNCED, Status.CANCELLED): ChargeClosed.TYPE,
        (Status.REQUESTED, Status.PENDING): None,
        (Status.REQUESTED, Status.PAID): ChargeClosed.TYPE,
        (Status.REQUESTED, Status.RETRYING): ChargeFailed.TYPE,
        (Status.REQUESTED, Status.FAILED): ChargeFailed.TYPE,
        (Status.REQUESTED, Status.CANCELLED): ChargeClosed.TYPE,
        (Status.REQUESTED, Status.REFUNDED): ChargeClosed.TYPE,
        (Status.REQUESTED, Status.MISSED): ChargeClosed.TYPE,
        (Status.PENDING, Status.PAID): ChargeClosed.TYPE,
        (Status.PENDING, Status.RETRYING): ChargeFailed.TYPE,
        (Status.PENDING, Status.FAILED): ChargeFailed.TYPE,
        (Status.PENDING, Status.CANCELLED): ChargeClosed.TYPE,
        (Status.PENDING, Status.REFUNDED): ChargeClosed.TYPE,
        (Status.SKIPPED, Status.PLANNED): None,
        (Status.SKIPPED, Status.SKIPPED): ChargeClosed.TYPE,
        (Status.SKIPPED, Status.HELD): ChargeHeld.TYPE,
        (Status.PLANNED, Status.PLANNED): None,
        (Status.RETRYING, Status.REQUESTED): ChargeRequested.TYPE,
        (Status.RETRYING, Status.SKIPPED): ChargeClosed.TYPE,
        (Status.RETRYING, Status.HELD): ChargeHeld.TYPE,
        (Status.RETRYING, Status.MISSED): ChargeClosed.TYPE,
        (Status.RETRYING, Status.CANCELLED): ChargeClosed.TYPE,
        # The customer confirmed it in person, or the bank's answer came after its return.
        (Status.RETRYING, Status.PAID): ChargeClosed.TYPE,
        (Status.FAILED, Status.PAID): ChargeClosed.TYPE,
        # Cancelled too late by more than the grace: the charge stands.
        (Status.CANCELLED, Status.PAID): ChargeClosed.TYPE,
        (Status.MISSED, Status.PAID): ChargeClosed.TYPE,
        # Taken, and sent back by the bank days later.
        (Status.PAID, Status.RETRYING): ChargeFailed.TYPE,
        (Status.PAID, Status.FAILED): ChargeFailed.TYPE,
        (Status.PAID, Status.REFUNDED): ChargeClosed.TYPE,
        (Status.CANCELLED, Status.REFUNDED): ChargeClosed.TYPE,
    }
)
"""Every allowed change of status and the type of the fact that states it."""

OPEN = frozenset(
    {
        Status.PLANNED,
        Status.ANNOUNCED,
        Status.HELD,
        Status.REQUESTED,
        Status.PENDING,
        Status.RETRYING,
    }
)
"""Not at its end: some job or some fact moves it on."""

NOT_ASKED_FOR = frozenset({Status.PLANNED, Status.ANNOUNCED, Status.HELD, Status.RETRYING})
"""A cancellation ends these at once: no money is on its way."""

WITH_INTAKE = frozenset({Status.REQUESTED, Status.PENDING})


def may(before: Status | None, after: Status) -> bool:
    """Return whether a charge may change so."""
    return (before, after) in TRANSITIONS


def charge_id(*, enrolment_id: UUID, due_date: date) -> UUID:
    """Return the one charge of an enrolment and a due date: the same for ever."""
    return fact_id(fact_type="charge", key=f"{enrolment_id}:{due_date.isoformat()}")


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing may be charged yet, and it is not too late."""

    reason: str


@dataclass(frozen=True, slots=True)
class Miss:
    """It is too late to charge; the customer is told and a clerk sees it."""

    reason: str


Decision = Charge | Skip | Hold | Wait | Miss


def decide(
    *,
    limits: Limits,
    owed: Owed,
    announcements: Sequence[Announcement],
    is_paused: bool,
    has_old_draft: bool,
    charge_on: date,
    today: date,
    notice: NoticeRule,
    late_grace_days: int,
    limit_cents: int,
) -> Decision:
    """Return what becomes of a charge whose day has come."""
    if has_old_draft:
        return Skip("drafted_by_old_portal")
    if is_paused:
        return Skip("paused_by_customer")
    verdict = judge(limits=limits, owed=owed, limit_cents=limit_cents)
    if not isinstance(verdict, Charge):
        return verdict
    ceiling = ceiling_cents(announcements, limits=limits, today=today, rule=notice)
    if today > charge_on + timedelta(days=late_grace_days):
        return Miss("notice_not_kept" if ceiling is None else "late")
    if ceiling is None:
        return Wait("notice_not_kept")
    return Charge(min(verdict.amount_cents, ceiling))


def valid_until(*, charge_at: datetime, late_grace_days: int) -> datetime:
    """Return until when a request made for this instant may be carried out."""
    return charge_at + timedelta(days=late_grace_days + 1)

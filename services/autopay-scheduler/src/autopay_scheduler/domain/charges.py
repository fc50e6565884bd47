"""A charge: one due date of one enrolment, from its plan to its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from uuid import UUID

from autopay_scheduler.domain.amounts import Charge, Hold, Limits, Owed, Skip, is_too_little, judge
from autopay_scheduler.domain.notices import (
    Announcement,
    NoticeRule,
    allowed_on,
    ceiling_cents,
)
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
        # The customer confirmed it in person after it had come to its end here.
        (Status.SKIPPED, Status.PAID): ChargeClosed.TYPE,
        # The refund failed: the charge stands.
        (Status.REFUNDED, Status.PAID): ChargeClosed.TYPE,
        # Taken, and sent back by the bank days later.
        (Status.PAID, Status.FAILED): ChargeFailed.TYPE,
        (Status.PAID, Status.REFUNDED): ChargeClosed.TYPE,
        (Status.CANCELLED, Status.REFUNDED): ChargeClosed.TYPE,
        # Charged all the same after it had come to its end here, and given back by intake.
        (Status.RETRYING, Status.REFUNDED): ChargeClosed.TYPE,
        (Status.FAILED, Status.REFUNDED): ChargeClosed.TYPE,
        (Status.MISSED, Status.REFUNDED): ChargeClosed.TYPE,
        (Status.SKIPPED, Status.REFUNDED): ChargeClosed.TYPE,
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
    due_date: date,
    today: date,
    notice: NoticeRule,
    late_grace_days: int,
    least_cents: int,
    limit_cents: int,
    asked_cents: int | None = None,
) -> Decision:
    """Return what becomes of a charge today.

    In this order: what the old portal drafts, what the customer paused, and what need not be paid
    is skipped; before its day it waits; past its grace it is missed; above the maximum it is
    held; without its notice it waits, or is missed as soon as the notice cannot be kept within
    the grace any more; what is left is charged, at most what was announced. A charge of part of a
    bill waits for the notice of the rest, where that is kept within the grace and by the due date.

    Args:
        limits: what the customer set.
        owed: what is known now.
        announcements: all of the charge.
        is_paused: whether the customer wants no charge today.
        has_old_draft: whether the old portal still drafts this due date.
        charge_on: the day of this attempt: the charge's, or that of its re-presentment.
        due_date: the bill's.
        today: the city's day.
        notice: the city's rule.
        late_grace_days: how long after its day it is still charged.
        least_cents: the least that the processor charges.
        limit_cents: the city's own maximum.
        asked_cents: what the attempt before asked for; a re-presentment never asks for more.
    """
    if has_old_draft:
        return Skip("drafted_by_old_portal")
    if today < charge_on:
        return Wait("day_not_come")
    if is_paused:
        return Skip("paused_by_customer")
    verdict = judge(limits=limits, owed=owed, least_cents=least_cents, limit_cents=limit_cents)
    if isinstance(verdict, Skip):
        return verdict
    last_day = charge_on + timedelta(days=late_grace_days)
    ceiling = ceiling_cents(announcements, limits=limits, today=today, rule=notice)
    if today > last_day:
        return Miss(_why_missed(verdict, ceiling))
    if isinstance(verdict, Hold):
        return verdict
    if ceiling is None:
        first_day = allowed_on(announcements, limits=limits, today=today, rule=notice)
        return (Miss if first_day > last_day else Wait)("notice_not_kept")
    amount_cents = min(verdict.amount_cents, ceiling)
    if asked_cents is not None:
        amount_cents = min(amount_cents, asked_cents)
    elif amount_cents < verdict.amount_cents and _is_rest_noticed_in_time(
        announcements, ceiling, limits, min(due_date, last_day), today, notice
    ):
        return Wait("notice_of_rise")
    if is_too_little(amount_cents, limits=limits, least_cents=least_cents):
        return Skip("below_minimum")
    return Charge(amount_cents)


def is_lost(
    *,
    limits: Limits,
    announcements: Sequence[Announcement],
    charge_on: date,
    today: date,
    notice: NoticeRule,
    late_grace_days: int,
) -> bool:
    """Return whether the notice can no longer be kept within the grace, on or before the day.

    Asked on each news of a notice, so that the customer hears of it at once: before the bill is
    due, where that can still be.
    """
    if ceiling_cents(announcements, limits=limits, today=today, rule=notice) is not None:
        return False
    first_day = allowed_on(announcements, limits=limits, today=today, rule=notice)
    return first_day > charge_on + timedelta(days=late_grace_days)


def valid_until(*, charge_at: datetime, late_grace_days: int) -> datetime:
    """Return until when a request made for this instant may be carried out.

    A request is made until the end of the last day of grace; two hours more leave it an hour even
    where charges are made at midnight and clocks went back in between.
    """
    return charge_at + timedelta(days=late_grace_days + 1, hours=2)


def _why_missed(verdict: Charge | Hold, ceiling: int | None) -> str:
    if isinstance(verdict, Hold):
        return "above_maximum"
    return "notice_not_kept" if ceiling is None else "late"


def _is_rest_noticed_in_time(
    announcements: Sequence[Announcement],
    ceiling: int,
    limits: Limits,
    by: date,
    today: date,
    notice: NoticeRule,
) -> bool:
    if not any(each.amount_cents > ceiling and not each.is_void for each in announcements):
        return False
    first_day = allowed_on(
        announcements, above_cents=ceiling, limits=limits, today=today, rule=notice
    )
    return first_day <= by

"""The facts of `autopay.v1`, built from what is kept: the same, by id, however often."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from autopay_scheduler.domain.declines import Decline, Next
from autopay_scheduler.domain.enrolments import (
    Enrolment,
    EnrolmentRecord,
    Method,
    Refusal,
    Rule,
)
from autopay_scheduler.domain.notices import Announcement
from autopay_scheduler.domain.planning import ChargeRecord
from shared.contracts.autopay import (
    ChargeAnnounced,
    ChargeCancelled,
    ChargeClosed,
    ChargeFailed,
    ChargeHeld,
    ChargeOutcome,
    ChargeRequested,
    EnrolmentActivated,
    EnrolmentRefused,
    EnrolmentStopped,
    MethodExpiring,
    StopReason,
)
from shared.contracts.enrolments import AutopayRule, PaymentMethod
from shared.contracts.fact import Fact
from shared.contracts.streams import AUTOPAY
from shared.contracts.wire import OutboundRecord, encode

NO_METHOD = PaymentMethod()


def recorded(fact: Fact) -> OutboundRecord:
    """Return a fact as it goes out on `autopay.v1`."""
    return encode(fact, stream=AUTOPAY)


def method_of(method: Method | None) -> PaymentMethod:
    """Return a method as customers may be told of it."""
    if method is None:
        return NO_METHOD
    return PaymentMethod.model_construct(
        kind=method.kind, label=method.label, last4=method.last4, expires=method.expires
    )


def rule_of(rule: Rule) -> AutopayRule:
    """Return a rule in the contract's words."""
    limits = rule.limits
    return AutopayRule(
        charge_on=rule.charge_on.value,
        days_before=rule.days_before,
        day_of_month=rule.day_of_month,
        amount=limits.amount.value,
        fixed_cents=limits.fixed_cents,
        minimum_cents=limits.minimum_cents,
        maximum_cents=limits.maximum_cents,
    )


def activated(enrolment: Enrolment, *, at: datetime) -> EnrolmentActivated:
    """Return that autopay is on, as authorised."""
    return EnrolmentActivated(
        account_id=enrolment.account_id,
        enrolment_id=enrolment.id,
        enrolment_reference=enrolment.reference,
        method=method_of(enrolment.method),
        rule=rule_of(enrolment.rule),
        authorisation_version=enrolment.authorisation_version,
        authorised_at=enrolment.authorised_at,
        activated_at=at,
    )


def refused(enrolment: Enrolment, refusal: Refusal, *, at: datetime) -> EnrolmentRefused:
    """Return that what the portal stated is not taken, and why."""
    return EnrolmentRefused(
        account_id=enrolment.account_id,
        enrolment_id=enrolment.id,
        enrolment_reference=enrolment.reference,
        reason=refusal.reason,
        field=refusal.field,
        refused_at=at,
    )


def stopped(record: EnrolmentRecord, *, reason: StopReason, at: datetime) -> EnrolmentStopped:
    """Return that autopay is off, and why."""
    return EnrolmentStopped(
        account_id=record.account_id,
        enrolment_id=record.id,
        stopped_at=at,
        reason=reason,
        method=method_of(record.enrolment.method if record.enrolment else None),
    )


def expiring(
    enrolment: Enrolment, *, expires_on: date, days_left: int, at: datetime
) -> MethodExpiring:
    """Return that a card is good for so many days only."""
    return MethodExpiring(
        account_id=enrolment.account_id,
        enrolment_id=enrolment.id,
        method=method_of(enrolment.method),
        expires_on=expires_on,
        days_left=days_left,
        warned_at=at,
    )


def announced(
    record: ChargeRecord,
    enrolment: EnrolmentRecord,
    announcement: Announcement,
    *,
    at: datetime,
) -> ChargeAnnounced:
    """Return the advance notice of a charge."""
    return ChargeAnnounced(
        **_about(record, enrolment),
        version=announcement.version,
        amount_cents=announcement.amount_cents,
        left_cents=announcement.left_cents,
        charge_on=announcement.charge_on,
        announced_at=at,
    )


def held(
    record: ChargeRecord, enrolment: EnrolmentRecord, *, maximum_cents: int, at: datetime
) -> ChargeHeld:
    """Return that more is owed than the customer's maximum."""
    return ChargeHeld(
        **_about(record, enrolment),
        amount_cents=record.amount_cents,
        maximum_cents=maximum_cents,
        held_at=at,
    )


def requested(record: ChargeRecord, enrolment: EnrolmentRecord) -> ChargeRequested:
    """Return the request of a charge's present attempt, from the row that was written with it."""
    return ChargeRequested(
        **_about(record, enrolment),
        attempt=record.attempt,
        amount_cents=record.requested_cents or 0,
        processor=record.processor or "",
        payment_method_token=record.payment_method_token or "",
        customer_token=record.customer_token,
        mandate_token=record.mandate_token,
        requested_at=_known(record.requested_at),
        valid_until=_known(record.valid_until),
    )


def cancelled(record: ChargeRecord, enrolment: EnrolmentRecord) -> ChargeCancelled:
    """Return that a charge which was asked for is not wanted any more."""
    return ChargeCancelled(
        **_about(record, enrolment),
        attempt=record.attempt,
        amount_cents=record.requested_cents or 0,
        cancelled_at=_known(record.cancelled_at),
    )


def failed(
    record: ChargeRecord,
    enrolment: EnrolmentRecord,
    *,
    payment_id: UUID,
    decline: Decline,
    following: Next,
    amount_cents: int,
    at: datetime,
) -> ChargeFailed:
    """Return a decline with what happens next."""
    return ChargeFailed(
        **_about(record, enrolment),
        attempt=record.attempt,
        amount_cents=amount_cents,
        payment_id=payment_id,
        decline=decline.id,
        reason_code=decline.code,
        category=decline.category,
        next_step=following.step,
        next_attempt_on=following.attempt_on,
        failed_at=at,
    )


def closed(
    record: ChargeRecord,
    enrolment: EnrolmentRecord,
    *,
    outcome: ChargeOutcome,
    amount_cents: int,
    at: datetime,
) -> ChargeClosed:
    """Return that a due date has come to its end."""
    return ChargeClosed(
        **_about(record, enrolment),
        outcome=outcome,
        reason=record.reason or outcome,
        amount_cents=amount_cents,
        attempt=record.attempt,
        closed_at=at,
    )


def _about(record: ChargeRecord, enrolment: EnrolmentRecord) -> dict[str, Any]:
    held = enrolment.enrolment
    return {
        "account_id": record.account_id,
        "enrolment_id": record.enrolment_id,
        "charge_id": record.id,
        "due_date": record.due_date,
        "currency": record.currency,
        "bill_reference": record.bill_reference,
        "method": method_of(held.method if held else None),
    }


def _known(instant: datetime | None) -> datetime:
    if instant is None:
        raise AssertionError("a charge that was asked for says when")
    return instant

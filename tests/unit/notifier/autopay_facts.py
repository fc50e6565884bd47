"""Facts of autopay as the scheduler states them, to be told."""

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from shared.contracts.autopay import (
    ChargeAnnounced,
    ChargeClosed,
    ChargeFailed,
    ChargeHeld,
    EnrolmentActivated,
    EnrolmentInvited,
    EnrolmentRefused,
    EnrolmentStopped,
    MethodExpiring,
)
from shared.contracts.enrolments import AutopayRule, PaymentMethod
from shared.contracts.fact import Fact
from shared.contracts.wire import Received

ENROLMENT = UUID("0198c5b1-0000-7000-8000-0000000000e1")
CHARGE = UUID("0198c5b1-0000-7000-8000-0000000000c1")
DECLINED_PAYMENT = UUID("0198c5b1-0000-7000-8000-0000000000d1")
VISA = PaymentMethod(kind="card", label="Visa", last4="4242", expires="2027-08")
BANK = PaymentMethod(kind="us_bank_account", last4="6789")
STATED_AT = datetime(2026, 3, 5, 18, 0, tzinfo=UTC)
DUE = date(2026, 3, 20)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

_ENROLMENT: dict[str, Any] = {"account_id": "4711-0815", "enrolment_id": ENROLMENT}
_CHARGE: dict[str, Any] = {
    **_ENROLMENT,
    "charge_id": CHARGE,
    "due_date": DUE,
    "currency": "USD",
    "bill_reference": "B-2026-03",
    "method": VISA,
    "amount_cents": 8250,
}


def activated(**given: Any) -> EnrolmentActivated:
    return EnrolmentActivated(
        **{
            **_ENROLMENT,
            "enrolment_reference": "enr_1",
            "method": VISA,
            "rule": AutopayRule(),
            "authorisation_version": "2026-01",
            "authorised_at": STATED_AT,
            "activated_at": STATED_AT,
            **given,
        }
    )


def refused(**given: Any) -> EnrolmentRefused:
    return EnrolmentRefused(
        **{
            **_ENROLMENT,
            "enrolment_reference": "enr_1",
            "reason": "unknown_account",
            "field": "account_id",
            "refused_at": STATED_AT,
            **given,
        }
    )


def stopped(**given: Any) -> EnrolmentStopped:
    fields = {"reason": "cancelled", "method": VISA, "stopped_at": STATED_AT}
    return EnrolmentStopped(**{**_ENROLMENT, **fields, **given})


def invited(**given: Any) -> EnrolmentInvited:
    return EnrolmentInvited(
        **{
            "account_id": "4711-0815",
            "invitation": 1,
            "name": "Ana Pérez",
            "email": "ana@example.org",
            "locale": "es",
            "link": "https://pay.springfield.example/autopay",
            "due_date": DUE,
            "amount_cents": 8250,
            "currency": "USD",
            "invited_at": STATED_AT,
            **given,
        }
    )


def expiring(**given: Any) -> MethodExpiring:
    fields = {"expires_on": date(2026, 8, 31), "days_left": 30, "warned_at": STATED_AT}
    return MethodExpiring(**{**_ENROLMENT, "method": VISA, **fields, **given})


def announced(**given: Any) -> ChargeAnnounced:
    fields = {"version": 1, "charge_on": date(2026, 3, 18), "announced_at": STATED_AT}
    return ChargeAnnounced(**{**_CHARGE, **fields, **given})


def held(**given: Any) -> ChargeHeld:
    return ChargeHeld(**{**_CHARGE, "maximum_cents": 5000, "held_at": STATED_AT, **given})


def failed(**given: Any) -> ChargeFailed:
    return ChargeFailed(
        **{
            **_CHARGE,
            "attempt": 1,
            "payment_id": DECLINED_PAYMENT,
            "decline": "ch_1",
            "reason_code": "insufficient_funds",
            "category": "soft",
            "next_step": "retry",
            "next_attempt_on": date(2026, 3, 19),
            "failed_at": STATED_AT,
            **given,
        }
    )


def closed(**given: Any) -> ChargeClosed:
    fields = {"outcome": "missed", "reason": "late", "attempt": 0, "closed_at": STATED_AT}
    return ChargeClosed(**{**_CHARGE, "amount_cents": 0, **fields, **given})


def refunded(**given: Any) -> ChargeClosed:
    fields = {"outcome": "refunded", "reason": "cancelled", "amount_cents": 8250, "attempt": 1}
    return closed(**{**fields, **given})


def received(fact: Fact) -> Received:
    return Received(
        fact=fact,
        event_id=str(fact.id()),
        event_type=fact.TYPE,
        source="/paypost/test",
        time=fact.happened_at(),
        traceparent=TRACE,
    )

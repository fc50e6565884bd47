"""What payment-intake states, built from what it holds: the same fact however often it is built."""

from datetime import datetime
from uuid import UUID

from payment_intake.domain import ANNOUNCED_BY, Movement, MovementKind, MovementStatus, Payment
from payment_intake.domain.charges import (
    EXPIRED,
    REFERENCE_PREFIX,
    Charge,
    ChargeStatus,
    charge_name,
)
from payment_intake.domain.declines import MethodKind, decline_category
from payment_intake.ports import OwnedMovement
from shared.contracts.fact import Fact
from shared.contracts.payments import (
    ChargeDeclined,
    ChargeWithdrawn,
    DeclineCategory,
    PaymentAccepted,
    PaymentDelayed,
    PaymentPending,
)
from shared.contracts.streams import PAYMENTS
from shared.contracts.wire import OutboundRecord, encode


def movement_fact(*, movement: Movement, payment: Payment) -> Fact:
    """Return the fact that announces a movement: the same, by id, however often it is built."""
    about = {
        "payment_id": payment.id,
        "account_id": payment.account_id,
        "processor": payment.processor,
        "reference": primary_reference(payment),
        "amount_cents": movement.amount_cents,
        "currency": payment.currency,
        "charge_id": charge_of(payment),
    }
    if movement.kind is MovementKind.DECLINE:
        return ChargeDeclined(
            **about,
            declined_at=movement.accepted_at,
            reason_code=movement.reason_code,
            category=movement.category,
            attempt=movement.attempt or "",
        )
    ledger = {
        "posting_key": movement.id,
        "effective_date": movement.effective_date,
        "accepted_at": movement.accepted_at,
    }
    if movement.kind is MovementKind.PAYMENT:
        return PaymentAccepted(
            **about,
            **ledger,
            fee_cents=payment.fee_cents,
            method=payment.method,
            bill_reference=payment.bill_reference,
        )
    why: dict[str, str | None] = {"reason": movement.reason, "reason_code": movement.reason_code}
    if movement.kind is MovementKind.REVERSAL:
        why["category"] = _return_category(movement)
    announced: Fact = ANNOUNCED_BY[movement.kind](**about, **ledger, **why)
    return announced


def _return_category(movement: Movement) -> DeclineCategory | None:
    if movement.reason != "ach_return":
        return None
    return decline_category(kind=MethodKind.BANK, codes=[movement.reason_code])


def pending_fact(payment: Payment) -> PaymentPending:
    """Return the fact that a payment was submitted to the bank and has not settled."""
    return PaymentPending(
        payment_id=payment.id,
        account_id=payment.account_id,
        processor=payment.processor,
        reference=primary_reference(payment),
        amount_cents=payment.amount_cents or 0,
        currency=payment.currency or "",
        charge_id=charge_of(payment),
        pending_at=payment.pending_at or payment.created_at,
        method=payment.method,
    )


def primary_reference(payment: Payment) -> str:
    """Return the name by which clerks find the payment at the processor.

    Stripe's PaymentIntent (`pi_`) names the payment, its charges (`ch_`) only the attempts; the
    name of an autopay charge is ours.
    """
    return min(
        payment.references,
        key=lambda name: (not name.startswith("pi_"), name.startswith(REFERENCE_PREFIX), name),
    )


def encoded_delay(owned: OwnedMovement, *, delayed_at: datetime) -> OutboundRecord:
    """Return the record that states that a payment has passed the city's limit."""
    payment, movement = owned.payment, owned.movement
    suspended = owned.status is MovementStatus.SUSPENDED
    fact = PaymentDelayed(
        payment_id=payment.id,
        account_id=payment.account_id,
        processor=payment.processor,
        reference=primary_reference(payment),
        amount_cents=movement.amount_cents,
        currency=payment.currency or "",
        charge_id=charge_of(payment),
        posting_key=movement.id,
        accepted_at=movement.accepted_at,
        delayed_at=delayed_at,
        reason=owned.wait_reason or ("suspended" if suspended else "not_posted_yet"),
    )
    return encode(fact, stream=PAYMENTS, traceparent=owned.traceparent)


def withdrawn_fact(charge: Charge) -> ChargeWithdrawn:
    """Return the fact that a charge was not made, or was given back."""
    return ChargeWithdrawn(
        charge_id=charge.id,
        account_id=charge.account_id,
        attempt=charge.attempt,
        reason="expired" if charge.reason == EXPIRED else "cancelled",
        is_refunded=charge.status is ChargeStatus.REFUNDED,
        amount_cents=charge.amount_cents,
        currency=charge.currency,
        withdrawn_at=charge.ended_at or charge.created_at,
    )


def charge_of(payment: Payment) -> UUID | None:
    """Return the charge of autopay that a payment is, where it is one."""
    found = (charge_name(reference) for reference in payment.references)
    return next((charge_id for charge_id in found if charge_id is not None), None)

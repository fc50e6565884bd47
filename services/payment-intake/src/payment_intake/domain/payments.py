"""What is known of a payment, and what each new observation makes of it; pure.

Processors speak of one payment in many events, in any order, some twice. Each event becomes an
observation; a payment's book holds what was observed; and the difference between what the
ledger should show and what has been asked of it becomes movements. So the order of arrival
decides nothing, and saying something again changes nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from types import MappingProxyType
from uuid import UUID
from zoneinfo import ZoneInfo

from shared.contracts.notifications import NotificationKind
from shared.contracts.payments import (
    ChargeDeclined,
    DeclineCategory,
    PaymentAccepted,
    PaymentPending,
    PaymentReinstated,
    PaymentReversed,
)

NewId = Callable[[], UUID]
"""Gives movements their ids; an argument, as all randomness is."""


class PaymentStatus(StrEnum):
    """What the processor made of the charge, as far as it was heard."""

    SEEN = "seen"
    """Something was heard of it (a refund, a dispute), but not yet the charge itself."""
    SUBMITTED = "submitted"
    """The portal says that the customer pressed pay."""
    PENDING = "pending"
    """Submitted to the bank, not settled (ACH)."""
    CAPTURED = "captured"
    """The money was taken."""
    FAILED = "failed"
    """No money was taken, or it was taken back by the bank."""


PAYMENT_TRANSITIONS: Mapping[tuple[PaymentStatus | None, PaymentStatus], str | None] = (
    MappingProxyType(
        {
            (None, PaymentStatus.SEEN): None,
            (None, PaymentStatus.SUBMITTED): None,
            (None, PaymentStatus.PENDING): PaymentPending.TYPE,
            (None, PaymentStatus.CAPTURED): PaymentAccepted.TYPE,
            (None, PaymentStatus.FAILED): ChargeDeclined.TYPE,
            (PaymentStatus.SEEN, PaymentStatus.SUBMITTED): None,
            (PaymentStatus.SEEN, PaymentStatus.PENDING): PaymentPending.TYPE,
            (PaymentStatus.SEEN, PaymentStatus.CAPTURED): PaymentAccepted.TYPE,
            (PaymentStatus.SEEN, PaymentStatus.FAILED): ChargeDeclined.TYPE,
            (PaymentStatus.SUBMITTED, PaymentStatus.PENDING): PaymentPending.TYPE,
            (PaymentStatus.SUBMITTED, PaymentStatus.CAPTURED): PaymentAccepted.TYPE,
            (PaymentStatus.SUBMITTED, PaymentStatus.FAILED): ChargeDeclined.TYPE,
            (PaymentStatus.PENDING, PaymentStatus.CAPTURED): PaymentAccepted.TYPE,
            (PaymentStatus.PENDING, PaymentStatus.FAILED): ChargeDeclined.TYPE,
            # A customer whose first card was declined pays the same intent with another one.
            (PaymentStatus.FAILED, PaymentStatus.PENDING): PaymentPending.TYPE,
            (PaymentStatus.FAILED, PaymentStatus.CAPTURED): PaymentAccepted.TYPE,
        }
    )
)
"""Every allowed change of a payment's status; whatever else is heard changes nothing."""


class MovementKind(StrEnum):
    """What must reach the customer, and but for a decline the ledger too."""

    PAYMENT = "payment"
    REVERSAL = "reversal"
    REINSTATEMENT = "reinstatement"
    DECLINE = "decline"


class MovementStatus(StrEnum):
    """How far a movement has come."""

    ANNOUNCED = "announced"
    """Accepted and announced; not on the ledger yet."""
    SUSPENDED = "suspended"
    """The CIS would not take it; it waits for an operator."""
    POSTED = "posted"
    """On the ledger; the customer is being told."""
    CONFIRMED = "confirmed"
    """The customer was told, or cannot be: the chain has ended."""
    RETURNED = "returned"
    """Given back by an operator: the chain has ended."""


MOVEMENT_TRANSITIONS: Mapping[tuple[MovementStatus | None, MovementStatus], str] = MappingProxyType(
    {
        (None, MovementStatus.ANNOUNCED): "payment.accepted|payment.reversed|…",
        (MovementStatus.ANNOUNCED, MovementStatus.SUSPENDED): "heard posting.suspended",
        (MovementStatus.ANNOUNCED, MovementStatus.POSTED): "heard posting.posted",
        (MovementStatus.ANNOUNCED, MovementStatus.CONFIRMED): "heard notification (decline)",
        (MovementStatus.ANNOUNCED, MovementStatus.RETURNED): "heard posting.returned",
        (MovementStatus.SUSPENDED, MovementStatus.POSTED): "heard posting.posted",
        (MovementStatus.SUSPENDED, MovementStatus.CONFIRMED): "heard both, posting last",
        (MovementStatus.SUSPENDED, MovementStatus.RETURNED): "heard posting.returned",
        (MovementStatus.POSTED, MovementStatus.CONFIRMED): "heard notification.*",
    }
)
"""Every allowed change of a movement's status, and what causes it."""

ENDED = frozenset({MovementStatus.CONFIRMED, MovementStatus.RETURNED})

ENDING_NOTIFICATIONS: Mapping[MovementKind, tuple[NotificationKind, ...]] = MappingProxyType(
    {
        MovementKind.PAYMENT: ("posted",),
        MovementKind.REVERSAL: ("reversed",),
        MovementKind.REINSTATEMENT: ("reinstated",),
        # Of an autopay charge's decline its scheduler tells, since it knows what happens next.
        MovementKind.DECLINE: ("declined", "charge_declined"),
    }
)
"""Which notifications end which chain; `delayed` ends none."""


class Heard(StrEnum):
    """What an event says happened."""

    SUBMITTED = "submitted"
    PENDING = "pending"
    CAPTURED = "captured"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUNDED = "refunded"
    """So much has been refunded in all."""
    REFUND_FAILED = "refund_failed"
    """One refund did not reach the customer; its money came back."""
    FUNDS_WITHDRAWN = "funds_withdrawn"
    FUNDS_REINSTATED = "funds_reinstated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One event's statement about one payment, in no processor's own words."""

    processor: str
    references: tuple[str, ...]
    """Every name by which the processor calls this payment; any of them finds it."""
    heard: Heard
    at: datetime
    """When it happened, by the processor's clock."""
    amount_cents: int
    """Of the charge with its fee; of the refunds in all; of the refund; of the dispute."""
    currency: str
    account_id: str | None = None
    fee_cents: int = 0
    bill_reference: str | None = None
    method: str | None = None
    code: str | None = None
    """Why it failed, was returned or disputed, in the processor's or the bank's code."""
    category: DeclineCategory | None = None
    """What a failure means for the next attempt."""
    part: str | None = None
    """Which refund, dispute or attempt of the payment."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Money that went, or may come, back: a total and since when it is known."""

    cents: int
    since: datetime
    undone_at: datetime | None = None
    code: str | None = None
    currency: str | None = None
    """What it was stated in; None for what the payment itself was stated in."""

    @property
    def target_cents(self) -> int:
        """How much of the payment this claim takes back now."""
        undone = self.undone_at is not None and self.undone_at >= self.since
        return 0 if undone else self.cents


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """What was observed of a payment's way back, and what the ledger was asked to show of it."""

    refunded: Claim | None = None
    refunds_failed: Mapping[str, Claim] = field(default_factory=dict)
    disputes: Mapping[str, Claim] = field(default_factory=dict)
    returned: Claim | None = None
    declines: tuple[str, ...] = ()
    """The attempts that are known to have failed."""
    credited: bool = False
    reversed_cents: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment as payment-intake knows it."""

    id: UUID
    processor: str
    references: frozenset[str]
    status: PaymentStatus
    account_id: str | None = None
    amount_cents: int | None = None
    """What the ledger is to show; None until the charge was heard of."""
    fee_cents: int = 0
    currency: str | None = None
    method: str | None = None
    bill_reference: str | None = None
    book: Book = field(default_factory=Book)
    created_at: datetime
    submitted_at: datetime | None = None
    pending_at: datetime | None = None
    captured_at: datetime | None = None
    failed_at: datetime | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """One thing that must reach the ledger and the customer, under a key that never expires."""

    id: UUID
    kind: MovementKind
    amount_cents: int
    effective_date: date
    accepted_at: datetime
    reason: str | None = None
    reason_code: str | None = None
    attempt: str | None = None
    category: DeclineCategory | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Two statements that cannot both be true; recorded and alarmed, never acted upon."""

    kind: str
    detail: Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The city's rules."""

    time_zone: ZoneInfo
    cutoff: time | None
    """Payments after this local time count for the next day."""
    post_pending: bool
    """Whether ACH is posted at submission (and reversed if it returns) or at settlement."""
    cancellation_grace: timedelta = timedelta(seconds=60)
    """How long after its answer a charge is still given back to whoever cancels it."""

    def effective_date(self, *, at: datetime) -> date:
        """Return the business day that a payment made at this instant counts for."""
        local = at.astimezone(self.time_zone)
        after_cutoff = self.cutoff is not None and local.time() > self.cutoff
        return local.date() + timedelta(days=1) if after_cutoff else local.date()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one observation made of a payment."""

    payment: Payment
    movements: Sequence[Movement] = ()
    became_pending: bool = False
    conflicts: Sequence[Conflict] = ()


def observe(
    *,
    payment: Payment,
    observation: Observation,
    policy: Policy,
    now: datetime,
    new_id: NewId,
) -> Change:
    """Return what an observation makes of a payment; the same one again makes nothing of it."""
    known = _with_particulars(payment, observation)
    match observation.heard:
        case Heard.SUBMITTED:
            change = _submitted(known, observation)
        case Heard.PENDING:
            is_another = not payment.references.issuperset(observation.references)
            change = _pending(known, observation, is_another_attempt=is_another)
        case Heard.CAPTURED:
            change = _captured(known, observation)
        case Heard.FAILED | Heard.CANCELLED:
            change = _failed(known, observation, policy, now, new_id)
        case _ if _is_foreign(payment, observation):
            conflict = _currency_conflict(payment, observation.amount_cents, observation.currency)
            change = Change(payment=known, conflicts=(conflict,))
        case _:
            change = Change(payment=replace(known, book=_entered(known.book, observation)))
    return _settled(change, observation, policy, now, new_id)


def merged(*, into: Payment, other: Payment) -> Payment:
    """Return one payment from two that turn out to be the same; `other` was never credited."""
    book, found = into.book, other.book
    return replace(
        into,
        references=into.references | other.references,
        account_id=into.account_id or other.account_id,
        bill_reference=into.bill_reference or other.bill_reference,
        submitted_at=into.submitted_at or other.submitted_at,
        book=replace(
            book,
            refunded=_latest(book.refunded, found.refunded),
            refunds_failed=_united(book.refunds_failed, found.refunds_failed, by=_earliest),
            disputes=_united(book.disputes, found.disputes, by=_disputed),
            declines=tuple(dict.fromkeys((*book.declines, *found.declines))),
        ),
    )


def _with_particulars(payment: Payment, observation: Observation) -> Payment:
    """Fill in what was not known; what was announced with the credit stays as it was."""
    return replace(
        payment,
        references=payment.references | set(observation.references),
        account_id=payment.account_id or observation.account_id,
        currency=payment.currency or observation.currency,
        method=payment.method or observation.method,
        bill_reference=payment.bill_reference or observation.bill_reference,
    )


def _may(payment: Payment, status: PaymentStatus) -> bool:
    return (payment.status, status) in PAYMENT_TRANSITIONS


def _submitted(payment: Payment, observation: Observation) -> Change:
    heard = replace(payment, submitted_at=payment.submitted_at or observation.at)
    if _may(payment, PaymentStatus.SUBMITTED):
        heard = replace(
            heard, status=PaymentStatus.SUBMITTED, amount_cents=observation.amount_cents
        )
    return Change(payment=heard)


def _pending(payment: Payment, observation: Observation, *, is_another_attempt: bool) -> Change:
    heard = replace(payment, pending_at=_later(payment.pending_at, observation.at))
    failed_at = payment.failed_at
    # Within one second of the processor's clock, a name not heard before tells the attempts apart.
    is_over = failed_at is not None and (
        observation.at < failed_at or (observation.at == failed_at and not is_another_attempt)
    )
    if not _may(payment, PaymentStatus.PENDING) or is_over:
        return Change(payment=heard)
    pending = _with_amount(replace(heard, status=PaymentStatus.PENDING), observation)
    return Change(payment=_not_returned(pending, observation), became_pending=True)


def _captured(payment: Payment, observation: Observation) -> Change:
    net_cents = observation.amount_cents - observation.fee_cents
    if payment.status is PaymentStatus.CAPTURED or payment.book.credited:
        conflicts = []
        captured = replace(
            payment,
            status=PaymentStatus.CAPTURED,
            captured_at=payment.captured_at or observation.at,
        )
        # What the bank sent back was an earlier attempt: the money has been taken after all.
        captured = _not_returned(captured, observation)
        held_cents = _held_cents(captured)
        if (held_cents, payment.currency) != (net_cents, observation.currency):
            detail = {
                "held_cents": held_cents,
                "heard_cents": net_cents,
                "held_currency": payment.currency,
                "heard_currency": observation.currency,
            }
            conflicts.append(Conflict(kind="payment_amount", detail=detail))
        return Change(payment=captured, conflicts=conflicts)
    return Change(
        payment=_with_amount(
            replace(payment, status=PaymentStatus.CAPTURED, captured_at=observation.at),
            observation,
        )
    )


def _with_amount(payment: Payment, observation: Observation) -> Payment:
    if payment.book.credited:
        return payment
    return replace(
        payment,
        amount_cents=observation.amount_cents - observation.fee_cents,
        fee_cents=observation.fee_cents,
        currency=observation.currency,
    )


def _failed(
    payment: Payment, observation: Observation, policy: Policy, now: datetime, new_id: NewId
) -> Change:
    if not _may(payment, PaymentStatus.FAILED) and payment.status is not PaymentStatus.FAILED:
        # An attempt that was declined before the one that succeeded: nobody is to be told.
        return Change(payment=payment)
    if payment.pending_at is not None and observation.at < payment.pending_at:
        # Nor of one that was declined before the one that is under way.
        return Change(payment=payment)
    attempt = observation.part or observation.references[0]
    is_known = observation.heard is Heard.FAILED and attempt in payment.book.declines
    if is_known and payment.status is PaymentStatus.PENDING:
        # Said once more of an attempt that is over, while another one is under way.
        return Change(payment=payment)
    failed = replace(
        _with_amount(payment, observation),
        status=PaymentStatus.FAILED,
        failed_at=_later(payment.failed_at, observation.at),
    )
    if payment.book.credited:
        # Posted at submission, and the bank has sent it back.
        claim = Claim(
            payment.amount_cents or 0, failed.failed_at or observation.at, None, observation.code
        )
        is_new = observation.heard is Heard.FAILED and not is_known
        over = (*failed.book.declines, attempt) if is_new else failed.book.declines
        book = replace(failed.book, returned=claim, declines=over)
        return Change(payment=replace(failed, book=book))
    if observation.heard is Heard.CANCELLED or is_known:
        return Change(payment=failed)
    book = replace(failed.book, declines=(*failed.book.declines, attempt))
    decline = Movement(
        id=new_id(),
        kind=MovementKind.DECLINE,
        amount_cents=failed.amount_cents or observation.amount_cents,
        effective_date=policy.effective_date(at=observation.at),
        accepted_at=now,
        reason_code=observation.code,
        attempt=attempt,
        category=observation.category,
    )
    return Change(payment=replace(failed, book=book), movements=(decline,))


def _entered(book: Book, observation: Observation) -> Book:
    """Enter what was heard of refunds and disputes; the latest by the processor's clock holds."""
    claim = Claim(
        observation.amount_cents, observation.at, None, observation.code, observation.currency
    )
    part = observation.part or ""
    match observation.heard:
        case Heard.REFUNDED:
            return replace(book, refunded=_latest(book.refunded, claim))
        case Heard.REFUND_FAILED:
            failed = _united(book.refunds_failed, {part: claim}, by=_earliest)
            return replace(book, refunds_failed=failed)
        case Heard.FUNDS_WITHDRAWN:
            return replace(book, disputes=_united(book.disputes, {part: claim}, by=_disputed))
        case Heard.FUNDS_REINSTATED:
            # What came back before it was heard to go: it went at the same instant at the latest.
            claim = replace(book.disputes.get(part, claim), undone_at=observation.at)
            return replace(book, disputes=_united(book.disputes, {part: claim}, by=_disputed))
        case _:
            return book


def _is_foreign(payment: Payment, observation: Observation) -> bool:
    """Whether money is said to go back in another currency than it is known to have come in."""
    is_known = payment.status not in (PaymentStatus.SEEN, PaymentStatus.SUBMITTED)
    return is_known and payment.currency != observation.currency


def _currency_conflict(payment: Payment, cents: int, currency: str | None) -> Conflict:
    detail = {"held_currency": payment.currency, "heard_currency": currency, "heard_cents": cents}
    return Conflict(kind="payment_currency", detail=detail)


def _in_own_currency(payment: Payment) -> tuple[Book, list[Conflict]]:
    """Return the book without what was heard in another currency before the payment was known."""
    book = payment.book

    def is_own(claim: Claim | None) -> bool:
        return claim is None or claim.currency in (None, payment.currency)

    kept = replace(
        book,
        refunded=book.refunded if is_own(book.refunded) else None,
        refunds_failed={p: each for p, each in book.refunds_failed.items() if is_own(each)},
        disputes={p: each for p, each in book.disputes.items() if is_own(each)},
    )
    claims = (book.refunded, *book.refunds_failed.values(), *book.disputes.values())
    foreign = [each for each in claims if each is not None and not is_own(each)]
    return kept, [_currency_conflict(payment, each.cents, each.currency) for each in foreign]


def _latest(held: Claim | None, heard: Claim | None) -> Claim | None:
    if held is None or heard is None:
        return held or heard
    # Within one second of the processor's clock the larger total is the later one.
    return max(held, heard, key=lambda claim: (claim.since, claim.cents))


def _earliest(held: Claim, heard: Claim) -> Claim:
    """Return which says first that a refund failed: several events say so, at several times."""
    return min(held, heard, key=lambda claim: (claim.since, claim.cents))


def _disputed(held: Claim, heard: Claim) -> Claim:
    """Return the later withdrawal of a dispute, with the later instant of its coming back."""
    latest = max(held, heard, key=lambda claim: (claim.since, claim.cents))
    return replace(latest, undone_at=_later(held.undone_at, heard.undone_at))


def _united(
    held: Mapping[str, Claim],
    heard: Mapping[str, Claim],
    *,
    by: Callable[[Claim, Claim], Claim],
) -> dict[str, Claim]:
    both = {part: by(held[part], claim) for part, claim in heard.items() if part in held}
    return {**held, **heard, **both}


def _later(held: datetime | None, heard: datetime | None) -> datetime | None:
    return max(held, heard) if held and heard else held or heard


def _not_returned(payment: Payment, observation: Observation) -> Payment:
    """Undo what the bank had sent back, where it had: the same payment was made once more.

    Where less was owed meanwhile, less was presented: the rest stays returned.
    """
    returned = payment.book.returned
    if returned is None:
        return payment
    net_cents = observation.amount_cents - observation.fee_cents
    left_cents = max(0, (payment.amount_cents or 0) - net_cents)
    if left_cents:
        again = replace(returned, cents=left_cents, undone_at=None)
    else:
        again = replace(returned, undone_at=_later(returned.since, observation.at))
    return replace(payment, book=replace(payment.book, returned=again))


def _held_cents(payment: Payment) -> int:
    """Return what the ledger is to show of the charge, less what the bank keeps back of it."""
    returned = payment.book.returned
    return (payment.amount_cents or 0) - (returned.target_cents if returned else 0)


def _targets(book: Book) -> dict[str, tuple[int, str, str | None]]:
    """Return for each part of the way back: how much of the payment it takes, and why."""
    targets: dict[str, tuple[int, str, str | None]] = {}
    if book.returned is not None:
        targets["return"] = (book.returned.target_cents, "ach_return", book.returned.code)
    if book.refunded is not None:
        # A total stated after a failure no longer counts the refund that failed.
        failed_cents = sum(
            claim.cents
            for claim in book.refunds_failed.values()
            if claim.since >= book.refunded.since
        )
        cents = max(0, book.refunded.target_cents - failed_cents)
        targets["refund"] = (cents, "refund", book.refunded.code)
    for part, claim in book.disputes.items():
        targets[f"dispute:{part}"] = (claim.target_cents, "dispute", claim.code)
    return targets


def _settled(
    change: Change, observation: Observation, policy: Policy, now: datetime, new_id: NewId
) -> Change:
    """Add the movements that bring the ledger to what the book says."""
    payment = change.payment
    movements = list(change.movements)
    conflicts = list(change.conflicts)
    book = payment.book
    effective_date = policy.effective_date(at=min(observation.at, now))
    if not book.credited and _is_credit_due(payment, policy):
        book = replace(book, credited=True)
        movements.append(
            Movement(
                id=payment.id,
                kind=MovementKind.PAYMENT,
                amount_cents=payment.amount_cents or 0,
                effective_date=effective_date,
                accepted_at=now,
            )
        )
    if book.credited:
        book, foreign = _in_own_currency(replace(payment, book=book))
        conflicts += foreign
        room_cents = payment.amount_cents or 0
        reversed_cents = dict(book.reversed_cents)
        for part, (target_cents, reason, code) in _targets(book).items():
            # A refund of the fee is no business of the ledger: the bill's part goes back first.
            capped_cents = min(target_cents, room_cents)
            room_cents -= capped_cents
            delta_cents = capped_cents - reversed_cents.get(part, 0)
            if part in reversed_cents and delta_cents == 0:
                continue
            reversed_cents[part] = capped_cents
            if target_cents > capped_cents + payment.fee_cents:
                detail: dict[str, str | int | None] = {
                    "part": part,
                    "target_cents": target_cents,
                    "capped_cents": capped_cents,
                }
                conflicts.append(Conflict(kind="reversed_more_than_paid", detail=detail))
            if delta_cents == 0:
                continue
            movements.append(
                Movement(
                    id=new_id(),
                    kind=MovementKind.REVERSAL if delta_cents > 0 else MovementKind.REINSTATEMENT,
                    amount_cents=abs(delta_cents),
                    effective_date=effective_date,
                    accepted_at=now,
                    reason=reason,
                    reason_code=code,
                )
            )
        book = replace(book, reversed_cents=reversed_cents)
    return replace(
        change,
        payment=replace(payment, book=book),
        movements=movements,
        conflicts=conflicts,
    )


def _is_credit_due(payment: Payment, policy: Policy) -> bool:
    if payment.status is PaymentStatus.CAPTURED:
        return True
    return payment.status is PaymentStatus.PENDING and policy.post_pending


ANNOUNCED_BY = MappingProxyType(
    {
        MovementKind.PAYMENT: PaymentAccepted,
        MovementKind.REVERSAL: PaymentReversed,
        MovementKind.REINSTATEMENT: PaymentReinstated,
        MovementKind.DECLINE: ChargeDeclined,
    }
)
"""Which fact announces which movement."""

"""A charge that autopay asked for: what may become of it, and what each piece of news makes of it.

Pure. A charge whose answer was lost is unknown, not failed: the processor is asked by the charge's
own id before anything is sent again. What a payment has become, a charge has become too, whoever
said so first, the processor's answer or its webhook.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from uuid import UUID

from payment_intake.domain.payments import Heard, Observation, PaymentStatus
from shared.contracts.payments import ChargeWithdrawn, DeclineCategory

REFERENCE_PREFIX = "autopay:"
"""What makes a charge's id one of its payment's names."""


class ChargeStatus(StrEnum):
    """Where a charge stands."""

    DUE = "due"
    """To be sent when `due_at` comes; never sent, or known not to have taken effect."""
    CHARGING = "charging"
    """In somebody's hands until `due_at`; after that its outcome counts as unknown."""
    UNKNOWN = "unknown"
    """Sent without an answer; the processor is asked when `due_at` comes."""
    PENDING = "pending"
    """An ACH debit was submitted and has not settled."""
    CHARGED = "charged"
    """The money was taken."""
    DECLINED = "declined"
    """This attempt took no money; another one may be asked for."""
    WITHDRAWN = "withdrawn"
    """Not charged: cancelled, or asked for too long ago."""
    REFUND_DUE = "refund_due"
    """Cancelled a moment too late: to be given back when `due_at` comes."""
    REFUNDING = "refunding"
    """Being given back by somebody until `due_at`; giving back twice gives back once."""
    REFUNDED = "refunded"
    """Given back."""


WAITING = frozenset({ChargeStatus.DUE, ChargeStatus.UNKNOWN, ChargeStatus.REFUND_DUE})
IN_HAND = frozenset({ChargeStatus.CHARGING, ChargeStatus.REFUNDING})
UNSETTLED = WAITING | IN_HAND
"""What is taken up when its `due_at` comes."""

_PAID = "by its payment: payment.accepted"
_PENDING = "by its payment: payment.pending"
_DECLINED = "by its payment: charge.declined, or payment.reversed"

CHARGE_TRANSITIONS: Mapping[tuple[ChargeStatus | None, ChargeStatus], str | None] = (
    MappingProxyType(
        {
            (None, ChargeStatus.DUE): None,
            (None, ChargeStatus.WITHDRAWN): ChargeWithdrawn.TYPE,
            (ChargeStatus.DUE, ChargeStatus.CHARGING): None,
            (ChargeStatus.DUE, ChargeStatus.WITHDRAWN): ChargeWithdrawn.TYPE,
            (ChargeStatus.DUE, ChargeStatus.PENDING): _PENDING,
            (ChargeStatus.DUE, ChargeStatus.CHARGED): _PAID,
            (ChargeStatus.DUE, ChargeStatus.REFUND_DUE): None,
            (ChargeStatus.UNKNOWN, ChargeStatus.CHARGING): None,
            (ChargeStatus.UNKNOWN, ChargeStatus.PENDING): _PENDING,
            (ChargeStatus.UNKNOWN, ChargeStatus.CHARGED): _PAID,
            (ChargeStatus.UNKNOWN, ChargeStatus.REFUND_DUE): None,
            (ChargeStatus.CHARGING, ChargeStatus.CHARGING): None,
            (ChargeStatus.CHARGING, ChargeStatus.DUE): None,
            (ChargeStatus.CHARGING, ChargeStatus.UNKNOWN): None,
            (ChargeStatus.CHARGING, ChargeStatus.PENDING): _PENDING,
            (ChargeStatus.CHARGING, ChargeStatus.CHARGED): _PAID,
            (ChargeStatus.CHARGING, ChargeStatus.DECLINED): _DECLINED,
            (ChargeStatus.CHARGING, ChargeStatus.WITHDRAWN): ChargeWithdrawn.TYPE,
            (ChargeStatus.CHARGING, ChargeStatus.REFUND_DUE): None,
            (ChargeStatus.PENDING, ChargeStatus.CHARGED): _PAID,
            (ChargeStatus.PENDING, ChargeStatus.DECLINED): _DECLINED,
            (ChargeStatus.PENDING, ChargeStatus.WITHDRAWN): ChargeWithdrawn.TYPE,
            (ChargeStatus.PENDING, ChargeStatus.REFUND_DUE): None,
            (ChargeStatus.CHARGED, ChargeStatus.REFUND_DUE): None,
            (ChargeStatus.DECLINED, ChargeStatus.DUE): None,
            (ChargeStatus.DECLINED, ChargeStatus.PENDING): _PENDING,
            (ChargeStatus.DECLINED, ChargeStatus.CHARGED): _PAID,
            (ChargeStatus.DECLINED, ChargeStatus.WITHDRAWN): ChargeWithdrawn.TYPE,
            (ChargeStatus.DECLINED, ChargeStatus.REFUND_DUE): None,
            (ChargeStatus.WITHDRAWN, ChargeStatus.DUE): None,
            (ChargeStatus.WITHDRAWN, ChargeStatus.REFUND_DUE): None,
            (ChargeStatus.REFUND_DUE, ChargeStatus.REFUNDING): None,
            (ChargeStatus.REFUNDING, ChargeStatus.REFUNDING): None,
            (ChargeStatus.REFUNDING, ChargeStatus.REFUND_DUE): None,
            (ChargeStatus.REFUNDING, ChargeStatus.PENDING): None,
            (ChargeStatus.REFUNDING, ChargeStatus.WITHDRAWN): ChargeWithdrawn.TYPE,
            (ChargeStatus.REFUNDING, ChargeStatus.REFUNDED): ChargeWithdrawn.TYPE,
        }
    )
)
"""Every allowed change of a charge's status, and what states it."""

CANCELLED = "cancelled"
EXPIRED = "expired"


class AnswerKind(StrEnum):
    """What the processor, or the way to it, made of a call."""

    SUCCEEDED = "succeeded"
    PROCESSING = "processing"
    DECLINED = "declined"
    ACTION_REQUIRED = "action_required"
    REFUSED = "refused"
    """The processor does not know this customer's method, or will not do this with it."""
    NOT_FOUND = "not_found"
    """The processor knows of no such attempt."""
    REFUNDED = "refunded"
    CANCELLED = "cancelled"
    """A debit under way was stopped, or there is nothing to give back."""
    UNAVAILABLE = "unavailable"
    """Known not to have taken effect: never sent, or refused as a whole."""
    UNKNOWN = "unknown"
    """Sent; no answer, or one that cannot be understood. May have taken effect."""
    HELD = "held"
    """Nothing was sent: paused, cancelled meanwhile, expired, or no longer in our hands."""


NO_MONEY = frozenset({AnswerKind.DECLINED, AnswerKind.ACTION_REQUIRED, AnswerKind.REFUSED})
NOT_DECIDED = frozenset({AnswerKind.UNAVAILABLE, AnswerKind.UNKNOWN})
"""After these it is tried, or asked, again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeRequest:
    """What autopay-scheduler asks for: one attempt of one charge."""

    charge_id: UUID
    account_id: str
    enrolment_id: UUID
    due_date: date
    bill_reference: str
    method_kind: str
    currency: str
    attempt: int
    amount_cents: int
    processor: str
    payment_method_token: str
    customer_token: str | None
    mandate_token: str | None
    requested_at: datetime
    valid_until: datetime
    traceparent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """What is not wanted any more: a charge, whichever of its attempts."""

    charge_id: UUID
    account_id: str
    enrolment_id: UUID
    due_date: date
    bill_reference: str
    method_kind: str
    currency: str
    attempt: int
    amount_cents: int
    cancelled_at: datetime
    traceparent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A charge as payment-intake knows it: its latest attempt, and what became of that."""

    id: UUID
    account_id: str
    enrolment_id: UUID
    due_date: date
    bill_reference: str
    method_kind: str
    currency: str
    attempt: int
    amount_cents: int
    processor: str | None = None
    """None, as are the tokens, where only the cancellation has been heard."""
    payment_method_token: str | None = None
    customer_token: str | None = None
    mandate_token: str | None = None
    requested_at: datetime | None = None
    valid_until: datetime | None = None
    status: ChargeStatus
    reason: str | None = None
    """Why it is withdrawn, or why it has not come further yet."""
    category: DeclineCategory | None = None
    tries: int = 0
    """Calls of this attempt, or of giving back, that decided nothing."""
    keys_spent: int = 0
    """Idempotency keys of this attempt under which the processor has kept a failure of its own,
    and repeats it: nothing can be charged under them any more."""
    due_at: datetime
    lease_owner: UUID | None = None
    reference: str | None = None
    """The processor's name for it: the PaymentIntent."""
    earlier: tuple[str, ...] = ()
    """Every name that earlier attempts have at the processor: theirs is not this one's outcome."""
    created_at: datetime
    answered_at: datetime | None = None
    """When it was first known what this attempt had become."""
    cancelled_at: datetime | None = None
    ended_at: datetime | None = None
    """When it was withdrawn or given back."""
    traceparent: str | None = None

    @property
    def name(self) -> str:
        """Its payment's name here."""
        return f"{REFERENCE_PREFIX}{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was learnt about one charge."""

    kind: AnswerKind
    reason: str | None = None
    """The code of a decline or a refusal; else why nothing was decided."""
    category: DeclineCategory | None = None
    reference: str | None = None
    """The PaymentIntent."""
    part: str | None = None
    """The processor's name for this attempt: Stripe's charge."""
    amount_cents: int | None = None
    currency: str | None = None
    at: datetime | None = None
    """By the processor's clock."""
    request_id: str | None = None
    """The processor's id of the call, which its support asks for."""
    is_key_spent: bool = False
    """The processor failed, has said so, and will say the same again under the same key."""
    is_our_trouble: bool = False
    """Our key, our rights or our request is wrong: no customer's method is to blame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hand:
    """A charge in hand: who works on it until when."""

    charge: Charge
    ask_first: bool
    """Whether an earlier try may have taken effect."""
    leased_until: datetime


class Heeding(StrEnum):
    """What became of a request or a cancellation; counted."""

    NEW = "new"
    REPEATED = "repeated"
    """Known already: what has become of it is stated again."""
    EARLY = "early"
    """A further attempt while the former one is still open: the former one's outcome comes."""
    CONTRADICTED = "contradicted"
    """The same attempt with other contents: what was taken first stands."""
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    TOO_LATE = "too_late"
    """A cancellation of what was charged longer ago than the grace: the charge stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heeded:
    """What a request or a cancellation makes of a charge."""

    charge: Charge
    heeding: Heeding


def charge_name(reference: str) -> UUID | None:
    """Return the charge that one of a payment's names stands for, if it does."""
    if not reference.startswith(REFERENCE_PREFIX):
        return None
    return charge_id_of(reference.removeprefix(REFERENCE_PREFIX))


def charge_id_of(text: str) -> UUID | None:
    """Return the charge's id in a text; None where it is none, since anybody may write one."""
    try:
        found = UUID(text)
    except ValueError:
        return None
    return found if str(found) == text.lower() else None


def is_expired(charge: Charge, *, now: datetime) -> bool:
    """Return whether it was asked for too long ago to be charged now."""
    return charge.valid_until is not None and now > charge.valid_until


def requested(
    *, charge: Charge | None, request: ChargeRequest, names: Collection[str] = (), now: datetime
) -> Heeded:
    """Return what a request makes of a charge; the same one again makes nothing of it.

    `names` are those that its payment has had so far.
    """
    if charge is None or charge.requested_at is None:
        return _first_requested(charge, request, now)
    if request.attempt < charge.attempt:
        return Heeded(charge=charge, heeding=Heeding.REPEATED)
    if request.attempt == charge.attempt:
        heeding = Heeding.REPEATED if _is_same(charge, request) else Heeding.CONTRADICTED
        return Heeded(charge=charge, heeding=heeding)
    if charge.cancelled_at is not None:
        return Heeded(charge=charge, heeding=Heeding.CANCELLED)
    if charge.status not in (ChargeStatus.DECLINED, ChargeStatus.WITHDRAWN):
        is_paid = charge.status in (ChargeStatus.CHARGED, ChargeStatus.REFUNDED)
        return Heeded(charge=charge, heeding=Heeding.REPEATED if is_paid else Heeding.EARLY)
    return _attempted(replace(charge, earlier=tuple(sorted(names))), request, now)


def _first_requested(charge: Charge | None, request: ChargeRequest, now: datetime) -> Heeded:
    if charge is not None:
        # Cancelled before it was heard of: what is now known of it is kept, and nothing is sent.
        known = replace(_with_request(charge, request), status=charge.status)
        return Heeded(charge=known, heeding=Heeding.CANCELLED)
    new = Charge(
        id=request.charge_id,
        account_id=request.account_id,
        enrolment_id=request.enrolment_id,
        due_date=request.due_date,
        bill_reference=request.bill_reference,
        method_kind=request.method_kind,
        currency=request.currency,
        attempt=request.attempt,
        amount_cents=request.amount_cents,
        status=ChargeStatus.DUE,
        due_at=now,
        created_at=now,
    )
    return _attempted(new, request, now)


def _attempted(charge: Charge, request: ChargeRequest, now: datetime) -> Heeded:
    attempted = replace(
        _with_request(charge, request),
        status=ChargeStatus.DUE,
        reason=None,
        category=None,
        tries=0,
        keys_spent=0,
        due_at=now,
        lease_owner=None,
        answered_at=None,
        ended_at=None,
    )
    if is_expired(attempted, now=now):
        return Heeded(charge=withdrawn(attempted, reason=EXPIRED, now=now), heeding=Heeding.EXPIRED)
    return Heeded(charge=attempted, heeding=Heeding.NEW)


def _with_request(charge: Charge, request: ChargeRequest) -> Charge:
    return replace(
        charge,
        attempt=request.attempt,
        amount_cents=request.amount_cents,
        currency=request.currency,
        method_kind=request.method_kind,
        processor=request.processor,
        payment_method_token=request.payment_method_token,
        customer_token=request.customer_token,
        mandate_token=request.mandate_token,
        requested_at=request.requested_at,
        valid_until=request.valid_until,
        traceparent=charge.traceparent or request.traceparent,
    )


def _is_same(charge: Charge, request: ChargeRequest) -> bool:
    return (charge.amount_cents, charge.currency, charge.payment_method_token) == (
        request.amount_cents,
        request.currency,
        request.payment_method_token,
    )


def cancelled(
    *, charge: Charge | None, cancellation: Cancellation, grace: timedelta, now: datetime
) -> Heeded:
    """Return what a cancellation makes of a charge: withdrawn, to be given back, or nothing.

    One that comes before its request leaves a stone that the request falls over.
    """
    if charge is None:
        stone = Charge(
            id=cancellation.charge_id,
            account_id=cancellation.account_id,
            enrolment_id=cancellation.enrolment_id,
            due_date=cancellation.due_date,
            bill_reference=cancellation.bill_reference,
            method_kind=cancellation.method_kind,
            currency=cancellation.currency,
            attempt=cancellation.attempt,
            amount_cents=cancellation.amount_cents,
            status=ChargeStatus.WITHDRAWN,
            reason=CANCELLED,
            due_at=now,
            created_at=now,
            cancelled_at=cancellation.cancelled_at,
            ended_at=now,
            traceparent=cancellation.traceparent,
        )
        return Heeded(charge=stone, heeding=Heeding.CANCELLED)
    if charge.cancelled_at is not None:
        return Heeded(charge=charge, heeding=Heeding.REPEATED)
    marked = replace(charge, cancelled_at=cancellation.cancelled_at)
    if charge.status in (ChargeStatus.CHARGED, ChargeStatus.PENDING):
        if not _is_in_time(marked, grace):
            return Heeded(charge=charge, heeding=Heeding.TOO_LATE)
        return Heeded(charge=to_give_back(marked, now=now), heeding=Heeding.CANCELLED)
    if charge.status in (ChargeStatus.DUE, ChargeStatus.DECLINED):
        ended = withdrawn(marked, reason=CANCELLED, now=now)
        return Heeded(charge=ended, heeding=Heeding.CANCELLED)
    # In somebody's hands, of unknown outcome, or withdrawn already: decided by what comes next.
    return Heeded(charge=marked, heeding=Heeding.CANCELLED)


def _is_in_time(charge: Charge, grace: timedelta) -> bool:
    if charge.cancelled_at is None:
        return False
    return charge.answered_at is None or charge.cancelled_at <= charge.answered_at + grace


def withdrawn(charge: Charge, *, reason: str, now: datetime) -> Charge:
    """Return the charge, not made."""
    return replace(
        charge,
        status=ChargeStatus.WITHDRAWN,
        reason=reason,
        lease_owner=None,
        ended_at=charge.ended_at or now,
    )


def to_give_back(charge: Charge, *, now: datetime) -> Charge:
    """Return the charge, its money to be given back."""
    return replace(
        charge,
        status=ChargeStatus.REFUND_DUE,
        reason=CANCELLED if charge.cancelled_at is not None else charge.reason,
        tries=0,
        due_at=now,
        lease_owner=None,
    )


def heard(
    *,
    charge: Charge,
    payment: PaymentStatus,
    reference: str | None,
    grace: timedelta,
    now: datetime,
) -> Charge:
    """Return what the state of its payment makes of a charge, whoever told of it.

    That a payment failed says nothing of a charge in hand: the failure may be its earlier
    attempt's, and its own answer tells.
    """
    known = replace(charge, reference=charge.reference or reference)
    match charge.status, payment:
        case ChargeStatus.WITHDRAWN, PaymentStatus.CAPTURED:
            # Stated as not charged, and charged all the same: it goes back, whatever the reason.
            return to_give_back(known, now=now)
        case (
            ChargeStatus.DUE
            | ChargeStatus.CHARGING
            | ChargeStatus.UNKNOWN
            | ChargeStatus.PENDING
            | ChargeStatus.DECLINED,
            PaymentStatus.CAPTURED,
        ):
            return _decided(known, ChargeStatus.CHARGED, grace=grace, now=now)
        case (
            ChargeStatus.DUE | ChargeStatus.CHARGING | ChargeStatus.UNKNOWN | ChargeStatus.DECLINED,
            PaymentStatus.PENDING,
        ):
            return _decided(known, ChargeStatus.PENDING, grace=grace, now=now)
        case ChargeStatus.PENDING, PaymentStatus.FAILED:
            return _decided(known, ChargeStatus.DECLINED, grace=grace, now=now)
        case _:
            return known


def _decided(charge: Charge, status: ChargeStatus, *, grace: timedelta, now: datetime) -> Charge:
    settled = replace(
        charge,
        status=status,
        reason=None,
        lease_owner=None,
        answered_at=charge.answered_at or now,
    )
    if charge.cancelled_at is None:
        return settled
    if status is ChargeStatus.DECLINED:
        return withdrawn(settled, reason=CANCELLED, now=now)
    return to_give_back(settled, now=now) if _is_in_time(settled, grace) else settled


def answered(
    *,
    hand: Hand,
    charge: Charge,
    answer: Answer,
    payment: PaymentStatus | None,
    grace: timedelta,
    now: datetime,
    again_at: datetime,
) -> Charge:
    """Return what an answer makes of a charge that was in hand.

    `charge` is its row as it is now, `payment` what its payment has become with this answer:
    what a webhook has said of the same attempt meanwhile is not undone.
    """
    known = replace(charge, reference=answer.reference or charge.reference)
    match answer.kind:
        case AnswerKind.SUCCEEDED:
            return _decided(known, ChargeStatus.CHARGED, grace=grace, now=now)
        case AnswerKind.PROCESSING:
            has_failed = payment is PaymentStatus.FAILED
            status = ChargeStatus.DECLINED if has_failed else ChargeStatus.PENDING
            return _decided(known, status, grace=grace, now=now)
        case AnswerKind.DECLINED | AnswerKind.ACTION_REQUIRED | AnswerKind.REFUSED:
            settled = replace(known, category=answer.category)
            decided = _decided(settled, ChargeStatus.DECLINED, grace=grace, now=now)
            return decided if decided.reason else replace(decided, reason=answer.reason)
        case AnswerKind.UNKNOWN:
            return _again(known, ChargeStatus.UNKNOWN, answer, again_at)
        case AnswerKind.NOT_FOUND:
            return _not_charged(known, answer, now, again_at)
        case _ if hand.ask_first:
            return _again(known, ChargeStatus.UNKNOWN, answer, again_at)
        case _:
            return _not_charged(known, answer, now, again_at)


def _not_charged(charge: Charge, answer: Answer, now: datetime, again_at: datetime) -> Charge:
    if charge.cancelled_at is not None:
        return withdrawn(charge, reason=CANCELLED, now=now)
    if is_expired(charge, now=now):
        return withdrawn(charge, reason=EXPIRED, now=now)
    return _again(charge, ChargeStatus.DUE, answer, again_at)


def _again(charge: Charge, status: ChargeStatus, answer: Answer, again_at: datetime) -> Charge:
    was_tried = answer.kind in NOT_DECIDED or answer.kind is AnswerKind.REFUSED
    return replace(
        charge,
        status=status,
        reason=answer.reason,
        tries=charge.tries + (1 if was_tried else 0),
        keys_spent=charge.keys_spent + (1 if answer.is_key_spent else 0),
        due_at=again_at,
        lease_owner=None,
    )


def given_back(*, charge: Charge, answer: Answer, now: datetime, again_at: datetime) -> Charge:
    """Return what an answer makes of a charge that was being given back."""
    match answer.kind:
        case AnswerKind.REFUNDED:
            return replace(
                charge,
                status=ChargeStatus.REFUNDED,
                reason=charge.reason or CANCELLED,
                lease_owner=None,
                ended_at=now,
            )
        case AnswerKind.CANCELLED:
            return withdrawn(charge, reason=charge.reason or CANCELLED, now=now)
        case AnswerKind.PROCESSING:
            # The bank has it and cannot be stopped: given back once it has settled.
            return replace(charge, status=ChargeStatus.PENDING, lease_owner=None)
        case _:
            again = _again(charge, ChargeStatus.REFUND_DUE, answer, again_at)
            return replace(again, reason=charge.reason)


def observation_of(*, charge: Charge, answer: Answer, now: datetime) -> Observation | None:
    """Return what an answer says of the charge's payment, if it says anything.

    Its account and bill are those of the request: what was asked for is what is paid.
    """
    heard_of = {
        AnswerKind.SUCCEEDED: Heard.CAPTURED,
        AnswerKind.PROCESSING: Heard.PENDING,
        AnswerKind.DECLINED: Heard.FAILED,
        AnswerKind.ACTION_REQUIRED: Heard.FAILED,
        AnswerKind.REFUSED: Heard.FAILED,
        AnswerKind.REFUNDED: Heard.REFUNDED,
        AnswerKind.CANCELLED: Heard.CANCELLED,
    }.get(answer.kind)
    is_refusal_to_refund = charge.status is ChargeStatus.REFUNDING and answer.kind in NO_MONEY
    if heard_of is None or is_refusal_to_refund or charge.processor is None:
        return None
    names = (answer.reference or charge.reference, answer.part, charge.name)
    # A refusal that made no attempt at the processor is told apart by what was asked for.
    part = answer.part or f"{charge.name}:{charge.attempt}"
    return Observation(
        processor=charge.processor,
        references=tuple(dict.fromkeys(name for name in names if name)),
        heard=heard_of,
        at=answer.at or now,
        amount_cents=answer.amount_cents or charge.amount_cents,
        currency=answer.currency or charge.currency,
        account_id=charge.account_id,
        bill_reference=charge.bill_reference,
        method=charge.method_kind,
        code=answer.reason,
        category=answer.category,
        part=part if heard_of is Heard.FAILED else None,
    )

"""What intake states of a charge, and what it makes of it; pure.

A charge's facts may come twice, late, or in another order than they happened: what a fact makes of
a charge is decided by the charge's status and by what it has heard before, never by arrival.
"""

from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from uuid import UUID

from autopay_scheduler.domain.charges import Status
from autopay_scheduler.domain.city import City
from autopay_scheduler.domain.declines import Decline, Next, next_step
from autopay_scheduler.domain.planning import ChargeRecord


class OutcomeKind(StrEnum):
    """What is stated."""

    PENDING = "pending"
    PAID = "paid"
    DECLINED = "declined"
    RETURNED = "returned"
    """Taken, and sent back by the bank."""
    REINSTATED = "reinstated"
    """What was given back came back: the refund failed."""
    REFUNDED = "refunded"
    DISPUTED = "disputed"
    WITHDRAWN = "withdrawn"
    """Not charged: cancelled before, or too old."""
    GIVEN_BACK = "given_back"
    """Charged although it had been cancelled, and given back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One statement of intake about a charge."""

    charge_id: UUID
    kind: OutcomeKind
    at: datetime
    amount_cents: int
    payment_id: UUID | None = None
    attempt: int | None = None
    """Which attempt, where the statement knows."""
    decline: Decline | None = None
    reason: str | None = None


_RETURN = "return:"


def return_name(posting_key: UUID) -> str:
    """Return the name under which a bank's return is remembered among a charge's declines."""
    return f"{_RETURN}{posting_key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What an outcome made of a charge."""

    record: ChargeRecord
    following: Next | None = None
    """What happens next, after a decline."""
    is_aftermath: bool = False
    """A decline of what has ended otherwise: told, and nothing else follows from it."""
    is_told_again: bool = False
    """Nothing is new, but whoever asks has not heard what follows: it is stated again."""


def follow(
    record: ChargeRecord,
    outcome: Outcome,
    *,
    is_bank_debit: bool,
    city: City,
    now: datetime,
) -> Followed | None:
    """Return what an outcome makes of a charge; None where it changes nothing."""
    known = replace(record, payment_id=record.payment_id or outcome.payment_id)
    match outcome.kind:
        case OutcomeKind.PENDING:
            if record.status is not Status.REQUESTED:
                return _learnt(record, known)
            return Followed(record=replace(known, status=Status.PENDING))
        case OutcomeKind.PAID:
            return _paid(record, known, outcome)
        case OutcomeKind.DECLINED | OutcomeKind.RETURNED:
            return _declined(record, known, outcome, is_bank_debit, city, now)
        case OutcomeKind.REFUNDED | OutcomeKind.GIVEN_BACK:
            return _refunded(record, known, outcome)
        case OutcomeKind.REINSTATED if record.status is Status.REFUNDED and record.attempt > 0:
            return Followed(record=replace(known, status=Status.PAID, reason=None))
        case OutcomeKind.DISPUTED | OutcomeKind.REINSTATED:
            return _learnt(record, known)
        case OutcomeKind.WITHDRAWN:
            return _withdrawn(record, known, outcome)


def _learnt(record: ChargeRecord, known: ChargeRecord) -> Followed | None:
    return Followed(record=known) if known != record else None


def _paid(record: ChargeRecord, known: ChargeRecord, outcome: Outcome) -> Followed | None:
    was_returned = any(each.startswith(_RETURN) for each in record.declines)
    if record.status in (Status.PAID, Status.REFUNDED) or was_returned or record.attempt == 0:
        # What the bank has sent back was paid before, and is told again or late. And of what was
        # not asked for nothing is known: a request of it brings the same answer.
        return _learnt(record, known)
    return Followed(
        record=replace(
            known,
            status=Status.PAID,
            reason=None,
            act_at=None,
            paid_cents=outcome.amount_cents,
            closed_at=outcome.at,
        )
    )


def _declined(
    record: ChargeRecord,
    known: ChargeRecord,
    outcome: Outcome,
    is_bank_debit: bool,
    city: City,
    now: datetime,
) -> Followed | None:
    decline = outcome.decline
    if decline is None or record.attempt == 0:
        return None
    if decline.id in record.declines:
        return Followed(record=record, is_told_again=True)
    is_return = outcome.kind is OutcomeKind.RETURNED and record.status is Status.PAID
    if record.status not in (Status.REQUESTED, Status.PENDING) and not is_return:
        # It changes nothing any more, and is told all the same: its owner waits for that.
        return Followed(
            record=replace(known, declines=(*record.declines, decline.id)),
            following=_already_decided(record, city),
            is_aftermath=True,
        )
    following = next_step(
        decline=decline,
        is_bank_debit=is_bank_debit,
        attempt=record.attempt,
        first_attempt_on=record.first_attempt_on or _day(record, city, now),
        today=city.calendar.today(now=now),
        retry_days=city.retry_days,
        calendar=city.calendar,
    )
    is_over = record.cancelled_at is not None or outcome.kind is OutcomeKind.RETURNED
    if is_over and following.step == "retry":
        # What the processor has taken once it never takes again under the same name.
        following = Next("give_up")
    is_retry = following.step == "retry" and following.attempt_on is not None
    return Followed(
        record=replace(
            known,
            status=Status.RETRYING if is_retry else Status.FAILED,
            charge_on=following.attempt_on or record.charge_on,
            reason=decline.code or decline.category,
            act_at=city.calendar.instant_of(following.attempt_on)
            if following.attempt_on is not None
            else None,
            declines=(*record.declines, decline.id),
            paid_cents=None,
            closed_at=None if is_retry else outcome.at,
        ),
        following=following,
    )


def _already_decided(record: ChargeRecord, city: City) -> Next:
    match record.status:
        case Status.RETRYING if record.act_at is not None:
            return Next("retry", city.calendar.today(now=record.act_at))
        case Status.CANCELLED | Status.REFUNDED:
            return Next("stop")
        case _:
            return Next("give_up")


def _refunded(record: ChargeRecord, known: ChargeRecord, outcome: Outcome) -> Followed | None:
    if record.status is Status.REFUNDED:
        return _learnt(record, known)
    if record.attempt == 0:
        return _learnt(record, known)
    charged_cents = known.paid_cents or known.requested_cents or 0
    if outcome.kind is OutcomeKind.REFUNDED and outcome.amount_cents < charged_cents:
        # A part of it went back by a clerk's hand: the due date stays charged.
        return _learnt(record, known)
    return Followed(
        record=replace(
            known,
            status=Status.REFUNDED,
            reason=outcome.reason or "refund",
            act_at=None,
            closed_at=outcome.at,
        )
    )


def _withdrawn(record: ChargeRecord, known: ChargeRecord, outcome: Outcome) -> Followed | None:
    is_cancelled = outcome.reason == "cancelled"
    # What is with the bank was sent in time.
    is_open = record.status is Status.REQUESTED or (
        is_cancelled and record.status is Status.PENDING
    )
    if not is_open or (outcome.attempt is not None and outcome.attempt != record.attempt):
        return None
    return Followed(
        record=replace(
            known,
            status=Status.CANCELLED if is_cancelled else Status.MISSED,
            reason=outcome.reason,
            act_at=None,
            closed_at=outcome.at,
        )
    )


def _day(record: ChargeRecord, city: City, now: datetime) -> date:
    return city.calendar.today(now=record.requested_at or now)

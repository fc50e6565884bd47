"""What must be true of autopay: each due enrolment charged once, or its reason; pure.

The processor's own book is the ground truth of what was taken. Against it stand what the
scheduler says of each due date, what the customer was told of it, what intake says of the charge,
and the payment that it became. From the payment on, `compare` proves the way to the ledger.
"""

from __future__ import annotations

import collections
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from paypost.verify.align import Stream, aligned
from paypost.verify.compare import Difference, Fault, Sum
from paypost.verify.rows import (
    Announced,
    AskedCharge,
    ChargePayment,
    DueBill,
    MadeCharge,
    PlannedDay,
    Switches,
    Taking,
)

NOT_CHARGING = frozenset(
    {"planned", "announced", "held", "retrying", "skipped", "missed", "cancelled", "failed"}
)
"""What the scheduler says of a due date of which no money is to be anywhere."""
WITH_REASON = frozenset({"skipped", "missed", "cancelled", "failed", "refunded"})
"""Ends other than the charge; each has a reason."""
WITH_INTAKE = frozenset({"requested", "pending"})
GIVING_BACK = frozenset({"refund_due", "refunding"})
IN_HAND = frozenset({"charging", "unknown"})
NOT_TAKEN = frozenset({"due", "declined", "withdrawn"})
"""What intake says of a charge of which it knows that no money was taken."""
REFUND_TIME_MAX = timedelta(minutes=15)
"""How long giving back may take before somebody has to look: the processor answers in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The city's rules that the proof has to know; the defaults are those of the service."""

    notice_days: int = 10
    """12 CFR 1005.10(d)(1). A city that gives more is not held to more here."""
    late_grace_days: int = 3
    charges_unnotified: bool = False
    """Whether a notice that could not be delivered counts from the day on which it was tried."""
    clock_ahead: timedelta = timedelta()
    """How far autopay-scheduler's clock was moved, as its setting `clock_offset_seconds` says."""


@dataclass(slots=True)
class AutopayTally:
    """What was counted on the way."""

    due_dates: int = 0
    """Past, of enrolments that were on."""
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    """Of all charges: status and, where it has one, reason."""
    held: collections.Counter[str] = field(default_factory=collections.Counter)
    """Neither charged nor ended, for a stated reason."""
    sums: dict[tuple[str, str], Sum] = field(default_factory=dict)
    """By book and currency: asked, made, taken, given back, paid."""

    @property
    def has_traffic(self) -> bool:
        """Whether autopay has done anything here."""
        return bool(self.due_dates or self.outcomes or self.sums)

    def add(self, book: str, *, currency: str, cents: int) -> None:
        entered = self.sums.setdefault((book, currency.upper()), Sum())
        entered.count += 1
        entered.cents += cents

    def as_json(self) -> dict[str, Any]:
        """Everything, for machines."""
        return {
            "has_traffic": self.has_traffic,
            "due_dates": self.due_dates,
            "charges": dict(sorted(self.outcomes.items())),
            "held": dict(sorted(self.held.items())),
            "books": [
                {
                    "book": book,
                    "currency": currency,
                    "count": found.count,
                    "amount_cents": found.cents,
                }
                for (book, currency), found in sorted(self.sums.items())
            ],
        }


class AutopayBooks(Protocol):
    """The books of autopay at one instant, each a stream in the order named."""

    async def switches(self) -> Switches: ...
    @property
    def at(self) -> datetime:
        """The instant."""
        ...

    @property
    def today(self) -> date:
        """The city's day at it."""
        ...

    def asked_charges(self) -> AsyncIterable[AskedCharge]:
        """By id."""
        ...

    def announcements(self) -> AsyncIterable[Announced]:
        """By charge and version."""
        ...

    def made_charges(self) -> AsyncIterable[MadeCharge]:
        """By id."""
        ...

    def charge_payments(self) -> AsyncIterable[ChargePayment]:
        """By charge."""
        ...

    def takings(self) -> AsyncIterable[Taking]:
        """By charge, in the order of time."""
        ...

    def due_bills(self, *, before: date) -> AsyncIterable[DueBill]:
        """Open ones due before a day, of accounts whose autopay was on: by enrolment and day."""
        ...

    def planned_days(self) -> AsyncIterable[PlannedDay]:
        """All charges, by enrolment and due date."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """Everything that the books have of one charge."""

    key: UUID
    asked: AskedCharge
    announcements: Sequence[Announced]
    made: MadeCharge | None
    payment: ChargePayment | None
    takings: Sequence[Taking]
    at: datetime
    today: date
    switches: Switches
    terms: Terms

    @property
    def alive(self) -> list[Taking]:
        return [taking for taking in self.takings if taking.is_alive]

    @property
    def taken(self) -> list[Taking]:
        return [taking for taking in self.alive if taking.status == "succeeded"]

    @property
    def kept_cents(self) -> int:
        return sum(taking.kept_cents for taking in self.takings)

    @property
    def made_status(self) -> str | None:
        return self.made.status if self.made else None

    @property
    def is_given_back_later(self) -> bool:
        """Whether a bank debit that was cancelled under way is given back once it has settled."""
        made = self.made
        return made is not None and made.status == "pending" and made.cancelled_at is not None

    def differs(self, fault: Fault, detail: str) -> Difference:
        about = f"account {self.asked.account_id}, due {self.asked.due_date}: {detail}"
        payment_id = str(self.payment.payment_id) if self.payment else None
        return Difference(fault=fault, key=str(self.key), detail=about, payment_id=payment_id)


async def compare_autopay(
    *, books: AutopayBooks, tally: AutopayTally, terms: Terms
) -> AsyncIterator[Difference]:
    """Yield every difference between the books of autopay; `tally` counts what was seen."""
    switches = await books.switches()
    async for key, (asked, announced, made, payments, takings) in aligned(
        Stream(books.asked_charges(), lambda row: row.id),
        Stream(books.announcements(), lambda row: row.charge_id),
        Stream(books.made_charges(), lambda row: row.id),
        Stream(books.charge_payments(), lambda row: row.charge_id),
        Stream(books.takings(), lambda row: row.charge_id),
    ):
        _count(tally, asked, made, payments, takings)
        if not asked:
            yield _invented(key, made, payments, takings)
            continue
        case = _Case(
            key=key,
            asked=asked[0],
            announcements=announced,
            made=made[0] if made else None,
            payment=payments[0] if payments else None,
            takings=takings,
            at=books.at,
            today=books.today,
            switches=switches,
            terms=terms,
        )
        for difference in _judge(case, tally):
            yield difference
    async for difference in _compare_bills(books, tally, terms):
        yield difference


def _count(
    tally: AutopayTally,
    asked: Sequence[AskedCharge],
    made: Sequence[MadeCharge],
    payments: Sequence[ChargePayment],
    takings: Sequence[Taking],
) -> None:
    for charge in asked:
        why = (charge.reason or "").partition(":")[0]
        is_told = charge.status in WITH_REASON | {"held", "retrying"}
        tally.outcomes[f"{charge.status}: {why}" if why and is_told else charge.status] += 1
        if charge.requested_cents is not None:
            tally.add("asked", currency=charge.currency, cents=charge.requested_cents)
    for each in made:
        tally.add("made", currency=each.currency, cents=each.amount_cents)
    for taking in takings:
        if taking.is_alive:
            tally.add("taken", currency=taking.currency, cents=taking.amount_cents)
        if taking.refunded_cents:
            tally.add("given back", currency=taking.currency, cents=taking.refunded_cents)
    for payment in payments:
        if payment.credited and asked:
            cents = payment.amount_cents or 0
            tally.add("credited", currency=asked[0].currency, cents=cents)


def _invented(
    key: UUID,
    made: Sequence[MadeCharge],
    payments: Sequence[ChargePayment],
    takings: Sequence[Taking],
) -> Difference:
    if takings:
        taking = takings[0]
        what = (
            f"the processor has {taking.name}, {taking.status}, of {taking.amount_cents} for "
            f"account {taking.account}, and the scheduler knows of no such charge"
        )
    elif made:
        what = f"intake has a charge ({made[0].status}) that the scheduler never asked for"
    elif payments:
        what = "a payment names a charge that the scheduler does not know"
    else:
        what = "a charge was announced that the scheduler does not know"
    payment_id = str(payments[0].payment_id) if payments else None
    return Difference(fault=Fault.INVENTED, key=str(key), detail=what, payment_id=payment_id)


def _judge(case: _Case, tally: AutopayTally) -> Iterator[Difference]:
    """Say what is wrong with one due date."""
    if len(case.alive) > 1:
        names = ", ".join(f"{each.name} ({each.amount_cents})" for each in case.alive)
        yield case.differs(
            Fault.CHARGED_TWICE, f"the processor took it {len(case.alive)} times: {names}"
        )
    for taking in case.alive:
        yield from _judge_told(case, taking)
    yield from _judge_copies(case)
    yield from _judge_end(case)
    yield from _judge_cancellation(case)
    yield from _judge_payment(case)
    yield from _judge_wait(case, tally)


def _judge_told(case: _Case, taking: Taking) -> Iterator[Difference]:
    """Nothing is charged that was not announced; nor before its notice days, where it owes them."""
    asked = case.asked
    told = [
        each
        for each in case.announcements
        if not each.is_void
        and (asked.requested_at is None or each.announced_at <= asked.requested_at)
    ]
    ceiling_cents = max((each.amount_cents for each in told), default=0)
    if taking.amount_cents > ceiling_cents:
        what = f"announced at most {ceiling_cents}" if told else "never announced"
        yield case.differs(
            Fault.ABOVE_ANNOUNCEMENT, f"charged {taking.amount_cents} ({taking.name}), {what}"
        )
        return
    charged_on = asked.first_attempt_on
    if not asked.owes_notice or charged_on is None:
        return
    enough = [each for each in told if each.amount_cents >= taking.amount_cents]
    latest = charged_on - timedelta(days=case.terms.notice_days)
    if not any(_told_on(each, case.terms) <= latest for each in enough):
        days = ", ".join(str(each.noticed_on or "never") for each in enough)
        yield case.differs(
            Fault.NOTICE_TOO_SHORT,
            f"charged on {charged_on}; of {taking.amount_cents} or more the customer was told "
            f"on: {days}",
        )


def _told_on(announced: Announced, terms: Terms) -> date:
    if announced.noticed_on is not None:
        return announced.noticed_on
    return announced.announced_at.date() if terms.charges_unnotified else date.max


def _judge_copies(case: _Case) -> Iterator[Difference]:
    """What was asked for, made and taken is the same account and amount."""
    asked, made = case.asked, case.made
    if made is not None:
        if made.account_id != asked.account_id:
            yield case.differs(Fault.ACCOUNT, f"at intake for account {made.account_id}")
        is_same_attempt = made.attempt == asked.attempt and asked.requested_cents is not None
        if is_same_attempt and made.amount_cents != asked.requested_cents:
            yield case.differs(
                Fault.AMOUNT, f"asked for {asked.requested_cents}, at intake {made.amount_cents}"
            )
    for taking in case.alive:
        if taking.account not in (None, asked.account_id):
            yield case.differs(
                Fault.ACCOUNT, f"{taking.name} is for account {taking.account} at the processor"
            )
        if made is not None and taking.amount_cents != made.amount_cents:
            yield case.differs(
                Fault.AMOUNT, f"at intake {made.amount_cents}, {taking.name} {taking.amount_cents}"
            )
    if asked.status == "paid" and case.taken and asked.paid_cents is not None:
        taken_cents = case.taken[-1].amount_cents
        if asked.paid_cents != taken_cents:
            yield case.differs(
                Fault.AMOUNT, f"said to be paid {asked.paid_cents}, taken {taken_cents}"
            )


def _judge_end(case: _Case) -> Iterator[Difference]:
    """What the scheduler says that became of it is what the processor has."""
    asked, kept_cents = case.asked, case.kept_cents
    has_been_taken = any(each.status == "succeeded" for each in case.takings)
    if asked.status in {"paid", "refunded"} and not has_been_taken:
        yield case.differs(
            Fault.NOT_CHARGED,
            f"said to be {asked.status}; the processor has {_names(case.takings)}",
        )
    elif case.made_status in {"charged", "refunded"} and not has_been_taken:
        yield case.differs(
            Fault.NOT_CHARGED,
            f"intake says {case.made_status}; the processor has {_names(case.takings)}",
        )
    if case.made_status in GIVING_BACK:
        yield from _judge_giving_back(case)
    elif kept_cents > 0 and (asked.status == "refunded" or case.made_status == "refunded"):
        yield case.differs(
            Fault.NOT_REFUNDED,
            f"scheduler says {asked.status}, intake {case.made_status}; the processor still has "
            f"{kept_cents}: {_names(case.alive)}",
        )
    elif kept_cents > 0 and asked.status in NOT_CHARGING and not case.is_given_back_later:
        why = f" ({asked.reason})" if asked.reason else ""
        yield case.differs(
            Fault.CHARGED_ANYWAY,
            f"scheduler says {asked.status}{why}; the processor has {_names(case.alive)}",
        )
    if case.made_status == "refunded" and kept_cents == 0 and asked.status == "paid":
        yield case.differs(Fault.UNFINISHED, "given back; the scheduler says paid")


def _judge_giving_back(case: _Case) -> Iterator[Difference]:
    made = case.made
    assert made is not None
    since = max(
        (each for each in (made.cancelled_at, made.answered_at) if each is not None),
        default=case.at,
    )
    if case.at - since > REFUND_TIME_MAX:
        yield case.differs(
            Fault.NOT_REFUNDED, f"to be given back since {since:%Y-%m-%d %H:%M} UTC, and is not"
        )
    else:
        yield case.differs(Fault.UNFINISHED, "is being given back")


def _judge_cancellation(case: _Case) -> Iterator[Difference]:
    """The customer's word wins over a charge that was made after it, or it is given back."""
    asked, made = case.asked, case.made
    if case.kept_cents <= 0 or case.made_status in GIVING_BACK or case.is_given_back_later:
        return
    made_at = (made.answered_at if made is not None else None) or asked.requested_at
    said_at = asked.cancelled_said_at
    if said_at is not None and made_at is not None and said_at <= made_at:
        yield case.differs(
            Fault.CHARGED_AFTER_CANCELLATION,
            f"the customer ended it at {said_at.isoformat()}; charged at {made_at.isoformat()}: "
            f"{_names(case.alive)}, not given back",
        )
        return
    stopped_at, requested_at = asked.stopped_at, asked.requested_at
    if stopped_at is not None and requested_at is not None and stopped_at < requested_at:
        yield case.differs(
            Fault.CHARGED_AFTER_CANCELLATION,
            f"the enrolment ended at {stopped_at.isoformat()}, and it was asked for at "
            f"{requested_at.isoformat()}: {_names(case.alive)}, not given back",
        )


def _judge_payment(case: _Case) -> Iterator[Difference]:
    """What the processor took is a payment, from which on `compare` follows it."""
    payment = case.payment
    if not case.taken:
        is_said_elsewhere = case.asked.status in {"paid", "refunded"} or case.made_status in {
            "charged",
            "refunded",
        }
        has_been_taken = any(each.status == "succeeded" for each in case.takings)
        is_credited = payment is not None and payment.credited
        if is_credited and not has_been_taken and not is_said_elsewhere:
            yield case.differs(
                Fault.NOT_CHARGED, "a payment was credited, and the processor took nothing"
            )
        return
    taking = case.taken[-1]
    is_on_its_way = case.made_status in IN_HAND
    if payment is None or not (payment.credited or is_on_its_way):
        if is_on_its_way:
            return
        held = "no payment" if payment is None else f"a payment that is {payment.status}"
        yield case.differs(
            Fault.LOST,
            f"the processor took {taking.amount_cents} ({taking.name}); intake has {held} and "
            f"says {case.made_status or 'nothing'} of the charge",
        )
    elif payment.credited and payment.amount_cents != taking.amount_cents:
        yield case.differs(
            Fault.AMOUNT, f"taken {taking.amount_cents}, the payment is {payment.amount_cents}"
        )


def _judge_wait(case: _Case, tally: AutopayTally) -> Iterator[Difference]:
    """What has not ended is on its way, or waits for a stated reason, or has been forgotten."""
    asked = case.asked
    if asked.status in WITH_INTAKE:
        yield from _judge_request(case, tally)
        return
    last_day = _last_day(asked, case.terms)
    if last_day is None:
        if asked.status in WITH_REASON and not asked.reason:
            yield case.differs(Fault.UNEXPLAINED, f"{asked.status} without a reason")
        return
    if case.today <= last_day:
        return
    if case.switches.is_asking_paused and asked.status in {"announced", "retrying"}:
        tally.held[f"{asked.status}: all charges are paused by an operator"] += 1
    else:
        yield case.differs(
            Fault.UNEXPLAINED,
            f"still {asked.status}{f' ({asked.reason})' if asked.reason else ''}; it was to be "
            f"decided by {last_day}",
        )


def _last_day(asked: AskedCharge, terms: Terms) -> date | None:
    """The last day on which it may still be undecided; None where it is decided."""
    grace = timedelta(days=terms.late_grace_days + 1)
    match asked.status:
        case "planned" | "announced":
            return max(asked.charge_on, asked.due_date) + grace
        case "held":
            return asked.due_date + grace
        case "retrying":
            return (asked.act_on or asked.charge_on) + grace
        case _:
            return None


def _judge_request(case: _Case, tally: AutopayTally) -> Iterator[Difference]:
    """Asked for: intake has it, and whatever intake knows of it the scheduler has heard."""
    asked, made = case.asked, case.made
    since = f"asked for at {asked.requested_at:%Y-%m-%d %H:%M:%S} UTC" if asked.requested_at else ""
    if made is None or made.attempt < asked.attempt:
        yield case.differs(Fault.UNFINISHED, f"{since}; intake has not had attempt {asked.attempt}")
    elif made.status == "due" and case.switches.is_charging_paused:
        tally.held["requested: all charges are paused by an operator"] += 1
    elif made.status == "due" and made.reason and not _is_expired(case):
        tally.held[f"requested: {made.reason}"] += 1
    elif made.status == "pending" and asked.status == "pending":
        tally.held["pending at the bank"] += 1
    elif made.status not in GIVING_BACK:
        why = f" ({made.reason})" if made.reason else ""
        yield case.differs(
            Fault.UNFINISHED, f"{since}, scheduler says {asked.status}; intake {made.status}{why}"
        )


def _is_expired(case: _Case) -> bool:
    return (
        case.made is not None
        and case.made.valid_until is not None
        and case.made.valid_until < case.at
    )


def _names(takings: Sequence[Taking]) -> str:
    found = [
        f"{each.name} of {each.amount_cents} ({'returned' if each.is_returned else each.status}"
        + (f", {each.refunded_cents} given back)" if each.refunded_cents else ")")
        for each in takings
    ]
    return ", ".join(found) or "nothing"


async def _compare_bills(
    books: AutopayBooks, tally: AutopayTally, terms: Terms
) -> AsyncIterator[Difference]:
    """Each due date of an enrolment has its one charge, or its reason: a row of either kind."""
    before = books.today - timedelta(days=terms.late_grace_days)
    async for (enrolment_id, due_date), (bills, planned) in aligned(
        Stream(books.due_bills(before=before), lambda row: (row.enrolment_id, row.due_date)),
        Stream(books.planned_days(), lambda row: (row.enrolment_id, row.due_date)),
    ):
        if len(planned) > 1:
            ids = ", ".join(str(each.charge_id) for each in planned)
            yield Difference(
                fault=Fault.CHARGED_TWICE,
                key=str(planned[0].charge_id),
                detail=f"{len(planned)} charges of one enrolment are due on {due_date}: {ids}",
            )
        if not bills:
            continue
        tally.due_dates += 1
        if planned:
            continue
        bill = bills[0]
        if bill.waits_to_be_planned:
            tally.held["to be planned"] += 1
            continue
        yield Difference(
            fault=Fault.UNEXPLAINED,
            key=str(enrolment_id),
            detail=f"account {bill.account_id}: bill {bill.bill_reference} of "
            f"{bill.amount_cents} was due on {due_date}; it was neither charged nor is there a "
            "reason why not",
        )

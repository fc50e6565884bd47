"""Years of one account's autopay, a day at a time, by the domain's rules and nothing else.

The jobs are those of the service without their database: plan what changed, announce, decide on
the day, follow what intake states. The world around them is drawn: bills that rise, fall, move and
are cancelled, payments by other means that are heard late, pauses, other rules, notices that are
sent late or never, a scheduler that is down, banks that decline. What happened is kept, so that
the properties can be checked against it and not against the rules.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from random import Random
from uuid import UUID

from tests.support.autopay.enrolments import TOKEN_PREFIXES, enrolment
from tests.support.autopay.tables import GRACE_DAYS, LEAST_CENTS, LIMIT_CENTS, NOTICE

from autopay_scheduler.domain.amounts import Charge, Hold, Limits, Owed, Skip
from autopay_scheduler.domain.charges import (
    NOT_ASKED_FOR,
    OPEN,
    Miss,
    Status,
    Wait,
    charge_id,
    decide,
    is_lost,
    may,
)
from autopay_scheduler.domain.city import City
from autopay_scheduler.domain.days import Calendar, ChargeOn
from autopay_scheduler.domain.declines import Decline
from autopay_scheduler.domain.enrolments import Enrolment, EnrolmentStatus, Rule
from autopay_scheduler.domain.notices import Announce, Announcement, TooLate, announcement
from autopay_scheduler.domain.outcomes import Outcome, OutcomeKind, follow
from autopay_scheduler.domain.planning import BillState, ChargeRecord, Situation, plan

RETRY_DAYS = (3, 7)
_DAY = timedelta(days=1)
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""What the world's own count of moments begins at."""


@dataclass(frozen=True, kw_only=True)
class Weather:
    """How likely things are to go wrong, a day or an event, of 1."""

    outage: float = 0
    late_notice: float = 0
    lost_notice: float = 0
    payment: float = 0
    late_payment_news: float = 0
    returned_payment: float = 0
    pause: float = 0
    other_rule: float = 0
    changed_bill: float = 0
    moved_bill: float = 0
    cancelled_bill: float = 0
    newer_charges: float = 0
    decline: float = 0
    hard_decline: float = 0
    slow_bank: float = 0


CALM = Weather()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the customer, the city and the CIS do."""

    first_day: date
    days: int
    calendar: Calendar
    rules: tuple[Rule, ...]
    """The first is the customer's; the others are what it may change to."""
    months: int
    due_after_days: int
    cancellation_says_balance: bool
    is_bank_debit: bool
    weather: Weather


@dataclass(kw_only=True)
class Bill:
    reference: str
    due_date: date
    statement_cents: int
    stated_at: int
    issued_on: date
    own_cents: int
    """What it put on the account."""
    is_cancelled: bool = False


@dataclass(frozen=True, kw_only=True)
class Posting:
    cents: int
    posted_at: int
    heard_on: date
    balance_after_cents: int


@dataclass(frozen=True, kw_only=True)
class Request:
    """A charge as it was asked for, with what was known then."""

    record: ChargeRecord
    on: date
    amount_cents: int
    limits: Limits
    owed: Owed
    announcements: tuple[Announcement, ...]
    ledger_cents: int
    """The true balance, what was not heard of yet put back."""
    was_paused: bool


@dataclass(frozen=True, kw_only=True)
class _Coming:
    """Something that intake will state."""

    on: date
    outcome: Outcome


@dataclass(kw_only=True)
class Account:
    """The account, its world, and all that happened."""

    plan: Plan
    random: Random
    city: City = field(init=False)
    enrolment: Enrolment = field(init=False)
    today: date = field(init=False)
    stopped_on: date | None = None
    ledger_cents: int = 0
    bills: list[Bill] = field(default_factory=list)
    postings: list[Posting] = field(default_factory=list)
    charges: dict[UUID, ChargeRecord] = field(default_factory=dict)
    announcements: dict[UUID, list[Announcement]] = field(default_factory=dict)
    notices: dict[tuple[UUID, int], date | None] = field(default_factory=dict)
    posted: set[UUID] = field(default_factory=set)
    requests: list[Request] = field(default_factory=list)
    declined: list[tuple[UUID, date, str | None]] = field(default_factory=list)
    paid: list[tuple[UUID, int]] = field(default_factory=list)
    history: dict[UUID, list[tuple[date, Status, str | None]]] = field(default_factory=dict)
    skipped: list[tuple[ChargeRecord, Owed]] = field(default_factory=list)
    """What was skipped when its day had come, and what was owed at the end of that day."""
    down: set[date] = field(default_factory=set)
    paused: set[date] = field(default_factory=set)
    _clock: int = 0
    _balance: tuple[int, int | None] = (0, None)
    _coming: list[_Coming] = field(default_factory=list)
    _postings_coming: list[tuple[date, int, UUID]] = field(default_factory=list)
    _is_touched: bool = True

    def __post_init__(self) -> None:
        calendar = self.plan.calendar
        self.city = City(
            calendar=calendar,
            notice=NOTICE,
            late_grace_days=GRACE_DAYS,
            retry_days=RETRY_DAYS,
            least_cents=LEAST_CENTS,
            limit_cents=LIMIT_CENTS,
            given_up_max=1000,
            currency="USD",
            token_prefixes=TOKEN_PREFIXES,
            expiry_warning_days=(60, 30, 7),
        )
        self.enrolment = replace(enrolment(), rule=self.plan.rules[0])
        self.today = self.plan.first_day

    # The world --------------------------------------------------------------------------------

    def live(self) -> None:
        """Live through all days; the last forty see no new bill, so that all come to an end."""
        until = self.plan.first_day + self.plan.days * _DAY
        next_bill = self.plan.first_day
        up_again = self.plan.first_day
        while self.today < until:
            if self.today >= next_bill and self.today < until - 60 * _DAY:
                self._issue()
                next_bill = _months_later(next_bill, self.plan.months)
            self._live_a_day()
            if self.today >= up_again and self._happens(self.plan.weather.outage):
                up_again = self.today + self.random.randint(1, 10) * _DAY
            if self.today < up_again:
                self.down.add(self.today)
            else:
                self._run()
                self._run()
                self._note_skipped()
            self.today += _DAY

    def now(self) -> datetime:
        return self.city.calendar.instant_of(self.today) + timedelta(minutes=1)

    def _happens(self, chance: float) -> bool:
        return chance > 0 and self.random.random() < chance

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _issue(self) -> None:
        own_cents = self.random.choice((-3_000, 0, 400, 5_000, 12_000, 12_001, 30_000))
        due_date = self.today + self.plan.due_after_days * _DAY
        self._state(f"B-{len(self.bills) + 1}", due_date, own_cents)

    def _state(self, reference: str, due_date: date, own_cents: int) -> None:
        for bill in self.bills:
            if bill.reference == reference:
                self.ledger_cents -= bill.own_cents
        self.ledger_cents += own_cents
        self.bills = [bill for bill in self.bills if bill.reference != reference]
        at = self._tick()
        self.bills.append(
            Bill(
                reference=reference,
                due_date=due_date,
                statement_cents=self.ledger_cents,
                stated_at=at,
                issued_on=self.today,
                own_cents=own_cents,
            )
        )
        # Where it says no balance, its total is one.
        self._balance = (at, self.ledger_cents)
        self._is_touched = True

    def _live_a_day(self) -> None:
        weather = self.plan.weather
        if self._happens(weather.newer_charges):
            self.ledger_cents += self.random.randint(1, 4_000)
        if self._happens(weather.payment) and self.ledger_cents > 0:
            part = self.random.choice((0.3, 1.0, 1.0, 1.2))
            delay = self.random.randint(1, 4) if self._happens(weather.late_payment_news) else 0
            self._post(int(self.ledger_cents * part) or 1, heard_on=self.today + delay * _DAY)
        if self._happens(weather.returned_payment) and self.postings:
            self._post(-abs(self.random.choice(self.postings).cents), heard_on=self.today)
        for on, cents, charge in [each for each in self._postings_coming if each[0] <= self.today]:
            self._postings_coming.remove((on, cents, charge))
            self._post(cents, heard_on=self.today)
            self.posted.add(charge)
        self._change_bills()
        self._hear_customer()
        if self.enrolment.is_paused(on=self.today):
            self.paused.add(self.today)

    def _post(self, cents: int, *, heard_on: date) -> None:
        self.ledger_cents -= cents
        self.postings.append(
            Posting(
                cents=cents,
                posted_at=self._tick(),
                heard_on=heard_on,
                balance_after_cents=self.ledger_cents,
            )
        )

    def _change_bills(self) -> None:
        weather = self.plan.weather
        coming = [b for b in self.bills if b.due_date > self.today and not b.is_cancelled]
        if not coming:
            return
        last = coming[-1]
        if self._happens(weather.changed_bill):
            more_cents = self.random.choice((-2_000, -1, 1, 800, 9_000))
            self._state(last.reference, last.due_date, last.own_cents + more_cents)
        elif self._happens(weather.moved_bill):
            moved = last.due_date + self.random.randint(-3, 9) * _DAY
            self._state(last.reference, moved, last.own_cents)
        elif self._happens(weather.cancelled_bill):
            last.is_cancelled = True
            self.ledger_cents -= last.own_cents
            said = self.ledger_cents if self.plan.cancellation_says_balance else None
            self._balance = (self._tick(), said)
            self._is_touched = True
            if self.random.random() < 0.7:
                # Billed anew for the same day.
                self._state(f"{last.reference}-2", last.due_date, last.own_cents)

    def _hear_customer(self) -> None:
        weather = self.plan.weather
        if self._happens(weather.pause):
            until = self.today + self.random.randint(1, 40) * _DAY
            self.enrolment = replace(self.enrolment, status=EnrolmentStatus.PAUSED, resume_on=until)
            self._is_touched = True
        if self._happens(weather.other_rule):
            rule = self.random.choice(self.plan.rules)
            self.enrolment = replace(self.enrolment, rule=rule)
            self._is_touched = True

    # The scheduler ----------------------------------------------------------------------------

    def _run(self) -> None:
        """Run every job once."""
        for coming in [each for each in self._coming if each.on <= self.today]:
            self._coming.remove(coming)
            self._follow(coming.outcome)
        if self.stopped_on is not None:
            return
        if self._is_touched or any(each.heard_on <= self.today for each in self.postings[-6:]):
            self._is_touched = False
            self._plan()
        self._announce()
        self._hear_notices()
        for record in [each for each in self.charges.values() if each.status in OPEN]:
            self._look_at(record)

    def _note_skipped(self) -> None:
        # What a bill has moved away from is nobody's due date any more.
        due = {bill.due_date for bill in self.bills if not bill.is_cancelled}
        for each in self.charges.values():
            is_due = each.charge_on == self.today and each.due_date in due
            if each.status is Status.SKIPPED and is_due:
                self.skipped.append((each, self.owed(each)))

    def _known_balance(self) -> int | None:
        at, balance = self._balance
        for each in self.postings:
            if each.heard_on <= self.today and each.posted_at > at:
                at, balance = each.posted_at, each.balance_after_cents
        return balance

    def _paid_since(self, bill: Bill) -> int:
        return sum(
            each.cents
            for each in self.postings
            if each.heard_on <= self.today and each.posted_at > bill.stated_at
        )

    def _open_cents(self, *, but: UUID | None = None) -> int:
        return sum(
            (each.paid_cents or each.requested_cents or 0)
            for each in self.charges.values()
            if each.id != but
            and (
                each.status in (Status.REQUESTED, Status.PENDING)
                or (each.status is Status.PAID and each.id not in self.posted)
            )
        )

    def owed(self, record: ChargeRecord) -> Owed:
        """Return what is known of the bill of a charge."""
        bill = next(
            (
                each
                for each in self.bills
                if each.reference == record.bill_reference and not each.is_cancelled
            ),
            None,
        )
        return Owed(
            statement_cents=bill.statement_cents if bill else 0,
            paid_since_cents=self._paid_since(bill) if bill else 0,
            balance_cents=self._known_balance(),
            open_cents=self._open_cents(but=record.id),
            is_newest=not any(
                each.due_date > record.due_date and not each.is_cancelled for each in self.bills
            ),
        )

    def situation(self) -> Situation:
        horizon = self.today - 20 * _DAY
        return Situation(
            account_id="1002003",
            enrolment=self.enrolment,
            taken_on=self.plan.first_day,
            bills=[
                BillState(
                    bill_reference=bill.reference,
                    due_date=bill.due_date,
                    statement_cents=bill.statement_cents,
                    paid_since_cents=self._paid_since(bill),
                    currency="USD",
                    stated_at=self.now() + timedelta(seconds=bill.stated_at),
                )
                for bill in self.bills
                if not bill.is_cancelled and bill.due_date >= horizon
            ],
            charges={
                key: each
                for key, each in self.charges.items()
                if each.due_date >= horizon or each.status in OPEN
            },
            balance_cents=self._known_balance(),
            open_cents=self._open_cents(),
        )

    def _plan(self) -> None:
        for record in plan(self.situation(), now=self.now(), city=self.city):
            self._save(record)
        again = plan(self.situation(), now=self.now(), city=self.city)
        assert again == [], "planning the same situation again changes nothing"

    def _save(self, record: ChargeRecord) -> None:
        known = self.charges.get(record.id)
        before = known.status if known else None
        if before is not record.status:
            assert may(before, record.status), f"{before} to {record.status}"
            self.history.setdefault(record.id, []).append(
                (self.today, record.status, record.reason)
            )
        if record.status is Status.HELD:
            # The customer is told that nothing is charged.
            told = self.announcements.get(record.id, [])
            self.announcements[record.id] = [replace(each, is_void=True) for each in told]
        self.charges[record.id] = record

    def _announce(self) -> None:
        for record in list(self.charges.values()):
            if record.status is not Status.PLANNED:
                continue
            told = self.announcements.setdefault(record.id, [])
            said = announcement(
                amount_cents=record.amount_cents,
                earlier=told[-1] if told else None,
                limits=self.enrolment.rule.limits,
                charge_on=record.charge_on,
                due_date=record.due_date,
                today=self.today,
                rule=NOTICE,
                calendar=self.city.calendar,
            )
            match said:
                case TooLate():
                    self._end(record, Status.MISSED, "notice_too_short")
                case None:
                    self._wait(record, told[-1].charge_on)
                case Announce(amount_cents, left_cents, charge_on):
                    version = len(told) + 1
                    told.append(
                        Announcement(
                            version=version,
                            amount_cents=amount_cents,
                            left_cents=left_cents,
                            charge_on=charge_on,
                            announced_on=self.today,
                            noticed_on=None,
                        )
                    )
                    self.notices[record.id, version] = self._notice_day()
                    self._wait(record, charge_on)

    def _notice_day(self) -> date | None:
        weather = self.plan.weather
        if self._happens(weather.lost_notice):
            return None
        late = self.random.randint(1, 8) if self._happens(weather.late_notice) else 0
        return self.today + late * _DAY

    def _wait(self, record: ChargeRecord, day: date) -> None:
        self._save(
            replace(
                record,
                status=Status.ANNOUNCED,
                reason=None,
                charge_on=day,
                act_at=self.city.calendar.instant_of(day),
            )
        )

    def _hear_notices(self) -> None:
        for key, told in self.announcements.items():
            for position, each in enumerate(told):
                sent_on = self.notices[key, each.version]
                if each.noticed_on is None and sent_on is not None and sent_on <= self.today:
                    told[position] = replace(each, noticed_on=sent_on)

    def _look_at(self, record: ChargeRecord) -> None:
        limits = self.enrolment.rule.limits
        told = self.announcements.get(record.id, [])
        if record.status is Status.HELD:
            if self.today > record.due_date:
                owed = self.owed(record)
                left = owed.statement_cents - owed.paid_since_cents
                is_paid = min(left, owed.balance_cents or left) <= 0
                status = Status.SKIPPED if is_paid else Status.MISSED
                self._end(record, status, "paid" if is_paid else "above_maximum")
            return
        if record.status not in (Status.ANNOUNCED, Status.RETRYING) or record.act_at is None:
            return
        if record.status is Status.ANNOUNCED and is_lost(
            limits=limits,
            announcements=told,
            charge_on=record.charge_on,
            today=self.today,
            notice=NOTICE,
            late_grace_days=GRACE_DAYS,
        ):
            self._end(record, Status.MISSED, "notice_not_kept")
            return
        if record.act_at <= self.now():
            self._decide(record, limits, told)

    def _decide(self, record: ChargeRecord, limits: Limits, told: list[Announcement]) -> None:
        is_retry = record.status is Status.RETRYING
        owed = self.owed(record)
        decision = decide(
            limits=limits,
            owed=owed,
            announcements=told,
            is_paused=self.enrolment.is_paused(on=self.today),
            has_old_draft=False,
            charge_on=record.charge_on,
            due_date=record.due_date,
            today=self.today,
            notice=NOTICE,
            late_grace_days=GRACE_DAYS,
            least_cents=LEAST_CENTS,
            limit_cents=LIMIT_CENTS,
            asked_cents=record.requested_cents if is_retry else None,
        )
        match decision:
            case Charge(amount_cents):
                self._request(record, amount_cents, limits, owed, told)
            case Skip("charge_under_way") | Wait(_):
                pass
            case Skip(reason):
                self._end(record, Status.SKIPPED, reason)
            case Hold(amount_cents, maximum_cents):
                self._save(
                    replace(
                        record,
                        status=Status.HELD,
                        reason=f"above_maximum:{maximum_cents}",
                        amount_cents=amount_cents,
                    )
                )
            case Miss(reason):
                self._end(record, Status.MISSED, reason)

    def _end(self, record: ChargeRecord, status: Status, reason: str) -> None:
        self._save(replace(record, status=status, reason=reason, act_at=None, closed_at=self.now()))

    def _request(
        self,
        record: ChargeRecord,
        amount_cents: int,
        limits: Limits,
        owed: Owed,
        told: list[Announcement],
    ) -> None:
        unheard = sum(each.cents for each in self.postings if each.heard_on > self.today)
        asked = replace(
            record,
            status=Status.REQUESTED,
            reason=None,
            attempt=record.attempt + 1,
            first_attempt_on=record.first_attempt_on or self.today,
            requested_cents=amount_cents,
            requested_at=self.now(),
        )
        self._save(asked)
        self.requests.append(
            Request(
                record=asked,
                on=self.today,
                amount_cents=amount_cents,
                limits=limits,
                owed=owed,
                announcements=tuple(told),
                ledger_cents=self.ledger_cents + unheard,
                was_paused=self.enrolment.is_paused(on=self.today),
            )
        )
        self._answer(asked, amount_cents)

    def _answer(self, asked: ChargeRecord, amount_cents: int) -> None:
        weather = self.plan.weather
        days = self.random.randint(1, 5) if self._happens(weather.slow_bank) else 0
        on = self.today + days * _DAY
        decline = None
        if self._happens(weather.hard_decline):
            decline = Decline(id=f"{asked.id}:{asked.attempt}", category="hard", code="R02")
        elif self._happens(weather.decline):
            code = self.random.choice(("R01", "R09", "processing_error"))
            decline = Decline(id=f"{asked.id}:{asked.attempt}", category="soft", code=code)
        kind = OutcomeKind.PAID if decline is None else OutcomeKind.DECLINED
        if decline is None:
            posted_on = on + self.random.randint(0, 2) * _DAY
            self._postings_coming.append((posted_on, amount_cents, asked.id))
        outcome = Outcome(
            charge_id=asked.id,
            kind=kind,
            at=self.now(),
            amount_cents=amount_cents,
            payment_id=asked.id,
            attempt=asked.attempt,
            decline=decline,
        )
        self._coming.append(_Coming(on=on, outcome=outcome))

    def _follow(self, outcome: Outcome) -> None:
        record = self.charges[outcome.charge_id]
        followed = follow(
            record,
            outcome,
            is_bank_debit=self.plan.is_bank_debit,
            city=self.city,
            now=self.now(),
        )
        assert followed is not None
        self._save(followed.record)
        self._is_touched = True
        if outcome.decline is not None:
            self.declined.append((record.id, self.today, outcome.decline.code))
        else:
            self.paid.append((record.id, outcome.amount_cents))
        if followed.following is not None and followed.following.step == "stop":
            self.stopped_on = self.today
            for each in list(self.charges.values()):
                if each.status in NOT_ASKED_FOR:
                    self._end(each, Status.CANCELLED, "declined_for_good")

    # What is asked of it ----------------------------------------------------------------------

    def due_dates(self) -> dict[date, ChargeRecord | None]:
        """Return the charge of every due date that was owed when it came, or None."""
        until = self.stopped_on or date.max
        return {
            bill.due_date: self.charges.get(
                charge_id(enrolment_id=self.enrolment.id, due_date=bill.due_date)
            )
            for bill in self.bills
            if not bill.is_cancelled and bill.due_date < until
        }


def rule(
    *,
    charge_on: ChargeOn,
    limits: Limits,
    days_before: int | None = None,
    day_of_month: int | None = None,
) -> Rule:
    return Rule(
        charge_on=charge_on, days_before=days_before, day_of_month=day_of_month, limits=limits
    )


def _months_later(day: date, months: int) -> date:
    later = day.month - 1 + months
    return day.replace(year=day.year + later // 12, month=later % 12 + 1, day=min(day.day, 28))

"""Years of autopay, a day at a time: what holds whatever the world does.

Reproducible: the same examples every time.
"""

from datetime import UTC, date, datetime, time, timedelta
from random import Random
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.support.autopay.amounts import limits_of
from tests.support.autopay.simulation import CALM, Account, Plan, Request, Weather, rule
from tests.support.autopay.tables import is_closed

from autopay_scheduler.domain.amounts import AmountRule
from autopay_scheduler.domain.charges import OPEN, Status
from autopay_scheduler.domain.days import BusinessDays, Calendar, ChargeOn, charge_day

DAY = timedelta(days=1)
GRACE = timedelta(days=3)
NOTICE = timedelta(days=10)
LIMIT_CENTS = 1_000_000
ZONES = ["America/Chicago", "America/New_York", "America/Phoenix"]
ENDED_WITHOUT_MONEY = {Status.SKIPPED, Status.MISSED, Status.FAILED, Status.CANCELLED}

REPRODUCIBLE = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=40,
    # A life of years is not made clearer by minutes of shrinking: its seed is enough to see it.
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
STORM = Weather(
    outage=0.02,
    late_notice=0.15,
    lost_notice=0.03,
    payment=0.02,
    late_payment_news=0.3,
    returned_payment=0.005,
    pause=0.004,
    other_rule=0.01,
    changed_bill=0.03,
    moved_bill=0.01,
    cancelled_bill=0.01,
    newer_charges=0.02,
    decline=0.3,
    hard_decline=0.01,
    slow_bank=0.3,
)
SLEEPY = Weather(outage=0.05)

amounts = st.sampled_from(
    [
        "full balance",
        "statement",
        "fixed $50.00",
        "full balance, max $200.00",
        "statement, max $125.00",
        "full balance, min $10.00",
        "full balance, min $10.00, max $400.00",
        "fixed $120.00, max $120.00",
    ]
).map(limits_of)
rules = st.one_of(
    st.builds(rule, charge_on=st.just(ChargeOn.DUE_DATE), limits=amounts),
    st.builds(
        rule,
        charge_on=st.just(ChargeOn.DAYS_BEFORE_DUE),
        days_before=st.integers(1, 28),
        limits=amounts,
    ),
    st.builds(
        rule,
        charge_on=st.just(ChargeOn.DAY_OF_MONTH),
        day_of_month=st.integers(1, 31),
        limits=amounts,
    ),
)
days = st.dates(min_value=date(2026, 1, 1), max_value=date(2027, 3, 1))


@st.composite
def calendars(draw: st.DrawFn) -> Calendar:
    extra = draw(st.frozensets(st.dates(date(2026, 1, 1), date(2029, 1, 1)), max_size=20))
    return Calendar(
        zone=ZoneInfo(draw(st.sampled_from(ZONES))),
        is_closed=lambda day: is_closed(day) or day in extra,
        business_days=draw(st.sampled_from(BusinessDays)),
        charge_time=draw(
            st.sampled_from([time(0, 0), time(1, 30), time(2, 30), time(6, 0), time(23, 30)])
        ),
    )


def plans(*, weather: Weather, due_after_days: st.SearchStrategy[int]) -> st.SearchStrategy[Plan]:
    return st.builds(
        Plan,
        first_day=days,
        days=st.just(800),
        calendar=calendars(),
        rules=st.lists(rules, min_size=1, max_size=3).map(tuple),
        months=st.sampled_from([1, 2]),
        due_after_days=due_after_days,
        cancellation_says_balance=st.booleans(),
        is_bank_debit=st.booleans(),
        weather=st.just(weather),
    )


def lived(plan: Plan, seed: int) -> Account:
    account = Account(plan=plan, random=Random(seed))
    account.live()
    return account


def first_attempts(account: Account) -> list[Request]:
    return [each for each in account.requests if each.record.attempt == 1]


def statuses(account: Account, request_or_id: object) -> set[Status]:
    return {status for _, status, _ in account.history[request_or_id]}


def needs_notice(request: Request) -> bool:
    return request.limits.amount is not AmountRule.FIXED and request.limits.maximum_cents is None


class TestInAnyWeather:
    @REPRODUCIBLE
    @given(plans(weather=STORM, due_after_days=st.integers(1, 35)), st.integers(0, 2**32))
    def test_every_promise_is_kept(self, plan, seed):
        account = lived(plan, seed)
        self.no_due_date_is_without_its_end(account)
        self.none_is_charged_twice(account)
        self.no_amount_is_too_high(account)
        self.every_notice_is_kept(account)
        self.no_day_is_wrong(account)
        self.retries_stay_within_their_limits(account)
        self.every_miss_has_a_true_reason(account)
        self.nobody_who_owes_is_skipped(account)

    @staticmethod
    def no_due_date_is_without_its_end(account):
        assert account.plan.days > 60
        for due_date, record in account.due_dates().items():
            assert record is not None, f"{due_date} was never planned"
            assert record.status not in OPEN, f"{due_date} is still {record.status}"
            assert record.status is Status.PAID or record.reason, f"{due_date} ended unexplained"

    @staticmethod
    def none_is_charged_twice(account):
        paid = [charge for charge, _ in account.paid]
        assert len(paid) == len(set(paid))
        attempts = [(each.record.id, each.record.attempt) for each in account.requests]
        assert len(attempts) == len(set(attempts))
        due = {(each.record.enrolment_id, each.record.due_date) for each in account.requests}
        assert len(due) == len({each.record.id for each in account.requests})

    @staticmethod
    def no_amount_is_too_high(account):
        asked = {}
        for each in account.requests:
            amount, limits = each.amount_cents, each.limits
            assert 0 < amount <= min(limits.maximum_cents or LIMIT_CENTS, LIMIT_CENTS)
            assert amount >= (limits.minimum_cents or 0)
            assert amount <= (limits.fixed_cents or LIMIT_CENTS)
            # What is owed, as far as anybody could know, and what is on its way already.
            assert amount + each.owed.open_cents <= each.ledger_cents
            if limits.amount is AmountRule.STATEMENT_BALANCE:
                left = each.owed.statement_cents - each.owed.paid_since_cents
                assert amount + each.owed.open_cents <= left
            # A later attempt never asks for more.
            assert amount <= asked.get(each.record.id, amount)
            asked[each.record.id] = amount

    @staticmethod
    def every_notice_is_kept(account):
        for each in account.requests:
            assert not each.was_paused
            standing = [told for told in each.announcements if not told.is_void]
            assert each.amount_cents <= max(told.amount_cents for told in standing)
            if needs_notice(each):
                kept = [
                    told.amount_cents
                    for told in standing
                    if told.noticed_on is not None and told.noticed_on + NOTICE <= each.on
                ]
                assert each.amount_cents <= max(kept, default=0)

    @staticmethod
    def no_day_is_wrong(account):
        calendar = account.city.calendar
        for each in first_attempts(account):
            record = each.record
            assert each.on >= record.charge_on, "never before the day that was announced"
            assert each.on <= record.charge_on + GRACE
            planned = record.charge_on
            if calendar.business_days is BusinessDays.SAME or not calendar.is_closed(planned):
                continue
            if record.planned_on > record.due_date:
                # Planned for a day that was past: charged late, on the first day that came.
                continue
            # Planned for a closed day: only since no open one was left from the day of planning,
            # or from the first day of the notice, up to the due date.
            assert calendar.business_days is BusinessDays.BEFORE
            firsts = [record.planned_on]
            firsts += [told.announced_on + NOTICE for told in each.announcements]
            assert any(
                first <= planned <= record.due_date
                and all(
                    calendar.is_closed(first + n * DAY)
                    for n in range((record.due_date - first).days + 1)
                )
                for first in firsts
            ), f"{planned} is closed, due {record.due_date}"

    @staticmethod
    def retries_stay_within_their_limits(account):
        by_charge = {}
        for each in account.requests:
            by_charge.setdefault(each.record.id, []).append(each)
        codes = {(charge, on): code for charge, on, code in account.declined}
        for charge, attempts in by_charge.items():
            assert [each.record.attempt for each in attempts] == [1, 2, 3][: len(attempts)]
            first = attempts[0].on
            for each, least in zip(attempts[1:], (3, 7), strict=False):
                assert (each.on - first).days >= least
            declined_on = [on for key, on, _ in account.declined if key == charge]
            for each, on in zip(attempts[1:], declined_on, strict=False):
                assert each.on > on
                if account.plan.is_bank_debit:
                    assert codes[charge, on] in ("R01", "R09")

    @staticmethod
    def notice_kept_on(account, record):
        sent = [
            account.notices[record.id, told.version]
            for told in account.announcements.get(record.id, [])
        ]
        return min((each + NOTICE for each in sent if each), default=record.charge_on)

    @staticmethod
    def every_miss_has_a_true_reason(account):
        for record in account.charges.values():
            if record.status is not Status.MISSED:
                continue
            passed = {status for _, status, _ in account.history[record.id]}
            match record.reason:
                case "late":
                    first = max(record.charge_on, TestInAnyWeather.notice_kept_on(account, record))
                    days_left = (record.charge_on + GRACE - first).days + 1
                    # Slept through, or only then wanted: held, skipped or stated until then.
                    assert (
                        {first + n * DAY for n in range(days_left)} <= account.down
                        or passed & {Status.HELD, Status.SKIPPED}
                        or record.planned_on > record.charge_on
                        or record.attempt > 0
                    )
                case "notice_too_short":
                    ended_on = account.history[record.id][-1][0]
                    assert record.due_date < ended_on + NOTICE
                case "notice_not_kept":
                    sent = [
                        account.notices[record.id, told.version]
                        for told in account.announcements[record.id]
                    ]
                    assert all(
                        each is None or each + NOTICE > record.charge_on + GRACE or told.is_void
                        for each, told in zip(sent, account.announcements[record.id], strict=True)
                    )
                case "above_maximum":
                    assert Status.HELD in passed or record.attempt > 0
                case other:
                    raise AssertionError(f"nobody says {other}")

    @staticmethod
    def nobody_who_owes_is_skipped(account):
        for record, owed in account.skipped:
            if record.reason in ("paid", "in_credit", "charge_under_way"):
                left = owed.statement_cents - owed.paid_since_cents
                if owed.balance_cents is not None:
                    left = min(left, owed.balance_cents)
                assert left - owed.open_cents <= 0, record


class TestInCalmWeather:
    @REPRODUCIBLE
    @given(plans(weather=CALM, due_after_days=st.integers(14, 35)), st.integers(0, 2**32))
    def test_every_bill_is_paid_on_its_day(self, plan, seed):
        account = lived(plan, seed)
        assert account.due_dates()
        for due_date, record in account.due_dates().items():
            assert record is not None
            passed = statuses(account, record.id)
            assert record.status in (Status.PAID, Status.SKIPPED) or Status.HELD in passed
            if record.status is Status.PAID:
                (request,) = [each for each in account.requests if each.record.id == record.id]
                assert request.on == record.charge_on
                latest = due_date
                while plan.calendar.business_days is BusinessDays.AFTER and (
                    plan.calendar.is_closed(latest)
                ):
                    latest += DAY
                assert request.on <= latest

    @REPRODUCIBLE
    @given(plans(weather=SLEEPY, due_after_days=st.integers(25, 35)), st.integers(0, 2**32))
    def test_a_bill_is_only_missed_where_the_scheduler_slept_too_long(self, plan, seed):
        account = lived(plan, seed)
        for record in account.due_dates().values():
            assert record is not None
            if record.status is Status.MISSED and record.reason != "above_maximum":
                assert account.down & {record.charge_on + n * DAY for n in range(-30, 4)}


class TestChargeDay:
    @settings(REPRODUCIBLE, max_examples=400)
    @given(rules, calendars(), days, st.integers(-12, 40))
    def test_lies_between_planning_and_the_due_date(self, chosen, calendar, due_date, ahead):
        planned_on = due_date - ahead * DAY
        found = charge_day(
            charge_on=chosen.charge_on,
            days_before=chosen.days_before,
            day_of_month=chosen.day_of_month,
            due_date=due_date,
            not_before=planned_on,
            calendar=calendar,
        )
        assert found >= min(planned_on, due_date)
        if calendar.business_days is BusinessDays.AFTER:
            assert not calendar.is_closed(found)
            assert all(
                calendar.is_closed(due_date + n * DAY) for n in range((found - due_date).days)
            )
        else:
            assert found <= due_date
        if calendar.business_days is BusinessDays.BEFORE and calendar.is_closed(found):
            first = min(planned_on, due_date)
            span = [first + n * DAY for n in range((due_date - first).days + 1)]
            assert all(calendar.is_closed(each) for each in span)


class TestInstants:
    @settings(REPRODUCIBLE, max_examples=100)
    @given(
        st.sampled_from([*ZONES, "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia"]),
        st.times(),
        st.dates(date(2026, 1, 1), date(2035, 12, 1)),
    )
    def test_count_up_with_their_days_also_over_clock_changes(self, zone, at, first):
        calendar = Calendar(
            zone=ZoneInfo(zone),
            is_closed=lambda _: False,
            business_days=BusinessDays.SAME,
            charge_time=at,
        )
        instants = [calendar.instant_of(first + n * DAY) for n in range(30)]
        assert instants == sorted(set(instants))
        assert [calendar.today(now=each) for each in instants] == [
            first + n * DAY for n in range(30)
        ]

    @settings(REPRODUCIBLE, max_examples=50)
    @given(st.integers(0, 4 * 365 * 24 * 60))
    def test_belong_to_a_day_of_the_city(self, minutes):
        calendar = Calendar(
            zone=ZoneInfo("America/Chicago"),
            is_closed=lambda _: False,
            business_days=BusinessDays.SAME,
            charge_time=time(6, 0),
        )
        now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
        today = calendar.today(now=now)
        assert today in (now.date(), now.date() - DAY)

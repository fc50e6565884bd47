"""A charge from its plan to its request, on real PostgreSQL, by a clock that stands."""

from typing import Any

import pytest
from tests.support.autopay_scheduler import (
    Scheduler,
    SchedulerDatabase,
    Stated,
    StillClock,
    a_city,
    at,
    at_intake,
    bill,
    cancelled,
    changed,
    day,
    enrolled,
    no_bill,
    noticed,
    paused,
    posted,
    registered,
    resumed,
    unposted,
)

MONDAY = at("2026-03-02 12:00")
REFERENCE, DUE = "E-A-1", "2026-03-20"
BILL = f"B-A-1-{DUE}"


async def announce(
    autopay: Scheduler, rows: SchedulerDatabase, *, cents: int = 8_000, due: str = DUE, **rule: Any
) -> None:
    """Enrol, bill and announce, with the notice sent."""
    now = autopay.clock()
    await autopay.hear(registered("A-1", when=now), enrolled("A-1", when=now, **rule))
    await autopay.hear(bill("A-1", due, cents, when=now))
    await autopay.run()
    await tell(autopay, rows)


async def tell(autopay: Scheduler, rows: SchedulerDatabase, *, status: str = "sent") -> None:
    """Have the newest announcement told."""
    announced = (await rows.stated("charge.announced"))[-1]
    await autopay.hear(noticed(announced, when=autopay.clock(), status=status))


async def requests(rows: SchedulerDatabase) -> list[tuple[int, int]]:
    return [
        (fact["attempt"], fact["amount_cents"]) for fact in await rows.stated("charge.requested")
    ]


async def announcements(rows: SchedulerDatabase) -> list[tuple[int, int, int, str]]:
    return [
        (fact["version"], fact["amount_cents"], fact["left_cents"], fact["charge_on"])
        for fact in await rows.stated("charge.announced")
    ]


async def closed(rows: SchedulerDatabase) -> list[tuple[str, str]]:
    return [(fact["outcome"], fact["reason"]) for fact in await rows.stated("charge.closed")]


async def the_request(rows: SchedulerDatabase) -> Stated:
    [request] = await rows.stated("charge.requested")
    return request


class TestLife:
    async def test_goes_from_enrolment_to_paid(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        assert await rows.types() == ["enrolment.activated", "charge.announced"]
        assert await announcements(rows) == [(1, 8_000, 0, DUE)]
        clock.to("2026-03-20 05:59")
        await autopay.run()
        assert await requests(rows) == []
        clock.to("2026-03-20 06:00")
        await autopay.run()
        request = await the_request(rows)
        assert (request["attempt"], request["amount_cents"]) == (1, 8_000)
        assert request["payment_method_token"] == "pm_testEA1"
        # The last second of the last day of grace, and two hours: 24 March 06:00 + 2 h.
        assert request["valid_until"] == "2026-03-24T13:00:00Z"
        charge = at_intake(request)
        await autopay.hear(charge.paid(clock()))
        [end] = await rows.stated("charge.closed")
        assert (end["outcome"], end["amount_cents"]) == ("paid", 8_000)
        await autopay.hear(
            posted("A-1", 8_000, when=clock(), balance_cents=0, payment_id=charge.payment_id)
        )
        await autopay.run()
        row = await rows.charge(REFERENCE, DUE)
        assert (row["status"], row["posted_at"]) == ("paid", clock())
        assert len(await rows.stated()) == 4

    @pytest.mark.parametrize(
        ("rule", "due", "charge_on"),
        [
            ({}, "2026-03-20", "2026-03-20"),
            # Sunday, by "before": Friday.
            ({}, "2026-03-22", "2026-03-20"),
            ({"charge_on": "days_before_due", "days_before": 3}, "2026-03-20", "2026-03-17"),
            ({"charge_on": "day_of_month", "day_of_month": 13}, "2026-03-20", "2026-03-13"),
            # The 31st of February: its last day, a Saturday, is past; the due date.
            ({"charge_on": "day_of_month", "day_of_month": 31}, "2026-03-20", "2026-03-20"),
            # Notice of ten days: not on the 9th but on the 12th.
            ({"charge_on": "days_before_due", "days_before": 11}, "2026-03-20", "2026-03-12"),
        ],
    )
    async def test_is_asked_for_on_the_day_of_the_rule(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        rule: dict[str, Any],
        due: str,
        charge_on: str,
    ) -> None:
        await announce(autopay, rows, due=due, **rule)
        assert await announcements(rows) == [(1, 8_000, 0, charge_on)]
        clock.to(f"{charge_on} 05:59")
        await autopay.run()
        assert await requests(rows) == []
        clock.to(f"{charge_on} 06:00")
        await autopay.run()
        assert await requests(rows) == [(1, 8_000)]

    @pytest.mark.parametrize(
        ("rule", "balance_cents", "cents"),
        [
            ({}, 9_000, 9_000),
            ({"amount": "statement_balance"}, 9_000, 8_000),
            ({"amount": "statement_balance"}, 5_000, 5_000),
            ({"amount": "fixed", "fixed_cents": 3_000}, 9_000, 3_000),
            ({"amount": "fixed", "fixed_cents": 3_000}, 2_000, 2_000),
            ({"maximum_cents": 9_000}, 9_000, 9_000),
        ],
    )
    async def test_asks_for_what_the_rule_says(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        rule: dict[str, Any],
        balance_cents: int,
        cents: int,
    ) -> None:
        await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY, **rule))
        await autopay.hear(bill("A-1", DUE, 8_000, when=MONDAY, balance_cents=balance_cents))
        await autopay.run()
        await tell(autopay, rows)
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        assert await requests(rows) == [(1, cents)]

    @pytest.mark.parametrize(
        ("rule", "balance_cents", "reason"),
        [
            ({"minimum_cents": 500}, 499, "below_minimum"),
            ({}, 49, "below_minimum"),
            ({}, 0, "paid"),
            ({}, -1, "in_credit"),
        ],
    )
    async def test_is_skipped_with_its_reason(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        rule: dict[str, Any],
        balance_cents: int,
        reason: str,
    ) -> None:
        await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY, **rule))
        await autopay.hear(bill("A-1", DUE, 499, when=MONDAY, balance_cents=balance_cents))
        await autopay.run()
        assert await rows.status(REFERENCE, DUE) == ("skipped", reason)
        assert await closed(rows) == [("skipped", reason)]

    async def test_leaves_alone_what_was_due_before_the_enrolment(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await autopay.hear(bill("A-1", "2026-03-01", 8_000, when=at("2026-02-10 12:00")))
        await autopay.hear(enrolled("A-1", when=MONDAY))
        await autopay.run()
        assert await rows.value("SELECT count(*) FROM charges") == 0

    async def test_cannot_be_announced_in_time_is_told_at_once(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY))
        await autopay.hear(bill("A-1", "2026-03-11", 8_000, when=MONDAY))
        await autopay.run()
        assert await closed(rows) == [("missed", "notice_too_short")]


class TestBillsThatChange:
    async def test_upwards_are_announced_anew_and_wait_for_that_notice(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows, due="2026-03-30")
        clock.to("2026-03-10 12:00")
        await autopay.hear(bill("A-1", "2026-03-30", 9_000, when=clock(), version=2))
        await autopay.run()
        assert await announcements(rows) == [
            (1, 8_000, 0, "2026-03-30"),
            (2, 9_000, 0, "2026-03-30"),
        ]
        await tell(autopay, rows)
        clock.to("2026-03-30 06:00")
        await autopay.run()
        assert await requests(rows) == [(1, 9_000)]

    async def test_upwards_too_late_leave_what_was_announced(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        clock.to("2026-03-15 12:00")
        await autopay.hear(bill("A-1", DUE, 9_500, when=clock(), version=2))
        await autopay.run()
        assert await announcements(rows) == [(1, 8_000, 0, DUE), (2, 8_000, 1_500, DUE)]
        await tell(autopay, rows)
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        assert await requests(rows) == [(1, 8_000)]

    async def test_upwards_between_plan_and_request_are_not_charged_above_the_notice(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        clock.to(f"{DUE} 06:00")
        await autopay.hear(bill("A-1", DUE, 9_500, when=clock(), version=2))
        await autopay.request()
        assert await requests(rows) == [(1, 8_000)]

    async def test_downwards_are_charged_as_they_are_without_another_notice(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        await autopay.hear(bill("A-1", DUE, 6_000, when=clock(), version=2))
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        assert await announcements(rows) == [(1, 8_000, 0, DUE)]
        assert await requests(rows) == [(1, 6_000)]

    async def test_to_nothing_are_skipped(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        await autopay.hear(no_bill("A-1", BILL, when=clock()))
        await autopay.run()
        assert await closed(rows) == [("skipped", "bill_cancelled")]
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        assert await requests(rows) == []

    async def test_to_nothing_a_moment_before_the_request_are_not_charged(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        """Nobody has planned the account since."""
        await announce(autopay, rows)
        clock.to(f"{DUE} 06:00")
        await autopay.hear(no_bill("A-1", BILL, when=clock()))
        await autopay.request()
        assert await requests(rows) == []
        assert await closed(rows) == [("skipped", "bill_cancelled")]

    async def test_their_due_date_are_announced_for_the_new_one(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        await autopay.hear(
            bill("A-1", "2026-03-27", 8_000, when=clock(), version=2, reference=BILL)
        )
        await autopay.run()
        assert await rows.status(REFERENCE, DUE) == ("skipped", "due_date_changed")
        assert await announcements(rows) == [(1, 8_000, 0, DUE), (1, 8_000, 0, "2026-03-27")]
        await tell(autopay, rows)
        for moment in (f"{DUE} 06:00", "2026-03-27 06:00"):
            clock.to(moment)
            await autopay.run()
        assert [fact["due_date"] for fact in await rows.stated("charge.requested")] == [
            "2026-03-27"
        ]

    async def test_their_due_date_a_moment_before_the_request_wait_for_the_new_one(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        clock.to(f"{DUE} 06:00")
        await autopay.hear(
            bill("A-1", "2026-04-10", 8_000, when=clock(), version=2, reference=BILL)
        )
        await autopay.request()
        assert await requests(rows) == []
        assert await rows.status(REFERENCE, DUE) == ("skipped", "due_date_changed")

    async def test_their_reference_and_stay_due_that_day_count_by_the_last(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        """A corrected bill of another number: its total takes in the first one's."""
        await announce(autopay, rows, amount="statement_balance")
        clock.advance(minutes=1)
        await autopay.hear(bill("A-1", DUE, 7_000, when=clock(), reference="A-corrected"))
        await autopay.run()
        assert (await rows.charge(REFERENCE, DUE))["bill_reference"] == "A-corrected"
        await autopay.hear(no_bill("A-1", BILL, when=clock()))
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        assert await requests(rows) == [(1, 7_000)]


class TestMaximum:
    async def test_exceeded_asks_the_customer_and_charges_nothing(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await autopay.hear(
            registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY, maximum_cents=7_000)
        )
        await autopay.hear(bill("A-1", DUE, 8_000, when=MONDAY))
        await autopay.run()
        [held] = await rows.stated("charge.held")
        assert (held["amount_cents"], held["maximum_cents"]) == (8_000, 7_000)
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        assert await requests(rows) == []
        clock.to("2026-03-21 06:00")
        await autopay.run()
        assert await closed(rows) == [("missed", "above_maximum")]

    @pytest.mark.parametrize("is_bill", [True, False])
    async def test_is_announced_once_the_bill_falls_or_the_maximum_rises(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        is_bill: bool,
    ) -> None:
        await autopay.hear(
            registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY, maximum_cents=7_000)
        )
        await autopay.hear(bill("A-1", DUE, 8_000, when=MONDAY))
        await autopay.run()
        clock.to("2026-03-19 12:00")
        if is_bill:
            await autopay.hear(bill("A-1", DUE, 6_500, when=clock(), version=2))
        else:
            await autopay.hear(changed("A-1", when=clock(), maximum_cents=8_000))
        await autopay.run()
        cents = 6_500 if is_bill else 8_000
        assert await announcements(rows) == [(1, cents, 0, DUE)]
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        assert await requests(rows) == [(1, cents)]

    async def test_voids_what_was_announced_before(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        """Who was told that nothing is charged is announced to anew."""
        await announce(autopay, rows, maximum_cents=8_000)
        await autopay.hear(bill("A-1", DUE, 9_000, when=clock(), version=2))
        await autopay.run()
        assert await rows.status(REFERENCE, DUE) == ("held", "above_maximum:8000")
        await autopay.hear(bill("A-1", DUE, 8_000, when=clock(), version=3))
        await autopay.run()
        assert await announcements(rows) == [(1, 8_000, 0, DUE), (2, 8_000, 0, DUE)]

    async def test_held_and_paid_otherwise_is_no_miss(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await autopay.hear(
            registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY, maximum_cents=7_000)
        )
        await autopay.hear(bill("A-1", DUE, 8_000, when=MONDAY))
        await autopay.run()
        clock.to("2026-03-21 06:00")
        await autopay.hear(posted("A-1", 8_000, when=clock(), balance_cents=0))
        await autopay.close()
        assert await closed(rows) == [("skipped", "paid")]

    async def test_held_and_cancelled_is_cancelled(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await autopay.hear(
            registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY, maximum_cents=7_000)
        )
        await autopay.hear(bill("A-1", DUE, 8_000, when=MONDAY))
        await autopay.run()
        await autopay.hear(cancelled("A-1", when=clock()))
        assert await closed(rows) == [("cancelled", "cancelled")]
        clock.to("2026-03-21 06:00")
        assert await autopay.close() == 0


class TestPaymentsByOtherMeans:
    async def test_skip_what_they_cover(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        await autopay.hear(posted("A-1", 8_000, when=clock(), balance_cents=0))
        await autopay.run()
        assert await closed(rows) == [("skipped", "paid")]

    async def test_reduce_what_they_cover_in_part(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        await autopay.hear(posted("A-1", 3_000, when=clock(), balance_cents=5_000))
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        assert await requests(rows) == [(1, 5_000)]

    async def test_of_the_last_moment_count_without_a_plan(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        clock.to(f"{DUE} 06:00")
        await autopay.hear(posted("A-1", 8_000, when=clock(), balance_cents=0))
        await autopay.request()
        assert await requests(rows) == []
        assert await closed(rows) == [("skipped", "paid")]

    async def test_that_bounce_before_the_day_are_charged_again(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        paid = posted("A-1", 8_000, when=clock(), balance_cents=0)
        await autopay.hear(paid)
        await autopay.run()
        assert await rows.status(REFERENCE, DUE) == ("skipped", "paid")
        clock.to("2026-03-18 12:00")
        await autopay.hear(unposted(paid, when=clock(), balance_cents=8_000))
        await autopay.run()
        assert await rows.status(REFERENCE, DUE) == ("announced", None)
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        assert await requests(rows) == [(1, 8_000)]

    async def test_are_not_undone_by_the_next_bill(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        """The next month's bill is charged on its own day, once, and nothing before."""
        await announce(autopay, rows)
        clock.advance(minutes=1)
        await autopay.hear(posted("A-1", 8_000, when=clock(), balance_cents=0))
        await autopay.run()
        clock.to("2026-03-21 12:00")
        await autopay.hear(bill("A-1", "2026-04-20", 5_000, when=clock()))
        await autopay.run()
        await tell(autopay, rows)
        for moment in ("2026-03-22 06:00", "2026-03-30 06:00", "2026-04-20 06:00"):
            clock.to(moment)
            await autopay.run()
        assert await rows.status(REFERENCE, DUE) == ("skipped", "paid")
        [request] = await rows.stated("charge.requested")
        assert (request["due_date"], request["amount_cents"]) == ("2026-04-20", 5_000)
        assert await closed(rows) == [("skipped", "paid")]


class TestPauses:
    async def test_skip_what_falls_into_them(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        clock.advance(minutes=1)
        await autopay.hear(paused("A-1", when=clock()))
        await autopay.run()
        assert await closed(rows) == [("skipped", "paused_by_customer")]

    async def test_of_the_last_moment_hold_without_a_plan(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        clock.to(f"{DUE} 06:00")
        await autopay.hear(paused("A-1", when=clock()))
        await autopay.request()
        assert await requests(rows) == []

    async def test_that_end_before_the_day_skip_nothing(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        clock.advance(minutes=1)
        await autopay.hear(paused("A-1", when=clock(), until=DUE))
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        assert await requests(rows) == [(1, 8_000)]

    async def test_that_are_ended_bring_the_charge_back(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        clock.advance(minutes=1)
        await autopay.hear(paused("A-1", when=clock()))
        await autopay.run()
        clock.to("2026-03-15 12:00")
        await autopay.hear(resumed("A-1", when=clock()))
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        assert await requests(rows) == [(1, 8_000)]

    async def test_that_are_ended_long_after_bring_nothing_back(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        """No customer hears of a missed due date that they paused themselves."""
        await announce(autopay, rows)
        clock.advance(minutes=1)
        await autopay.hear(paused("A-1", when=clock()))
        await autopay.run()
        clock.to("2026-04-15 12:00")
        await autopay.hear(resumed("A-1", when=clock()))
        await autopay.run()
        assert await closed(rows) == [("skipped", "paused_by_customer")]


class TestOldDrafts:
    async def test_are_not_drafted_twice(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        await rows.execute(
            "INSERT INTO old_drafts (account_id, due_date, amount_cents, imported_at, import_id,"
            " line) SELECT 'A-1', $1, 8000, $2, gen_random_uuid(), 1",
            day(DUE),
            clock(),
        )
        clock.to(f"{DUE} 06:00")
        await autopay.request()
        assert await requests(rows) == []
        assert await closed(rows) == [("skipped", "drafted_by_old_portal")]


class TestNotices:
    @pytest.mark.parametrize("status", ["failed", "skipped"])
    async def test_that_cannot_be_delivered_are_told_of_at_once(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock, status: str
    ) -> None:
        await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY))
        await autopay.hear(bill("A-1", DUE, 8_000, when=MONDAY))
        await autopay.run()
        await tell(autopay, rows, status=status)
        await autopay.run()
        assert await closed(rows) == [("missed", "notice_not_delivered")]

    async def test_that_cannot_be_delivered_do_not_matter_where_the_city_says_so(
        self, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        autopay = rows.scheduler(clock=clock, city=a_city(charge_unnotified=True))
        await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY))
        await autopay.hear(bill("A-1", DUE, 8_000, when=MONDAY))
        await autopay.run()
        await tell(autopay, rows, status="failed")
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        assert await requests(rows) == [(1, 8_000)]

    async def test_are_not_owed_where_a_maximum_was_agreed(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows, due="2026-03-05", maximum_cents=9_000)
        await tell(autopay, rows, status="failed")
        clock.to("2026-03-05 06:00")
        await autopay.run()
        assert await requests(rows) == [(1, 8_000)]

    async def test_of_a_rise_that_fail_leave_what_was_told_before(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows, due="2026-03-30")
        await autopay.hear(bill("A-1", "2026-03-30", 9_000, when=clock(), version=2))
        await autopay.run()
        await tell(autopay, rows, status="failed")
        clock.to("2026-03-30 06:00")
        await autopay.run()
        assert await requests(rows) == [(1, 8_000)]

    async def test_that_are_sent_late_put_the_charge_off_within_the_grace(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY))
        await autopay.hear(bill("A-1", "2026-03-12", 8_000, when=MONDAY))
        await autopay.run()
        clock.to("2026-03-04 12:00")
        await tell(autopay, rows)
        for moment in ("2026-03-12 06:00", "2026-03-13 06:00"):
            clock.to(moment)
            await autopay.run()
            assert await requests(rows) == []
        clock.to("2026-03-14 06:00")
        await autopay.run()
        request = await the_request(rows)
        # Its validity is by its own day: 12 March, three days of grace, and two hours.
        assert request["valid_until"] == "2026-03-16T13:00:00Z"

    async def test_that_are_sent_too_late_are_told_of_before_the_bill_is_due(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY))
        await autopay.hear(bill("A-1", "2026-03-12", 8_000, when=MONDAY))
        await autopay.run()
        clock.to("2026-03-07 12:00")
        await tell(autopay, rows)
        await autopay.run()
        assert await closed(rows) == [("missed", "notice_not_kept")]

    async def test_that_nobody_answers_are_stated_again_and_no_other(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY))
        await autopay.hear(bill("A-1", DUE, 8_000, when=MONDAY))
        await autopay.run()
        clock.advance(seconds=59)
        assert await autopay.restate() == 0
        clock.advance(seconds=1)
        assert await autopay.restate() == 1
        first, second = await rows.stated("charge.announced")
        assert first == second
        await tell(autopay, rows)
        clock.advance(days=1)
        assert await autopay.restate() == 0

    async def test_of_what_was_cancelled_are_not_stated_again(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY))
        await autopay.hear(bill("A-1", DUE, 8_000, when=MONDAY))
        await autopay.run()
        await autopay.hear(cancelled("A-1", when=clock()))
        clock.advance(hours=1)
        assert await autopay.restate() == 0
        assert len(await rows.stated("charge.announced")) == 1

    async def test_of_an_amount_that_has_risen_since_are_not_stated_again(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY))
        await autopay.hear(bill("A-1", "2026-03-30", 8_000, when=MONDAY))
        await autopay.run()
        await autopay.hear(bill("A-1", "2026-03-30", 9_000, when=clock(), version=2))
        await autopay.run()
        clock.advance(hours=1)
        assert await autopay.restate() == 1
        assert [version for version, *_ in await announcements(rows)] == [1, 2, 2]


class TestRules:
    async def test_that_move_the_day_on_are_followed_after_the_notice(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows, charge_on="days_before_due", days_before=5)
        assert await announcements(rows) == [(1, 8_000, 0, "2026-03-13")]
        clock.advance(minutes=1)
        await autopay.hear(changed("A-1", when=clock()))
        for moment in ("2026-03-13 06:00", f"{DUE} 05:59"):
            clock.to(moment)
            await autopay.run()
            assert await requests(rows) == []
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        assert await requests(rows) == [(1, 8_000)]

    async def test_of_the_method_hold_for_the_next_request(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announce(autopay, rows)
        clock.advance(minutes=1)
        await autopay.hear(changed("A-1", when=clock(), payment_method_token="pm_another"))
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        assert (await the_request(rows))["payment_method_token"] == "pm_another"


class TestTwoDueDatesOfOneDay:
    async def test_ask_once_for_what_is_owed(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        """Both fall on the 18th by the customer's rule; the second bill takes in the first."""
        await announce(autopay, rows, charge_on="day_of_month", day_of_month=18)
        clock.advance(minutes=1)
        await autopay.hear(bill("A-1", "2026-03-27", 12_000, when=clock()))
        await autopay.run()
        await tell(autopay, rows)
        assert await announcements(rows) == [
            (1, 8_000, 0, "2026-03-18"),
            (1, 4_000, 0, "2026-03-18"),
        ]
        clock.to("2026-03-18 06:00")
        await autopay.run()
        assert sorted(cents for _, cents in await requests(rows)) == [4_000, 8_000]


class TestLateness:
    @pytest.mark.parametrize("moment", ["2026-03-21 12:00", "2026-03-23 23:59"])
    async def test_within_the_grace_is_charged(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock, moment: str
    ) -> None:
        await announce(autopay, rows)
        clock.to(moment)
        await autopay.run()
        assert await requests(rows) == [(1, 8_000)]
        assert (await the_request(rows))["valid_until"] == "2026-03-24T13:00:00Z"

    @pytest.mark.parametrize("rule", [{}, {"maximum_cents": 9_000}])
    async def test_beyond_it_is_missed_and_told(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        rule: dict[str, Any],
    ) -> None:
        await announce(autopay, rows, **rule)
        clock.to("2026-03-24 00:00")
        await autopay.run()
        assert await requests(rows) == []
        assert await closed(rows) == [("missed", "late")]

    @pytest.mark.parametrize("rule", [{}, {"maximum_cents": 9_000}])
    async def test_beyond_it_of_what_was_paid_is_no_miss(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        rule: dict[str, Any],
    ) -> None:
        await announce(autopay, rows, **rule)
        clock.to("2026-03-24 00:00")
        await autopay.hear(posted("A-1", 8_000, when=clock(), balance_cents=0))
        await autopay.request()
        assert await closed(rows) == [("skipped", "paid")]

    async def test_of_the_plan_itself_is_told(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        """The scheduler was off when the bill came, and came back too late for it."""
        await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY))
        await autopay.hear(bill("A-1", DUE, 8_000, when=MONDAY))
        clock.to("2026-03-24 12:00")
        await autopay.run()
        assert await closed(rows) == [("missed", "late")]

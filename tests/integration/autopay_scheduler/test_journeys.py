"""Where a charge's way bends: bills that change, payments, declines, cancellations, lost days."""

import pytest
from tests.support.autopay_scheduler import (
    Scheduler,
    SchedulerDatabase,
    StillClock,
    at,
    at_intake,
    bill,
    cancelled,
    changed,
    enrolled,
    no_bill,
    noticed,
    posted,
    registered,
    unposted,
)

from shared.contracts.payments import DeclineCategory

MONDAY = at("2026-03-02 12:00")
DUE = "2026-03-20"
DUE_MORNING = "2026-03-20 06:00"


async def told(
    autopay: Scheduler, rows: SchedulerDatabase, *, cents: int = 8_000, **rule: object
) -> None:
    """Account A-1 is enrolled, billed, and knows of its charge."""
    await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY, **rule))
    await autopay.hear(bill("A-1", DUE, cents, when=MONDAY))
    await autopay.run()
    await all_noticed(autopay, rows)


async def all_noticed(autopay: Scheduler, rows: SchedulerDatabase) -> None:
    for announcement in await rows.stated("charge.announced"):
        await autopay.hear(noticed(announcement, when=autopay.clock()))


async def amounts(rows: SchedulerDatabase) -> list[tuple[int, int]]:
    """Attempt and amount of each request."""
    return [
        (each["attempt"], each["amount_cents"]) for each in await rows.stated("charge.requested")
    ]


class TestBillThatChanges:
    @pytest.mark.parametrize(
        ("on", "cents", "announced", "asked"),
        [
            ("2026-03-05 12:00", 9_000, [(1, 8_000, 0), (2, 9_000, 0)], 9_000),
            ("2026-03-15 12:00", 9_000, [(1, 8_000, 0), (2, 8_000, 1_000)], 8_000),
            ("2026-03-15 12:00", 6_000, [(1, 8_000, 0)], 6_000),
        ],
        ids=["raised in time", "raised too late", "lowered"],
    )
    async def test_is_never_charged_above_its_notice(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        on: str,
        cents: int,
        announced: list[tuple[int, int, int]],
        asked: int,
    ) -> None:
        await told(autopay, rows)
        clock.to(on)
        await autopay.hear(bill("A-1", DUE, cents, when=clock(), version=2))
        await autopay.run()
        await all_noticed(autopay, rows)
        assert [
            (each["version"], each["amount_cents"], each["left_cents"])
            for each in await rows.stated("charge.announced")
        ] == announced
        clock.to(DUE_MORNING)
        await autopay.run()
        assert await amounts(rows) == [(1, asked)]

    async def test_is_not_charged_once_it_is_cancelled(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await told(autopay, rows)
        await autopay.hear(no_bill("A-1", f"B-A-1-{DUE}", when=clock()))
        # On its morning, before anything was planned anew.
        clock.to(DUE_MORNING)
        await autopay.request()
        await autopay.run()
        assert await rows.status("E-A-1", DUE) == ("skipped", "bill_cancelled")
        assert await amounts(rows) == []
        assert len(await rows.stated("charge.closed")) == 1

    async def test_is_charged_on_its_new_due_date_and_no_other(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await told(autopay, rows)
        moved = bill("A-1", "2026-03-26", 8_000, when=clock(), reference=f"B-A-1-{DUE}", version=2)
        await autopay.hear(moved)
        await autopay.run()
        await all_noticed(autopay, rows)
        clock.to("2026-03-26 06:00")
        await autopay.run()
        assert await rows.status("E-A-1", DUE) == ("skipped", "due_date_changed")
        [request] = await rows.stated("charge.requested")
        assert (request["due_date"], request["amount_cents"]) == ("2026-03-26", 8_000)


class TestPaymentByOtherMeans:
    async def test_leaves_nothing_to_charge_until_it_is_reversed(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await told(autopay, rows)
        clock.to("2026-03-10 12:00")
        paid = posted("A-1", 8_000, when=clock(), balance_cents=0)
        await autopay.hear(paid, paid)
        await autopay.run()
        assert await rows.status("E-A-1", DUE) == ("skipped", "paid")
        clock.to("2026-03-12 12:00")
        await autopay.hear(unposted(paid, when=clock(), balance_cents=8_000))
        await autopay.run()
        clock.to(DUE_MORNING)
        await autopay.run()
        assert await amounts(rows) == [(1, 8_000)]

    async def test_of_a_part_leaves_the_rest(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await told(autopay, rows)
        clock.to("2026-03-10 12:00")
        await autopay.hear(posted("A-1", 3_000, when=clock(), balance_cents=5_000))
        clock.to(DUE_MORNING)
        await autopay.run()
        assert await amounts(rows) == [(1, 5_000)]


class TestMaximum:
    async def test_holds_the_charge_until_it_is_raised(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await told(autopay, rows, maximum_cents=5_000)
        assert await rows.status("E-A-1", DUE) == ("held", "above_maximum:5000")
        [held] = await rows.stated("charge.held")
        assert (held["amount_cents"], held["maximum_cents"]) == (8_000, 5_000)
        clock.to("2026-03-18 12:00")
        await autopay.hear(changed("A-1", when=clock(), maximum_cents=9_000))
        await autopay.run()
        clock.to(DUE_MORNING)
        await autopay.run()
        assert await amounts(rows) == [(1, 8_000)]

    async def test_that_stays_leaves_the_bill_to_a_clerk(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await told(autopay, rows, maximum_cents=5_000)
        clock.to("2026-03-21 06:00")
        await autopay.run()
        assert await rows.status("E-A-1", DUE) == ("missed", "above_maximum")
        assert await amounts(rows) == []


class TestDecline:
    async def test_that_is_soft_is_presented_twice_more(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await told(autopay, rows)
        for attempt, morning in enumerate((DUE_MORNING, "2026-03-23 06:00", "2026-03-27 06:00")):
            clock.to(morning)
            await autopay.run()
            request = (await rows.stated("charge.requested"))[-1]
            assert request["attempt"] == attempt + 1
            decline = at_intake(request).declined(
                clock(), "insufficient_funds", attempt=f"ch_{attempt}"
            )
            await autopay.hear(decline)
        failed = await rows.stated("charge.failed")
        assert [(each["next_step"], each["next_attempt_on"]) for each in failed] == [
            ("retry", "2026-03-23"),
            ("retry", "2026-03-27"),
            ("give_up", None),
        ]
        clock.to("2026-04-10 06:00")
        await autopay.run()
        assert [attempt for attempt, _ in await amounts(rows)] == [1, 2, 3]
        assert await rows.enrolment("E-A-1") == ("active", None)

    async def test_heard_again_is_told_again_and_counts_once(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await told(autopay, rows)
        clock.to(DUE_MORNING)
        await autopay.run()
        [request] = await rows.stated("charge.requested")
        decline = at_intake(request).declined(clock(), "insufficient_funds", attempt="ch_1")
        await autopay.hear(decline)
        await autopay.hear(decline)
        first, again = await rows.stated("charge.failed")
        assert (again.id, again.body) == (first.id, first.body)
        assert (await rows.charge("E-A-1", DUE))["declines"] == ["ch_1"]

    @pytest.mark.parametrize(
        ("category", "reason"),
        [("hard", "declined_for_good"), ("withdrawn", "mandate_withdrawn")],
    )
    async def test_for_good_stops_autopay(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        category: DeclineCategory,
        reason: str,
    ) -> None:
        await told(autopay, rows)
        clock.to(DUE_MORNING)
        await autopay.run()
        [request] = await rows.stated("charge.requested")
        await autopay.hear(
            at_intake(request).declined(clock(), "lost_card", attempt="ch_1", category=category)
        )
        assert await rows.enrolment("E-A-1") == ("stopped", reason)
        assert [each["reason"] for each in await rows.stated("enrolment.stopped")] == [reason]
        clock.to("2026-03-30 06:00")
        await autopay.run()
        assert len(await amounts(rows)) == 1


class TestCancellation:
    async def test_before_the_day_ends_the_charge(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await told(autopay, rows)
        clock.to("2026-03-20 05:59")
        await autopay.hear(cancelled("A-1", when=clock()))
        clock.to(DUE_MORNING)
        await autopay.run()
        assert await rows.status("E-A-1", DUE) == ("cancelled", "cancelled")
        assert await amounts(rows) == []

    async def test_after_the_request_is_asked_of_intake(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await told(autopay, rows)
        clock.to(DUE_MORNING)
        await autopay.run()
        [request] = await rows.stated("charge.requested")
        await autopay.hear(cancelled("A-1", when=clock()))
        [asked] = await rows.stated("charge.cancelled")
        assert (asked["charge_id"], asked["attempt"]) == (request["charge_id"], 1)
        assert (await rows.status("E-A-1", DUE))[0] == "requested"
        withdrawn = at_intake(request).withdrawn(clock(), "cancelled")
        await autopay.hear(withdrawn, withdrawn)
        assert (await rows.status("E-A-1", DUE))[0] == "cancelled"
        assert len(await rows.stated("charge.closed")) == 1


class TestLostDays:
    @pytest.mark.parametrize(
        ("back", "status", "asked"),
        [("2026-03-23 09:00", "requested", 1), ("2026-03-24 00:00", "missed", 0)],
        ids=["within the grace", "beyond it"],
    )
    async def test_are_made_up_for_or_told(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        back: str,
        status: str,
        asked: int,
    ) -> None:
        await told(autopay, rows)
        clock.to(back)
        await autopay.run()
        assert (await rows.status("E-A-1", DUE))[0] == status
        assert len(await amounts(rows)) == asked
        assert len(await rows.stated("charge.closed")) == 1 - asked

    async def test_of_a_notice_that_failed_are_told_at_once(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY))
        await autopay.hear(bill("A-1", DUE, 8_000, when=MONDAY))
        await autopay.run()
        [announced] = await rows.stated("charge.announced")
        await autopay.hear(noticed(announced, when=clock(), status="failed"))
        await autopay.run()
        assert await rows.status("E-A-1", DUE) == ("missed", "notice_not_delivered")

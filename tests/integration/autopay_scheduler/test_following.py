"""What intake states of a charge, in any order and twice, on real PostgreSQL."""

from itertools import permutations
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.support.autopay_scheduler import (
    BANK,
    IntakeCharge,
    Scheduler,
    SchedulerDatabase,
    StillClock,
    at,
    at_intake,
    bill,
    cancelled,
    charge_of,
    enrolled,
    noticed,
    posted,
    registered,
    unposted,
)

from shared.contracts.fact import Fact
from shared.contracts.payments import PaymentReinstated

MONDAY = at("2026-03-02 12:00")
REFERENCE, DUE = "E-A-1", "2026-03-20"
KEY = UUID("00000000-0000-4000-8000-000000000001")


async def asked(
    autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock, **parts: Any
) -> IntakeCharge:
    """A charge of $80 that intake was asked for on its day."""
    await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY, **parts))
    await autopay.hear(bill("A-1", DUE, 8_000, when=MONDAY))
    await autopay.run()
    [announced] = await rows.stated("charge.announced")
    await autopay.hear(noticed(announced, when=clock()))
    clock.to(f"{DUE} 06:00")
    await autopay.run()
    [request] = await rows.stated("charge.requested")
    return at_intake(request)


async def failures(rows: SchedulerDatabase) -> list[tuple[int, str, str | None]]:
    return [
        (fact["attempt"], fact["next_step"], fact["next_attempt_on"])
        for fact in await rows.stated("charge.failed")
    ]


async def closed(rows: SchedulerDatabase) -> list[tuple[str, int]]:
    return [(fact["outcome"], fact["amount_cents"]) for fact in await rows.stated("charge.closed")]


async def stops(rows: SchedulerDatabase) -> list[str]:
    return [fact["reason"] for fact in await rows.stated("enrolment.stopped")]


async def day_comes(autopay: Scheduler, clock: StillClock, moment: str) -> None:
    clock.to(moment)
    await autopay.run()


class TestPaying:
    async def test_may_take_days_at_the_bank(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock, method=BANK)
        await autopay.hear(charge.pending(clock()))
        assert await rows.status(REFERENCE, DUE) == ("pending", None)
        clock.to("2026-03-24 12:00")
        await autopay.hear(charge.paid(clock()))
        assert await rows.status(REFERENCE, DUE) == ("paid", None)
        assert await closed(rows) == [("paid", 8_000)]

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    async def test_is_the_same_in_any_order_and_twice(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        order: tuple[int, ...],
    ) -> None:
        charge = await asked(autopay, rows, clock)
        told: list[Fact] = [
            charge.pending(clock()),
            charge.paid(clock()),
            posted("A-1", 8_000, when=clock(), balance_cents=0, payment_id=charge.payment_id),
        ]
        for index in order:
            await autopay.hear(told[index])
            await autopay.hear(told[index])
        row = await rows.charge(REFERENCE, DUE)
        assert (row["status"], row["paid_cents"], row["posted_at"]) == ("paid", 8_000, clock())
        assert await closed(rows) == [("paid", 8_000)]

    async def test_counts_as_under_way_until_it_is_posted_and_not_after(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)

        async def under_way() -> int:
            found = await autopay.view.account("A-1")
            assert found is not None
            return found.open_cents

        assert await under_way() == 8_000
        await autopay.hear(charge.paid(clock()))
        assert await under_way() == 8_000
        await autopay.hear(
            posted("A-1", 8_000, when=clock(), balance_cents=0, payment_id=charge.payment_id)
        )
        assert await under_way() == 0

    async def test_heard_of_after_its_posting_is_under_way_no_more(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        await autopay.hear(
            posted("A-1", 8_000, when=clock(), balance_cents=0, payment_id=charge.payment_id)
        )
        await autopay.hear(charge.paid(clock()))
        assert (await rows.charge(REFERENCE, DUE))["posted_at"] == clock()

    async def test_of_an_unknown_charge_is_passed_by(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        stranger = IntakeCharge(
            charge_id=uuid4(), account_id="A-9", amount_cents=5, payment_id=uuid4()
        )
        await autopay.hear(stranger.paid(clock()), stranger.declined(clock(), "x", attempt="c"))
        assert await rows.stated() == []

    async def test_of_a_charge_that_was_never_asked_for_changes_nothing(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        """The request brings the same answer: a database that was restored learns of it so."""
        await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY))
        await autopay.hear(bill("A-1", DUE, 8_000, when=MONDAY))
        await autopay.run()
        charge = IntakeCharge(
            charge_id=charge_of(REFERENCE, DUE),
            account_id="A-1",
            amount_cents=8_000,
            payment_id=uuid4(),
        )
        await autopay.hear(charge.paid(clock()))
        assert await rows.status(REFERENCE, DUE) == ("announced", None)
        assert await closed(rows) == []


class TestDeclines:
    async def test_that_are_soft_are_presented_again_on_the_third_and_seventh_day(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        await autopay.hear(charge.declined(clock(), "insufficient_funds", attempt="ch_1"))
        assert await failures(rows) == [(1, "retry", "2026-03-23")]
        row = await rows.charge(REFERENCE, DUE)
        assert (row["status"], row["charge_on"].isoformat()) == ("retrying", "2026-03-23")
        await day_comes(autopay, clock, "2026-03-23 05:59")
        assert len(await rows.stated("charge.requested")) == 1
        await day_comes(autopay, clock, "2026-03-23 06:00")
        second = (await rows.stated("charge.requested"))[-1]
        assert (second["attempt"], second["amount_cents"]) == (2, 8_000)
        assert second["valid_until"] == "2026-03-27T13:00:00Z"
        await autopay.hear(charge.declined(clock(), "insufficient_funds", attempt="ch_2"))
        await day_comes(autopay, clock, "2026-03-27 06:00")
        await autopay.hear(charge.paid(clock()))
        assert await failures(rows) == [(1, "retry", "2026-03-23"), (2, "retry", "2026-03-27")]
        assert await rows.status(REFERENCE, DUE) == ("paid", None)
        assert await rows.value("SELECT given_up FROM enrolments") == 0
        assert [f["attempt"] for f in await rows.stated("charge.requested")] == [1, 2, 3]

    async def test_that_go_on_are_given_up(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        for number, moment in enumerate(("2026-03-23 06:00", "2026-03-27 06:00", ""), start=1):
            await autopay.hear(
                charge.declined(clock(), "insufficient_funds", attempt=f"ch_{number}")
            )
            if moment:
                await day_comes(autopay, clock, moment)
        assert (await failures(rows))[-1] == (3, "give_up", None)
        assert await rows.status(REFERENCE, DUE) == ("failed", "insufficient_funds")
        assert await rows.value("SELECT given_up FROM enrolments") == 1
        assert await rows.enrolment(REFERENCE) == ("active", None)
        await day_comes(autopay, clock, "2026-05-01 06:00")
        assert len(await rows.stated("charge.requested")) == 3

    async def test_of_three_due_dates_in_a_row_stop_the_enrolment(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY))
        total = 0
        # 23 May is a Saturday, and the Monday after it Memorial Day.
        for month, third in (("03", "23"), ("04", "23"), ("05", "26")):
            total += 8_000
            clock.to(f"2026-{month}-03 12:00")
            await autopay.hear(bill("A-1", f"2026-{month}-20", total, when=clock()))
            await autopay.run()
            await autopay.hear(noticed((await rows.stated("charge.announced"))[-1], when=clock()))
            await day_comes(autopay, clock, f"2026-{month}-20 06:00")
            charge = at_intake((await rows.stated("charge.requested"))[-1])
            assert await stops(rows) == []
            await autopay.hear(charge.declined(clock(), "generic_decline", attempt=f"ch_{month}-1"))
            for number, later in ((2, third), (3, "27")):
                await day_comes(autopay, clock, f"2026-{month}-{later} 12:00")
                await autopay.hear(
                    charge.declined(clock(), "generic_decline", attempt=f"ch_{month}-{number}")
                )
        assert await stops(rows) == ["declined_too_often"]

    async def test_that_are_hard_stop_the_enrolment_with_its_charges(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        await autopay.hear(bill("A-1", "2026-04-20", 12_000, when=clock()))
        await autopay.run()
        await autopay.hear(charge.declined(clock(), "stolen_card", attempt="ch_1", category="hard"))
        assert await failures(rows) == [(1, "stop", None)]
        assert await stops(rows) == ["declined_for_good"]
        assert await rows.status(REFERENCE, DUE) == ("failed", "stolen_card")
        assert await rows.status(REFERENCE, "2026-04-20") == ("cancelled", "declined_for_good")

    async def test_that_withdraw_the_authorisation_stop_at_once(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock, method=BANK)
        await autopay.hear(charge.declined(clock(), "R07", attempt="ch_1", category="withdrawn"))
        assert await stops(rows) == ["mandate_withdrawn"]

    async def test_that_want_the_customer_wait_for_the_customer(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        await autopay.hear(
            charge.declined(
                clock(), "authentication_required", attempt="ch_1", category="action_required"
            )
        )
        assert await failures(rows) == [(1, "ask", None)]
        assert await stops(rows) == []
        clock.advance(hours=3)
        await autopay.hear(charge.paid(clock()))
        assert await rows.status(REFERENCE, DUE) == ("paid", None)
        assert await closed(rows) == [("paid", 8_000)]

    async def test_heard_again_are_told_again_under_the_same_id(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        decline = charge.declined(clock(), "insufficient_funds", attempt="ch_1")
        await autopay.hear(decline)
        clock.advance(days=1)
        await autopay.hear(decline)
        first, second = await rows.stated("charge.failed")
        assert first == second
        assert await rows.value("SELECT declines FROM charges") == ["ch_1"]

    async def test_twice_in_one_batch_count_once(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        decline = charge.declined(clock(), "insufficient_funds", attempt="ch_1")
        await autopay.hear(decline, decline)
        assert len({fact.id for fact in await rows.stated("charge.failed")}) == 1
        assert await rows.status(REFERENCE, DUE) == ("retrying", "insufficient_funds")


class TestRetries:
    async def test_ask_for_what_is_left_and_never_for_more(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        await autopay.hear(charge.declined(clock(), "insufficient_funds", attempt="ch_1"))
        await autopay.hear(posted("A-1", 3_000, when=clock(), balance_cents=5_000))
        await day_comes(autopay, clock, "2026-03-23 06:00")
        await autopay.hear(charge.declined(clock(), "insufficient_funds", attempt="ch_2"))
        await autopay.hear(bill("A-1", DUE, 20_000, when=clock(), version=2))
        await day_comes(autopay, clock, "2026-03-27 06:00")
        requests = await rows.stated("charge.requested")
        assert [fact["amount_cents"] for fact in requests] == [8_000, 5_000, 5_000]

    async def test_are_not_made_for_what_was_paid_otherwise(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        await autopay.hear(charge.declined(clock(), "insufficient_funds", attempt="ch_1"))
        await autopay.hear(posted("A-1", 8_000, when=clock(), balance_cents=0))
        await day_comes(autopay, clock, "2026-03-23 06:00")
        assert await rows.status(REFERENCE, DUE) == ("skipped", "paid")

    @pytest.mark.parametrize(
        ("moment", "status"),
        [("2026-03-26 12:00", "requested"), ("2026-03-27 12:00", "missed")],
    )
    async def test_that_are_late_keep_to_the_grace(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        moment: str,
        status: str,
    ) -> None:
        charge = await asked(autopay, rows, clock)
        await autopay.hear(charge.declined(clock(), "insufficient_funds", attempt="ch_1"))
        await day_comes(autopay, clock, moment)
        assert (await rows.status(REFERENCE, DUE))[0] == status

    async def test_are_shown_by_the_preview_of_their_day(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        await autopay.hear(charge.declined(clock(), "insufficient_funds", attempt="ch_1"))
        retry_on = (await rows.charge(REFERENCE, DUE))["charge_on"]
        [foreseen] = await autopay.view.preview(day=retry_on, after=None, limit=10)
        assert foreseen.due.record.id == charge.charge_id
        assert repr(foreseen.decision) == "Charge(amount_cents=8000)"


class TestReturns:
    async def test_r01_twice_then_settles(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock, method=BANK)
        for number, moment in ((1, "2026-03-24 06:00"), (2, "2026-03-30 06:00")):
            await autopay.hear(charge.pending(clock()))
            clock.advance(days=2)
            await autopay.hear(charge.declined(clock(), "R01", attempt=f"py_{number}"))
            await day_comes(autopay, clock, moment)
        await autopay.hear(charge.paid(clock()))
        assert [step for _, step, _ in await failures(rows)] == ["retry", "retry"]
        assert [f["attempt"] for f in await rows.stated("charge.requested")] == [1, 2, 3]
        assert await rows.status(REFERENCE, DUE) == ("paid", None)

    async def test_r01_three_times_is_presented_again_twice(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock, method=BANK)
        for number in range(1, 4):
            await autopay.hear(charge.declined(clock(), "R01", attempt=f"py_{number}"))
            clock.advance(days=4)
            await autopay.run()
        assert [step for _, step, _ in await failures(rows)] == ["retry", "retry", "give_up"]
        assert [f["attempt"] for f in await rows.stated("charge.requested")] == [1, 2, 3]

    async def test_of_another_code_are_not_presented_again(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock, method=BANK)
        await autopay.hear(charge.declined(clock(), "R20", attempt="py_1"))
        assert await failures(rows) == [(1, "give_up", None)]

    @pytest.mark.parametrize("order", list(permutations(range(2))))
    async def test_of_what_was_paid_end_it_in_any_order(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        order: tuple[int, ...],
    ) -> None:
        """What the processor has taken once cannot be asked for again under the same name."""
        charge = await asked(autopay, rows, clock, method=BANK)
        paid = charge.paid(clock())
        clock.advance(days=2)
        told = [paid, charge.reversed(clock(), "ach_return", key=KEY, code="R01", category="soft")]
        for index in (*order, *order):
            await autopay.hear(told[index])
        assert await rows.status(REFERENCE, DUE) == ("failed", "R01")
        assert {step for _, step, _ in await failures(rows)} == {"give_up"}
        assert await rows.value("SELECT given_up FROM enrolments") == 1
        await day_comes(autopay, clock, "2026-04-01 06:00")
        assert len(await rows.stated("charge.requested")) == 1

    async def test_of_what_was_not_authorised_stop(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock, method=BANK)
        await autopay.hear(charge.paid(clock()))
        await autopay.hear(
            charge.reversed(clock(), "ach_return", key=KEY, code="R10", category="withdrawn")
        )
        assert await stops(rows) == ["mandate_withdrawn"]


class TestMoneyThatGoesBack:
    async def test_by_a_dispute_stops_autopay(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        await autopay.hear(charge.paid(clock()))
        dispute = charge.reversed(clock(), "dispute", key=KEY, code="fraudulent")
        await autopay.hear(dispute, dispute)
        await autopay.hear(dispute)
        assert await stops(rows) == ["disputed"]
        assert await rows.status(REFERENCE, DUE) == ("paid", None)

    @pytest.mark.parametrize("order", list(permutations(range(2))))
    async def test_by_a_clerk_as_a_whole_is_refunded(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        order: tuple[int, ...],
    ) -> None:
        charge = await asked(autopay, rows, clock)
        told = [charge.paid(clock()), charge.reversed(clock(), "refund", key=KEY)]
        for index in (*order, *order):
            await autopay.hear(told[index])
        assert await rows.status(REFERENCE, DUE) == ("refunded", "refund")
        assert await stops(rows) == []

    @pytest.mark.parametrize("order", list(permutations(range(2))))
    async def test_by_a_clerk_in_part_leaves_the_due_date_charged(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        order: tuple[int, ...],
    ) -> None:
        charge = await asked(autopay, rows, clock)
        told = [
            charge.paid(clock()),
            charge.reversed(clock(), "refund", key=KEY, amount_cents=3_000),
        ]
        for index in (*order, *order):
            await autopay.hear(told[index])
        assert await rows.status(REFERENCE, DUE) == ("paid", None)
        assert await closed(rows) == [("paid", 8_000)]

    async def test_is_paid_again_where_the_refund_failed(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        refund = charge.reversed(clock(), "refund", key=KEY)
        await autopay.hear(charge.paid(clock()), refund)
        fields = refund.model_dump(exclude={"reason", "category", "reason_code"})
        await autopay.hear(PaymentReinstated(**{**fields, "posting_key": uuid4()}, reason="refund"))
        assert await rows.status(REFERENCE, DUE) == ("paid", None)

    async def test_is_charged_by_the_next_bill_and_not_by_this_one(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        on_ledger = posted(
            "A-1", 8_000, when=clock(), balance_cents=0, payment_id=charge.payment_id
        )
        await autopay.hear(charge.paid(clock()))
        await autopay.hear(on_ledger)
        clock.advance(hours=1)
        await autopay.hear(charge.reversed(clock(), "refund", key=KEY))
        await autopay.hear(unposted(on_ledger, when=clock(), balance_cents=8_000))
        await day_comes(autopay, clock, "2026-03-22 06:00")
        assert len(await rows.stated("charge.requested")) == 1


class TestWithdrawals:
    async def test_cancelled_before_it_was_sent(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        said_at = clock()
        await autopay.hear(cancelled("A-1", when=said_at))
        [cancellation] = await rows.stated("charge.cancelled")
        assert cancellation["cancelled_at"] == "2026-03-20T11:00:00Z"
        assert await rows.status(REFERENCE, DUE) == ("requested", None)
        withdrawn = charge.withdrawn(clock(), "cancelled")
        await autopay.hear(withdrawn, withdrawn)
        assert await rows.status(REFERENCE, DUE) == ("cancelled", "cancelled")
        assert await closed(rows) == [("cancelled", 0)]

    @pytest.mark.parametrize("order", list(permutations(range(2))))
    async def test_cancelled_too_late_and_given_back(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        order: tuple[int, ...],
    ) -> None:
        charge = await asked(autopay, rows, clock)
        await autopay.hear(cancelled("A-1", when=clock()))
        told = [charge.paid(clock()), charge.withdrawn(clock(), "cancelled", is_refunded=True)]
        for index in (*order, *order):
            await autopay.hear(told[index])
        assert await rows.status(REFERENCE, DUE) == ("refunded", "cancelled")
        assert (await closed(rows))[-1] == ("refunded", 8_000)

    async def test_cancelled_far_too_late_stands(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        await autopay.hear(charge.paid(clock()))
        clock.advance(hours=2)
        await autopay.hear(cancelled("A-1", when=clock()))
        assert await rows.stated("charge.cancelled") == []
        assert await rows.status(REFERENCE, DUE) == ("paid", None)

    async def test_cancelled_and_declined_is_not_presented_again(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        await autopay.hear(cancelled("A-1", when=clock()))
        await autopay.hear(charge.declined(clock(), "insufficient_funds", attempt="ch_1"))
        assert (await failures(rows))[0][1] == "give_up"
        await day_comes(autopay, clock, "2026-03-23 06:00")
        assert len(await rows.stated("charge.requested")) == 1

    async def test_cancelled_while_it_waits_for_its_retry(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        await autopay.hear(charge.declined(clock(), "insufficient_funds", attempt="ch_1"))
        await autopay.hear(cancelled("A-1", when=clock()))
        assert await rows.status(REFERENCE, DUE) == ("cancelled", "cancelled")
        await day_comes(autopay, clock, "2026-03-23 06:00")
        assert len(await rows.stated("charge.requested")) == 1

    async def test_expired_is_missed(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        await autopay.hear(charge.withdrawn(clock(), "expired"))
        assert await rows.status(REFERENCE, DUE) == ("missed", "expired")
        assert await closed(rows) == [("missed", 0)]

    async def test_of_an_attempt_that_is_past_changes_nothing(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        await autopay.hear(charge.declined(clock(), "insufficient_funds", attempt="ch_1"))
        await day_comes(autopay, clock, "2026-03-23 06:00")
        await autopay.hear(charge.withdrawn(clock(), "expired", attempt=1))
        assert await rows.status(REFERENCE, DUE) == ("requested", None)


class TestRequestsThatNobodyAnswers:
    async def test_are_stated_again_under_the_same_id(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock)
        clock.advance(seconds=59)
        assert await autopay.restate() == 0
        clock.advance(seconds=1)
        assert await autopay.restate() == 1
        first, second = await rows.stated("charge.requested")
        assert first == second
        await autopay.hear(charge.paid(clock()))
        clock.advance(days=1)
        assert await autopay.restate() == 0

    async def test_are_stated_with_their_cancellation_and_that_first(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await asked(autopay, rows, clock)
        await autopay.hear(cancelled("A-1", when=clock()))
        clock.advance(minutes=5)
        assert await autopay.restate() == 1
        stated = await rows.stated("charge.requested", "charge.cancelled")
        assert [fact.type for fact in stated] == [
            "charge.requested",
            "charge.cancelled",
            "charge.cancelled",
            "charge.requested",
        ]
        assert stated[1] == stated[2]

    async def test_are_asked_about_once_a_day_while_they_are_at_the_bank(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        charge = await asked(autopay, rows, clock, method=BANK)
        await autopay.hear(charge.pending(clock()))
        for _ in range(3):
            clock.advance(hours=24)
            assert await autopay.restate() == 1
            clock.advance(hours=23)
            assert await autopay.restate() == 0

"""A charge from its plan to its end, on real PostgreSQL, by a clock that stands."""

from tests.support.autopay_scheduler import (
    Scheduler,
    SchedulerDatabase,
    StillClock,
    at,
    at_intake,
    bill,
    enrolled,
    noticed,
    posted,
    registered,
)

MONDAY = at("2026-03-02 12:00")


class TestLife:
    async def test_goes_from_enrolment_to_paid(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await autopay.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY))
        await autopay.hear(bill("A-1", "2026-03-20", 8_000, when=MONDAY))
        await autopay.run()
        assert await rows.types() == ["enrolment.activated", "charge.announced"]
        [announced] = await rows.stated("charge.announced")
        assert announced["amount_cents"] == 8_000
        assert announced["charge_on"] == "2026-03-20"
        await autopay.hear(noticed(announced, when=clock()))
        clock.to("2026-03-20 05:59")
        await autopay.run()
        assert await rows.stated("charge.requested") == []
        clock.to("2026-03-20 06:00")
        await autopay.run()
        [request] = await rows.stated("charge.requested")
        assert (request["attempt"], request["amount_cents"]) == (1, 8_000)
        assert request["payment_method_token"] == "pm_testEA1"
        paid = at_intake(request)
        await autopay.hear(paid.paid(clock()))
        [closed] = await rows.stated("charge.closed")
        assert (closed["outcome"], closed["amount_cents"]) == ("paid", 8_000)
        await autopay.hear(
            posted("A-1", 8_000, when=clock(), balance_cents=0, payment_id=paid.payment_id)
        )
        await autopay.run()
        row = await rows.charge("E-A-1", "2026-03-20")
        assert (row["status"], row["posted_at"]) == ("paid", clock())
        assert len(await rows.stated()) == 4

"""What processors say of methods, and cards that expire, on real PostgreSQL."""

import asyncio
from datetime import timedelta

from tests.support.autopay_scheduler import (
    CARD,
    Scheduler,
    SchedulerDatabase,
    StillClock,
    at,
    bill,
    changed,
    enrolled,
    registered,
)

from shared.contracts.payments import MandateWithdrawn, MethodUpdated

MONDAY = at("2026-03-02 12:00")


def renewed(token: str, expires: str, *, last4: str = "1111") -> MethodUpdated:
    return MethodUpdated(
        processor="stripe",
        payment_method_token=token,
        method=CARD.model_copy(update={"expires": expires, "last4": last4}),
        updated_at=MONDAY,
    )


async def known(autopay: Scheduler, *accounts: str, expires: str = "2026-08") -> None:
    await autopay.hear(
        *(registered(name, when=MONDAY) for name in accounts),
        *(
            enrolled(name, when=MONDAY, method=CARD.model_copy(update={"expires": expires}))
            for name in accounts
        ),
    )


async def warnings(rows: SchedulerDatabase) -> list[tuple[int, str]]:
    return [
        (fact["days_left"], fact["expires_on"]) for fact in await rows.stated("method.expiring")
    ]


class TestMethods:
    async def test_that_were_renewed_change_nothing_for_the_customer(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await known(autopay, "A-1", "A-2")
        said = len(await rows.stated())
        await autopay.hear(renewed("pm_testEA1", "2031-05"))
        [one, other] = await rows.fetch("SELECT * FROM enrolments ORDER BY account_id")
        assert (one["method_expires"], one["method_last4"]) == ("2031-05", "1111")
        assert (other["method_expires"], other["method_last4"]) == ("2026-08", "4242")
        assert len(await rows.stated()) == said
        assert await rows.enrolment("E-A-1") == ("active", None)

    async def test_keep_their_latest_validity_in_any_order(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await known(autopay, "A-1")
        for expires, last4 in (("2031-05", "2222"), ("2028-01", "1111")):
            await autopay.hear(renewed("pm_testEA1", expires, last4=last4))
        [row] = await rows.fetch("SELECT * FROM enrolments")
        assert (row["method_expires"], row["method_last4"]) == ("2031-05", "2222")

    async def test_of_strangers_are_passed_by(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await autopay.hear(renewed("pm_nobody", "2031-05"))
        assert await rows.stated() == []

    async def test_whose_mandate_was_withdrawn_stop_what_they_pay_for(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await known(autopay, "A-1", "A-2")
        await autopay.hear(bill("A-1", "2026-03-20", 8_000, when=MONDAY))
        await autopay.run()
        withdrawal = MandateWithdrawn(
            processor="stripe",
            payment_method_token="pm_testEA1",
            mandate_token="mandate_one",
            withdrawn_at=MONDAY,
        )
        await autopay.hear(withdrawal)
        await autopay.hear(withdrawal)
        assert await rows.enrolment("E-A-1") == ("stopped", "mandate_withdrawn")
        assert await rows.enrolment("E-A-2") == ("active", None)
        assert await rows.status("E-A-1", "2026-03-20") == ("cancelled", "mandate_withdrawn")
        assert len(await rows.stated("enrolment.stopped")) == 1


class TestExpiry:
    async def test_is_warned_of_60_30_and_7_days_before_each_once(
        self, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        """A year of days, two schedulers each hour of the job at once."""
        instances = [rows.scheduler(clock=clock) for _ in range(2)]
        await known(instances[0], "A-1", expires="2026-08")
        seen = []
        for _ in range(365):
            clock.advance(days=1)
            before = len(await rows.stated("method.expiring"))
            await asyncio.gather(*(each.warn() for each in instances))
            after = len(await rows.stated("method.expiring"))
            if after > before:
                seen.append((clock() - timedelta(hours=6)).date().isoformat())
        assert seen == ["2026-07-02", "2026-08-01", "2026-08-24"]
        assert await warnings(rows) == [
            (60, "2026-08-31"),
            (30, "2026-08-31"),
            (7, "2026-08-31"),
        ]

    async def test_is_not_warned_of_any_more_once_the_card_is_renewed(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await known(autopay, "A-1", expires="2026-08")
        clock.to("2026-07-05 12:00")
        await autopay.warn()
        await autopay.hear(renewed("pm_testEA1", "2030-08"))
        for moment in ("2026-08-05 12:00", "2026-08-28 12:00"):
            clock.to(moment)
            await autopay.warn()
        assert await warnings(rows) == [(60, "2026-08-31")]
        clock.to("2030-08-01 12:00")
        await autopay.warn()
        assert (await warnings(rows))[-1] == (30, "2030-08-31")

    async def test_of_another_card_is_warned_of_by_itself(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await known(autopay, "A-1", expires="2026-08")
        clock.to("2026-08-28 12:00")
        await autopay.warn()
        card = CARD.model_copy(update={"expires": "2026-09"})
        await autopay.hear(
            changed("A-1", when=clock(), payment_method_token="pm_another", method=card)
        )
        await autopay.warn()
        assert await warnings(rows) == [(7, "2026-08-31"), (60, "2026-09-30")]

    async def test_is_found_page_by_page(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await known(autopay, *(f"A-{number}" for number in range(25)), expires="2026-03")
        await autopay.jobs.warn_of_expiry_once(now=clock(), page_size=10)
        assert len(await warnings(rows)) == 25

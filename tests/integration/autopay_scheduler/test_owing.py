"""What is owed, on real PostgreSQL: bills and postings in any order, and the queue of plans."""

import asyncio
from datetime import timedelta
from itertools import permutations

import pytest
from tests.support.autopay_scheduler import (
    Scheduler,
    SchedulerDatabase,
    StillClock,
    at,
    bill,
    day,
    enrolled,
    no_bill,
    posted,
    registered,
    unposted,
)

MONDAY = at("2026-03-02 12:00")
NINE, TEN, ELEVEN = (at(f"2026-03-02 {hour}:00") for hour in ("09", "10", "11"))


async def left(rows: SchedulerDatabase, reference: str = "B-A-1-2026-03-30") -> int | None:
    """What is left of an open bill: its total less what was paid since."""
    found = await rows.fetch(
        "SELECT b.amount_cents - a.paid_cents + b.paid_before_cents FROM bills b"
        " JOIN accounts a USING (account_id) WHERE b.bill_reference = $1 AND b.status = 'open'",
        reference,
    )
    return found[0][0] if found else None


async def balance(rows: SchedulerDatabase) -> int | None:
    found: int | None = await rows.value("SELECT balance_cents FROM accounts")
    return found


class TestBills:
    @pytest.mark.parametrize("order", list(permutations(range(3))))
    @pytest.mark.parametrize("is_one_batch", [True, False])
    async def test_count_by_their_version(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        order: tuple[int, ...],
        is_one_batch: bool,
    ) -> None:
        issues = [
            bill("A-1", "2026-03-30", 8_000, when=NINE, version=1),
            bill("A-1", "2026-03-30", 9_000, when=TEN, version=2),
            bill("A-1", "2026-03-31", 7_000, when=ELEVEN, version=3, reference="B-A-1-2026-03-30"),
        ]
        if is_one_batch:
            await autopay.hear(*(issues[index] for index in order))
        else:
            for index in order:
                await autopay.hear(issues[index])
        [row] = await rows.fetch("SELECT * FROM bills")
        assert (row["version"], row["amount_cents"], row["due_date"]) == (
            3,
            7_000,
            day("2026-03-31"),
        )
        assert await balance(rows) == 7_000

    @pytest.mark.parametrize("order", list(permutations(range(2))))
    @pytest.mark.parametrize("is_one_batch", [True, False])
    async def test_stay_cancelled(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        order: tuple[int, ...],
        is_one_batch: bool,
    ) -> None:
        facts = [
            bill("A-1", "2026-03-30", 8_000, when=NINE),
            no_bill("A-1", "B-A-1-2026-03-30", when=TEN, version=2),
        ]
        if is_one_batch:
            await autopay.hear(*(facts[index] for index in order))
        else:
            for index in order:
                await autopay.hear(facts[index])
        assert await rows.value("SELECT status FROM bills") == "cancelled"
        assert await left(rows) is None

    async def test_may_be_issued_again_after_a_cancellation(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await autopay.hear(bill("A-1", "2026-03-30", 8_000, when=NINE))
        await autopay.hear(no_bill("A-1", "B-A-1-2026-03-30", when=TEN, version=2))
        await autopay.hear(bill("A-1", "2026-03-30", 6_000, when=ELEVEN, version=3))
        assert await left(rows) == 6_000

    async def test_that_are_cancelled_take_what_they_said_of_the_balance_with_them(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        """Else the bill before it would be charged for both."""
        await autopay.hear(bill("A-1", "2026-03-30", 8_000, when=NINE))
        await autopay.hear(bill("A-1", "2026-04-30", 15_000, when=TEN))
        assert await balance(rows) == 15_000
        await autopay.hear(no_bill("A-1", "B-A-1-2026-04-30", when=ELEVEN))
        assert await balance(rows) is None
        await autopay.hear(no_bill("A-1", "B-A-1-2026-04-30", when=ELEVEN, version=3))
        assert await balance(rows) is None

    async def test_that_are_cancelled_keep_a_balance_that_came_after(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await autopay.hear(bill("A-1", "2026-03-30", 8_000, when=NINE))
        await autopay.hear(posted("A-1", 1_000, when=ELEVEN, balance_cents=7_000))
        await autopay.hear(no_bill("A-1", "B-A-1-2026-03-30", when=TEN))
        assert await balance(rows) == 7_000


class TestPostings:
    async def test_are_paid_since_the_bill_or_before_it_by_time_not_by_arrival(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        """What the bill knew of already is not taken off it again."""
        before = posted("A-1", 500, when=NINE, balance_cents=7_500)
        after = posted("A-1", 300, when=ELEVEN, balance_cents=7_700)
        issued = bill("A-1", "2026-03-30", 8_000, when=TEN)
        for order in permutations([before, after, issued]):
            await rows.empty()
            for fact in order:
                await autopay.hear(fact)
            assert await left(rows) == 7_700, [fact.TYPE for fact in order]
            assert await balance(rows) == 7_700

    async def test_count_once(self, autopay: Scheduler, rows: SchedulerDatabase) -> None:
        paid = posted("A-1", 500, when=ELEVEN, balance_cents=7_500)
        await autopay.hear(bill("A-1", "2026-03-30", 8_000, when=TEN))
        await autopay.hear(paid, paid)
        await autopay.hear(paid)
        assert await left(rows) == 7_500

    async def test_that_were_reversed_are_owed_again(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await autopay.hear(bill("A-1", "2026-03-30", 8_000, when=NINE))
        paid = posted("A-1", 8_000, when=TEN, balance_cents=0)
        back = unposted(paid, when=ELEVEN, balance_cents=8_000)
        await autopay.hear(back)
        assert await left(rows) == 16_000
        await autopay.hear(paid)
        assert (await left(rows), await balance(rows)) == (8_000, 8_000)

    async def test_of_bill_and_consumer_at_once_lose_nothing(
        self, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        """Each bill has 40 postings before it and 40 after it, told by four consumers at once."""
        instances = [rows.scheduler(clock=clock) for _ in range(4)]
        accounts = [f"A-{n}" for n in range(5)]
        facts = []
        for account in accounts:
            facts.append(bill(account, "2026-03-30", 100_000, when=TEN))
            for n in range(40):
                for hour, balance_cents in ((NINE, 0), (ELEVEN, 0)):
                    when = hour + timedelta(seconds=n)
                    facts.append(posted(account, 10, when=when, balance_cents=balance_cents))
        shares = [facts[start::8] for start in range(8)]
        await asyncio.gather(
            *(
                instances[number % 4].hear(*share[start : start + 10])
                for number, share in enumerate(shares)
                for start in range(0, len(share), 10)
            )
        )
        for account in accounts:
            assert await left(rows, f"B-{account}-2026-03-30") == 100_000 - 40 * 10
        assert await rows.value("SELECT sum(paid_cents) FROM accounts") == 5 * 80 * 10


class TestPlansDue:
    async def test_survive_a_planner_that_deletes_while_a_consumer_inserts(
        self, rows: SchedulerDatabase, clock: StillClock, autopay: Scheduler
    ) -> None:
        """The consumer waits for the planner, who has not seen its bill, and leaves it queued."""
        await autopay.hear(registered("A-1", when=NINE), enrolled("A-1", when=NINE))
        await autopay.hear(bill("A-1", "2026-03-30", 8_000, when=NINE))
        async with autopay.store.transaction() as planning:
            taken, [situation] = await planning.claim_plans(
                now=clock(), today=day("2026-03-02"), limit=10
            )
            assert taken == 1
            assert situation.bills[0].statement_cents == 8_000
            later = asyncio.create_task(
                rows.scheduler(clock=clock).hear(
                    bill("A-1", "2026-03-30", 9_000, when=TEN, version=2)
                )
            )
            await _waiting(rows)
            assert not later.done()
        await later
        assert await rows.value("SELECT count(*) FROM plans_due") == 1
        await autopay.run()
        assert (await rows.charge("E-A-1", "2026-03-30"))["amount_cents"] == 9_000

    async def test_survive_a_planner_that_looks_before_the_consumer_commits(
        self, rows: SchedulerDatabase, clock: StillClock, autopay: Scheduler
    ) -> None:
        await autopay.hear(registered("A-1", when=NINE), enrolled("A-1", when=NINE))
        await autopay.plan()
        async with autopay.store.transaction() as unit:
            await unit.plan_accounts(["A-1"], at=clock())
            assert await rows.scheduler(clock=clock).plan() == 0
        assert await autopay.plan() == 1

    async def test_survive_a_planner_that_dies(
        self, rows: SchedulerDatabase, clock: StillClock, autopay: Scheduler
    ) -> None:
        await autopay.hear(registered("A-1", when=NINE), enrolled("A-1", when=NINE))
        with pytest.raises(ZeroDivisionError):
            async with autopay.store.transaction() as unit:
                await unit.claim_plans(now=clock(), today=day("2026-03-02"), limit=10)
                raise ZeroDivisionError
        assert await autopay.plan() == 1

    async def test_are_not_made_for_accounts_without_autopay_by_postings(
        self, rows: SchedulerDatabase, autopay: Scheduler
    ) -> None:
        await autopay.hear(posted("A-1", 500, when=NINE, balance_cents=0))
        assert await rows.value("SELECT count(*) FROM plans_due") == 0

    async def test_of_an_account_that_cannot_be_planned_hold_up_no_other(
        self, rows: SchedulerDatabase, autopay: Scheduler, clock: StillClock
    ) -> None:
        for account in ("A-1", "A-2"):
            await autopay.hear(registered(account, when=NINE), enrolled(account, when=NINE))
            await autopay.hear(bill(account, "2026-03-30", 8_000, when=NINE))
        await rows.execute("UPDATE bills SET due_date = '9999-12-31' WHERE account_id = 'A-1'")
        await autopay.run()
        assert await rows.status("E-A-2", "2026-03-30") == ("announced", None)
        [row] = await rows.fetch("SELECT * FROM plans_due")
        assert (row["account_id"], row["due_at"]) == ("A-1", clock() + timedelta(hours=1))
        await rows.execute("UPDATE bills SET due_date = '2026-03-30' WHERE account_id = 'A-1'")
        clock.advance(hours=1)
        await autopay.run()
        assert await rows.status("E-A-1", "2026-03-30") == ("announced", None)


async def _waiting(rows: SchedulerDatabase) -> None:
    """Wait until a session waits for another one's lock."""
    async with asyncio.timeout(10):
        while not await rows.value(  # noqa: ASYNC110  another session's state has no event
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        ):
            await asyncio.sleep(0.01)

"""Several schedulers at once, jobs that are broken off, and an operator's pause."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest
from tests.support.autopay_scheduler import (
    Scheduler,
    SchedulerDatabase,
    StillClock,
    at,
    at_intake,
    bill,
    cancelled,
    enrolled,
    noticed,
    posted,
    registered,
)

from autopay_scheduler.adapters.repositories import SqlUnitOfWork
from shared.contracts.wire import OutboundRecord

MONDAY = at("2026-03-02 12:00")
DUE = "2026-03-20"
DUE_MORNING = "2026-03-20 06:00"
ACCOUNTS = tuple(f"A-{number}" for number in range(1, 41))

Job = Callable[[Scheduler], Awaitable[int]]


class BrokenOffError(Exception):
    """What a test breaks a job off with."""


async def billed(autopay: Scheduler, accounts: Sequence[str] = ACCOUNTS) -> None:
    await autopay.hear(
        *(registered(each, when=MONDAY) for each in accounts),
        *(enrolled(each, when=MONDAY) for each in accounts),
    )
    await autopay.hear(*(bill(each, DUE, 8_000, when=MONDAY) for each in accounts))


async def all_noticed(autopay: Scheduler, rows: SchedulerDatabase) -> None:
    announced = await rows.stated("charge.announced")
    await autopay.hear(*(noticed(each, when=autopay.clock()) for each in announced))


async def counted(rows: SchedulerDatabase, *types: str) -> Counter[str]:
    """How many different facts, by account; each stated once."""
    stated = await rows.stated(*types)
    assert len({each.id for each in stated}) == len(stated)
    return Counter(each["account_id"] for each in stated)


class TestTwoSchedulers:
    async def test_plan_announce_and_ask_once(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await billed(autopay)
        both = (autopay, rows.scheduler(clock=clock))
        jobs: list[Job] = [Scheduler.plan, Scheduler.announce]
        for job in jobs:
            for _ in range(3):
                await asyncio.gather(*(job(each) for each in both))
        assert await counted(rows, "charge.announced") == dict.fromkeys(ACCOUNTS, 1)
        await all_noticed(autopay, rows)
        clock.to(DUE_MORNING)
        for _ in range(3):
            await asyncio.gather(*(each.request() for each in both))
        assert await counted(rows, "charge.requested") == dict.fromkeys(ACCOUNTS, 1)

    async def test_hear_one_outcome_once(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await billed(autopay)
        await autopay.run()
        await all_noticed(autopay, rows)
        clock.to(DUE_MORNING)
        await autopay.run()
        other = rows.scheduler(clock=clock)
        paid = [at_intake(each).paid(clock()) for each in await rows.stated("charge.requested")]
        await asyncio.gather(autopay.hear(*paid), other.hear(*reversed(paid)))
        assert await counted(rows, "charge.closed") == dict.fromkeys(ACCOUNTS, 1)


class TestBrokenOff:
    @pytest.mark.parametrize(
        ("job", "fact"),
        [("announce", "charge.announced"), ("request", "charge.requested")],
    )
    async def test_a_job_has_done_nothing_and_does_all_when_it_runs_again(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        monkeypatch: pytest.MonkeyPatch,
        job: str,
        fact: str,
    ) -> None:
        await billed(autopay)
        await autopay.plan()
        if job == "request":
            await autopay.announce()
            await all_noticed(autopay, rows)
            clock.to(DUE_MORNING)
        state = SqlUnitOfWork.state

        async def state_and_break(self: SqlUnitOfWork, records: Sequence[OutboundRecord]) -> None:
            await state(self, records)
            raise BrokenOffError

        with monkeypatch.context() as broken:
            broken.setattr(SqlUnitOfWork, "state", state_and_break)
            with pytest.raises(BrokenOffError):
                await getattr(autopay, job)()
        assert await counted(rows, fact) == {}
        await autopay.run()
        assert await counted(rows, fact) == dict.fromkeys(ACCOUNTS, 1)

    async def test_planning_whose_session_is_ended_plans_all_when_it_runs_again(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        await billed(autopay)
        add = SqlUnitOfWork.add_charges

        async def add_and_die(self: SqlUnitOfWork, *records: object, **named: object) -> None:
            await add(self, *records, **named)  # type: ignore[arg-type]
            await rows.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'test' AND datname = current_database()"
                " AND pid <> pg_backend_pid() AND state = 'idle in transaction'"
            )

        with monkeypatch.context() as broken:
            broken.setattr(SqlUnitOfWork, "add_charges", add_and_die)
            with pytest.raises(Exception, match=r"\S"):
                await autopay.plan()
        assert await rows.value("SELECT count(*) FROM charges") == 0
        assert await rows.value("SELECT count(*) FROM plans_due") == len(ACCOUNTS)
        await autopay.run()
        assert await counted(rows, "charge.announced") == dict.fromkeys(ACCOUNTS, 1)


class TestPause:
    async def test_asks_for_nothing_until_it_is_over(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await billed(autopay)
        await autopay.run()
        await all_noticed(autopay, rows)
        clock.to(DUE_MORNING)
        await autopay.operate.pause(is_paused=True, operator="kim", note="drill")
        await rows.scheduler(clock=clock).run()
        assert await counted(rows, "charge.requested") == {}
        await autopay.operate.pause(is_paused=False, operator="kim", note="over")
        await autopay.run()
        assert await counted(rows, "charge.requested") == dict.fromkeys(ACCOUNTS, 1)


class TestEverythingAtOnce:
    async def test_locks_nobody_out_and_charges_nobody_twice(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        accounts = [f"R-{number}" for number in range(60)]
        await billed(autopay, accounts)
        await autopay.run()
        await all_noticed(autopay, rows)
        clock.to(DUE_MORNING)
        other = rows.scheduler(clock=clock)
        heard: set[object] = set()
        for account in accounts:
            news = [
                at_intake(each)
                for each in await rows.stated("charge.requested")
                if each.id not in heard
            ]
            heard.update(each.id for each in await rows.stated("charge.requested"))
            await asyncio.gather(
                autopay.jobs.request_charges_once(now=clock(), limit=2),
                other.jobs.request_charges_once(now=clock(), limit=2),
                autopay.plan(),
                other.hear(cancelled(account, when=clock())),
                autopay.hear(*(each.paid(clock()) for each in news)),
                other.hear(*(each.paid(clock()) for each in news)),
                autopay.hear(
                    *(posted(each, 1, when=clock(), balance_cents=7_999) for each in accounts[::7])
                ),
            )
            clock.advance(seconds=1)
        assert max((await counted(rows, "charge.requested")).values()) == 1
        assert max((await counted(rows, "charge.closed")).values()) == 1
        assert await counted(rows, "enrolment.stopped") == dict.fromkeys(accounts, 1)
        # Who was asked for was not closed as cancelled here: only intake can say what became of it.
        asked = set(await counted(rows, "charge.requested"))
        closed = {
            each["account_id"]: each["outcome"] for each in await rows.stated("charge.closed")
        }
        assert {each for each, outcome in closed.items() if outcome == "cancelled"} == (
            set(accounts) - asked
        )

"""Everything at once, and everything broken off at each of its statements."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event
from tests.support.autopay_books import assert_in_order
from tests.support.autopay_scheduler import (
    IntakeCharge,
    Scheduler,
    SchedulerDatabase,
    StillClock,
    at,
    at_intake,
    bill,
    cancelled,
    changed,
    enrolled,
    noticed,
    paused,
    posted,
    registered,
    resumed,
)

from shared.contracts.fact import Fact
from shared.errors import TransientError
from shared.work.patience import patiently

MONDAY = at("2026-03-02 12:00")
DUE = "2026-03-20"
TABLES = (
    *("accounts", "announcements", "bills", "charges", "enrolments", "failures", "mandates"),
    *("outbox", "plans_due", "postings", "switches", "audit_entries"),
)


async def snapshot(rows: SchedulerDatabase) -> dict[str, str]:
    return {
        table: await rows.value(
            f"SELECT coalesce(string_agg(t::text, chr(10) ORDER BY t::text), '') FROM {table} t"
        )
        for table in TABLES
    }


class StatementFailedError(TransientError):
    """What a test lets a statement fail with."""


@contextmanager
def failing(autopay: Scheduler, *, at_statement: int) -> Iterator[list[int]]:
    """Let the session break off before one of the statements; yields how many there were."""
    seen = [0]

    def count(*_: Any) -> None:
        seen[0] += 1
        if seen[0] == at_statement:
            raise StatementFailedError

    engine = autopay.engine.sync_engine
    event.listen(engine, "before_cursor_execute", count)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", count)


async def tell_all(autopay: Scheduler, rows: SchedulerDatabase) -> None:
    announced = await rows.stated("charge.announced")
    await autopay.hear(*(noticed(each, when=autopay.clock()) for each in announced))


async def everything_announced(
    autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock, accounts: int = 3
) -> None:
    names = [f"A-{number}" for number in range(accounts)]
    await autopay.hear(
        *(registered(name, when=MONDAY) for name in names),
        *(enrolled(name, when=MONDAY) for name in names),
    )
    await autopay.hear(*(bill(name, DUE, 8_000, when=MONDAY) for name in names))
    await autopay.run()
    await tell_all(autopay, rows)
    clock.to(f"{DUE} 06:00")


async def first_request(rows: SchedulerDatabase) -> IntakeCharge:
    return at_intake((await rows.stated("charge.requested"))[0])


Step = Callable[[Scheduler, SchedulerDatabase], Awaitable[Any]]
KEY = UUID(int=77)


async def nothing(_: Scheduler, __: SchedulerDatabase) -> None:
    return


async def bills_change(autopay: Scheduler, _: SchedulerDatabase) -> None:
    now = autopay.clock()
    await autopay.hear(
        bill("A-1", DUE, 9_000, when=now, version=2), bill("A-2", "2026-04-20", 9_000, when=now)
    )


async def bills_change_and_are_planned(autopay: Scheduler, rows: SchedulerDatabase) -> None:
    await bills_change(autopay, rows)
    await autopay.plan()


async def bills_change_and_are_announced(autopay: Scheduler, rows: SchedulerDatabase) -> None:
    await bills_change_and_are_planned(autopay, rows)
    await autopay.announce()


async def request(autopay: Scheduler, _: SchedulerDatabase) -> None:
    await autopay.request()


async def request_and_wait(autopay: Scheduler, rows: SchedulerDatabase) -> None:
    await request(autopay, rows)
    autopay.clock.advance(hours=1)


async def restate(autopay: Scheduler, _: SchedulerDatabase) -> None:
    await autopay.jobs.restate_requests(now=autopay.clock(), limit=10)


async def decline(autopay: Scheduler, rows: SchedulerDatabase) -> None:
    charge = await first_request(rows)
    await autopay.hear(charge.declined(autopay.clock(), "lost", attempt="ch", category="hard"))


async def pay(autopay: Scheduler, rows: SchedulerDatabase) -> None:
    charge = await first_request(rows)
    await autopay.hear(charge.paid(autopay.clock()))


async def post(autopay: Scheduler, _: SchedulerDatabase) -> None:
    now = autopay.clock()
    await autopay.hear(posted("A-1", 500, when=now, balance_cents=7_500, key=KEY))


async def cancel(autopay: Scheduler, _: SchedulerDatabase) -> None:
    await autopay.hear(cancelled("A-0", when=autopay.clock()))


async def fail_a_notice(autopay: Scheduler, rows: SchedulerDatabase) -> None:
    last = (await rows.stated("charge.announced"))[-1]
    await autopay.hear(noticed(last, when=autopay.clock(), status="failed"))


class TestBrokenOff:
    """At each statement in turn: what was begun is undone, and done as a whole the next time."""

    @pytest.mark.parametrize(
        ("before", "step"),
        [
            pytest.param(nothing, bills_change, id="bills"),
            pytest.param(bills_change, lambda autopay, _: autopay.plan(), id="plan"),
            pytest.param(
                bills_change_and_are_planned, lambda autopay, _: autopay.announce(), id="announce"
            ),
            pytest.param(nothing, request, id="request"),
            pytest.param(request_and_wait, restate, id="restate"),
            pytest.param(request, decline, id="decline"),
            pytest.param(request, pay, id="pay"),
            pytest.param(nothing, post, id="post"),
            pytest.param(request, cancel, id="cancel"),
            pytest.param(bills_change_and_are_announced, fail_a_notice, id="notice"),
        ],
    )
    async def test_is_as_if_it_had_not_begun(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        before: Step,
        step: Step,
    ) -> None:
        await everything_announced(autopay, rows, clock)
        await before(autopay, rows)
        untouched = await snapshot(rows)
        for at_statement in range(1, 40):
            with failing(autopay, at_statement=at_statement) as seen:
                if seen[0] == 0:
                    try:
                        await step(autopay, rows)
                    except TransientError:
                        assert await snapshot(rows) == untouched, f"statement {at_statement}"
                        continue
            break
        assert at_statement > 1, "nothing was broken off"
        assert await snapshot(rows) != untouched
        await autopay.run()
        await assert_in_order(rows)


class TestTwoDueDatesOfOneAccount:
    async def test_are_decided_one_after_the_other(
        self, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        """Both fall on the 18th, and each was announced with all that is owed."""
        one, other = (rows.scheduler(clock=clock) for _ in range(2))
        rule: dict[str, Any] = {"charge_on": "day_of_month", "day_of_month": 18}
        await one.hear(registered("A-1", when=MONDAY), enrolled("A-1", when=MONDAY, **rule))
        await one.hear(
            bill("A-1", DUE, 8_000, when=MONDAY),
            bill("A-1", "2026-03-27", 12_000, when=MONDAY + timedelta(minutes=1)),
        )
        await one.run()
        await tell_all(one, rows)
        await rows.execute("UPDATE announcements SET amount_cents = 12000")
        clock.to("2026-03-18 06:00")
        async with one.store.transaction() as unit:
            [due] = await unit.claim_due(now=clock(), limit=1)
            assert due.record.due_date.isoformat() == DUE
            assert await other.request() == 0
        await asyncio.gather(one.request(), other.request())
        await other.request()
        asked = await rows.stated("charge.requested")
        assert sorted(fact["amount_cents"] for fact in asked) == [4_000, 8_000]


class TestPause:
    async def test_waits_for_requests_that_are_being_made(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        """Once it is acknowledged, no request is committed any more."""
        await everything_announced(autopay, rows, clock)
        operator = rows.scheduler(clock=clock)
        async with autopay.store.transaction() as unit:
            assert len(await unit.claim_due(now=clock(), limit=10)) == 3
            pause = asyncio.create_task(
                operator.operate.pause(is_paused=True, operator="kim", note="drill")
            )
            await waiting(rows)
            assert not pause.done()
        await pause
        assert await autopay.request() == 0
        [entry] = await rows.fetch("SELECT * FROM audit_entries")
        assert (entry["operator"], entry["action"], entry["note"]) == ("kim", "pause", "drill")

    async def test_keeps_requests_from_being_stated_again_but_not_cancellations(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await everything_announced(autopay, rows, clock)
        await autopay.request()
        await autopay.hear(cancelled("A-0", when=clock()))
        await autopay.operate.pause(is_paused=True, operator="kim", note="drill")
        clock.advance(hours=1)
        assert await autopay.restate() == 1
        assert [fact["account_id"] for fact in (await rows.stated())[-2:]] == ["A-0", "A-0"]
        await autopay.operate.pause(is_paused=False, operator="kim", note="over")
        assert await autopay.restate() == 2

    @pytest.mark.parametrize(
        ("moment", "status"), [("2026-03-23 12:00", "requested"), ("2026-03-24 00:00", "missed")]
    )
    async def test_that_ends_late_leaves_what_is_past_its_grace(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        moment: str,
        status: str,
    ) -> None:
        await everything_announced(autopay, rows, clock, accounts=1)
        await autopay.operate.pause(is_paused=True, operator="kim", note="drill")
        await autopay.run()
        clock.to(moment)
        await autopay.run()
        assert await rows.status("E-A-0", DUE) == ("announced", None)
        await autopay.operate.pause(is_paused=False, operator="kim", note="over")
        await autopay.run()
        assert (await rows.status("E-A-0", DUE))[0] == status


class TestMonthsOfEverythingAtOnce:
    @pytest.mark.parametrize("seed", [1, 2])
    async def test_leave_the_books_in_order(
        self, rows: SchedulerDatabase, clock: StillClock, seed: int
    ) -> None:
        world = World(rows=rows, clock=clock, chance=Random(seed))
        await world.begin()
        for _ in range(200):
            await world.turn()
        await world.end()
        await assert_in_order(rows)
        assert world.overdrawn() == {}
        statuses = {row["status"] for row in await rows.fetch("SELECT status FROM charges")}
        assert statuses >= {"paid", "cancelled", "skipped"}, "nothing much has happened"


class World:
    """Customers, a CIS, intake and a notifier who all talk at once to two schedulers.

    Accounts of an even number pay by autopay alone, and their bills only rise: they can never
    be in credit, unless something was charged twice.
    """

    def __init__(self, *, rows: SchedulerDatabase, clock: StillClock, chance: Random) -> None:
        self.rows, self.clock, self.chance = rows, clock, chance
        self.instances = [rows.scheduler(clock=clock) for _ in range(2)]
        self.accounts = [f"A-{number}" for number in range(10)]
        self.ledger = dict.fromkeys(self.accounts, 0)
        self.references = dict.fromkeys(self.accounts, 0)
        self.bills: dict[str, list[tuple[str, date, int]]] = {name: [] for name in self.accounts}
        self.answered: set[UUID] = set()
        self.taken: set[UUID] = set()
        self.posted: set[UUID] = set()

    def overdrawn(self) -> dict[str, int]:
        return {name: cents for name, cents in self.ledger.items() if cents < 0 and calm(name)}

    async def begin(self) -> None:
        await self.instances[0].hear(
            *(registered(name, when=self.clock()) for name in self.accounts)
        )

    async def turn(self) -> None:
        self.clock.advance(hours=self.chance.choice((1, 4, 20)))
        told = [self.word(name) for name in self.chance.sample(self.accounts, 3)]
        told += [self.bill(name) for name in self.chance.sample(self.accounts, 3)]
        told += await self.answers()
        told += [
            noticed(fact, when=self.clock())
            for fact in (await self.rows.stated("charge.announced"))[-8:]
        ]
        self.chance.shuffle(told)
        jobs = [
            act(instance)
            for instance in self.instances
            for act in (Scheduler.plan, Scheduler.announce, Scheduler.request, Scheduler.restate)
        ]
        await asyncio.gather(
            *(self.patient(job) for job in jobs),
            *(
                patiently(
                    lambda fact=fact: self.chance.choice(self.instances).hear(fact),  # type: ignore[misc]
                    patience_seconds=20,
                )
                for fact in told
            ),
        )

    async def end(self) -> None:
        for _ in range(20):
            self.clock.advance(days=1)
            await self.instances[0].run()
            await tell_all(self.instances[0], self.rows)
            await self.instances[1].hear(*await self.answers())
        await self.instances[0].run()

    async def patient(self, job: Awaitable[int]) -> None:
        """As the loops do: what fails for now is done the next time."""
        try:
            await job
        except TransientError:
            return

    def word(self, name: str) -> Fact:
        number, now = self.references[name], self.clock()
        reference = f"E-{name}-{number}"
        match self.chance.randrange(8):
            case 0 | 1 | 2:
                return enrolled(name, when=now, reference=reference)
            case 3 | 4:
                most = self.chance.choice((None, 12_000))
                return changed(name, when=now, reference=reference, maximum_cents=most)
            case 5:
                return paused(name, when=now, reference=reference, until="2026-04-01")
            case 6:
                return resumed(name, when=now, reference=reference)
            case _:
                self.references[name] += 1
                return cancelled(name, when=now, reference=reference)

    def bill(self, name: str) -> Fact:
        now = self.clock()
        known = self.bills[name]
        if known and self.chance.random() < 0.4:
            reference, due_date, version = known[-1]
            known[-1] = (reference, due_date, version + 1)
            self.ledger[name] += self.chance.randrange(500) if calm(name) else 0
            return bill(
                name,
                due_date,
                self.ledger[name],
                when=now,
                reference=reference,
                version=version + 1,
            )
        if not calm(name) and self.chance.random() < 0.3 and self.ledger[name] > 0:
            cents = self.chance.randrange(1, self.ledger[name] + 1)
            self.ledger[name] -= cents
            return posted(name, cents, when=now, balance_cents=self.ledger[name])
        due_date = now.date() + timedelta(days=self.chance.randrange(9, 25))
        reference = f"B-{name}-{len(known)}"
        known.append((reference, due_date, 1))
        self.ledger[name] += self.chance.randrange(1_000, 6_000)
        return bill(name, due_date, self.ledger[name], when=now, reference=reference)

    async def answers(self) -> list[Fact]:
        """What intake states of what it was asked for: one payment for a charge, ever."""
        told: list[Fact] = []
        withdrawn = {fact["charge_id"] for fact in await self.rows.stated("charge.cancelled")}
        for request in await self.rows.stated("charge.requested"):
            charge = at_intake(request)
            if request.id in self.answered or self.chance.random() < 0.4:
                continue
            self.answered.add(request.id)
            now, attempt = self.clock(), request["attempt"]
            if charge.charge_id in self.taken:
                raise AssertionError(f"{charge.charge_id} was asked for although it is paid")
            if str(charge.charge_id) in withdrawn:
                told.append(charge.withdrawn(now, "cancelled", attempt=attempt))
            elif self.chance.random() < 0.35:
                name = f"ch_{charge.charge_id}_{attempt}"
                decline = charge.declined(now, "insufficient_funds", attempt=name)
                told += [decline] * self.chance.choice((1, 2))
            else:
                self.taken.add(charge.charge_id)
                self.ledger[charge.account_id] -= charge.amount_cents
                told += [charge.pending(now), charge.paid(now)]
                told.append(
                    posted(
                        charge.account_id,
                        charge.amount_cents,
                        when=now,
                        balance_cents=self.ledger[charge.account_id],
                        payment_id=charge.payment_id,
                    )
                )
        return told


def calm(name: str) -> bool:
    return int(name.removeprefix("A-")) % 2 == 0


async def waiting(rows: SchedulerDatabase) -> None:
    """Wait until a session waits for another one's lock."""
    async with asyncio.timeout(10):
        while not await rows.value(  # noqa: ASYNC110  another session's state has no event
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        ):
            await asyncio.sleep(0.01)

"""The scenarios of `Reenrolments`, in memory and on PostgreSQL."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from tests.support.backends import TestDatabase
from tests.support.reenrolment import (
    HEADER,
    NOON,
    TODAY,
    InMemoryReenrolments,
    KnownBill,
    Surroundings,
    a_file,
    a_reader,
    a_row,
    a_run,
    in_chunks,
)
from tests.support.reenrolment_database import ReenrolmentDatabase, migrate_scheduler

from autopay_scheduler.domain.import_lines import FileRefusedError
from autopay_scheduler.domain.reenrolment import ReenrolmentEvent, ReenrolmentStatus
from autopay_scheduler.ports.reenrolment import (
    DueBill,
    ImportReport,
    Lapsing,
    LapsingCursor,
    Look,
    Reenrolment,
    Reenrolments,
)
from shared.contracts.enrolments import AutopayRule

AWAITING = ReenrolmentStatus.AWAITING
VISA = "4242424242424242"


class World:
    """A store with what stands around it, in memory or on PostgreSQL."""

    def __init__(self, rows: ReenrolmentDatabase | None) -> None:
        self.rows = rows
        self.around = Surroundings()
        self.store: Reenrolments = rows.store() if rows else InMemoryReenrolments(self.around)

    async def know(self, *account_ids: str) -> None:
        self.around.accounts.update(account_ids)
        if self.rows:
            await self.rows.know(*account_ids)

    async def bill(self, account_id: str, due_date: date, **about: Any) -> None:
        given = {"amount_cents": 8_000, "paid_cents": 0, "status": "open"} | about
        reference = f"B-{account_id}-{due_date.isoformat()}"
        self.around.bills.append(KnownBill(account_id, reference, due_date, **given))
        if self.rows:
            await self.rows.bill(account_id, due_date, **given)

    async def enrol(self, account_id: str, *, status: str = "active") -> None:
        self.around.enrolments.setdefault(account_id, set()).add(status)
        if self.rows:
            await self.rows.enrol(account_id, status=status)

    async def planned(self) -> set[str]:
        return await self.rows.planned() if self.rows else self.around.planned

    async def audit(self) -> list[tuple[str, str, str]]:
        if self.rows:
            return await self.rows.audit()
        assert isinstance(self.store, InMemoryReenrolments)
        return self.store.audit

    async def imports(
        self, *rows: str, at: datetime = NOON, is_dry: bool = False, problems_max: int = 100
    ) -> ImportReport:
        return await self.store.import_enrolments(
            a_reader().enrolments(in_chunks(a_file(*rows))),
            run=a_run(at=at, is_dry=is_dry, problems_max=problems_max),
        )

    async def drafts(
        self,
        *rows: str,
        header: str = "account,draft_date,due_date,amount_cents",
        is_dry: bool = False,
    ) -> ImportReport:
        content = a_file(*rows, header=header)
        return await self.store.import_drafts(
            a_reader().drafts(in_chunks(content), today=TODAY), run=a_run(is_dry=is_dry)
        )

    async def found(self, account_id: str) -> Reenrolment:
        found = await self.store.find(account_id)
        assert found is not None
        return found[0]

    async def events(self, account_id: str) -> list[str]:
        found = await self.store.find(account_id)
        assert found is not None
        return [str(entry.event) for entry in found[1]]


@pytest.fixture(scope="module")
async def postgres_rows(database: TestDatabase) -> AsyncIterator[ReenrolmentDatabase]:
    migrate_scheduler(database)
    found = ReenrolmentDatabase(database)
    yield found
    await found.close()


@pytest.fixture(params=["memory", "postgres"])
async def world(request: pytest.FixtureRequest, postgres_rows: ReenrolmentDatabase) -> World:
    if request.param == "memory":
        return World(None)
    await postgres_rows.empty()
    return World(postgres_rows)


def numbers(report: ImportReport) -> tuple[int, int, int, int, int]:
    return (report.lines, report.imported, report.changed, report.unchanged, report.refused)


def told(report: ImportReport) -> list[tuple[int, str, str]]:
    return [(each.line, each.field, str(each.reason)) for each in report.problems]


def later(days: float) -> datetime:
    return NOON + timedelta(days=days)


class TestImportEnrolments:
    async def test_keeps_every_field(self, world: World) -> None:
        await world.know("A-1")
        row = a_row(
            "A-1",
            old_account="7-1",
            name="José Ñandú",
            email="jose@example.org",
            charge_on="day_of_month",
            day_of_month="31",
            amount="fixed",
            fixed_cents="4500",
            minimum_cents="100",
            maximum_cents="5000",
            locale="es",
        )
        assert numbers(await world.imports(row)) == (1, 1, 0, 0, 0)
        assert await world.found("A-1") == Reenrolment(
            account_id="A-1",
            old_account="7-1",
            name="José Ñandú",
            email="jose@example.org",
            locale="es",
            rule=AutopayRule(
                charge_on="day_of_month",
                day_of_month=31,
                amount="fixed",
                fixed_cents=4500,
                minimum_cents=100,
                maximum_cents=5000,
            ),
            status=AWAITING,
            imported_at=NOON,
            invitations=0,
            last_invited_on=None,
            settled_at=None,
        )
        assert await world.events("A-1") == ["imported"]

    async def test_takes_the_defaults_of_empty_cells(self, world: World) -> None:
        await world.know("A-1")
        await world.imports(a_row("A-1", email=""))
        found = await world.found("A-1")
        assert (found.email, found.locale, found.rule) == (None, "en", AutopayRule())

    async def test_changes_nothing_the_second_time(self, world: World) -> None:
        await world.know("A-1", "A-2")
        rows = (a_row("A-1"), a_row("A-2", email="", maximum_cents="9000"))
        await world.imports(*rows)
        before = [await world.store.find(each) for each in ("A-1", "A-2")]
        assert numbers(await world.imports(*rows, at=later(5))) == (2, 0, 0, 2, 0)
        assert [await world.store.find(each) for each in ("A-1", "A-2")] == before

    async def test_takes_a_change_and_keeps_what_it_replaced(self, world: World) -> None:
        await world.know("A-1", "A-2")
        await world.imports(a_row("A-1"), a_row("A-2"))
        report = await world.imports(
            a_row("A-1", email="new@example.org", maximum_cents="9000"),
            a_row("A-2"),
            at=later(5),
        )
        assert numbers(report) == (2, 0, 1, 1, 0)
        found = await world.store.find("A-1")
        assert found is not None
        reenrolment, history = found
        assert (reenrolment.email, reenrolment.rule.maximum_cents) == ("new@example.org", 9000)
        assert reenrolment.imported_at == NOON
        assert [str(entry.event) for entry in history] == ["imported", "changed"]
        assert (history[1].import_id, history[1].line) == (report.id, 2)
        assert history[1].before == {
            "old_account": "OLD-A-1",
            "name": "Ada Byron",
            "email": "a-1@example.org",
            "locale": "en",
            "charge_on": "due_date",
            "days_before": None,
            "day_of_month": None,
            "amount_rule": "full_balance",
            "fixed_cents": None,
            "minimum_cents": None,
            "maximum_cents": None,
        }
        assert await world.events("A-2") == ["imported"]

    async def test_tells_of_each_bad_line_and_takes_the_good_ones(self, world: World) -> None:
        await world.know("A-1", "A-2", "A-3", "A-4")
        await world.enrol("A-3")
        await world.enrol("A-4", status="stopped")
        report = await world.imports(
            a_row("A-1"),
            a_row("NOBODY"),
            a_row("A-2", email="not an address", locale="fr"),
            a_row("A-1", name="Ada again"),
            a_row("A-3"),
            a_row("A-4"),
            a_row("A-2"),
            a_row("A-1", name="and again"),
        )
        assert numbers(report) == (8, 2, 0, 0, 6)
        assert told(report) == [
            (3, "account", "unknown_account"),
            (4, "email", "invalid"),
            (4, "locale", "invalid"),
            (5, "account", "duplicate"),
            (6, "account", "already_enrolled"),
            (7, "account", "autopay_stopped"),
            (9, "account", "duplicate"),
        ]
        assert report.problems[3].message == "the same as line 2, which is the one that counts"
        assert (await world.found("A-1")).name == "Ada Byron"
        assert await world.store.find("A-3") is None
        assert await world.store.find("A-4") is None

    async def test_counts_every_problem_and_lists_the_first(self, world: World) -> None:
        report = await world.imports(*(a_row(f"X-{n}") for n in range(7)), problems_max=3)
        assert numbers(report) == (7, 0, 0, 0, 7)
        assert [each.line for each in report.problems] == [2, 3, 4]
        assert report.problems_by_reason == {"unknown_account": 7}

    async def test_keeps_all_problems_with_the_import(self, world: World) -> None:
        rows = [a_row(f"X-{n}") for n in range(4)]
        rows[1] = a_row("X-1", email="?", locale="?")
        report = await world.imports(*rows, problems_max=1)
        first = await world.store.problems(import_id=report.id, after_line=0, limit=2)
        assert first is not None
        assert [(each.line, each.field) for each in first] == [
            (2, "account"),
            (3, "email"),
            (3, "locale"),
        ]
        rest = await world.store.problems(import_id=report.id, after_line=3, limit=2)
        assert rest is not None
        assert [each.line for each in rest] == [4, 5]
        assert await world.store.problems(import_id=report.id, after_line=5, limit=2) == []
        assert await world.store.problems(import_id=uuid4(), after_line=0, limit=2) is None

    async def test_keeps_nothing_of_a_file_that_is_refused_at_its_end(self, world: World) -> None:
        await world.know("A-1")
        content = a_file(a_row("A-1")) + b"A-\xff\n"
        with pytest.raises(FileRefusedError) as refused:
            await world.store.import_enrolments(
                a_reader().enrolments(in_chunks(content)), run=a_run()
            )
        assert refused.value.reason == "wrong_encoding"
        assert await world.store.find("A-1") is None
        assert numbers(await world.imports(a_row("A-1"))) == (1, 1, 0, 0, 0)

    async def test_only_tells_when_it_is_dry(self, world: World) -> None:
        await world.know("A-1", "A-2", "A-3")
        await world.imports(a_row("A-1"), a_row("A-2"))
        report = await world.imports(
            a_row("A-1", name="Other"), a_row("A-2"), a_row("A-3"), a_row("NO"), is_dry=True
        )
        assert numbers(report) == (4, 1, 1, 1, 1)
        assert told(report) == [(5, "account", "unknown_account")]
        assert (await world.found("A-1")).name == "Ada Byron"
        assert await world.store.find("A-3") is None
        assert await world.store.problems(import_id=report.id, after_line=0, limit=9) is None

    @pytest.mark.parametrize(
        ("settle", "reason"),
        [("enrolled", "already_enrolled"), ("declined", "already_declined")],
    )
    async def test_does_not_take_up_again_what_is_settled(
        self, world: World, settle: str, reason: str
    ) -> None:
        await world.know("A-1")
        await world.imports(a_row("A-1"))
        mark = getattr(world.store, f"mark_{settle}")
        assert await mark(["A-1"], at=later(1)) == 1
        assert numbers(await world.imports(a_row("A-1"))) == (1, 0, 0, 1, 0)
        report = await world.imports(a_row("A-1", name="Other"))
        assert told(report) == [(2, "account", reason)]
        found = await world.found("A-1")
        assert (found.name, str(found.status), found.settled_at) == ("Ada Byron", settle, later(1))

    async def test_takes_account_numbers_that_look_like_cards_by_chance(self, world: World) -> None:
        accounts = [f"A-{n}" for n in range(5)]
        await world.know(*accounts)
        old = ["4242424242424242", "4242424242424243", "4000123412341235", "7", "8"]
        rows = [a_row(a, old_account=o) for a, o in zip(accounts, old, strict=True)]
        assert numbers(await world.imports(*rows)) == (5, 5, 0, 0, 0)

    async def test_refuses_the_lines_whose_old_account_is_a_card(self, world: World) -> None:
        await world.know("A-1", "A-2", "A-3")
        report = await world.imports(
            a_row("A-1", old_account=VISA),
            a_row("A-2", old_account="7001"),
            a_row("A-3", old_account="5555555555554444"),
        )
        assert told(report) == [
            (2, "old_account", "payment_data"),
            (4, "old_account", "payment_data"),
        ]
        assert report.imported == 1
        assert not any(VISA in each.message for each in report.problems)


class TestMarking:
    async def test_is_news_once(self, world: World) -> None:
        await world.know("A-1", "A-2")
        await world.imports(a_row("A-1"), a_row("A-2"))
        assert await world.store.mark_enrolled(["A-1", "A-1", "NOBODY"], at=later(3)) == 1
        assert await world.store.mark_enrolled(["A-1"], at=later(4)) == 0
        found = await world.found("A-1")
        assert (found.status, found.settled_at) == (ReenrolmentStatus.ENROLLED, later(3))
        assert await world.events("A-1") == ["imported", "enrolled"]
        assert (await world.found("A-2")).status is AWAITING

    async def test_lets_those_who_declined_enrol_after_all(self, world: World) -> None:
        await world.know("A-1")
        await world.imports(a_row("A-1"))
        assert await world.store.mark_declined(["A-1"], at=later(1)) == 1
        assert await world.store.mark_enrolled(["A-1"], at=later(2)) == 1
        assert await world.store.mark_declined(["A-1"], at=later(3)) == 0
        assert await world.events("A-1") == ["imported", "declined", "enrolled"]

    async def test_by_an_operator_leaves_an_audit_entry(self, world: World) -> None:
        await world.know("A-1")
        await world.imports(a_row("A-1"))
        said = {"operator": "kim", "note": "by telephone"}
        assert await world.store.decline_by_operator(account_id="A-1", at=later(1), **said)
        assert not await world.store.decline_by_operator(account_id="A-1", at=later(2), **said)
        assert not await world.store.decline_by_operator(account_id="NO", at=later(2), **said)
        assert await world.audit() == [("reenrolment.decline", "A-1", "kim")]


def invited(look_on: date, event: ReenrolmentEvent | None = ReenrolmentEvent.INVITED) -> Any:
    return lambda each: Look(awaiting=each, status=AWAITING, event=event, look_on=look_on)


async def look(world: World, decide: Any, *, today: date = TODAY, limit: int = 10) -> list[str]:
    async with world.store.looking() as unit:
        found = await unit.claim(today=today, limit=limit)
        at = datetime.combine(today, NOON.timetz())
        await unit.settle([decide(each) for each in found], records=[], at=at)
    return [each.account_id for each in found]


class TestLooking:
    async def test_finds_what_is_to_be_looked_at_with_its_next_bill(self, world: World) -> None:
        await world.know("A-1", "A-2")
        await world.imports(a_row("A-1"), a_row("A-2", email=""))
        await world.bill("A-1", date(2026, 4, 15))
        await world.bill("A-1", date(2026, 3, 15), amount_cents=9_000, paid_cents=2_000)
        await world.bill("A-1", date(2026, 3, 1))
        await world.bill("A-1", date(2026, 3, 10), paid_cents=8_000)
        await world.bill("A-1", date(2026, 3, 9), status="cancelled")
        async with world.store.looking() as unit:
            first, second = await unit.claim(today=TODAY, limit=10)
        assert (first.account_id, first.email, first.locale) == ("A-1", "a-1@example.org", "en")
        assert (first.imported_on, first.invitations, first.last_invited_on) == (TODAY, 0, None)
        assert first.bill == DueBill(
            bill_reference="B-A-1-2026-03-15",
            due_date=date(2026, 3, 15),
            amount_cents=7_000,
            currency="USD",
        )
        assert not first.is_known_to_portal
        assert (second.email, second.bill) == (None, None)

    async def test_counts_what_was_sent_and_comes_back_on_its_day(self, world: World) -> None:
        await world.know("A-1")
        await world.imports(a_row("A-1"))
        await world.bill("A-1", date(2026, 3, 15))
        tomorrow = TODAY + timedelta(days=1)
        assert await look(world, invited(tomorrow)) == ["A-1"]
        assert await look(world, invited(tomorrow)) == []
        reminded = invited(date(2026, 3, 9), ReenrolmentEvent.REMINDED)
        assert await look(world, reminded, today=tomorrow) == ["A-1"]
        assert await look(world, invited(tomorrow), today=date(2026, 3, 8)) == []
        found = await world.store.find("A-1")
        assert found is not None
        reenrolment, history = found
        assert (reenrolment.invitations, reenrolment.last_invited_on) == (2, tomorrow)
        assert [(str(e.event), e.invitation, e.due_date, e.amount_cents) for e in history[1:]] == [
            ("invited", 1, date(2026, 3, 15), 8_000),
            ("reminded", 2, date(2026, 3, 15), 8_000),
        ]

    async def test_takes_no_more_than_asked_and_leaves_the_rest_to_others(
        self, world: World
    ) -> None:
        accounts = [f"A-{n}" for n in range(5)]
        await world.know(*accounts)
        await world.imports(*(a_row(each) for each in accounts))
        async with world.store.looking() as one, world.store.looking() as other:
            first = await one.claim(today=TODAY, limit=2)
            second = await other.claim(today=TODAY, limit=10)
        assert [each.account_id for each in first] == ["A-0", "A-1"]
        assert [each.account_id for each in second] == ["A-2", "A-3", "A-4"]

    async def test_forgets_what_did_not_commit(self, world: World) -> None:
        await world.know("A-1")
        await world.imports(a_row("A-1"))
        with pytest.raises(RuntimeError, match="crash"):
            async with world.store.looking() as unit:
                found = await unit.claim(today=TODAY, limit=10)
                decide = invited(TODAY + timedelta(days=1))
                await unit.settle([decide(each) for each in found], records=[], at=NOON)
                raise RuntimeError("crash")
        assert (await world.found("A-1")).invitations == 0
        assert await look(world, invited(TODAY)) == ["A-1"]

    async def test_ends_what_is_over(self, world: World) -> None:
        await world.know("A-1")
        await world.imports(a_row("A-1"))
        ended = {"status": ReenrolmentStatus.PAST, "event": ReenrolmentEvent.PAST}
        await look(world, lambda each: Look(awaiting=each, look_on=TODAY, **ended))
        found = await world.found("A-1")
        assert (found.status, found.settled_at, found.invitations) == ("past", NOON, 0)
        assert await look(world, invited(TODAY)) == []
        report = await world.imports(a_row("A-1", name="Other"))
        assert told(report) == [(2, "account", "already_past")]

    async def test_sees_an_enrolment_that_its_import_could_not(self, world: World) -> None:
        await world.know("A-1")
        await world.imports(a_row("A-1"))
        await world.enrol("A-1", status="paused")
        async with world.store.looking() as unit:
            [found] = await unit.claim(today=TODAY, limit=10)
        assert found.is_known_to_portal

    async def test_looks_at_a_changed_one_at_once(self, world: World) -> None:
        await world.know("A-1")
        await world.imports(a_row("A-1", email=""))
        await look(world, invited(date(2026, 6, 1), None))
        assert await look(world, invited(TODAY)) == []
        await world.imports(a_row("A-1"))
        assert await look(world, invited(TODAY)) == ["A-1"]


class TestImportDrafts:
    async def test_takes_each_draft_once(self, world: World) -> None:
        await world.know("A-1", "A-2")
        rows = ("A-1,2026-03-10,,8000", "A-2,,2026-03-15,9000", "NO,2026-03-10,,1")
        report = await world.drafts(*rows)
        assert numbers(report) == (3, 2, 0, 0, 1)
        assert told(report) == [(4, "account", "unknown_account")]
        again = await world.drafts(*rows, "A-1,2026-03-10,,8000")
        assert numbers(again) == (4, 0, 0, 2, 2)
        assert told(again)[1] == (5, "account", "duplicate")

    async def test_tells_when_it_is_dry(self, world: World) -> None:
        await world.know("A-1")
        assert numbers(await world.drafts("A-1,2026-03-10,,1", is_dry=True)) == (1, 1, 0, 0, 0)
        assert numbers(await world.drafts("A-1,2026-03-10,,1")) == (1, 1, 0, 0, 0)

    async def test_plans_enrolled_accounts_anew(self, world: World) -> None:
        await world.know("A-1", "A-2", "A-3")
        await world.enrol("A-1")
        await world.enrol("A-2", status="stopped")
        header = "account,due_date,amount_cents"
        await world.drafts(*(f"A-{n},2026-03-15,1" for n in (1, 2, 3)), header=header)
        assert await world.planned() == {"A-1"}

    async def test_covers_a_due_date_until_it_is_withdrawn(self, world: World) -> None:
        await world.know("A-1")
        await world.imports(a_row("A-1"))
        await world.bill("A-1", date(2026, 3, 15))
        await world.drafts("A-1,2026-03-15,,8000")
        assert await lapsing(world) == []
        said = {"operator": "kim", "note": "cancelled there"}
        assert await world.store.withdraw_drafts(account_id="A-1", at=NOON, **said) == 1
        assert await world.store.withdraw_drafts(account_id="A-1", at=NOON, **said) == 0
        assert await lapsing(world) == [("A-1", date(2026, 3, 15))]
        assert await world.audit() == [("old_drafts.withdraw", "A-1", "kim")]
        assert numbers(await world.drafts("A-1,2026-03-15,,8000")) == (1, 0, 0, 1, 0)
        assert await lapsing(world) == [("A-1", date(2026, 3, 15))]


async def lapsing(
    world: World, *, until: date = date(2026, 3, 31), limit: int = 100
) -> list[tuple[str, date | None]]:
    found: list[Lapsing] = []
    after: LapsingCursor | None = None
    while True:
        page = await world.store.lapsing(today=TODAY, until=until, after=after, limit=limit)
        found += page.rows
        if page.next is None:
            return [(e.account_id, e.bill.due_date if e.bill else None) for e in found]
        assert len(page.rows) <= limit
        after = page.next


class TestLapsing:
    async def test_lists_the_most_urgent_first_and_then_who_has_no_bill(self, world: World) -> None:
        accounts = [f"A-{n}" for n in range(9)]
        await world.know(*accounts)
        await world.imports(*(a_row(each) for each in accounts))
        await world.bill("A-0", date(2026, 3, 20))
        await world.bill("A-1", date(2026, 3, 5))
        await world.bill("A-1", date(2026, 3, 25))
        await world.bill("A-2", date(2026, 3, 5))
        await world.bill("A-4", date(2026, 4, 20))
        await world.bill("A-5", date(2026, 3, 20), paid_cents=8_000)
        await world.bill("A-6", date(2026, 2, 20))
        await world.bill("A-7", date(2026, 3, 2))
        await world.bill("A-8", date(2026, 3, 20), amount_cents=-500)
        await world.store.mark_declined(["A-2"], at=NOON)
        expected = [
            ("A-7", date(2026, 3, 2)),
            ("A-1", date(2026, 3, 5)),
            ("A-0", date(2026, 3, 20)),
            ("A-3", None),
            ("A-6", None),
        ]
        assert await lapsing(world) == expected
        for limit in (1, 2, 3, 5):
            assert await lapsing(world, limit=limit) == expected

    async def test_says_how_to_reach_the_customer(self, world: World) -> None:
        await world.know("A-1")
        await world.imports(a_row("A-1", old_account="7-1"))
        await world.bill("A-1", date(2026, 3, 20), amount_cents=9_000, paid_cents=1_500)
        page = await world.store.lapsing(today=TODAY, until=date(2026, 3, 20), after=None, limit=10)
        assert page.rows == [
            Lapsing(
                account_id="A-1",
                old_account="7-1",
                name="Ada Byron",
                email="a-1@example.org",
                invitations=0,
                last_invited_on=None,
                bill=DueBill(
                    bill_reference="B-A-1-2026-03-20",
                    due_date=date(2026, 3, 20),
                    amount_cents=7_500,
                    currency="USD",
                ),
            )
        ]

    async def test_leaves_out_what_the_old_portal_drafts(self, world: World) -> None:
        await world.know("A-1", "A-2")
        await world.imports(a_row("A-1"), a_row("A-2"))
        for account in ("A-1", "A-2"):
            await world.bill(account, date(2026, 3, 5))
            await world.bill(account, date(2026, 4, 5))
        await world.drafts("A-1,,2026-03-05,8000", "A-2,2026-04-04,,8000")
        assert await lapsing(world, until=date(2026, 4, 30)) == [
            ("A-2", date(2026, 3, 5)),
            ("A-1", date(2026, 4, 5)),
        ]


class TestLists:
    async def test_go_by_account_and_status(self, world: World) -> None:
        accounts = [f"A-{n}" for n in range(5)]
        await world.know(*accounts)
        await world.imports(*(a_row(e, email="" if e == "A-3" else "a@b.org") for e in accounts))
        await world.store.mark_enrolled(["A-1"], at=NOON)

        async def listed(after: str | None, *, without_email: bool = False) -> list[str]:
            found = await world.store.page(
                status=AWAITING, without_email=without_email, after=after, limit=2
            )
            return [each.account_id for each in found]

        assert await listed(None) == ["A-0", "A-2"]
        assert await listed("A-2") == ["A-3", "A-4"]
        assert await listed("A-4") == []
        assert await listed(None, without_email=True) == ["A-3"]

    async def test_count_where_the_move_stands(self, world: World) -> None:
        accounts = [f"A-{n}" for n in range(4)]
        await world.know(*accounts)
        await world.imports(*(a_row(each, email="") for each in accounts))
        await world.store.mark_enrolled(["A-1"], at=NOON)
        totals = await world.store.totals()
        assert (totals.by_status, totals.without_email) == ({"awaiting": 3, "enrolled": 1}, 3)

    async def test_tell_the_days(self, world: World) -> None:
        accounts = [f"A-{n}" for n in range(4)]
        await world.know(*accounts)
        await world.imports(*(a_row(each) for each in accounts))
        await look(world, invited(TODAY + timedelta(days=1)), limit=3)
        # Half past eleven in the evening of the 3rd by the city's clock.
        late = datetime(2026, 3, 4, 5, 30, tzinfo=UTC)
        await world.store.mark_enrolled(["A-0", "A-1"], at=late)
        await world.bill("A-0", date(2026, 3, 5))
        await world.bill("A-2", date(2026, 3, 5))
        await world.bill("A-3", date(2026, 3, 5))
        await world.bill("A-3", date(2026, 3, 25), paid_cents=8_000)
        await world.bill("A-2", date(2026, 4, 5))
        days = await world.store.figures(since=TODAY, until=date(2026, 3, 31))
        assert [(each.day, dict(each.events), each.would_lapse) for each in days] == [
            (date(2026, 3, 2), {"imported": 4, "invited": 3}, 0),
            (date(2026, 3, 3), {"enrolled": 2}, 0),
            (date(2026, 3, 5), {}, 2),
        ]


def test_the_header_is_the_documented_one() -> None:
    assert HEADER == (
        "old_account,account,name,email,charge_on,days_before,day_of_month,amount,fixed_cents,"
        "minimum_cents,maximum_cents,locale"
    )

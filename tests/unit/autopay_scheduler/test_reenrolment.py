from collections.abc import AsyncIterator, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import orjson
import pytest
from tests.support.reenrolment import (
    NOON,
    TODAY,
    CountedMove,
    InMemoryReenrolments,
    KnownBill,
    Surroundings,
    a_calendar,
    a_file,
    a_reader,
    a_row,
    in_chunks,
)

from autopay_scheduler.domain.import_lines import FileRefusedError
from autopay_scheduler.domain.reenrolment import ReenrolmentStatus, Rhythm
from autopay_scheduler.usecases.reenrolment import (
    DeclineInvitations,
    FollowMove,
    ImportLists,
    ImportNotFoundError,
    ImportUnderWayError,
    InviteAwaiting,
    ReenrolmentNotFoundError,
    SpanTooLongError,
)
from shared.contracts.autopay import EnrolmentInvited
from shared.contracts.portal import AutopayInvitationDeclined
from shared.ids import uuid7

WHO = {"file_name": "old.csv", "operator": "kim", "is_dry": False}


class Move:
    """The use cases around a store in memory."""

    def __init__(self, *accounts: str, rhythm: Rhythm | None = None) -> None:
        self.now = NOON
        self.around = Surroundings(accounts=set(accounts))
        self.store = InMemoryReenrolments(self.around)
        self.metrics = CountedMove()
        shared: dict[str, Any] = {"reenrolments": self.store, "metrics": self.metrics}
        self.lists = ImportLists(
            files=a_reader(),
            calendar=a_calendar(),
            new_id=uuid7,
            clock=lambda: self.now,
            **shared,
        )
        self.invite = InviteAwaiting(
            calendar=a_calendar(),
            rhythm=rhythm or Rhythm(),
            link="https://pay.springfield.example/autopay",
            **shared,
        )
        self.decline = DeclineInvitations(clock=lambda: self.now, **shared)
        self.follow = FollowMove(calendar=a_calendar(), clock=lambda: self.now, **shared)

    async def imports(self, *rows: str) -> Any:
        return await self.lists.enrolments(in_chunks(a_file(*rows)), **WHO)

    def bill(self, account_id: str, due_date: date) -> None:
        self.around.bills.append(KnownBill(account_id, "B-1", due_date, 8_000, 0, "open"))

    async def days(self, count: int) -> list[tuple[date, int]]:
        """Run the job on so many days, one after the other; say on which it sent how many."""
        sent = []
        for _ in range(count):
            found = await self.invite(now=self.now, limit=100)
            if found:
                sent.append(((self.now - timedelta(hours=6)).date(), found))
            self.now += timedelta(days=1)
        return sent

    def invited(self) -> list[EnrolmentInvited]:
        return [
            EnrolmentInvited.model_validate_json(row.record.value)
            for row in self.store.outbox
            if dict(row.record.headers)["ce_type"] == b"enrolment.invited"
        ]


def a_decline(account_id: str, *, at: datetime = NOON) -> AutopayInvitationDeclined:
    return AutopayInvitationDeclined(account_id=account_id, declined_at=at)


class TestImportLists:
    async def test_counts_lines_by_what_became_of_them(self) -> None:
        move = Move("A-1", "A-2")
        await move.imports(a_row("A-1"), a_row("NO"))
        await move.imports(a_row("A-1", name="Other"), a_row("A-2"), a_row("NO"))
        assert move.metrics.lines == {
            ("enrolments", "imported"): 2,
            ("enrolments", "changed"): 1,
            ("enrolments", "unchanged"): 0,
            ("enrolments", "refused"): 2,
        }

    async def test_counts_nothing_that_was_only_tried(self) -> None:
        move = Move("A-1")
        content = in_chunks(a_file(a_row("A-1")))
        report = await move.lists.enrolments(content, **WHO | {"is_dry": True})
        assert (report.imported, move.metrics.lines) == (1, {})

    async def test_takes_one_list_at_a_time_and_refuses_before_it_reads(self) -> None:
        move = Move("A-1")
        second_read: list[bytes] = []

        async def second() -> AsyncIterator[bytes]:
            second_read.append(b"")
            yield b""

        async def first() -> AsyncIterator[bytes]:
            with pytest.raises(ImportUnderWayError):
                await move.lists.drafts(second(), **WHO)
            yield a_file(a_row("A-1"))

        assert (await move.lists.enrolments(first(), **WHO)).imported == 1
        assert second_read == []
        assert (await move.imports(a_row("A-1"))).unchanged == 1

    async def test_is_free_again_after_a_file_that_is_refused(self) -> None:
        move = Move("A-1")
        with pytest.raises(FileRefusedError):
            await move.imports()
        assert (await move.imports(a_row("A-1"))).imported == 1

    async def test_knows_no_problems_of_an_import_that_nobody_made(self) -> None:
        with pytest.raises(ImportNotFoundError):
            await Move().lists.problems(import_id=uuid7(), after_line=0, limit=1)


class TestInviteAwaiting:
    async def test_says_who_where_and_what_is_due(self) -> None:
        move = Move("A-1")
        await move.imports(a_row("A-1", locale="es"))
        move.bill("A-1", date(2026, 3, 20))
        assert await move.invite(now=NOON, limit=10) == 1
        assert move.invited() == [
            EnrolmentInvited(
                account_id="A-1",
                invitation=1,
                name="Ada Byron",
                email="a-1@example.org",
                locale="es",
                link="https://pay.springfield.example/autopay",
                due_date=date(2026, 3, 20),
                amount_cents=8_000,
                currency="USD",
                invited_at=NOON,
            )
        ]
        assert dict(move.store.outbox[0].record.headers)["ce_id"] == (
            str(move.invited()[0].id()).encode()
        )

    async def test_says_nothing_of_a_bill_that_is_not_known(self) -> None:
        move = Move("A-1")
        await move.imports(a_row("A-1"))
        await move.invite(now=NOON, limit=10)
        [fact] = move.invited()
        assert (fact.due_date, fact.amount_cents, fact.currency) == (None, None, None)

    async def test_reminds_by_the_rhythm_until_it_is_over(self) -> None:
        move = Move("A-1")
        await move.imports(a_row("A-1"))
        assert await move.days(120) == [
            (date(2026, 3, 2), 1),
            (date(2026, 3, 9), 1),
            (date(2026, 3, 16), 1),
            (date(2026, 3, 30), 1),
        ]
        assert [fact.invitation for fact in move.invited()] == [1, 2, 3, 4]
        found = move.store.rows["A-1"]
        assert found.status is ReenrolmentStatus.PAST
        # The day after the ninetieth.
        assert found.settled_at == NOON + timedelta(days=91)
        assert move.metrics.events == {"invited": 1, "reminded": 3, "past": 1}

    async def test_reminds_before_due_dates_that_become_known(self) -> None:
        move = Move("A-1")
        await move.imports(a_row("A-1"))
        await move.days(31)
        move.bill("A-1", date(2026, 4, 20))
        assert await move.days(30) == [(date(2026, 4, 10), 1), (date(2026, 4, 17), 1)]

    async def test_sends_once_a_day_however_often_it_runs(self) -> None:
        move = Move("A-1")
        await move.imports(a_row("A-1"))
        sent = [await move.invite(now=NOON + timedelta(hours=n), limit=10) for n in range(5)]
        assert sent == [1, 0, 0, 0, 0]

    @pytest.mark.parametrize("end", ["enrolled", "declined"])
    async def test_leaves_alone_who_has_enrolled_or_declined(self, end: str) -> None:
        move = Move("A-1", "A-2")
        await move.imports(a_row("A-1"), a_row("A-2"))
        assert await move.days(1) == [(TODAY, 2)]
        await getattr(move.store, f"mark_{end}")(["A-1"], at=move.now)
        assert await move.days(10) == [(date(2026, 3, 9), 1)]
        assert [fact.account_id for fact in move.invited()] == ["A-1", "A-2", "A-2"]

    async def test_never_writes_to_who_has_no_address(self) -> None:
        move = Move("A-1")
        await move.imports(a_row("A-1", email=""))
        assert await move.days(90) == []
        [listed] = await move.follow.page(
            status=ReenrolmentStatus.AWAITING, without_email=True, after=None, limit=10
        )
        assert listed.account_id == "A-1"
        assert await move.days(2) == []
        assert move.store.rows["A-1"].status is ReenrolmentStatus.PAST

    async def test_notes_who_enrolled_while_the_import_was_under_way(self) -> None:
        move = Move("A-1")
        await move.imports(a_row("A-1"))
        move.around.enrolments["A-1"] = {"active"}
        assert await move.days(1) == []
        assert move.store.rows["A-1"].status is ReenrolmentStatus.ENROLLED

    async def test_sends_no_more_than_its_limit_and_forgets_nobody(self) -> None:
        accounts = [f"A-{n:02}" for n in range(20)]
        move = Move(*accounts)
        without, reachable = accounts[:7], accounts[7:]
        await move.imports(*(a_row(each, email="") for each in without), *map(a_row, reachable))
        assert [await move.invite(now=NOON, limit=5) for _ in range(4)] == [5, 5, 3, 0]
        assert sorted(fact.account_id for fact in move.invited()) == reachable

    async def test_sends_one_for_several_days_that_were_missed(self) -> None:
        move = Move("A-1")
        await move.imports(a_row("A-1"))
        await move.days(1)
        move.now += timedelta(days=20)
        assert await move.days(8) == [(date(2026, 3, 23), 1), (date(2026, 3, 30), 1)]


class TestDeclineInvitations:
    async def test_takes_what_the_portal_says_once(self) -> None:
        move = Move("A-1", "A-2")
        await move.imports(a_row("A-1"), a_row("A-2"))
        facts = [a_decline("A-1"), a_decline("A-1"), a_decline("NOBODY")]
        assert await move.decline(facts) == 1
        assert await move.decline(facts) == 0
        assert move.metrics.events == {"declined": 1}

    async def test_says_so_where_there_is_nothing_to_decline(self) -> None:
        move = Move("A-1")
        with pytest.raises(ReenrolmentNotFoundError):
            await move.decline.by_operator(account_id="A-1", operator="kim", note="called")
        await move.imports(a_row("A-1"))
        await move.decline.by_operator(account_id="A-1", operator="kim", note="called")
        assert move.store.rows["A-1"].status is ReenrolmentStatus.DECLINED


class TestFollowMove:
    @pytest.mark.parametrize("days", [-1, 400, 5000])
    async def test_tells_figures_of_a_bounded_span(self, days: int) -> None:
        with pytest.raises(SpanTooLongError):
            await Move().follow.figures(since=TODAY, until=TODAY + timedelta(days=days))

    async def test_takes_today_by_the_citys_clock(self) -> None:
        move = Move("A-1")
        await move.imports(a_row("A-1"))
        move.bill("A-1", TODAY)
        # Half past eleven in the evening there, the next day in UTC.
        move.now = NOON + timedelta(hours=11, minutes=30)
        page = await move.follow.lapsing(until=TODAY, after=None, limit=10)
        assert [each.account_id for each in page.rows] == ["A-1"]
        move.now += timedelta(hours=1)
        page = await move.follow.lapsing(until=TODAY, after=None, limit=10)
        assert [each.bill for each in page.rows] == [None]

    async def test_measures_every_status(self) -> None:
        move = Move("A-1", "A-2", "A-3")
        await move.imports(a_row("A-1"), a_row("A-2", email=""), a_row("A-3"))
        await move.decline([a_decline("A-1")])
        await move.follow.measure()
        assert move.metrics.gauges == {"awaiting": 2, "enrolled": 0, "declined": 1, "past": 0}
        assert move.metrics.without_email == 1

    async def test_says_so_where_nothing_is(self) -> None:
        move = Move("A-1")
        with pytest.raises(ReenrolmentNotFoundError):
            await move.follow.find("A-1")
        with pytest.raises(ReenrolmentNotFoundError):
            await move.follow.withdraw_drafts(account_id="A-1", operator="kim", note="x")


def contents(rows: Sequence[Any]) -> list[Any]:
    return [orjson.loads(row.record.value) for row in rows]


class TestMove:
    async def test_states_invitations_and_nothing_else(self) -> None:
        """No way leads from an imported row to a charge: it states no other fact, ever."""
        move = Move("A-1", "A-2", "A-3")
        await move.imports(a_row("A-1"), a_row("A-2"), a_row("A-3", email=""))
        for account in ("A-1", "A-2", "A-3"):
            move.bill(account, date(2026, 3, 20))
        await move.days(10)
        await move.decline([a_decline("A-2")])
        await move.store.mark_enrolled(["A-1"], at=move.now)
        await move.days(100)
        kinds = {dict(row.record.headers)["ce_type"] for row in move.store.outbox}
        assert kinds == {b"enrolment.invited"}
        assert not any(
            "token" in key or "method" in key
            for content in contents(move.store.outbox)
            for key in content
        )

"""What customers say of autopay, on real PostgreSQL: once, in any order, two consumers at once."""

import asyncio
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from tests.support.autopay_scheduler import (
    Scheduler,
    SchedulerDatabase,
    StillClock,
    at,
    bill,
    cancelled,
    changed,
    enrolled,
    paused,
    received,
    registered,
    resumed,
)

from autopay_scheduler.consumers import to_word
from autopay_scheduler.ports.store import ConcurrentWordError

MONDAY = at("2026-03-02 12:00")


async def known(autopay: Scheduler, *accounts: str) -> None:
    await autopay.hear(*(registered(account, when=MONDAY) for account in accounts))


async def facts(rows: SchedulerDatabase) -> list[tuple[str, str | None]]:
    return [(fact.type, fact.body.get("reason")) for fact in await rows.stated()]


class TestWords:
    async def test_turn_autopay_on_change_it_and_turn_it_off(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await known(autopay, "A-1")
        await autopay.hear(enrolled("A-1", when=at("2026-03-02 12:00")))
        assert await rows.enrolment("E-A-1") == ("active", None)
        await autopay.hear(changed("A-1", when=at("2026-03-02 12:01"), minimum_cents=500))
        await autopay.hear(paused("A-1", when=at("2026-03-02 12:02"), until="2026-05-01"))
        assert await rows.enrolment("E-A-1") == ("paused", None)
        [row] = await rows.fetch("SELECT * FROM enrolments")
        assert (row["minimum_cents"], row["resume_on"].isoformat()) == (500, "2026-05-01")
        await autopay.hear(resumed("A-1", when=at("2026-03-02 12:03")))
        [row] = await rows.fetch("SELECT * FROM enrolments")
        assert (row["status"], row["resume_on"], row["minimum_cents"]) == ("active", None, 500)
        await autopay.hear(cancelled("A-1", when=at("2026-03-02 12:04")))
        assert await rows.enrolment("E-A-1") == ("stopped", "cancelled")
        assert await facts(rows) == [
            ("enrolment.activated", None),
            ("enrolment.activated", None),
            ("enrolment.stopped", "cancelled"),
        ]
        first, second, _ = await rows.stated()
        assert first.id != second.id
        assert second["rule"]["minimum_cents"] == 500

    async def test_are_kept_as_evidence_once(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await known(autopay, "A-1")
        word = enrolled("A-1", when=MONDAY, authorisation_version="2026-02")
        await autopay.hear(word, word)
        await autopay.hear(word)
        [row] = await rows.fetch("SELECT * FROM mandates")
        assert (row["type"], row["authorisation_version"]) == ("autopay.enrolled", "2026-02")
        assert row["authorised_at"] == MONDAY
        assert '"payment_method_token": "pm_testEA1"' in row["document"]
        assert await facts(rows) == [("enrolment.activated", None)]

    async def test_of_what_was_refused_are_evidence_too(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await autopay.hear(enrolled("nobody", when=MONDAY))
        assert await rows.value("SELECT count(*) FROM mandates") == 1
        assert await rows.enrolment("E-nobody") == ("refused", "unknown_account")

    async def test_of_a_batch_are_understood_in_their_order(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await known(autopay, "A-1")
        await autopay.hear(
            enrolled("A-1", when=at("2026-03-02 12:00"), reference="E-1"),
            cancelled("A-1", when=at("2026-03-02 12:01"), reference="E-1"),
            enrolled("A-1", when=at("2026-03-02 12:02"), reference="E-2"),
            paused("A-1", when=at("2026-03-02 12:03"), reference="E-2"),
        )
        assert await rows.enrolment("E-1") == ("stopped", "cancelled")
        assert await rows.enrolment("E-2") == ("paused", None)
        assert await facts(rows) == [
            ("enrolment.activated", None),
            ("enrolment.stopped", "cancelled"),
            ("enrolment.activated", None),
        ]


class TestOrder:
    @pytest.mark.parametrize("order", list(permutations(range(4))))
    async def test_does_not_matter_for_how_it_ends(
        self, autopay: Scheduler, rows: SchedulerDatabase, order: tuple[int, ...]
    ) -> None:
        await known(autopay, "A-1")
        words = [
            enrolled("A-1", when=at("2026-03-02 12:00")),
            changed("A-1", when=at("2026-03-02 12:01"), fixed_cents=5_000, amount="fixed"),
            paused("A-1", when=at("2026-03-02 12:02"), until="2026-06-01"),
            resumed("A-1", when=at("2026-03-02 12:03")),
        ]
        for index in order:
            await autopay.hear(words[index])
        [row] = await rows.fetch("SELECT * FROM enrolments")
        assert (row["status"], row["resume_on"]) == ("active", None)
        if order.index(1) < order.index(2) and order.index(1) < order.index(3):
            assert row["fixed_cents"] == 5_000

    @pytest.mark.parametrize("is_one_batch", [True, False])
    async def test_of_a_pause_before_its_enrolment_loses_no_pause(
        self, autopay: Scheduler, rows: SchedulerDatabase, is_one_batch: bool
    ) -> None:
        await known(autopay, "A-1")
        pause = paused("A-1", when=at("2026-03-02 12:01"), until="2026-06-01")
        enrolment = enrolled("A-1", when=at("2026-03-02 12:00"))
        if is_one_batch:
            await autopay.hear(pause, enrolment)
        else:
            await autopay.hear(pause)
            await autopay.hear(enrolment)
        [row] = await rows.fetch("SELECT status, resume_on FROM enrolments")
        assert (row["status"], row["resume_on"].isoformat()) == ("paused", "2026-06-01")

    async def test_of_a_pause_that_was_before_the_enrolment_changes_nothing(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await known(autopay, "A-1")
        await autopay.hear(paused("A-1", when=at("2026-03-02 11:00")))
        await autopay.hear(enrolled("A-1", when=at("2026-03-02 12:00")))
        assert await rows.enrolment("E-A-1") == ("active", None)

    async def test_of_a_cancellation_before_its_enrolment_leaves_autopay_off(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await known(autopay, "A-1")
        await autopay.hear(cancelled("A-1", when=at("2026-03-02 12:05")))
        await autopay.hear(enrolled("A-1", when=at("2026-03-02 12:00")))
        assert await rows.enrolment("E-A-1") == ("stopped", "cancelled")
        assert await facts(rows) == []
        assert await rows.value("SELECT count(*) FROM mandates") == 2

    async def test_of_an_older_change_does_not_undo_a_newer_one(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await known(autopay, "A-1")
        await autopay.hear(enrolled("A-1", when=at("2026-03-02 12:00")))
        await autopay.hear(changed("A-1", when=at("2026-03-02 12:02"), maximum_cents=20_000))
        await autopay.hear(changed("A-1", when=at("2026-03-02 12:01"), maximum_cents=10_000))
        assert await rows.value("SELECT maximum_cents FROM enrolments") == 20_000


class TestRefusals:
    @pytest.mark.parametrize(
        ("parts", "reason", "field"),
        [
            ({"processor": "adyen"}, "unknown_processor", "processor"),
            (
                {"payment_method_token": "tok_visa"},
                "foreign_token",
                "payment_method_token",
            ),
            ({"maximum_cents": 1_000_001}, "above_city_limit", "rule.maximum_cents"),
            (
                {"amount": "fixed", "fixed_cents": 1_000_001},
                "above_city_limit",
                "rule.fixed_cents",
            ),
        ],
    )
    async def test_say_why_and_by_which_field(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        parts: dict[str, Any],
        reason: str,
        field: str,
    ) -> None:
        await known(autopay, "A-1")
        await autopay.hear(enrolled("A-1", when=MONDAY, **parts))
        [fact] = await rows.stated()
        assert (fact.type, fact["reason"], fact["field"]) == ("enrolment.refused", reason, field)
        assert await rows.enrolment("E-A-1") == ("refused", reason)

    async def test_keep_a_second_enrolment_off(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await known(autopay, "A-1")
        await autopay.hear(enrolled("A-1", when=MONDAY, reference="E-1"))
        await autopay.hear(enrolled("A-1", when=MONDAY, reference="E-2"))
        assert await facts(rows) == [
            ("enrolment.activated", None),
            ("enrolment.refused", "already_enrolled"),
        ]
        assert await rows.enrolment("E-1") == ("active", None)
        await autopay.hear(cancelled("A-1", when=MONDAY, reference="E-2"))
        assert await rows.enrolment("E-1") == ("active", None)

    async def test_of_a_change_leave_what_was_authorised(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await known(autopay, "A-1")
        await autopay.hear(enrolled("A-1", when=MONDAY))
        clock.advance(minutes=1)
        await autopay.hear(changed("A-1", when=clock(), payment_method_token="tok_other"))
        assert await facts(rows) == [
            ("enrolment.activated", None),
            ("enrolment.refused", "foreign_token"),
        ]
        assert await rows.value("SELECT payment_method_token FROM enrolments") == "pm_testEA1"
        assert await rows.enrolment("E-A-1") == ("active", None)

    async def test_know_an_account_by_its_bill(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await autopay.hear(bill("A-1", "2026-03-30", 1_000, when=MONDAY))
        await autopay.hear(enrolled("A-1", when=MONDAY))
        assert await rows.enrolment("E-A-1") == ("active", None)


class TestTwoConsumers:
    async def test_turn_one_of_two_enrolments_on(
        self, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        instances = [rows.scheduler(clock=clock) for _ in range(2)]
        accounts = [f"A-{n}" for n in range(30)]
        await known(instances[0], *accounts)
        await asyncio.gather(
            *(
                instance.hear(enrolled(account, when=MONDAY, reference=f"E-{account}-{number}"))
                for account in accounts
                for number, instance in enumerate(instances)
            )
        )
        found = await rows.fetch(
            "SELECT account_id, array_agg(status ORDER BY status) AS statuses FROM enrolments"
            " GROUP BY account_id"
        )
        assert len(found) == 30
        assert all(row["statuses"] == ["active", "refused"] for row in found)
        stated = await facts(rows)
        assert stated.count(("enrolment.activated", None)) == 30
        assert stated.count(("enrolment.refused", "already_enrolled")) == 30

    async def test_take_one_word_once(self, rows: SchedulerDatabase, clock: StillClock) -> None:
        instances = [rows.scheduler(clock=clock) for _ in range(3)]
        await known(instances[0], "A-1")
        word = enrolled("A-1", when=MONDAY)
        await asyncio.gather(*(instance.hear(word) for instance in instances * 5))
        assert await facts(rows) == [("enrolment.activated", None)]

    async def test_meet_the_index_where_nothing_else_holds_them(
        self, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        """Past the lock on the account: what is left is an error that is for now, and retried."""
        one, other = rows.scheduler(clock=clock), rows.scheduler(clock=clock)
        await known(one, "A-1")
        for autopay, reference in ((one, "E-1"), (other, "E-2")):
            await autopay.hear(enrolled("A-1", when=MONDAY, reference=reference))
        async with one.store.transaction() as unit:
            records = await unit.lock_enrolments(ids=[], account_ids=["A-1"])
        [held] = records
        second = to_word(received(enrolled("A-1", when=MONDAY, reference="E-3")))
        assert second is not None
        new = second[0].enrolment
        assert new is not None

        with pytest.raises(ConcurrentWordError):
            async with other.store.transaction() as unit:
                await unit.save_enrolments([replace(held, id=new.id, reference="E-3")])
        assert await rows.value("SELECT count(*) FROM enrolments") == 2


class TestDefects:
    async def test_are_not_taken_for_a_race(
        self, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        """A row that breaks a rule of its table would else be retried for ever."""
        await known(autopay, "A-1")
        await autopay.hear(enrolled("A-1", when=MONDAY))
        async with autopay.store.transaction() as unit:
            [held] = await unit.lock_enrolments(ids=[], account_ids=["A-1"])
        broken = replace(held, enrolment=None)
        with pytest.raises(Exception, match="enrolments_on_are_whole") as raised:
            async with autopay.store.transaction() as unit:
                await unit.save_enrolments([broken])
        assert not isinstance(raised.value, ConcurrentWordError)

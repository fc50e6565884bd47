from datetime import date
from itertools import product
from uuid import UUID

import pytest
from tests.support.autopay.charges import DECISIONS, STATUSES, VALIDITY
from tests.support.autopay.tables import check, example_id, examples

from autopay_scheduler.domain.charges import (
    NOT_ASKED_FOR,
    OPEN,
    TRANSITIONS,
    WITH_INTAKE,
    Status,
    charge_id,
    may,
)
from autopay_scheduler.domain.enrolments import enrolment_id
from shared.contracts.streams import AUTOPAY

STATED = {
    Status.PLANNED: None,
    Status.ANNOUNCED: "charge.announced",
    Status.HELD: "charge.held",
    Status.REQUESTED: "charge.requested",
    Status.PENDING: None,
    Status.RETRYING: "charge.failed",
    Status.FAILED: "charge.failed",
    Status.PAID: "charge.closed",
    Status.SKIPPED: "charge.closed",
    Status.MISSED: "charge.closed",
    Status.CANCELLED: "charge.closed",
    Status.REFUNDED: "charge.closed",
}
"""What is said when a charge becomes so, wherever it comes from."""
ENDS = {
    Status.PAID,
    Status.FAILED,
    Status.SKIPPED,
    Status.MISSED,
    Status.CANCELLED,
    Status.REFUNDED,
}


class TestWorkedExamples:
    @pytest.mark.parametrize(
        ("table", "cells"), examples(DECISIONS, VALIDITY, STATUSES), ids=example_id
    )
    def test_are_what_the_rules_say(self, table, cells):
        check(table, cells)


class TestStatus:
    def test_is_open_or_an_end(self):
        assert set(Status) == OPEN | ENDS
        assert not OPEN & ENDS

    def test_has_its_row_in_the_table_of_transitions(self):
        rows = {row[0] for row in STATUSES.rows}
        assert rows == {"(new)", *Status}

    def test_can_be_reached(self):
        reached: set[Status | None] = {None}
        while True:
            found = reached | {after for before, after in TRANSITIONS if before in reached}
            if found == reached:
                break
            reached = found
        assert reached == {None, *Status}

    @pytest.mark.parametrize("status", sorted(OPEN))
    def test_that_is_open_can_come_to_an_end(self, status):
        assert {after for before, after in TRANSITIONS if before is status} & ENDS

    @pytest.mark.parametrize("status", sorted(ENDS))
    def test_that_is_an_end_is_not_opened_but_by_a_plan_or_the_bank(self, status):
        opened = {after for before, after in TRANSITIONS if before is status} & OPEN
        assert opened <= {Status.PLANNED, Status.HELD, Status.RETRYING}

    def test_of_money_on_its_way_is_not_of_what_may_be_dropped(self):
        assert {Status.REQUESTED, Status.PENDING} == WITH_INTAKE
        assert NOT_ASKED_FOR | WITH_INTAKE == OPEN
        assert not NOT_ASKED_FOR & WITH_INTAKE

    @pytest.mark.parametrize("status", sorted(NOT_ASKED_FOR))
    def test_that_no_money_is_on_its_way_for_can_be_cancelled(self, status):
        assert may(status, Status.CANCELLED)


class TestTransitions:
    @pytest.mark.parametrize(("before", "after"), list(product([None, *Status], Status)))
    def test_state_the_fact_of_what_a_charge_becomes(self, before, after):
        assert may(before, after) is ((before, after) in TRANSITIONS)
        if may(before, after):
            assert TRANSITIONS[before, after] == STATED[after]

    def test_state_facts_that_there_are(self):
        assert set(TRANSITIONS.values()) - {None} <= set(AUTOPAY.by_type)

    def test_ask_for_money_only_after_an_announcement_or_a_decline(self):
        into_requested = {before for before, after in TRANSITIONS if after is Status.REQUESTED}
        assert into_requested == {Status.ANNOUNCED, Status.RETRYING}

    def test_never_take_a_charge_back_from_intake_unheard(self):
        for status in WITH_INTAKE:
            after = {after for before, after in TRANSITIONS if before is status}
            assert not after & {Status.PLANNED, Status.ANNOUNCED, Status.HELD, Status.SKIPPED}


class TestChargeId:
    def test_is_the_same_for_ever(self):
        enrolment = enrolment_id("enr_1")
        assert enrolment == UUID("8f6b7af8-182f-5c4b-bdd8-b4095c2b1785")
        assert charge_id(enrolment_id=enrolment, due_date=date(2026, 3, 20)) == UUID(
            "044efd32-85c9-5542-b869-9be3e32aaa39"
        )

    def test_is_another_for_another_due_date_or_enrolment(self):
        days = [date(2026, 3, 20), date(2026, 3, 21), date(2027, 3, 20)]
        references = ["enr_1", "enr_2", "enr_1:2026-03-20"]
        ids = {
            charge_id(enrolment_id=enrolment_id(reference), due_date=day)
            for reference, day in product(references, days)
        }
        assert len(ids) == 9

from itertools import product

import pytest
from tests.support.autopay.enrolments import PAUSES, REFUSALS, enrolment
from tests.support.autopay.tables import check, example_id, examples

from autopay_scheduler.domain.enrolments import (
    ENROLMENT_TRANSITIONS,
    ON,
    EnrolmentStatus,
    enrolment_id,
    method_refusal,
)
from shared.contracts.streams import AUTOPAY

ACTIVE, PAUSED = EnrolmentStatus.ACTIVE, EnrolmentStatus.PAUSED
STOPPED, REFUSED = EnrolmentStatus.STOPPED, EnrolmentStatus.REFUSED


class TestWorkedExamples:
    @pytest.mark.parametrize(("table", "cells"), examples(REFUSALS, PAUSES), ids=example_id)
    def test_are_what_the_rules_say(self, table, cells):
        check(table, cells)


class TestEnrolmentTransitions:
    def test_are_these(self):
        assert dict(ENROLMENT_TRANSITIONS) == {
            (None, ACTIVE): "enrolment.activated",
            (None, REFUSED): "enrolment.refused",
            (None, STOPPED): None,
            (ACTIVE, PAUSED): None,
            (PAUSED, ACTIVE): None,
            (ACTIVE, STOPPED): "enrolment.stopped",
            (PAUSED, STOPPED): "enrolment.stopped",
        }

    def test_state_facts_that_there_are(self):
        assert set(ENROLMENT_TRANSITIONS.values()) - {None} <= set(AUTOPAY.by_type)

    def test_reach_every_status(self):
        assert {after for _, after in ENROLMENT_TRANSITIONS} == set(EnrolmentStatus)

    def test_leave_no_way_back_to_what_is_on(self):
        off = set(EnrolmentStatus) - ON
        assert off == {STOPPED, REFUSED}
        assert not set(product(off, EnrolmentStatus)) & set(ENROLMENT_TRANSITIONS)


class TestRefusal:
    def test_of_a_changed_method_does_not_ask_about_the_account(self):
        found = method_refusal(
            enrolment=enrolment(), token_prefixes={"stripe": ("pm_",)}, limit_cents=1
        )
        assert found is None

    @pytest.mark.parametrize("prefixes", [{}, {"stripe": ()}, {"stripe": ("ba_",)}])
    def test_of_a_method_comes_before_that_of_a_rule(self, prefixes):
        found = method_refusal(
            enrolment=enrolment(rule="fixed $50.00"), token_prefixes=prefixes, limit_cents=1
        )
        assert found is not None
        assert found.field in ("processor", "payment_method_token")


class TestEnrolmentId:
    def test_is_the_same_for_ever_and_another_for_another_reference(self):
        assert enrolment_id("enr_1") == enrolment_id("enr_1")
        assert len({enrolment_id(name) for name in ("enr_1", "enr_2", "ENR_1", "enr_1 ")}) == 4

from datetime import date
from typing import get_args

import pytest
from tests.support.autopay.declines import ENDS, RETRIES
from tests.support.autopay.tables import check, city_calendar, example_id, examples

from autopay_scheduler.domain.declines import (
    ATTEMPTS_MAX,
    NEXT_STEPS,
    REPRESENTED_CODES,
    REPRESENTMENTS_MAX,
    Decline,
    Next,
    next_step,
)
from shared.contracts.autopay import ChargeRequested, NextStep
from shared.contracts.payments import DeclineCategory

FRIDAY = date(2026, 3, 20)


def declined(*, category="soft", code="R01", is_bank_debit=False, attempt=1, retry_days=(3, 7)):
    return next_step(
        decline=Decline(id="ch_1OaExample", category=category, code=code),
        is_bank_debit=is_bank_debit,
        attempt=attempt,
        first_attempt_on=FRIDAY,
        today=FRIDAY,
        retry_days=retry_days,
        calendar=city_calendar(),
    )


class TestWorkedExamples:
    @pytest.mark.parametrize(("table", "cells"), examples(RETRIES, ENDS), ids=example_id)
    def test_are_what_the_rules_say(self, table, cells):
        check(table, cells)


class TestNextStep:
    @pytest.mark.parametrize("category", get_args(DeclineCategory))
    @pytest.mark.parametrize("is_bank_debit", [True, False])
    def test_is_known_for_every_category(self, category, is_bank_debit):
        found = declined(category=category, is_bank_debit=is_bank_debit)
        assert found.step in get_args(NextStep)
        assert (found.attempt_on is not None) is (found.step == "retry")

    def test_is_one_of_those_that_can_follow_and_each_of_them_does(self):
        assert {
            category: {
                declined(category=category, is_bank_debit=is_bank_debit, attempt=attempt).step
                for attempt in (1, ATTEMPTS_MAX)
                for is_bank_debit in (True, False)
            }
            for category in get_args(DeclineCategory)
        } == {category: set(steps) for category, steps in NEXT_STEPS.items()}

    def test_is_to_give_up_where_the_city_does_not_retry(self):
        assert declined(retry_days=()) == Next("give_up")

    def test_presents_a_bank_debit_twice_again_whatever_the_city_has_set(self):
        steps = [
            declined(is_bank_debit=True, attempt=n, retry_days=(1, 2, 3, 4)).step for n in (1, 2, 3)
        ]
        assert steps == ["retry", "retry", "give_up"]
        assert REPRESENTMENTS_MAX == 2

    def test_presents_only_what_the_bank_returned_for_want_of_funds(self):
        assert frozenset({"R01", "R09", "insufficient_funds"}) == REPRESENTED_CODES
        codes = [f"R{n:02d}" for n in range(1, 86)]
        retried = [
            code for code in codes if declined(code=code, is_bank_debit=True).step == "retry"
        ]
        assert retried == ["R01", "R09"]

    def test_never_asks_for_more_attempts_than_a_request_can_say(self):
        many = tuple(range(1, 30))
        steps = [declined(attempt=n, retry_days=many).step for n in range(1, 12)]
        assert steps == ["retry"] * 8 + ["give_up"] * 3
        most = [m.le for m in ChargeRequested.model_fields["attempt"].metadata if hasattr(m, "le")]
        assert most == [ATTEMPTS_MAX] == [9]

    @pytest.mark.parametrize("business_days", ["before", "after", "same"])
    def test_never_comes_early_or_on_the_same_day(self, business_days):
        for day in range(1, 29):
            first = date(2026, 11, day)
            found = next_step(
                decline=Decline(id="ch_1", category="soft", code=None),
                is_bank_debit=False,
                attempt=1,
                first_attempt_on=first,
                today=first,
                retry_days=(3, 7),
                calendar=city_calendar(business_days),
            )
            assert found.attempt_on is not None
            assert (found.attempt_on - first).days >= 3

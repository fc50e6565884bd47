from datetime import date

import pytest
from tests.support.autopay.amounts import limits_of
from tests.support.autopay.notices import ANNOUNCED, CEILINGS, LOST, announced
from tests.support.autopay.tables import NOTICE, check, city_calendar, example_id, examples

from autopay_scheduler.domain.notices import (
    NOTICE_DAYS_MIN,
    Announce,
    NoticeRule,
    TooLate,
    allowed_on,
    announcement,
    ceiling_cents,
)


class TestWorkedExamples:
    @pytest.mark.parametrize(
        ("table", "cells"), examples(ANNOUNCED, CEILINGS, LOST), ids=example_id
    )
    def test_are_what_the_rules_say(self, table, cells):
        check(table, cells)


class TestTheLeastNotice:
    def test_is_regulation_es(self):
        assert NOTICE_DAYS_MIN == 10


class TestACityThatGivesMoreNotice:
    @pytest.mark.parametrize(
        ("today", "expected"),
        [
            (date(2026, 3, 6), Announce(12_000, 0, date(2026, 3, 20))),
            (date(2026, 3, 7), TooLate()),
        ],
    )
    def test_keeps_its_own(self, today, expected):
        found = announcement(
            amount_cents=12_000,
            earlier=None,
            limits=limits_of("full balance"),
            charge_on=date(2026, 3, 20),
            due_date=date(2026, 3, 20),
            today=today,
            rule=NoticeRule(days=14, charge_unnotified=False),
            calendar=city_calendar(),
        )
        assert found == expected

    @pytest.mark.parametrize(("today", "most"), [(15, None), (16, 12_000)])
    def test_charges_nothing_before_it(self, today, most):
        found = ceiling_cents(
            announced("$120.00, sent Mon 2026-03-02"),
            limits=limits_of("full balance"),
            today=date(2026, 3, today),
            rule=NoticeRule(days=14, charge_unnotified=False),
        )
        assert found == most


class TestACityWhoseBillsArePrinted:
    """It charges what was announced although nobody could be told by e-mail."""

    rule = NoticeRule(days=10, charge_unnotified=True)

    @pytest.mark.parametrize(("today", "most"), [(11, None), (12, 12_000)])
    def test_counts_from_the_announcement(self, today, most):
        found = ceiling_cents(
            announced("$120.00, made Mon 2026-03-02"),
            limits=limits_of("full balance"),
            today=date(2026, 3, today),
            rule=self.rule,
        )
        assert found == most

    def test_counts_from_the_notice_where_one_was_sent(self):
        told_late = announced("$120.00, made Mon 2026-03-02, sent Fri 2026-03-06")
        found = ceiling_cents(
            told_late, limits=limits_of("full balance"), today=date(2026, 3, 12), rule=self.rule
        )
        assert found is None


class TestAllowedOn:
    @pytest.mark.parametrize(
        ("told", "rule", "today", "expected"),
        [
            ("$120.00, sent Mon 2026-03-02", "full balance", 5, 12),
            ("$120.00, sent Mon 2026-03-02", "full balance", 12, 12),
            ("$120.00, sent Mon 2026-03-02", "full balance", 20, 20),
            ("$120.00, made Mon 2026-03-02", "full balance", 5, 15),
            ("$120.00, sent Mon 2026-03-02; $150.00, made Tue 2026-03-03", "full balance", 4, 12),
            (
                "$120.00, sent Mon 2026-03-02, void; $150.00, sent Tue 2026-03-03",
                "statement",
                4,
                13,
            ),
            ("$120.00, made Mon 2026-03-02", "fixed $120.00", 5, 5),
        ],
    )
    def test_is_the_first_day_on_which_anything_may_be_charged(self, told, rule, today, expected):
        found = allowed_on(
            announced(told), limits=limits_of(rule), today=date(2026, 3, today), rule=NOTICE
        )
        assert found == date(2026, 3, expected)

    def test_is_that_of_a_rise_where_more_is_asked_for(self):
        told = announced("$120.00, sent Mon 2026-03-02; $150.00, sent Wed 2026-03-04")
        limits = limits_of("full balance")
        today = date(2026, 3, 12)
        assert allowed_on(told, limits=limits, today=today, rule=NOTICE) == date(2026, 3, 12)
        assert allowed_on(
            told, above_cents=12_000, limits=limits, today=today, rule=NOTICE
        ) == date(2026, 3, 14)

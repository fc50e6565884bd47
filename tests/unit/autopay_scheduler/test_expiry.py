from datetime import date, timedelta

import pytest
from tests.support.autopay.expiry import WARNING_DAYS, WARNINGS
from tests.support.autopay.tables import check, example_id, examples

from autopay_scheduler.domain.expiry import warning_due


class TestWorkedExamples:
    @pytest.mark.parametrize(("table", "cells"), examples(WARNINGS), ids=example_id)
    def test_are_what_the_rules_say(self, table, cells):
        check(table, cells)


class TestWarningDue:
    @pytest.mark.parametrize("days", [(60, 30, 7), (7, 30, 60), (30, 60, 7)])
    def test_does_not_depend_on_the_order_of_the_setting(self, days):
        found = warning_due(expires="2027-08", today=date(2027, 8, 25), warning_days=days)
        assert found == 7

    def test_is_none_where_the_city_warns_of_nothing(self):
        assert warning_due(expires="2027-08", today=date(2027, 8, 25), warning_days=()) is None

    @pytest.mark.parametrize(
        ("asleep", "told"),
        [
            ((), [60, 30, 7]),
            ((date(2027, 7, 2), date(2027, 7, 20)), [60, 30, 7]),
            ((date(2027, 7, 2), date(2027, 8, 10)), [30, 7]),
            ((date(2027, 8, 20), date(2027, 8, 31)), [60, 30, 7]),
            ((date(2027, 8, 20), date(2027, 9, 1)), [60, 30]),
            ((date(2027, 7, 1), date(2027, 8, 31)), [7]),
        ],
    )
    def test_tells_each_warning_once_by_its_key_whatever_is_slept_through(self, asleep, told):
        given: list[int] = []
        for n in range(120):
            today = date(2027, 6, 1) + timedelta(days=n)
            if asleep and asleep[0] <= today < asleep[1]:
                continue
            warning = warning_due(expires="2027-08", today=today, warning_days=WARNING_DAYS)
            if warning is not None and warning not in given:
                given.append(warning)
        assert given == told

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import holidays
import pytest
from tests.support.autopay.days import CHARGE_DAYS, CLOSED_DAYS, FIXED_DAYS, INSTANTS
from tests.support.autopay.tables import (
    CLOSED_WEEKDAYS,
    check,
    city_calendar,
    example_id,
    examples,
)

from autopay_scheduler.domain.days import (
    CLOSED_DAYS_MAX,
    BusinessDays,
    Calendar,
    EndlessClosureError,
    latest_day,
    open_day,
    open_day_from,
)


class TestWorkedExamples:
    @pytest.mark.parametrize(
        ("table", "cells"),
        examples(CLOSED_DAYS, FIXED_DAYS, CHARGE_DAYS, INSTANTS),
        ids=example_id,
    )
    def test_are_what_the_rules_say(self, table, cells):
        check(table, cells)


class TestTheClosedDaysOfTheExamples:
    def test_are_the_federal_ones_and_the_day_after_thanksgiving(self):
        federal = holidays.country_holidays("US", years=[2026, 2027, 2028])
        weekdays = {day for day in federal if day.weekday() < 5 and day.year in (2026, 2027, 2028)}
        after_thanksgiving = {date(2026, 11, 27), date(2027, 11, 26), date(2028, 11, 24)}
        written = {date.fromisoformat(day) for day in CLOSED_WEEKDAYS}
        assert written == weekdays | after_thanksgiving


class TestCalendar:
    def test_has_the_day_of_the_city_not_of_utc(self):
        calendar = city_calendar()
        assert calendar.today(now=datetime(2026, 3, 3, 5, 59, tzinfo=UTC)) == date(2026, 3, 2)
        assert calendar.today(now=datetime(2026, 3, 3, 6, 0, tzinfo=UTC)) == date(2026, 3, 3)
        # In summer the day begins an hour earlier in UTC.
        assert calendar.today(now=datetime(2026, 7, 3, 4, 59, tzinfo=UTC)) == date(2026, 7, 2)
        assert calendar.today(now=datetime(2026, 7, 3, 5, 0, tzinfo=UTC)) == date(2026, 7, 3)

    @pytest.mark.parametrize("zone", ["America/Chicago", "America/New_York", "America/Phoenix"])
    @pytest.mark.parametrize("at", [time(0, 0), time(1, 30), time(2, 30), time(6, 0), time(23, 59)])
    def test_charges_on_the_day_that_was_meant_and_never_out_of_order(self, zone, at):
        calendar = city_calendar(zone=zone, charge_time=at)
        days = [date(2026, 1, 1) + timedelta(days=n) for n in range(3 * 365 + 1)]
        instants = [calendar.instant_of(day) for day in days]
        assert instants == sorted(instants)
        assert [calendar.today(now=instant) for instant in instants] == days
        gaps = {b - a for a, b in pairwise(instants)}
        assert gaps <= {timedelta(hours=23), timedelta(hours=24), timedelta(hours=25)}

    def test_gives_its_instants_in_utc(self):
        assert city_calendar().instant_of(date(2026, 3, 2)).tzinfo is UTC


class TestLatestDay:
    @pytest.mark.parametrize(
        ("business_days", "expected"),
        [
            ("before", date(2026, 3, 21)),
            ("same", date(2026, 3, 21)),
            ("after", date(2026, 3, 23)),
        ],
    )
    def test_is_the_due_date_or_the_open_day_to_which_it_moves(self, business_days, expected):
        saturday = date(2026, 3, 21)
        assert latest_day(due_date=saturday, calendar=city_calendar(business_days)) == expected


class TestOpenDayFrom:
    def test_stays_where_the_city_charges_on_closed_days(self):
        saturday = date(2026, 3, 21)
        assert open_day_from(saturday, calendar=city_calendar("same")) == saturday


class TestEndlessClosure:
    @pytest.mark.parametrize("business_days", [BusinessDays.BEFORE, BusinessDays.AFTER])
    def test_is_an_error_that_names_the_day(self, business_days):
        calendar = Calendar(
            zone=ZoneInfo("America/Chicago"),
            is_closed=lambda _: True,
            business_days=business_days,
            charge_time=time(6, 0),
        )
        with pytest.raises(EndlessClosureError, match="2026-03-20") as raised:
            open_day(date(2026, 3, 20), calendar=calendar)
        assert raised.value.near == date(2026, 3, 20)

    @pytest.mark.parametrize(("length", "is_endless"), [(13, False), (14, True)])
    def test_begins_at_a_fortnight(self, length, is_endless):
        first = date(2026, 3, 2)
        calendar = Calendar(
            zone=ZoneInfo("America/Chicago"),
            is_closed=lambda day: first <= day < first + timedelta(days=length),
            business_days=BusinessDays.AFTER,
            charge_time=time(6, 0),
        )
        assert CLOSED_DAYS_MAX == 14
        if is_endless:
            with pytest.raises(EndlessClosureError):
                open_day(first, calendar=calendar)
        else:
            assert open_day(first, calendar=calendar) == date(2026, 3, 15)

    def test_cannot_happen_where_closed_days_do_not_matter(self):
        calendar = Calendar(
            zone=ZoneInfo("America/Chicago"),
            is_closed=lambda _: True,
            business_days=BusinessDays.SAME,
            charge_time=time(6, 0),
        )
        assert open_day(date(2026, 3, 20), calendar=calendar) == date(2026, 3, 20)

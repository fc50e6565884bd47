"""The package `holidays` without the countries that a city is not in."""

from datetime import date, timedelta

import pytest
from tests.support.processes import said_by

from autopay_scheduler.adapters.closed_days import closed_days

SINCE, UNTIL = date(2024, 1, 1), date(2035, 1, 1)
WEEKDAYS = [
    day
    for day in (SINCE + timedelta(days=n) for n in range((UNTIL - SINCE).days))
    if day.weekday() < 5
]


class TestClosedDays:
    @pytest.mark.parametrize(("country", "subdivision"), [("US", None), ("US", "TX"), ("PR", None)])
    def test_are_those_that_the_whole_package_knows(self, country, subdivision):
        is_closed = closed_days(country=country, subdivision=subdivision, extra=())
        code = (
            "import holidays.countries\n"
            f"days = holidays.country_holidays({country!r}, subdiv={subdivision!r},"
            f" years=range({SINCE.year}, {UNTIL.year}))\n"
            f"print(*sorted(day for day in days if day.weekday() < 5))"
        )
        assert said_by(code).split() == [str(day) for day in WEEKDAYS if is_closed(day)]

    def test_are_imported_of_one_country(self):
        code = (
            "import sys\n"
            "from autopay_scheduler.adapters.closed_days import closed_days\n"
            "closed_days(country='US', subdivision=None, extra=())\n"
            "print([name for name in sys.modules if name.startswith('holidays.countries.')])"
        )
        assert said_by(code) == "['holidays.countries.united_states']\n"

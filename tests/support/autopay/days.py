"""On which day, and at which instant, a charge is made: the examples."""

from datetime import time

from tests.support.autopay.tables import Cells, Chapter, Table, city_calendar, day, in_words

from autopay_scheduler.domain.days import (
    ChargeOn,
    charge_day,
    last_day_of_month_before,
    open_day,
    open_day_from,
)


def _closed_days(cells: Cells) -> Cells:
    chosen = day(cells["day"])
    return {
        name: in_words(open_day(chosen, calendar=city_calendar(name)))
        for name in ("before", "after", "same")
    } | {
        "a retry (before, after)": in_words(open_day_from(chosen, calendar=city_calendar("before")))
    }


CLOSED_DAYS = Table(
    title="Closed days",
    text=(
        "A charge that falls on a weekend or a holiday moves by the city's setting. A retry never "
        "comes early: it moves on, also where charges move back; under `same` it stays."
    ),
    columns=("day", "before", "after", "same", "a retry (before, after)", "why"),
    answers=_closed_days,
    rows=(
        (
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "an open day stays",
        ),
        (
            "Sat 2026-03-21",
            "Fri 2026-03-20",
            "Mon 2026-03-23",
            "Sat 2026-03-21",
            "Mon 2026-03-23",
            "a Saturday",
        ),
        (
            "Sun 2026-03-22",
            "Fri 2026-03-20",
            "Mon 2026-03-23",
            "Sun 2026-03-22",
            "Mon 2026-03-23",
            "a Sunday",
        ),
        (
            "Thu 2026-01-01",
            "Wed 2025-12-31",
            "Fri 2026-01-02",
            "Thu 2026-01-01",
            "Fri 2026-01-02",
            "New Year: back over the end of the year",
        ),
        (
            "Mon 2026-05-25",
            "Fri 2026-05-22",
            "Tue 2026-05-26",
            "Mon 2026-05-25",
            "Tue 2026-05-26",
            "Memorial Day: a weekend of three days",
        ),
        (
            "Fri 2026-07-03",
            "Thu 2026-07-02",
            "Mon 2026-07-06",
            "Fri 2026-07-03",
            "Mon 2026-07-06",
            "Independence Day is a Saturday, observed on Friday",
        ),
        (
            "Sat 2026-07-04",
            "Thu 2026-07-02",
            "Mon 2026-07-06",
            "Sat 2026-07-04",
            "Mon 2026-07-06",
            "Independence Day itself",
        ),
        (
            "Mon 2027-07-05",
            "Fri 2027-07-02",
            "Tue 2027-07-06",
            "Mon 2027-07-05",
            "Tue 2027-07-06",
            "Independence Day is a Sunday, observed on Monday",
        ),
        (
            "Thu 2026-11-26",
            "Wed 2026-11-25",
            "Mon 2026-11-30",
            "Thu 2026-11-26",
            "Mon 2026-11-30",
            "Thanksgiving: the city is closed the day after, too",
        ),
        (
            "Sat 2026-11-28",
            "Wed 2026-11-25",
            "Mon 2026-11-30",
            "Sat 2026-11-28",
            "Mon 2026-11-30",
            "back over four closed days",
        ),
        (
            "Sat 2027-12-25",
            "Thu 2027-12-23",
            "Mon 2027-12-27",
            "Sat 2027-12-25",
            "Mon 2027-12-27",
            "Christmas is a Saturday, observed on Friday",
        ),
        (
            "Sat 2028-01-01",
            "Thu 2027-12-30",
            "Mon 2028-01-03",
            "Sat 2028-01-01",
            "Mon 2028-01-03",
            "New Year is a Saturday, observed in the old year",
        ),
        (
            "Tue 2028-02-29",
            "Tue 2028-02-29",
            "Tue 2028-02-29",
            "Tue 2028-02-29",
            "Tue 2028-02-29",
            "a leap day is a day",
        ),
    ),
)


def _fixed_day(cells: Cells) -> Cells:
    found = last_day_of_month_before(int(cells["day of month"]), due_date=day(cells["due date"]))
    return {"falls on": in_words(found)}


FIXED_DAYS = Table(
    title="A fixed day of the month",
    text=(
        "The last such day on or before the due date. In a month that is shorter, 29, 30 and 31 "
        "are its last day."
    ),
    columns=("day of month", "due date", "falls on", "why"),
    answers=_fixed_day,
    rows=(
        ("15", "Fri 2026-03-20", "Sun 2026-03-15", "the 15th of that month"),
        ("20", "Fri 2026-03-20", "Fri 2026-03-20", "the due date itself"),
        ("21", "Fri 2026-03-20", "Sat 2026-02-21", "after the due date: the month before"),
        ("31", "Tue 2026-03-31", "Tue 2026-03-31", "a month of 31 days"),
        ("31", "Thu 2026-04-30", "Thu 2026-04-30", "a month of 30 days: its last"),
        ("31", "Wed 2026-04-29", "Tue 2026-03-31", "a day before the last"),
        ("30", "Wed 2026-04-29", "Mon 2026-03-30", "the same of the 30th"),
        ("29", "Sat 2026-02-28", "Sat 2026-02-28", "28 days: its last"),
        ("30", "Sat 2026-02-28", "Sat 2026-02-28", "28 days: its last"),
        ("31", "Fri 2026-02-27", "Sat 2026-01-31", "a day before February's last"),
        ("29", "Mon 2028-02-28", "Sat 2028-01-29", "a leap year: February's last is the 29th"),
        ("29", "Tue 2028-02-29", "Tue 2028-02-29", "a leap day"),
        ("31", "Tue 2028-02-29", "Tue 2028-02-29", "29 days: its last"),
        ("31", "Sun 2028-03-05", "Tue 2028-02-29", "back into a leap February"),
        ("30", "Sun 2026-03-01", "Sat 2026-02-28", "back into a February of 28 days"),
        ("28", "Tue 2027-01-05", "Mon 2026-12-28", "back over the end of the year"),
        ("1", "Fri 2027-01-01", "Fri 2027-01-01", "the first of the year"),
    ),
)


def _charge_day(cells: Cells) -> Cells:
    rule = cells["rule"]
    number = int("".join(filter(str.isdigit, rule)) or 0) or None
    if rule.startswith("day "):
        charge_on = ChargeOn.DAY_OF_MONTH
    else:
        charge_on = ChargeOn.DAYS_BEFORE_DUE if "before" in rule else ChargeOn.DUE_DATE
    found = charge_day(
        charge_on=charge_on,
        days_before=number if charge_on is ChargeOn.DAYS_BEFORE_DUE else None,
        day_of_month=number if charge_on is ChargeOn.DAY_OF_MONTH else None,
        due_date=day(cells["due date"]),
        not_before=day(cells["planned on"]),
        calendar=city_calendar(cells["closed days"]),
    )
    return {"charged on": in_words(found)}


CHARGE_DAYS = Table(
    title="The day of a charge",
    text=(
        "The customer's rule, then the city's for closed days. Never before the day of planning "
        "and never after the due date, unless that is closed and the city moves charges on. Where "
        "the rule `before` would lead before the day of planning, the charge moves on to the next "
        "open day up to the due date; only where there is none it is planned for a closed day. "
        "Planning after the due date leaves the day in the past: lateness decides."
    ),
    columns=("rule", "due date", "planned on", "closed days", "charged on", "why"),
    answers=_charge_day,
    rows=(
        ("due date", "Fri 2026-03-20", "Mon 2026-03-02", "before", "Fri 2026-03-20", "open"),
        ("due date", "Sat 2026-03-21", "Mon 2026-03-02", "before", "Fri 2026-03-20", "Saturday"),
        ("due date", "Sat 2026-03-21", "Mon 2026-03-02", "after", "Mon 2026-03-23", "Saturday"),
        ("due date", "Sat 2026-03-21", "Mon 2026-03-02", "same", "Sat 2026-03-21", "Saturday"),
        (
            "due date",
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "before",
            "Fri 2026-03-20",
            "planned on the due date",
        ),
        (
            "due date",
            "Sat 2026-03-21",
            "Fri 2026-03-20",
            "before",
            "Fri 2026-03-20",
            "planned on the open day before it",
        ),
        (
            "due date",
            "Sun 2026-03-22",
            "Sat 2026-03-21",
            "before",
            "Sun 2026-03-22",
            "no open day is left: a closed day",
        ),
        (
            "due date",
            "Fri 2026-03-20",
            "Tue 2026-03-24",
            "before",
            "Fri 2026-03-20",
            "planned after the due date",
        ),
        (
            "due date",
            "Sat 2026-03-21",
            "Sun 2026-03-22",
            "after",
            "Mon 2026-03-23",
            "planned after it, and still in time",
        ),
        (
            "due date",
            "Sat 2026-03-21",
            "Wed 2026-03-25",
            "after",
            "Mon 2026-03-23",
            "past: late from Monday on",
        ),
        (
            "due date",
            "Sat 2026-03-21",
            "Sun 2026-03-22",
            "before",
            "Sat 2026-03-21",
            "past: late from the due date on, not from Friday",
        ),
        (
            "due date",
            "Thu 2026-11-26",
            "Mon 2026-11-02",
            "after",
            "Mon 2026-11-30",
            "Thanksgiving and the day after",
        ),
        (
            "due date",
            "Sat 2028-01-01",
            "Thu 2027-12-02",
            "before",
            "Thu 2027-12-30",
            "the observed day is closed, too",
        ),
        (
            "3 days before",
            "Fri 2026-03-20",
            "Mon 2026-03-02",
            "before",
            "Tue 2026-03-17",
            "counted in days of the calendar",
        ),
        (
            "5 days before",
            "Fri 2026-03-20",
            "Mon 2026-03-02",
            "before",
            "Fri 2026-03-13",
            "a Sunday moves back",
        ),
        (
            "5 days before",
            "Fri 2026-03-20",
            "Mon 2026-03-02",
            "after",
            "Mon 2026-03-16",
            "a Sunday moves on",
        ),
        (
            "5 days before",
            "Tue 2026-03-03",
            "Fri 2026-02-06",
            "before",
            "Thu 2026-02-26",
            "over the end of February",
        ),
        (
            "5 days before",
            "Fri 2028-03-03",
            "Tue 2028-02-08",
            "same",
            "Sun 2028-02-27",
            "over a leap day",
        ),
        (
            "10 days before",
            "Tue 2027-01-05",
            "Mon 2026-12-07",
            "before",
            "Thu 2026-12-24",
            "over the end of the year, off a Saturday after Christmas",
        ),
        (
            "28 days before",
            "Mon 2026-03-30",
            "Mon 2026-03-02",
            "before",
            "Mon 2026-03-02",
            "exactly the day of planning",
        ),
        (
            "28 days before",
            "Fri 2026-03-20",
            "Mon 2026-03-02",
            "before",
            "Mon 2026-03-02",
            "past already: the day of planning",
        ),
        (
            "7 days before",
            "Fri 2026-03-27",
            "Sat 2026-03-21",
            "before",
            "Mon 2026-03-23",
            "planned on a Saturday: Friday is past, so Monday",
        ),
        (
            "7 days before",
            "Fri 2026-03-27",
            "Sat 2026-03-21",
            "after",
            "Mon 2026-03-23",
            "planned on a Saturday",
        ),
        (
            "2 days before",
            "Sun 2026-03-22",
            "Sat 2026-03-21",
            "before",
            "Sat 2026-03-21",
            "no open day up to the due date: a closed day",
        ),
        (
            "1 day before",
            "Mon 2026-03-23",
            "Mon 2026-03-02",
            "after",
            "Mon 2026-03-23",
            "moves on to the due date, no further",
        ),
        (
            "2 days before",
            "Fri 2026-03-20",
            "Wed 2026-03-25",
            "before",
            "Fri 2026-03-20",
            "planned after the due date",
        ),
        (
            "day 15",
            "Fri 2026-03-20",
            "Mon 2026-03-02",
            "before",
            "Fri 2026-03-13",
            "the 15th is a Sunday",
        ),
        (
            "day 15",
            "Fri 2026-03-20",
            "Mon 2026-03-16",
            "before",
            "Fri 2026-03-20",
            "past already: the due date",
        ),
        (
            "day 15",
            "Fri 2026-03-20",
            "Sun 2026-03-15",
            "before",
            "Mon 2026-03-16",
            "that very day, closed: Friday is past, so Monday",
        ),
        (
            "day 31",
            "Fri 2026-05-01",
            "Mon 2026-04-06",
            "before",
            "Thu 2026-04-30",
            "the month before has 30 days",
        ),
        (
            "day 31",
            "Thu 2026-03-05",
            "Mon 2026-02-09",
            "before",
            "Fri 2026-02-27",
            "28 February is a Saturday",
        ),
        (
            "day 31",
            "Thu 2026-03-05",
            "Mon 2026-02-09",
            "after",
            "Mon 2026-03-02",
            "28 February is a Saturday: on into March",
        ),
        (
            "day 29",
            "Sun 2028-03-05",
            "Mon 2028-02-07",
            "before",
            "Tue 2028-02-29",
            "a leap day",
        ),
    ),
)


def _instant(cells: Cells) -> Cells:
    hour, minute = cells["charge time"].split(":")
    calendar = city_calendar(zone=cells["zone"], charge_time=time(int(hour), int(minute)))
    return {"in UTC": f"{calendar.instant_of(day(cells['day'])):%Y-%m-%d %H:%M}"}


INSTANTS = Table(
    title="The instant of a charge",
    text=(
        "The city's charge time by its own clock. A time that does not exist, because clocks go "
        "forward over it, is the same instant an hour later by the clock. Of a time that exists "
        "twice the first is meant."
    ),
    columns=("zone", "day", "charge time", "in UTC", "why"),
    answers=_instant,
    rows=(
        ("America/Chicago", "Sat 2026-03-07", "02:30", "2026-03-07 08:30", "winter: UTC-6"),
        (
            "America/Chicago",
            "Sun 2026-03-08",
            "02:30",
            "2026-03-08 08:30",
            "does not exist: 03:30 by the clock, and charged once",
        ),
        ("America/Chicago", "Mon 2026-03-09", "02:30", "2026-03-09 07:30", "summer: UTC-5"),
        ("America/Chicago", "Sat 2026-10-31", "01:30", "2026-10-31 06:30", "summer"),
        (
            "America/Chicago",
            "Sun 2026-11-01",
            "01:30",
            "2026-11-01 06:30",
            "exists twice: the first",
        ),
        ("America/Chicago", "Mon 2026-11-02", "01:30", "2026-11-02 07:30", "winter"),
        ("America/New_York", "Sun 2026-03-08", "02:30", "2026-03-08 07:30", "does not exist"),
        ("America/New_York", "Sun 2026-11-01", "01:30", "2026-11-01 05:30", "the first"),
        ("America/Phoenix", "Sun 2026-03-08", "02:30", "2026-03-08 09:30", "no clock changes"),
        ("America/Phoenix", "Sun 2026-11-01", "01:30", "2026-11-01 08:30", "no clock changes"),
        ("America/Chicago", "Fri 2026-07-31", "23:30", "2026-08-01 04:30", "UTC is a day ahead"),
        ("America/Chicago", "Tue 2028-02-29", "06:00", "2028-02-29 12:00", "a leap day"),
    ),
)

CHAPTER = Chapter(
    title="The day",
    text=(
        "The calendar of the examples: United States federal holidays with their observed days, "
        "and the day after Thanksgiving."
    ),
    tables=(CLOSED_DAYS, FIXED_DAYS, CHARGE_DAYS, INSTANTS),
)

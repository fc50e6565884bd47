"""Charges on the days on which clocks and calendars are odd, by a clock that is moved over them."""

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from tests.support.autopay_scheduler import (
    SchedulerDatabase,
    StillClock,
    a_city,
    bill,
    enrolled,
    noticed,
    registered,
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class TestOddDays:
    @pytest.mark.parametrize(
        ("charge_time", "due", "asked_at"),
        [
            # 8 March 2026: 02:00 to 03:00 does not exist in Chicago; by the offset before it.
            (time(2, 30), "2026-03-08", "2026-03-08 08:30"),
            (time(2, 0), "2026-03-08", "2026-03-08 08:00"),
            (time(3, 0), "2026-03-08", "2026-03-08 08:00"),
            (time(6, 0), "2026-03-07", "2026-03-07 12:00"),
            (time(6, 0), "2026-03-08", "2026-03-08 11:00"),
            # 1 November 2026: 01:00 to 02:00 comes twice; the first is meant.
            (time(1, 30), "2026-11-01", "2026-11-01 06:30"),
            (time(6, 0), "2026-11-01", "2026-11-01 12:00"),
            (time(0, 0), "2026-11-01", "2026-11-01 05:00"),
            (time(23, 59), "2026-11-01", "2026-11-02 05:59"),
        ],
    )
    async def test_of_the_clock_are_charged_at_their_one_moment(
        self,
        rows: SchedulerDatabase,
        clock: StillClock,
        charge_time: time,
        due: str,
        asked_at: str,
    ) -> None:
        moment = utc(asked_at)
        city = a_city(business_days="same", charge_time=charge_time)
        await life(rows, clock, city=city, due=due, begins=moment - timedelta(days=20))
        for seconds, requests in ((-1, 0), (0, 1), (3600, 1), (7200, 1)):
            clock.now = moment + timedelta(seconds=seconds)
            await rows.scheduler(clock=clock, city=city).run()
            assert len(await rows.stated("charge.requested")) == requests, seconds

    @pytest.mark.parametrize(
        ("rule", "due", "charge_on"),
        [
            # The last days of months, leap days and the turn of the year.
            ({"charge_on": "day_of_month", "day_of_month": 31}, "2026-04-30", "2026-04-30"),
            ({"charge_on": "day_of_month", "day_of_month": 31}, "2026-05-15", "2026-04-30"),
            ({"charge_on": "day_of_month", "day_of_month": 29}, "2027-02-28", "2027-02-28"),
            ({"charge_on": "day_of_month", "day_of_month": 30}, "2028-02-29", "2028-02-29"),
            ({"charge_on": "day_of_month", "day_of_month": 29}, "2028-02-29", "2028-02-29"),
            ({"charge_on": "day_of_month", "day_of_month": 31}, "2028-01-31", "2028-01-31"),
            ({"charge_on": "days_before_due", "days_before": 1}, "2028-03-01", "2028-02-29"),
            ({"charge_on": "days_before_due", "days_before": 5}, "2027-01-04", "2026-12-30"),
            ({}, "2026-12-31", "2026-12-31"),
        ],
    )
    async def test_of_the_calendar_are_charged_once(
        self,
        rows: SchedulerDatabase,
        clock: StillClock,
        rule: dict[str, Any],
        due: str,
        charge_on: str,
    ) -> None:
        city = a_city(business_days="same")
        day = datetime.fromisoformat(f"{charge_on} 18:00").replace(tzinfo=UTC)
        await life(rows, clock, city=city, due=due, begins=day - timedelta(days=25), **rule)
        for days in range(-2, 3):
            clock.now = day + timedelta(days=days)
            await rows.scheduler(clock=clock, city=city).run()
            requests = await rows.stated("charge.requested")
            assert len(requests) == (days >= 0)
        [announced] = await rows.stated("charge.announced")
        assert announced["charge_on"] == charge_on

    @pytest.mark.parametrize(
        ("business_days", "due", "charge_on"),
        [
            # Christmas 2026 is a Friday; New Year 2027 too.
            ("before", "2026-12-25", "2026-12-24"),
            ("after", "2026-12-25", "2026-12-28"),
            ("same", "2026-12-25", "2026-12-25"),
            ("before", "2027-01-03", "2026-12-31"),
            ("after", "2027-01-01", "2027-01-04"),
            # Independence Day 2026 is a Saturday, observed on Friday.
            ("before", "2026-07-04", "2026-07-02"),
            ("after", "2026-07-03", "2026-07-06"),
        ],
    )
    async def test_of_the_city_move_by_its_rule(
        self,
        rows: SchedulerDatabase,
        clock: StillClock,
        business_days: str,
        due: str,
        charge_on: str,
    ) -> None:
        city = a_city(business_days=business_days)
        day = datetime.fromisoformat(f"{charge_on} 18:00").replace(tzinfo=UTC)
        await life(rows, clock, city=city, due=due, begins=day - timedelta(days=25))
        clock.now = day
        await rows.scheduler(clock=clock, city=city).run()
        [request] = await rows.stated("charge.requested")
        assert request["due_date"] == due
        [announced] = await rows.stated("charge.announced")
        assert announced["charge_on"] == charge_on

    async def test_begin_at_midnight_of_the_city_and_not_of_utc(
        self, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        """At 20:00 in Chicago it is tomorrow in UTC; the grace ends with the city's day."""
        city = a_city()
        await life(rows, clock, city=city, due="2026-03-20", begins=utc("2026-03-02 18:00"))
        clock.now = utc("2026-03-24 04:59")
        await rows.scheduler(clock=clock, city=city).run()
        assert len(await rows.stated("charge.requested")) == 1


async def life(
    rows: SchedulerDatabase,
    clock: StillClock,
    *,
    city: Any,
    due: str,
    begins: datetime,
    **rule: Any,
) -> None:
    """Enrolled, billed, announced and told."""
    clock.now = begins
    autopay = rows.scheduler(clock=clock, city=city)
    await autopay.hear(registered("A-1", when=clock()), enrolled("A-1", when=clock(), **rule))
    await autopay.hear(bill("A-1", due, 8_000, when=clock()))
    await autopay.run()
    [announced] = await rows.stated("charge.announced")
    await autopay.hear(noticed(announced, when=clock()))

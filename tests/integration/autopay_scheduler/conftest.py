"""Wiring only: instances of autopay-scheduler on a database of the module's own."""

from collections.abc import AsyncIterator

import pytest
from tests.support.autopay_scheduler import Scheduler, SchedulerDatabase, StillClock, at
from tests.support.backends import TestDatabase
from tests.support.reenrolment_database import migrate_scheduler


@pytest.fixture(scope="module")
async def migrated(database: TestDatabase) -> AsyncIterator[SchedulerDatabase]:
    migrate_scheduler(database)
    rows = SchedulerDatabase(database)
    yield rows
    await rows.end()


@pytest.fixture
async def rows(migrated: SchedulerDatabase) -> AsyncIterator[SchedulerDatabase]:
    await migrated.empty()
    yield migrated
    await migrated.release()


@pytest.fixture
def clock() -> StillClock:
    """Monday, 2 March 2026, noon in the city."""
    return StillClock(at("2026-03-02 12:00"))


@pytest.fixture
def autopay(rows: SchedulerDatabase, clock: StillClock) -> Scheduler:
    return rows.scheduler(clock=clock)

"""The machine of `tests/unit/chain` once more, with both services on real PostgreSQL."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from structlog.testing import capture_logs
from tests.support.backends import TestDatabase
from tests.support.chain import WatchedLedger
from tests.support.chain_machine import ChainMachine
from tests.support.cis_poster import Poster, StillClock
from tests.support.examples import examples
from tests.support.intake_database import IntakeDatabase, migrate_intake
from tests.support.poster_database import PosterDatabase, migrate_poster

from shared.contracts.wire import OutboundRecord


class OnPostgres:
    """Both services on their schemas of one database, emptied at the beginning."""

    def __init__(self, database: TestDatabase) -> None:
        self.intake = IntakeDatabase(database)
        self.postings = PosterDatabase(database)
        self.store: Any = self.intake.store()
        self._read = {"payment_intake": 0, "cis_poster": 0}

    def poster(self, *, ledger: WatchedLedger, clock: StillClock) -> Poster:
        return self.postings.poster(gateway=ledger, clock=clock, monotonic=clock.monotonic)

    async def stated(self) -> Sequence[OutboundRecord]:
        stated = []
        for schema, database in (("payment_intake", self.intake), ("cis_poster", self.postings)):
            rows = await database.fetch(
                "SELECT * FROM outbox WHERE id > $1 ORDER BY id", self._read[schema]
            )
            self._read[schema] = max([self._read[schema], *(row["id"] for row in rows)])
            stated += [_record(row) for row in rows]
        return stated

    async def left(self) -> Sequence[object]:
        movements = await self.intake.fetch(
            "SELECT * FROM movements WHERE status NOT IN ('confirmed', 'returned')"
        )
        postings = await self.postings.fetch(
            "SELECT * FROM postings WHERE status NOT IN ('posted', 'returned')"
        )
        return [dict(row) for row in (*movements, *postings)]

    async def empty(self) -> None:
        await self.intake.empty()
        await self.postings.empty()

    async def close(self) -> None:
        await self.intake.close()
        await self.postings.close()


def _record(row: Any) -> Any:
    headers = orjson.loads(row["headers"])
    return SimpleNamespace(
        topic=row["topic"],
        key=row["key"],
        value=row["value"],
        headers=tuple((name, value.encode()) for name, value in headers),
    )


@pytest.fixture(scope="module")
def migrated(database: TestDatabase) -> TestDatabase:
    migrate_intake(database)
    migrate_poster(database)
    return database


def test_every_payment_ends_once_on_the_ledger_to_the_cent_and_is_told(migrated):
    class OnPostgresMachine(ChainMachine):
        opened: ClassVar[list[OnPostgres]] = []

        def backing(self) -> OnPostgres:
            backing = OnPostgres(migrated)
            self.run(backing.empty())
            self.opened.append(backing)
            return backing

        def close(self) -> None:
            for backing in self.opened:
                self.run(backing.close())
            self.opened.clear()
            super().close()

    with capture_logs():
        run_state_machine_as_test(
            OnPostgresMachine,
            settings=settings(
                max_examples=examples(12),
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )

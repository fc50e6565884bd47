"""The books of autopay on a running stack: the services' tables, and the processor's own book.

Read in the transaction of the other books (`paypost.verify.world`), so that all are of one
instant; of the processor's book, what was written after that instant is left out. Its charges are
sorted on disk: memory does not grow with them.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5
from zoneinfo import ZoneInfo

import asyncpg
import orjson

from paypost.simulators.processor.records import ACCOUNT_FIELD, CHARGE_FIELD
from paypost.verify.rows import (
    Announced,
    AskedCharge,
    ChargePayment,
    DueBill,
    MadeCharge,
    PlannedDay,
    Switches,
    Taking,
)

Row = TypeVar("Row")

PAGE_ROWS = 2_000
PLAN_SECONDS_MAX = 600
"""How long an account may wait to be planned before that is no reason any more."""

_SWITCHES = """
SELECT
    EXISTS (SELECT FROM autopay_scheduler.switches
            WHERE name = 'requests' AND is_paused) AS is_asking_paused,
    EXISTS (SELECT FROM payment_intake.switches
            WHERE name = 'charges' AND is_paused) AS is_charging_paused
"""
# The rule that counts is the one in force when the charge was asked for: the enrolment's own, and
# where the customer has said another one since, the last that was heard before.
_ASKED = """
SELECT c.id, c.enrolment_id, c.account_id, c.due_date, c.charge_on, c.status, c.currency, c.reason,
    c.attempt, (c.act_at AT TIME ZONE $1)::date AS act_on, c.requested_cents, c.requested_at,
    c.first_attempt_on, c.paid_cents,
    CASE WHEN r.rule IS NULL THEN e.amount_rule <> 'fixed' AND e.maximum_cents IS NULL
         ELSE r.rule ->> 'amount' <> 'fixed' AND r.rule ->> 'maximum_cents' IS NULL
    END AS owes_notice,
    (SELECT min(m.said_at) FROM autopay_scheduler.mandates m
        WHERE m.account_id = c.account_id AND m.enrolment_id = c.enrolment_id
          AND m.type = 'autopay.cancelled' AND e.status = 'stopped') AS cancelled_said_at,
    CASE WHEN e.status = 'stopped' THEN e.ended_at END AS stopped_at
FROM autopay_scheduler.charges c
JOIN autopay_scheduler.enrolments e ON e.id = c.enrolment_id
LEFT JOIN LATERAL (
    SELECT m.document -> 'rule' AS rule FROM autopay_scheduler.mandates m
    WHERE m.account_id = c.account_id AND m.enrolment_id = c.enrolment_id
      AND m.type IN ('autopay.enrolled', 'autopay.changed') AND m.heard_at <= c.requested_at
      AND EXISTS (SELECT FROM autopay_scheduler.mandates l
                  WHERE l.account_id = c.account_id AND l.enrolment_id = c.enrolment_id
                    AND l.type IN ('autopay.enrolled', 'autopay.changed')
                    AND l.heard_at > c.requested_at)
    ORDER BY m.said_at DESC LIMIT 1
) r ON true
ORDER BY c.id
"""
_ANNOUNCED = """
SELECT charge_id, version, amount_cents, announced_at,
    CASE WHEN status = 'sent' THEN (noticed_at AT TIME ZONE $1)::date END AS noticed_on, is_void
FROM autopay_scheduler.announcements ORDER BY charge_id, version
"""
_MADE = """
SELECT id, account_id, attempt, amount_cents, currency, status, reason, answered_at, cancelled_at,
    ended_at, valid_until
FROM payment_intake.charges ORDER BY id
"""
_PAYMENTS = """
SELECT substr(r.reference, 9)::uuid AS charge_id, p.id AS payment_id, p.status, p.amount_cents,
    p.credited
FROM payment_intake.payment_references r JOIN payment_intake.payments p ON p.id = r.payment_id
WHERE r.reference ~ '^autopay:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
ORDER BY 1
"""
# On from the due date's day, or before it, until after the day was over.
_DUE_BILLS = """
SELECT e.id AS enrolment_id, b.due_date, b.account_id, b.bill_reference, b.amount_cents,
    EXISTS (SELECT FROM autopay_scheduler.plans_due p
            WHERE p.account_id = b.account_id AND p.due_at > $4) AS waits_to_be_planned
FROM autopay_scheduler.bills b
JOIN autopay_scheduler.enrolments e ON e.account_id = b.account_id
WHERE b.status = 'open' AND b.due_date < $2 AND e.status <> 'refused'
  AND e.payment_method_token IS NOT NULL
  AND (e.taken_at AT TIME ZONE $1)::date <= b.due_date
  AND (e.ended_at IS NULL OR (e.ended_at AT TIME ZONE $1)::date > b.due_date + $3::int)
ORDER BY e.id, b.due_date, b.bill_reference
"""
_PLANNED_DAYS = """
SELECT enrolment_id, due_date, id AS charge_id FROM autopay_scheduler.charges
ORDER BY enrolment_id, due_date, id
"""
_KEEP = "INSERT OR REPLACE INTO takings VALUES (?, ?, ?, ?)"


@dataclass(frozen=True, kw_only=True)
class DatabaseAutopayBooks:
    """See `paypost.verify.autopay.AutopayBooks`.

    Attributes:
        connection: in the transaction of the other books.
        at: the instant of that.
        charges_journal_path: the processor's own book, if there is one.
        zone: the city's.
        late_grace_days: how long after its day a charge is still made.
        clock_ahead: how far the scheduler's clock was moved.
    """

    connection: asyncpg.Connection[Any]
    at: datetime
    charges_journal_path: Path | None
    zone: ZoneInfo
    late_grace_days: int
    clock_ahead: timedelta = timedelta()

    @property
    def today(self) -> date:
        """The city's day, by the scheduler's clock."""
        return (self.at + self.clock_ahead).astimezone(self.zone).date()

    async def switches(self) -> Switches:
        """Whether an operator has paused autopay, and where."""
        row = await self.connection.fetchrow(_SWITCHES)
        assert row is not None
        return Switches(**row)

    def asked_charges(self) -> AsyncIterator[AskedCharge]:
        return self._rows(AskedCharge, _ASKED, self.zone.key)

    def announcements(self) -> AsyncIterator[Announced]:
        return self._rows(Announced, _ANNOUNCED, self.zone.key)

    def made_charges(self) -> AsyncIterator[MadeCharge]:
        return self._rows(MadeCharge, _MADE)

    def charge_payments(self) -> AsyncIterator[ChargePayment]:
        return self._rows(ChargePayment, _PAYMENTS)

    def due_bills(self, *, before: date) -> AsyncIterator[DueBill]:
        planned_since = self.at + self.clock_ahead - timedelta(seconds=PLAN_SECONDS_MAX)
        return self._rows(
            DueBill, _DUE_BILLS, self.zone.key, before, self.late_grace_days, planned_since
        )

    def planned_days(self) -> AsyncIterator[PlannedDay]:
        return self._rows(PlannedDay, _PLANNED_DAYS)

    async def takings(self) -> AsyncIterator[Taking]:
        with tempfile.TemporaryDirectory(prefix="paypost-verify-") as folder:
            path = Path(folder) / "takings.sqlite"
            with closing(sqlite3.connect(path)) as database:
                # A scratch file: nothing of it is needed after a crash.
                database.execute("PRAGMA journal_mode = OFF")
                database.execute("PRAGMA synchronous = OFF")
                database.execute(
                    "CREATE TABLE takings"
                    " (name TEXT PRIMARY KEY, charge BLOB, created INT, record BLOB)"
                )
                lines = read_charges(path=self.charges_journal_path, until=self.at)
                # A later line about a charge is what has become of it.
                database.executemany(
                    _KEEP,
                    (
                        (record["id"], key.bytes, record["created"], orjson.dumps(record))
                        for record in lines
                        if (key := charge_key(record)) is not None
                    ),
                )
                found = database.execute(
                    "SELECT charge, record FROM takings ORDER BY charge, created, name"
                )
                for charge, record in found:
                    yield _taking(UUID(bytes=charge), orjson.loads(record))

    async def _rows(
        self, row_of: Callable[..., Row], query: str, *arguments: object
    ) -> AsyncIterator[Row]:
        cursor = await self.connection.cursor(query, *arguments)
        while page := await cursor.fetch(PAGE_ROWS):
            for row in page:
                yield row_of(**row)


def read_charges(*, path: Path | None, until: datetime) -> Iterator[Mapping[str, Any]]:
    """Yield every state of every charge in a processor's book, in the order of writing.

    A last line that is still being written is left out, as are those of after `until`. The book
    says by how much the processor's clock was moved when a line was written.
    """
    if path is None or not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            entry = orjson.loads(line)
            charges = entry["change"]["charges"]
            if not charges:
                continue
            moved = timedelta(seconds=entry["moved_seconds"])
            if datetime.fromisoformat(entry["at"]) - moved <= until:
                yield from charges


def charge_key(record: Mapping[str, Any]) -> UUID | None:
    """Which charge of Paypost's a record of the processor's is about; None where it is of none.

    A name that is no id gets an id that no charge has, so that it is named and not passed over.
    """
    name = record["metadata"].get(CHARGE_FIELD)
    if name is None:
        return None
    try:
        return UUID(name)
    except ValueError:
        return uuid5(NAMESPACE_URL, f"charge:{name}")


def _taking(key: UUID, record: Mapping[str, Any]) -> Taking:
    return Taking(
        charge_id=key,
        name=record["id"],
        amount_cents=record["amount_cents"],
        currency=record["currency"],
        status=record["status"],
        refunded_cents=record["refunded_cents"],
        is_returned=record["dispute"] is not None,
        account=record["metadata"].get(ACCOUNT_FIELD),
    )

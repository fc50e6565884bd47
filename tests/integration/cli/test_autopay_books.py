"""The books of autopay in a real PostgreSQL and a real book of the processor, as verify reads them.

Charge n: 10.00 dollars and n cents of account A-n, due on 2025-03-20, announced and told on
2025-03-01, asked for, made, taken and paid.
"""

import tracemalloc
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from tests.support.backends import TestDatabase

from paypost.simulators.processor.book import Book, Entry
from paypost.simulators.processor.records import Change, Charge
from paypost.trace.autopay import (
    charge_of_payment,
    find_autopay,
    payment_of_charge,
    read_charge,
)
from paypost.verify.autopay import AutopayTally, Terms, compare_autopay
from paypost.verify.autopay_world import DatabaseAutopayBooks
from paypost.verify.compare import Difference, Fault
from paypost.verify.pending import has_autopay, read_pending
from shared.db.migrations import migrate

SERVICES = ("payment_intake", "cis_poster", "autopay_scheduler", "notifier")
CHARGED_AT = datetime(2025, 3, 20, 11, 0, 1, tzinfo=UTC)
NOW = datetime(2025, 3, 25, 12, 0, tzinfo=UTC)
CHICAGO = ZoneInfo("America/Chicago")

_ID = "lpad(to_hex(n), 32, '0')::uuid"
_SERIES = "generate_series(1, $1::bigint) AS n"
FILL = f"""
INSERT INTO autopay_scheduler.enrolments
    (id, account_id, reference, status, processor, payment_method_token, charge_on, amount_rule,
     authorisation_version, authorised_at, locale, word_at, taken_at)
SELECT {_ID}, 'A-' || n, 'enr_' || n, 'active', 'stripe', 'pm_' || n, 'due_date', 'full_balance',
       '1', '2025-01-02 12:00Z', 'en', '2025-01-02 12:00Z', '2025-01-02 12:00Z'
FROM {_SERIES};
INSERT INTO autopay_scheduler.bills
    (account_id, bill_reference, version, amount_cents, currency, due_date, stated_at,
     paid_before_cents, status)
SELECT 'A-' || n, 'B-' || n, 1, 1000 + n, 'USD', '2025-03-20', '2025-03-01 12:00Z', 0, 'open'
FROM {_SERIES};
INSERT INTO autopay_scheduler.charges
    (id, enrolment_id, account_id, bill_reference, due_date, planned_on, chosen_on, charge_on,
     amount_cents, currency, status, attempt, first_attempt_on, requested_cents, requested_at,
     paid_cents, payment_id, closed_at, created_at)
SELECT {_ID}, {_ID}, 'A-' || n, 'B-' || n, '2025-03-20', '2025-03-01', '2025-03-20', '2025-03-20',
       1000 + n, 'USD', 'paid', 1, '2025-03-20', 1000 + n, '2025-03-20 11:00Z', 1000 + n, {_ID},
       '2025-03-20 11:00:02Z', '2025-03-01 12:00Z'
FROM {_SERIES};
INSERT INTO autopay_scheduler.announcements
    (charge_id, version, fact_id, amount_cents, left_cents, charge_on, announced_at, status,
     noticed_at)
SELECT {_ID}, 1, {_ID}, 1000 + n, 0, '2025-03-20', '2025-03-01 15:00Z', 'sent',
       '2025-03-01 15:01Z'
FROM {_SERIES};
INSERT INTO payment_intake.charges
    (id, account_id, enrolment_id, due_date, bill_reference, method_kind, currency, attempt,
     amount_cents, processor, payment_method_token, requested_at, valid_until, status, tries,
     keys_spent, due_at, earlier, created_at, answered_at)
SELECT {_ID}, 'A-' || n, {_ID}, '2025-03-20', 'B-' || n, 'card', 'USD', 1, 1000 + n, 'stripe',
       'pm_' || n, '2025-03-20 11:00Z', '2025-03-24 13:00Z', 'charged', 0, 0,
       '2025-03-20 11:00Z', '[]', '2025-03-20 11:00Z', '2025-03-20 11:00:01Z'
FROM {_SERIES};
INSERT INTO payment_intake.payments
    (id, processor, status, account_id, amount_cents, fee_cents, currency, book, credited,
     created_at)
SELECT {_ID}, 'stripe', 'captured', 'A-' || n, 1000 + n, 0, 'USD', '{{}}', true,
       '2025-03-20 11:00:01Z'
FROM {_SERIES};
INSERT INTO payment_intake.payment_references
SELECT 'stripe', 'autopay:' || {_ID}, {_ID} FROM {_SERIES};
INSERT INTO payment_intake.payment_references
SELECT 'stripe', 'pi_' || n, {_ID} FROM {_SERIES};
"""
EMPTY = """
TRUNCATE autopay_scheduler.enrolments, autopay_scheduler.bills, autopay_scheduler.charges,
    autopay_scheduler.announcements, autopay_scheduler.mandates, autopay_scheduler.plans_due,
    autopay_scheduler.switches, autopay_scheduler.outbox, autopay_scheduler.audit_entries,
    payment_intake.charges, payment_intake.charge_attempts,
    payment_intake.payments, payment_intake.payment_references
"""
PAUSE_INTAKE = """
INSERT INTO payment_intake.switches (name, is_paused) VALUES ('charges', true)
ON CONFLICT (name) DO UPDATE SET is_paused = true
"""


def taken(n: int, *, key: str | None = None) -> Charge:
    """What the processor has of charge n."""
    return Charge(
        id=f"ch_{n}",
        intent=f"pi_{n}",
        created=int(CHARGED_AT.timestamp()),
        amount_cents=1000 + n,
        currency="usd",
        status="succeeded",
        method=f"pm_{n}",
        method_type="card",
        last4="4242",
        attempt=1,
        metadata={"account_number": f"A-{n}", "paypost_charge_id": key or str(UUID(int=n))},
    )


def written(*charges: Charge, at: datetime = CHARGED_AT, moved_seconds: float = 0.0) -> Entry:
    """A line of the processor's book."""
    return Entry(
        at=at, moved_seconds=moved_seconds, operation="create", change=Change(charges=charges)
    )


class Autopay:
    """The books of one system's autopay, filled by hand."""

    def __init__(self, *, connection: asyncpg.Connection, path: Path) -> None:
        self.connection = connection
        self.path = path
        self.tally = AutopayTally()

    async def fill(self, *, charges: int) -> None:
        for statement in FILL.split(";\n"):
            if statement.strip():
                await self.connection.execute(statement.replace("$1::bigint", str(charges)))
        await self.write(written(taken(n)) for n in range(1, charges + 1))

    async def write(self, entries: Iterable[Entry]) -> None:
        book = Book(path=self.path)
        await book.append(*entries)
        await book.close()

    async def differences(self, *, at: datetime = NOW) -> list[Difference]:
        books = DatabaseAutopayBooks(
            connection=self.connection,
            at=at,
            charges_journal_path=self.path,
            zone=CHICAGO,
            late_grace_days=3,
        )
        async with self.connection.transaction(isolation="repeatable_read", readonly=True):
            found = compare_autopay(books=books, tally=self.tally, terms=Terms())
            return [each async for each in found]

    async def faults(self) -> list[tuple[Fault, str]]:
        return [(each.fault, each.key) for each in await self.differences()]


@pytest.fixture(scope="module")
def schemas(database: TestDatabase) -> TestDatabase:
    """Every schema as its service makes it."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        for service in SERVICES:
            url = database.dsns[service].replace("postgresql://", "postgresql+asyncpg://", 1)
            thread.submit(migrate, url=url, package=service).result()
    return database


@pytest.fixture
async def autopay(schemas: TestDatabase, tmp_path: Path) -> AsyncIterator[Autopay]:
    connection = await asyncpg.connect(schemas.superuser_dsn)
    await connection.execute(EMPTY)
    await connection.execute("UPDATE payment_intake.switches SET is_paused = false")
    yield Autopay(connection=connection, path=tmp_path / "book.jsonl")
    await connection.close()


class TestAutopayBooks:
    async def test_of_a_system_in_order_do_not_differ(self, autopay):
        await autopay.fill(charges=5)
        assert await autopay.differences() == []
        assert autopay.tally.due_dates == 5
        assert dict(autopay.tally.outcomes) == {"paid": 5}
        assert {book: each.cents for (book, _), each in autopay.tally.sums.items()} == {
            "asked": 5_015,
            "made": 5_015,
            "taken": 5_015,
            "credited": 5_015,
        }

    async def test_of_a_system_without_autopay_do_not_differ(self, autopay):
        assert await autopay.differences() == []
        assert not autopay.tally.has_traffic

    @pytest.mark.parametrize(
        ("damage", "fault"),
        [
            (
                "UPDATE autopay_scheduler.charges SET status = 'skipped', reason = 'paid'",
                Fault.CHARGED_ANYWAY,
            ),
            ("DELETE FROM autopay_scheduler.announcements", Fault.ABOVE_ANNOUNCEMENT),
            (
                "UPDATE autopay_scheduler.announcements SET amount_cents = 1002",
                Fault.ABOVE_ANNOUNCEMENT,
            ),
            (
                "UPDATE autopay_scheduler.announcements SET noticed_at = '2025-03-11 12:00Z'",
                Fault.NOTICE_TOO_SHORT,
            ),
            (
                "UPDATE autopay_scheduler.announcements SET status = 'failed'",
                Fault.NOTICE_TOO_SHORT,
            ),
            ("UPDATE autopay_scheduler.charges SET status = 'refunded'", Fault.NOT_REFUNDED),
            ("UPDATE payment_intake.charges SET account_id = 'B'", Fault.ACCOUNT),
            ("UPDATE payment_intake.charges SET amount_cents = 1", Fault.AMOUNT),
            ("UPDATE payment_intake.payments SET credited = false", Fault.LOST),
            ("UPDATE autopay_scheduler.charges SET paid_cents = 1", Fault.AMOUNT),
            ("DELETE FROM autopay_scheduler.charges", Fault.INVENTED),
            (
                "UPDATE autopay_scheduler.charges SET status = 'requested', act_at = now()",
                Fault.UNFINISHED,
            ),
        ],
    )
    async def test_tell_what_was_damaged(self, autopay, damage, fault):
        await autopay.fill(charges=5)
        table = damage.split()[2 if damage.startswith("DELETE") else 1]
        key = {"autopay_scheduler.announcements": "charge_id"}.get(table, "id")
        await autopay.connection.execute(f"{damage} WHERE {key} = $1", UUID(int=3))
        found = await autopay.faults()
        assert (fault, str(UUID(int=3))) in found
        # Of a charge that the scheduler has lost, its bill is unexplained as well.
        assert {key for _, key in found} == {str(UUID(int=3))}

    async def test_tell_a_second_taking(self, autopay):
        await autopay.fill(charges=3)
        await autopay.write([written(replace(taken(2), id="ch_again"))])
        assert await autopay.faults() == [(Fault.CHARGED_TWICE, str(UUID(int=2)))]

    async def test_take_the_last_line_about_a_charge(self, autopay):
        await autopay.fill(charges=3)
        await autopay.write([written(replace(taken(2), refunded_cents=1002))])
        await autopay.connection.execute(
            "UPDATE autopay_scheduler.charges SET status = 'refunded', reason = 'cancelled'"
            " WHERE id = $1",
            UUID(int=2),
        )
        assert await autopay.faults() == []

    async def test_tell_a_taking_that_nobody_asked_for(self, autopay):
        await autopay.fill(charges=1)
        await autopay.write(
            [written(replace(taken(9), metadata={"paypost_charge_id": "nonsense"}))]
        )
        found = await autopay.differences()
        assert [each.fault for each in found] == [Fault.INVENTED]
        assert "ch_9" in found[0].detail

    async def test_leave_out_what_others_charge_at_the_processor(self, autopay):
        await autopay.fill(charges=1)
        await autopay.write([written(replace(taken(9), metadata={}))])
        assert await autopay.faults() == []

    async def test_leave_out_what_was_written_after_the_instant(self, autopay):
        await autopay.fill(charges=1)
        later = replace(taken(1), id="ch_later")
        await autopay.write([written(later, at=NOW + timedelta(seconds=1))])
        assert await autopay.faults() == []

    async def test_know_by_how_much_the_processor_s_clock_was_moved(self, autopay):
        await autopay.fill(charges=1)
        ahead = NOW + timedelta(days=5)
        again = replace(taken(1), id="ch_again")
        await autopay.write([written(again, at=ahead, moved_seconds=6 * 86_400)])
        assert await autopay.faults() == [(Fault.CHARGED_TWICE, str(UUID(int=1)))]

    async def test_need_memory_that_does_not_grow_with_the_charges(self, autopay):
        await autopay.fill(charges=20_000)
        tracemalloc.start()
        try:
            assert await autopay.differences() == []
            peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
        finally:
            tracemalloc.stop()
        assert autopay.tally.due_dates == 20_000
        # Pages of 2,000 rows from four cursors at once; all rows together would be some 90 MB.
        assert peak_mb < 20


class TestDueDates:
    async def test_of_enrolments_that_were_on_are_explained(self, autopay):
        await autopay.fill(charges=2)
        await autopay.connection.execute("DELETE FROM autopay_scheduler.charges")
        await autopay.connection.execute("DELETE FROM payment_intake.charges")
        await autopay.connection.execute("TRUNCATE payment_intake.payment_references")
        await autopay.connection.execute("DELETE FROM autopay_scheduler.announcements")
        autopay.path.unlink()
        assert await autopay.faults() == [
            (Fault.UNEXPLAINED, str(UUID(int=1))),
            (Fault.UNEXPLAINED, str(UUID(int=2))),
        ]

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE autopay_scheduler.bills SET status = 'cancelled'",
            "UPDATE autopay_scheduler.bills SET due_date = '2025-03-22'",
            # Chicago is five hours behind: still the 20th there.
            "UPDATE autopay_scheduler.enrolments SET taken_at = '2025-03-21 05:30Z'",
            "UPDATE autopay_scheduler.enrolments SET status = 'stopped',"
            " ended_at = '2025-03-22 12:00Z'",
            "UPDATE autopay_scheduler.enrolments SET status = 'refused'",
            "INSERT INTO autopay_scheduler.plans_due VALUES ('A-1', '2025-03-25 11:59Z')",
        ],
    )
    async def test_of_others_need_no_explanation(self, autopay, change):
        await autopay.fill(charges=1)
        await autopay.connection.execute(change)
        await self._forget_charge(autopay)
        assert await autopay.faults() == []

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE autopay_scheduler.enrolments SET taken_at = '2025-03-21 04:30Z'",
            "UPDATE autopay_scheduler.enrolments SET status = 'stopped',"
            " ended_at = '2025-03-24 12:00Z'",
            # To be planned since yesterday: nobody plans.
            "INSERT INTO autopay_scheduler.plans_due VALUES ('A-1', '2025-03-24 11:59Z')",
        ],
    )
    async def test_are_counted_by_the_city_s_days(self, autopay, change):
        await autopay.fill(charges=1)
        await autopay.connection.execute(change)
        await self._forget_charge(autopay)
        assert await autopay.faults() == [(Fault.UNEXPLAINED, str(UUID(int=1)))]

    async def _forget_charge(self, autopay):
        for table in ("autopay_scheduler.charges", "payment_intake.charges"):
            await autopay.connection.execute(f"DELETE FROM {table}")
        await autopay.connection.execute("TRUNCATE payment_intake.payment_references")
        await autopay.connection.execute("DELETE FROM autopay_scheduler.announcements")
        autopay.path.unlink()


class TestNoticeRule:
    """Which rule counts: the one in force when the charge was asked for."""

    async def _say(self, autopay, *, kind: str, heard_at: datetime, rule: str) -> None:
        await autopay.connection.execute(
            "INSERT INTO autopay_scheduler.mandates (enrolment_id, account_id, event_source,"
            " event_id, type, said_at, document, heard_at)"
            " VALUES ($1, 'A-1', 'portal', $2, $2, $3, $4::jsonb, $3)",
            UUID(int=1),
            kind,
            heard_at,
            f'{{"rule": {rule}}}',
        )

    async def _notice_on_the_eleventh(self, autopay) -> None:
        await autopay.fill(charges=1)
        await autopay.connection.execute(
            "UPDATE autopay_scheduler.announcements SET noticed_at = '2025-03-11 12:00Z'"
        )

    async def test_is_the_enrolment_s_own(self, autopay):
        await self._notice_on_the_eleventh(autopay)
        await autopay.connection.execute(
            "UPDATE autopay_scheduler.enrolments SET maximum_cents = 5000"
        )
        assert await autopay.faults() == []

    async def test_is_the_one_before_where_it_was_changed_since(self, autopay):
        await self._notice_on_the_eleventh(autopay)
        await autopay.connection.execute(
            "UPDATE autopay_scheduler.enrolments SET maximum_cents = 5000"
        )
        before, after = CHARGED_AT - timedelta(days=30), CHARGED_AT + timedelta(days=1)
        await self._say(
            autopay, kind="autopay.enrolled", heard_at=before, rule='{"amount": "full_balance"}'
        )
        await self._say(
            autopay,
            kind="autopay.changed",
            heard_at=after,
            rule='{"amount": "full_balance", "maximum_cents": 5000}',
        )
        assert await autopay.faults() == [(Fault.NOTICE_TOO_SHORT, str(UUID(int=1)))]


class TestCancellation:
    async def test_is_counted_from_the_customer_s_own_word(self, autopay):
        await autopay.fill(charges=1)
        said_at = CHARGED_AT - timedelta(milliseconds=200)
        await autopay.connection.execute(
            "INSERT INTO autopay_scheduler.mandates (enrolment_id, account_id, event_source,"
            " event_id, type, said_at, document, heard_at)"
            " VALUES ($1, 'A-1', 'portal', 'e', 'autopay.cancelled', $2, '{}', $3)",
            UUID(int=1),
            said_at,
            CHARGED_AT + timedelta(seconds=2),
        )
        await autopay.connection.execute(
            "UPDATE autopay_scheduler.enrolments SET status = 'stopped', ended_at = $1",
            CHARGED_AT + timedelta(seconds=2),
        )
        assert await autopay.faults() == [(Fault.CHARGED_AFTER_CANCELLATION, str(UUID(int=1)))]


class TestPending:
    async def test_of_a_system_at_rest_is_nothing(self, autopay):
        await autopay.fill(charges=3)
        assert await has_autopay(connection=autopay.connection)
        assert (await read_pending(connection=autopay.connection)).total == 0

    @pytest.mark.parametrize(
        ("change", "place"),
        [
            ("INSERT INTO autopay_scheduler.plans_due VALUES ('A-1', now())", "plans"),
            (
                "UPDATE autopay_scheduler.charges SET status = 'planned', act_at = now()",
                "plans",
            ),
            (
                "UPDATE autopay_scheduler.announcements SET status = 'waiting',"
                " restate_at = now() + interval '1 minute'",
                "announcements",
            ),
            (
                "UPDATE autopay_scheduler.charges SET status = 'announced', act_at = now()",
                "charges",
            ),
            (
                "UPDATE autopay_scheduler.charges SET status = 'requested', act_at = now()",
                "charges",
            ),
            ("UPDATE payment_intake.charges SET status = 'unknown'", "charges"),
            ("UPDATE payment_intake.charges SET status = 'refund_due'", "charges"),
            (
                "INSERT INTO autopay_scheduler.outbox (topic, key, value, headers)"
                " VALUES ('autopay.v1', 'A', '{}', '[]')",
                "outboxes",
            ),
        ],
    )
    async def test_counts_what_is_on_its_way(self, autopay, change, place):
        await autopay.fill(charges=1)
        await autopay.connection.execute(change)
        pending = await read_pending(connection=autopay.connection)
        assert (getattr(pending, place), pending.total) == (1, 1)

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE autopay_scheduler.charges SET status = 'announced',"
            " act_at = now() + interval '1 day'",
            "UPDATE autopay_scheduler.charges SET status = 'pending', act_at = now()",
            "UPDATE payment_intake.charges SET status = 'pending'",
        ],
    )
    async def test_leaves_out_what_is_at_rest_until_its_day(self, autopay, change):
        await autopay.fill(charges=1)
        await autopay.connection.execute(change)
        assert (await read_pending(connection=autopay.connection)).total == 0

    async def test_leaves_out_what_an_operator_has_paused(self, autopay):
        await autopay.fill(charges=2)
        await autopay.connection.execute(
            "UPDATE autopay_scheduler.charges SET status = 'requested', act_at = now()"
            " WHERE id = $1",
            UUID(int=1),
        )
        await autopay.connection.execute(
            "UPDATE payment_intake.charges SET status = 'due' WHERE id = $1", UUID(int=1)
        )
        await autopay.connection.execute(
            "UPDATE autopay_scheduler.charges SET status = 'announced', act_at = now()"
            " WHERE id = $1",
            UUID(int=2),
        )
        assert (await read_pending(connection=autopay.connection)).charges == 3
        await autopay.connection.execute(PAUSE_INTAKE)
        assert (await read_pending(connection=autopay.connection)).charges == 1
        await autopay.connection.execute(
            "INSERT INTO autopay_scheduler.switches VALUES ('requests', true, now())"
        )
        assert (await read_pending(connection=autopay.connection)).charges == 0


class TestHasAutopay:
    async def test_is_false_where_its_tables_never_were(self, schemas):
        connection = await asyncpg.connect(schemas.superuser_dsn, database="postgres")
        try:
            assert not await has_autopay(connection=connection)
        finally:
            await connection.close()


class TestAMovedClock:
    """The scheduler's clock can be moved ahead to try out the days to come."""

    async def test_makes_due_what_is_due_by_it(self, autopay):
        await autopay.fill(charges=1)
        await autopay.connection.execute(
            "UPDATE autopay_scheduler.charges SET status = 'announced',"
            " act_at = now() + interval '3 days'"
        )
        connection = autopay.connection
        assert (await read_pending(connection=connection)).charges == 0
        ahead = await read_pending(connection=connection, ahead=timedelta(days=4))
        assert ahead.charges == 1

    def test_is_the_clock_by_which_due_dates_are_past(self, autopay):
        books = DatabaseAutopayBooks(
            connection=autopay.connection,
            at=NOW,
            charges_journal_path=None,
            zone=CHICAGO,
            late_grace_days=3,
            clock_ahead=timedelta(days=40),
        )
        assert books.today.isoformat() == "2025-05-04"


class TestTrace:
    """A charge's story, and why it waits."""

    async def _story(self, autopay):
        return await read_charge(connection=autopay.connection, charge_id=UUID(int=1))

    async def test_finds_charges_and_enrolments_by_id(self, autopay):
        await autopay.fill(charges=1)
        await autopay.connection.execute(
            "UPDATE autopay_scheduler.enrolments SET id = $1", UUID(int=77)
        )
        connection = autopay.connection
        assert await find_autopay(connection=connection, name=str(UUID(int=1))) == (
            "charge",
            UUID(int=1),
        )
        assert await find_autopay(connection=connection, name=str(UUID(int=77))) == (
            "enrolment",
            UUID(int=77),
        )
        assert await find_autopay(connection=connection, name=str(UUID(int=99))) is None
        assert await find_autopay(connection=connection, name="pi_1") is None

    async def test_knows_which_payment_a_charge_is_and_back(self, autopay):
        await autopay.fill(charges=1)
        one = UUID(int=1)
        connection = autopay.connection
        assert await payment_of_charge(connection=connection, charge_id=one) == one
        assert await charge_of_payment(connection=connection, payment_id=one) == one

    async def test_tells_everything_in_the_order_of_time(self, autopay):
        await autopay.fill(charges=1)
        await autopay.connection.execute(
            "INSERT INTO payment_intake.charge_attempts (charge_id, attempt, operation, outcome,"
            " reason, reference, at, duration_ms) VALUES ($1, 1, 'charge', 'unknown', 'timeout',"
            " NULL, '2025-03-20 11:00:00.5Z', 20000)",
            UUID(int=1),
        )
        await autopay.connection.execute(
            "INSERT INTO autopay_scheduler.audit_entries (at, operator, action, subject, note)"
            " VALUES ('2025-03-20 10:00Z', 'anna', 'pause', 'requests', 'wrong bills'),"
            " ('2025-03-20 10:59Z', 'anna', 'resume', 'requests', 'put right'),"
            " ('2025-04-20 10:59Z', 'anna', 'pause', 'requests', 'another time')"
        )
        story = await self._story(autopay)
        assert [moment.what for moment in story.moments] == [
            "took the enrolment",
            "planned",
            "announced (notice 1)",
            "notice 1: sent",
            "pause of all charges by anna",
            "resume of all charges by anna",
            "asked for attempt 1",
            "took the charge",
            "charge, attempt 1: unknown",
            "charge paid",
        ]
        assert story.moments[8].detail == "timeout after 20000 ms"
        assert story.waits() == []

    @pytest.mark.parametrize(
        ("asked", "made", "says"),
        [
            ("planned", "due", "waits to be announced"),
            ("announced", "due", "waits for its day: it is looked at again at 2025-03-20 11:00"),
            ("held", "due", "waits for the customer"),
            ("requested", "due", "at payment-intake to be sent at 2025-03-20 11:00:00 UTC (busy)"),
            ("requested", "charging", "waits for the processor's answer"),
            ("requested", "unknown", "the processor is asked about it"),
            ("requested", "refund_due", "waits to be given back"),
            ("requested", "declined", "waits to hear what payment-intake says of it: declined"),
            ("pending", "pending", "waits for the bank"),
            ("retrying", "declined", "presented again at 2025-03-20 11:00:00 UTC, after a decline"),
        ],
    )
    async def test_says_why_a_charge_waits(self, autopay, asked, made, says):
        await autopay.fill(charges=1)
        await autopay.connection.execute(
            "UPDATE autopay_scheduler.charges SET status = $1, act_at = '2025-03-20 11:00Z'", asked
        )
        await autopay.connection.execute(
            "UPDATE payment_intake.charges SET status = $1, reason = 'busy'", made
        )
        (said,) = (await self._story(autopay)).waits()
        assert says in said

    async def test_says_that_an_operator_has_paused(self, autopay):
        await autopay.fill(charges=1)
        await autopay.connection.execute(
            "UPDATE autopay_scheduler.charges SET status = 'requested', act_at = now()"
        )
        await autopay.connection.execute("UPDATE payment_intake.charges SET status = 'due'")
        await autopay.connection.execute(PAUSE_INTAKE)
        (said,) = (await self._story(autopay)).waits()
        assert "all charges are paused by an operator" in said

    async def test_says_that_the_customer_was_not_told_yet(self, autopay):
        await autopay.fill(charges=1)
        await autopay.connection.execute(
            "UPDATE autopay_scheduler.charges SET status = 'announced', act_at = now(),"
            " reason = 'notice_not_kept'"
        )
        await autopay.connection.execute(
            "UPDATE autopay_scheduler.announcements SET status = 'waiting', noticed_at = NULL"
        )
        (said,) = (await self._story(autopay)).waits()
        assert "notice_not_kept; announcement 1 has not reached the customer yet" in said

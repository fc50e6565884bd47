"""The books of a real PostgreSQL and real files, read as `paypost verify` reads them."""

import tracemalloc
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import orjson
import pytest
from tests.support.backends import TestDatabase

from paypost.simulators.cis.store import connect_writer
from paypost.simulators.mail.store import FILE_NAME
from paypost.trace.timeline import PaymentNotFoundError, find_payment, read_heard
from paypost.verify.compare import Difference, Fault, Tally, compare
from paypost.verify.pending import read_pending, wait_until_settled
from paypost.verify.world import open_books, read_extras, read_mails
from shared.db.migrations import migrate

SERVICES = ("payment_intake", "cis_poster", "autopay_scheduler", "notifier")
AT = datetime(2025, 3, 14, 18, 0, tzinfo=UTC)

# Payment n: 10.00 dollars and n cents for account A, posted as entry n, told by notice and mail n.
FILL = """
INSERT INTO payment_intake.payments
    (id, processor, status, account_id, amount_cents, fee_cents, currency, book, credited,
     created_at)
SELECT lpad(to_hex(n), 32, '0')::uuid, 'stripe', 'captured', 'A', 1000 + n, 0, 'USD', '{}', true,
       '2025-03-14 18:00Z'
FROM generate_series(1, $1::bigint) AS n;
INSERT INTO payment_intake.payment_references
SELECT 'stripe', 'pi_' || n, lpad(to_hex(n), 32, '0')::uuid
FROM generate_series(1, $1::bigint) AS n;
INSERT INTO payment_intake.movements
    (id, payment_id, kind, amount_cents, effective_date, accepted_at, status, posted_at,
     confirmed_at, notification)
SELECT id, id, 'payment', amount_cents, '2025-03-14', created_at, 'confirmed', created_at,
       created_at, 'sent'
FROM payment_intake.payments;
INSERT INTO cis_poster.postings
    (id, payment_id, kind, account_id, amount_cents, currency, effective_date, accepted_at,
     processor, reference, status, due_at, cis_reference, balance_after_cents, taken_at, settled_at)
SELECT p.id, p.id, 'payment', 'A', p.amount_cents, 'USD', '2025-03-14', p.created_at, 'stripe',
       r.reference, 'posted', p.created_at, 'CIS', 0, p.created_at, p.created_at
FROM payment_intake.payments p JOIN payment_intake.payment_references r ON r.payment_id = p.id;
INSERT INTO reference_cis.entries
    (sequence, key, kind, account, debit_account, credit_account, amount_cents, currency,
     payment_key, effective_date, accepted_at, posted_at, reference)
SELECT amount_cents - 1000, id, 'payment', 'A', 'ledger:processor-clearing', 'A', amount_cents,
       'USD', id, '2025-03-14', created_at, created_at, 'x'
FROM payment_intake.payments;
INSERT INTO notifier.notifications
    (id, kind, payment_id, posting_key, account_id, amount_cents, currency, happened_at, status,
     due_at, message_id, taken_at, settled_at)
SELECT id, 'posted', id, id, 'A', amount_cents, 'USD', created_at, 'sent', created_at,
       '<' || id || '@city.example>', created_at, created_at
FROM payment_intake.payments;
"""
EMPTY = """
TRUNCATE payment_intake.events, payment_intake.payments, payment_intake.payment_references,
    payment_intake.movements, payment_intake.outbox, cis_poster.postings, cis_poster.outbox,
    reference_cis.entries, notifier.notifications, notifier.outbox
"""


class Books:
    """One system's books, filled by hand."""

    def __init__(self, *, connection: asyncpg.Connection, folder: Path) -> None:
        self.connection = connection
        self.journal_path = folder / "journal.jsonl"
        self.mail_path = folder / "mail"
        self.mail_path.mkdir()

    async def fill(self, *, payments: int) -> None:
        for statement in FILL.split(";\n"):
            if statement.strip():
                await self.connection.execute(statement.replace("$1::bigint", str(payments)))
        with self.journal_path.open("wb") as journal:
            for n in range(1, payments + 1):
                journal.write(orjson.dumps(line(n), option=orjson.OPT_APPEND_NEWLINE))
        with (self.mail_path / FILE_NAME).open("wb") as mails:
            # Mails come in another order than notices.
            for number, n in enumerate(range(payments, 0, -1), start=1):
                mails.write(orjson.dumps(mail(number, n), option=orjson.OPT_APPEND_NEWLINE))

    async def differences(self) -> list[Difference]:
        async with open_books(
            connection=self.connection,
            journal_path=self.journal_path,
            mail_store_path=self.mail_path,
        ) as books:
            return [each async for each in compare(books=books, tally=Tally())]


def line(n: int) -> dict[str, object]:
    return {
        "sequence": n,
        "key": UUID(int=n),
        "kind": "payment",
        "account": "A",
        "amount_cents": 1000 + n,
        "currency": "USD",
        "payment_key": UUID(int=n),
        "cis_reference": "CIS",
        "posted_at": AT,
    }


def mail(number: int, n: int) -> dict[str, object]:
    return {
        "id": number,
        "received_at": AT,
        "from": "billing@city.example",
        "to": ["a@customers.example"],
        "raw": "From: billing@city.example\r\n"
        f"Message-ID: <{UUID(int=n)}@city.example>\r\nSubject: posted\r\n\r\n"
        f"Message-ID: <{UUID(int=999)}@in-the-body>\r\n",
    }


@pytest.fixture(scope="module")
def schemas(database: TestDatabase) -> TestDatabase:
    """Every schema as its service makes it."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        for service in SERVICES:
            url = database.dsns[service].replace("postgresql://", "postgresql+asyncpg://", 1)
            thread.submit(migrate, url=url, package=service).result()
    return database


@pytest.fixture
async def books(schemas: TestDatabase, tmp_path: Path) -> AsyncIterator[Books]:
    cis = await connect_writer(database_url=schemas.dsns["reference_cis"], lock_wait_seconds=5)
    await cis.close()
    connection = await asyncpg.connect(schemas.superuser_dsn)
    await connection.execute(EMPTY)
    yield Books(connection=connection, folder=tmp_path)
    await connection.close()


class TestDatabaseBooks:
    async def test_of_a_system_in_order_do_not_differ(self, books):
        await books.fill(payments=5)
        assert await books.differences() == []

    async def test_of_a_system_that_has_done_nothing_do_not_differ(self, books):
        assert await books.differences() == []

    @pytest.mark.parametrize(
        ("damage", "fault"),
        [
            ("DELETE FROM reference_cis.entries WHERE sequence = 3", Fault.LOST),
            ("DELETE FROM payment_intake.movements WHERE amount_cents = 1003", Fault.INVENTED),
            (
                "UPDATE cis_poster.postings SET amount_cents = 1 WHERE amount_cents = 1003",
                Fault.AMOUNT,
            ),
            ("UPDATE cis_poster.postings SET reference = 'pi_1'", Fault.TWICE),
            ("DELETE FROM notifier.notifications WHERE amount_cents = 1003", Fault.UNCONFIRMED),
        ],
    )
    async def test_tell_what_was_damaged(self, books, damage, fault):
        await books.fill(payments=5)
        await books.connection.execute(damage)
        found = {each.fault: each for each in await books.differences()}
        assert fault in found
        assert found[fault].key == ("pi_1" if fault is Fault.TWICE else str(UUID(int=3)))

    async def test_tell_a_mail_that_is_missing(self, books):
        await books.fill(payments=2)
        path = books.mail_path / FILE_NAME
        path.write_bytes(path.read_bytes().partition(b"\n")[2])
        assert [(each.fault, each.key) for each in await books.differences()] == [
            (Fault.MAIL_MISSING, str(UUID(int=2)))
        ]

    async def test_need_memory_that_does_not_grow_with_the_payments(self, books):
        await books.fill(payments=20_000)
        tracemalloc.start()
        try:
            assert await books.differences() == []
            peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
        finally:
            tracemalloc.stop()
        # Pages of 2,000 rows from four cursors; all rows together would be some 60 MB.
        assert peak_mb < 15


class TestReadMails:
    async def test_takes_the_message_id_from_the_head_and_not_from_the_body(self, books):
        await books.fill(payments=1)
        assert [each.notice_id for each in read_mails(path=books.mail_path)] == [UUID(int=1)]

    def test_of_no_store_are_none(self, tmp_path):
        assert list(read_mails(path=tmp_path)) == []


class TestPending:
    async def test_is_nothing_when_all_has_ended(self, books):
        await books.fill(payments=3)
        pending = await wait_until_settled(connection=books.connection, timeout_seconds=5)
        assert pending.total == 0

    async def test_counts_what_is_on_its_way_and_gives_up_in_time(self, books):
        await books.fill(payments=3)
        await books.connection.execute(
            "UPDATE cis_poster.postings SET status = 'due' WHERE amount_cents = 1002"
        )
        pending = await wait_until_settled(connection=books.connection, timeout_seconds=0.2)
        assert (pending.postings, pending.total) == (1, 1)

    async def test_leaves_out_a_reversal_that_waits_for_its_payment(self, books):
        await books.fill(payments=2)
        await books.connection.execute(
            "UPDATE cis_poster.postings SET status = 'waiting' WHERE amount_cents = 1002"
        )
        await books.connection.execute(
            "UPDATE payment_intake.movements SET status = 'announced', announce_at = now()"
            " WHERE amount_cents = 1002"
        )
        assert (await read_pending(connection=books.connection)).total == 0


class TestReadHeard:
    async def test_is_every_word_of_a_payment_early_or_late_and_of_no_other(self, books):
        await books.fill(payments=2)
        await books.connection.execute(
            "INSERT INTO payment_intake.events"
            " (source, event_id, type, processor, reference, digest, body, received_at) VALUES"
            " ('stripe', 'evt_1', 'early', 'stripe', 'pi_1', '', '', '2024-03-14 00:00Z'),"
            " ('stripe', 'evt_2', 'first', 'stripe', 'pi_1', '', '', '2025-03-14 18:00Z'),"
            " ('stripe', 'evt_3', 'late', 'stripe', 'pi_1', '', '', now()),"
            " ('stripe', 'evt_4', 'other', 'stripe', 'pi_2', '', '', '2025-03-14 18:00Z')"
        )
        heard = await read_heard(connection=books.connection, payment_id=UUID(int=1), created_at=AT)
        assert sorted(each.what for each in heard) == ["heard early", "heard first", "heard late"]


class TestReadExtras:
    async def test_counts_what_waits_for_kafka(self, books):
        await books.connection.execute(
            "INSERT INTO cis_poster.outbox (topic, key, value, headers)"
            " VALUES ('postings.v1', 'A', '{}', '[]')"
        )
        extras = await read_extras(connection=books.connection)
        assert extras.outboxes == {
            "payment_intake": 0,
            "cis_poster": 1,
            "autopay_scheduler": 0,
            "notifier": 0,
        }


class TestFindPayment:
    async def test_knows_a_payment_by_id_and_by_reference(self, books):
        await books.fill(payments=2)
        for name in (str(UUID(int=2)), "pi_2"):
            assert await find_payment(connection=books.connection, name=name) == UUID(int=2)

    async def test_says_when_nobody_knows_it(self, books):
        with pytest.raises(PaymentNotFoundError, match="pi_unheard_of"):
            await find_payment(connection=books.connection, name="pi_unheard_of")

"""The books of a running stack: one snapshot of the database, and the files of the counterparts.

Everything that PostgreSQL holds is read in one read-only transaction, so that the services' books
are those of one instant; of the files, what was written after that instant is left out. Rows come
through server-side cursors and the mails are sorted on disk: memory does not grow with them.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

import asyncpg
import orjson

from paypost.simulators.cis.journal import read_journal
from paypost.simulators.mail.store import FILE_NAME
from paypost.stack.postgres import SERVICE_ROLES
from paypost.verify.rows import Entry, Mail, Movement, Notice, Posting, Reference

Row = TypeVar("Row")

PAGE_ROWS = 2_000

_MOVEMENTS = """
SELECT m.id, m.payment_id, m.kind, p.account_id, m.amount_cents, p.currency, m.status,
       m.wait_reason, m.notification
FROM payment_intake.movements m JOIN payment_intake.payments p ON p.id = m.payment_id
"""
_POSTINGS = """
SELECT p.id, p.payment_id, p.kind, p.account_id, p.amount_cents, p.currency, p.status, p.reason,
       EXISTS (SELECT FROM cis_poster.audit_entries a
               WHERE a.posting_id IN (p.id, p.payment_id) AND a.action = 'release') AS released
FROM cis_poster.postings p ORDER BY p.id
"""
_ENTRIES = """
SELECT sequence, key, kind, account, amount_cents, currency, payment_key
FROM reference_cis.entries WHERE kind <> 'opening'
"""
_OF_REVERSED = """
AND payment_key IN (SELECT payment_key FROM reference_cis.entries
                    WHERE kind IN ('reversal', 'reinstatement'))
ORDER BY payment_key, sequence
"""
_REFERENCES = """
SELECT processor, reference, id AS posting_id FROM cis_poster.postings
WHERE kind = 'payment' AND status = 'posted' ORDER BY processor COLLATE "C", reference COLLATE "C"
"""
_NOTICES = """
SELECT id, kind, payment_id, posting_key, account_id, amount_cents, currency, status, reason
FROM notifier.notifications
"""
# A debit that the bank returned after it was posted is told twice: what it means for the ledger,
# and, as a decline of autopay, what happens next. The second is no decline at intake.
_DECLINE_NOTICES = f"""
{_NOTICES} n WHERE kind IN ('declined', 'charge_declined') AND NOT EXISTS (
    SELECT FROM payment_intake.movements m
    WHERE m.payment_id = n.payment_id AND m.kind = 'reversal' AND m.id::text = n.fact ->> 'decline')
ORDER BY payment_id
"""

_MESSAGE_ID = re.compile(rb"^message-id:[ \t]*<([^>@]*)@?[^>]*>", re.IGNORECASE | re.MULTILINE)


class DatabaseBooks:
    """See `paypost.verify.compare.Books`; made by `open_books`."""

    def __init__(
        self,
        *,
        connection: asyncpg.Connection[Any],
        at: datetime,
        journal_path: Path,
        mail_store_path: Path,
    ) -> None:
        self.connection = connection
        self.at = at
        self._journal_path = journal_path
        self._mail_store_path = mail_store_path

    def movements(self) -> AsyncIterator[Movement]:
        return self._rows(Movement, f"{_MOVEMENTS} ORDER BY m.id")

    def declines(self) -> AsyncIterator[Movement]:
        return self._rows(Movement, f"{_MOVEMENTS} WHERE m.kind = 'decline' ORDER BY m.payment_id")

    def postings(self) -> AsyncIterator[Posting]:
        return self._rows(Posting, _POSTINGS)

    def ledger_by_key(self) -> AsyncIterator[Entry]:
        return self._rows(Entry, f"{_ENTRIES} ORDER BY key")

    def ledger_by_sequence(self) -> AsyncIterator[Entry]:
        return self._rows(Entry, f"{_ENTRIES} ORDER BY sequence")

    def ledger_of_reversed(self) -> AsyncIterator[Entry]:
        return self._rows(Entry, _ENTRIES + _OF_REVERSED)

    def posted_references(self) -> AsyncIterator[Reference]:
        return self._rows(Reference, _REFERENCES)

    def notices_by_posting(self) -> AsyncIterator[Notice]:
        return self._rows(
            Notice, f"{_NOTICES} WHERE posting_key IS NOT NULL ORDER BY posting_key, id"
        )

    def decline_notices(self) -> AsyncIterator[Notice]:
        return self._rows(Notice, _DECLINE_NOTICES)

    def notices(self) -> AsyncIterator[Notice]:
        return self._rows(Notice, f"{_NOTICES} ORDER BY id")

    async def journal(self) -> AsyncIterator[Entry]:
        if not self._journal_path.exists():
            return
        for line in read_journal(self._journal_path):
            if datetime.fromisoformat(line["posted_at"]) > self.at:
                continue
            yield Entry(
                sequence=line["sequence"],
                key=UUID(line["key"]),
                kind=line["kind"],
                account=line["account"],
                amount_cents=line["amount_cents"],
                currency=line["currency"],
                payment_key=UUID(line["payment_key"]),
            )

    async def mails(self) -> AsyncIterator[Mail]:
        with tempfile.TemporaryDirectory(prefix="paypost-verify-") as folder:
            database = sqlite3.connect(Path(folder) / "mails.sqlite")
            try:
                # A scratch file: nothing of it is needed after a crash.
                database.execute("PRAGMA journal_mode = OFF")
                database.execute("PRAGMA synchronous = OFF")
                database.execute("CREATE TABLE mails (notice BLOB, number INT, at REAL)")
                database.executemany(
                    "INSERT INTO mails VALUES (?, ?, ?)",
                    (
                        (mail.notice_id.bytes, mail.number, mail.received_at.timestamp())
                        for mail in read_mails(path=self._mail_store_path)
                        if mail.received_at <= self.at
                    ),
                )
                found = database.execute(
                    "SELECT notice, number, at FROM mails ORDER BY notice, number"
                )
                for notice, number, at in found:
                    yield Mail(
                        number=number,
                        notice_id=UUID(bytes=notice),
                        received_at=datetime.fromtimestamp(at, self.at.tzinfo),
                    )
            finally:
                database.close()

    async def _rows(self, row_of: Callable[..., Row], query: str) -> AsyncIterator[Row]:
        cursor = await self.connection.cursor(query)
        while page := await cursor.fetch(PAGE_ROWS):
            for row in page:
                yield row_of(**row)


@asynccontextmanager
async def open_books(
    *, connection: asyncpg.Connection[Any], journal_path: Path, mail_store_path: Path
) -> AsyncIterator[DatabaseBooks]:
    """Open the books at this instant; nothing can be written through them."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        at = await connection.fetchval("SELECT clock_timestamp()")
        yield DatabaseBooks(
            connection=connection,
            at=at,
            journal_path=journal_path,
            mail_store_path=mail_store_path,
        )


def read_mails(*, path: Path) -> Iterator[Mail]:
    """Yield every mail of a mail sink's store, in the order of arrival.

    A Message-ID of nobody here gets an id that no notice has, so that it is named and not passed
    over.
    """
    file_path = path / FILE_NAME
    if not file_path.exists():
        return
    with file_path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            message = orjson.loads(line)
            yield Mail(
                number=message["id"],
                notice_id=_notice_id(message["raw"]),
                received_at=datetime.fromisoformat(message["received_at"]),
            )


def _notice_id(raw: str) -> UUID:
    head = raw.partition("\r\n\r\n")[0].encode("latin-1")
    found = _MESSAGE_ID.search(head)
    local = found[1].decode("latin-1") if found else ""
    try:
        return UUID(local)
    except ValueError:
        return uuid5(NAMESPACE_URL, f"mid:{local}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What is counted beside the comparison."""

    outboxes: dict[str, int]
    rejections: int
    conflicts: dict[str, int]
    repeats_known: int
    """Mails that notifier knows to have sent again."""


async def services_of(*, connection: asyncpg.Connection[Any]) -> Sequence[str]:
    """The schemas of the services that have been here: a stack may have been without autopay."""
    rows = await connection.fetch(
        "SELECT s.name FROM unnest($1::text[]) WITH ORDINALITY AS s(name, place)"
        " WHERE to_regclass(s.name || '.outbox') IS NOT NULL ORDER BY s.place",
        SERVICE_ROLES,
    )
    return [row["name"] for row in rows]


async def read_extras(*, connection: asyncpg.Connection[Any]) -> Extras:
    """Count outboxes, evidence and alarms, in the transaction of the books."""
    outboxes = {
        service: int(await connection.fetchval(f"SELECT count(*) FROM {service}.outbox"))  # noqa: S608
        for service in await services_of(connection=connection)
    }
    conflicts = await connection.fetch(
        "SELECT kind, count(*) AS n FROM payment_intake.conflicts GROUP BY kind ORDER BY kind"
    )
    return Extras(
        outboxes=outboxes,
        rejections=await connection.fetchval("SELECT count(*) FROM payment_intake.rejections"),
        conflicts={row["kind"]: row["n"] for row in conflicts},
        repeats_known=await connection.fetchval(
            "SELECT coalesce(sum(repeats), 0)::bigint FROM notifier.notifications"
        ),
    )

"""The ledger's one writer: calls that arrive while a transaction is in flight share the next.

Invariants:
- a call is answered only after its effects are committed and stand in the fsynced journal;
- calls are decided in the order in which they arrived, so `not_found` means that no call received
  earlier is still on its way to the ledger;
- a call that is told "unavailable" has had no effect and will have none; where a commit is in
  doubt, the call is told that its outcome is unknown.
"""

import asyncio
import collections
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from paypost.simulators.cis import store
from paypost.simulators.cis.journal import Journal
from paypost.simulators.cis.ledger import Account, Book, Decision, Entry, Kind, Posting

logger = logging.getLogger(__name__)

BATCH_POSTINGS_MAX = 1_000
QUEUE_POSTINGS_MAX = 20_000
ACCOUNTS_KNOWN_MAX = 50_000
RECONNECT_SECONDS = 0.2
LOCK_WAIT_SECONDS = 15

DATABASE_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # What the driver raises when the server ended the session between two statements.
    asyncpg.InternalClientError,
)


class LedgerUnavailableError(Exception):
    """The call was not looked at: the database is away, or too much is queued."""


class OutcomeUnknownError(Exception):
    """The database went away during the commit: the effect may or may not be on the ledger."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What one request asks of the ledger: postings to apply, or keys to find."""

    postings: Sequence[Posting]
    keys: Sequence[UUID]
    answer: asyncio.Future[list[Decision]] = field(repr=False)

    @property
    def size(self) -> int:
        """Return how many postings and keys it holds."""
        return len(self.postings) + len(self.keys)


class LedgerWriter:
    """The micro-batching writer; `run` must be running for calls to be answered."""

    def __init__(
        self, *, database_url: str, journal: Journal, clock: Callable[[], datetime]
    ) -> None:
        self._database_url = database_url
        self._journal = journal
        self._clock = clock
        self._connection: asyncpg.Connection[Any] | None = None
        self._next_sequence = 0
        # Accounts as the ledger has them. Holding the writer's lock makes this true: nobody else
        # changes them. It is forgotten whenever a write fails.
        self._accounts: dict[str, Account] = {}
        self._calls: collections.deque[Call] = collections.deque()
        self._queued = 0
        self._arrived = asyncio.Event()
        # Held around every use of the connection; seeding of accounts shares it with the batches.
        self._writing = asyncio.Lock()
        self._answering: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Say whether the ledger can be written to at this moment."""
        return self._connection is not None and not self._connection.is_closed()

    async def connect(self) -> None:
        """Become the ledger's writer and bring the journal up to the ledger.

        Raises one of DATABASE_ERRORS, or JournalAheadError.
        """
        async with self._writing:
            await self._connected()

    async def post(self, postings: Sequence[Posting]) -> list[Decision]:
        """Apply postings in this order; return what became of each.

        Raises LedgerUnavailableError or OutcomeUnknownError.
        """
        return await self._submit(postings, ())

    async def find(self, keys: Sequence[UUID]) -> list[Decision]:
        """Say what stands under each key. Raises LedgerUnavailableError."""
        return await self._submit((), keys)

    async def put_accounts(self, accounts: Sequence[Account]) -> None:
        """Open or change accounts, all or none.

        Raises OpeningBalanceError, LedgerUnavailableError.
        """
        async with self._writing:
            try:
                connection = await self._connected()
                self._next_sequence = await store.write_accounts(
                    connection,
                    accounts=accounts,
                    next_sequence=self._next_sequence,
                    now=self._clock(),
                )
                self._accounts.clear()
            except DATABASE_ERRORS as error:
                self._disconnect()
                raise LedgerUnavailableError from error

    async def run(self) -> None:
        """Apply what arrives, for ever; when cancelled, turn away what is queued."""
        try:
            while True:
                await self._arrived.wait()
                batch = self._take_batch()
                try:
                    async with self._writing:
                        await self._apply(batch)
                except BaseException:
                    # The writer ends here; nobody may wait for an answer that will not come.
                    _fail(batch, OutcomeUnknownError())
                    raise
                if not self._calls:
                    self._arrived.clear()
        finally:
            for call in self._calls:
                _fail([call], LedgerUnavailableError())

    async def close(self) -> None:
        """Let the answers under way go out, then give the ledger up."""
        if self._answering:
            await asyncio.wait(self._answering, timeout=2)
        if self._connection is not None:
            await self._connection.close(timeout=2)

    async def _submit(self, postings: Sequence[Posting], keys: Sequence[UUID]) -> list[Decision]:
        call = Call(postings, keys, asyncio.get_running_loop().create_future())
        if self._queued >= QUEUE_POSTINGS_MAX:
            raise LedgerUnavailableError
        self._queued += call.size
        self._calls.append(call)
        self._arrived.set()
        return await call.answer

    def _take_batch(self) -> list[Call]:
        batch: list[Call] = []
        size = 0
        while self._calls and (not batch or size + self._calls[0].size <= BATCH_POSTINGS_MAX):
            call = self._calls.popleft()
            size += call.size
            batch.append(call)
        self._queued -= size
        return batch

    async def _apply(self, batch: list[Call]) -> None:
        try:
            connection = await self._connected()
            book = await self._read(connection, batch)
        except DATABASE_ERRORS as error:
            logger.warning("cis.database.away error=%r", error)
            self._disconnect()
            _fail(batch, LedgerUnavailableError())
            # Without a pause, callers that repeat at once would turn this into a hot loop.
            await asyncio.sleep(RECONNECT_SECONDS)
            return
        decided = [
            (call, [book.post(p) for p in call.postings] + [book.find(k) for k in call.keys])
            for call in batch
        ]
        if book.fresh:
            try:
                await store.write_postings(connection, fresh=book.fresh)
            except (*DATABASE_ERRORS, store.SecondWriterError) as error:
                # The commit may have happened: reconnecting reconciles the journal either way.
                logger.warning("cis.commit.in_doubt error=%r", error)
                self._disconnect()
                _fail(batch, OutcomeUnknownError())
                return
            self._next_sequence += len(book.fresh)
        # The journal's fsync overlaps the next transaction; it keeps the order of the batches.
        entries = [entry for _, entry in book.fresh]
        self._answering.add(task := asyncio.create_task(self._answer(decided, entries)))
        task.add_done_callback(self._answering.discard)

    async def _answer(
        self, decided: list[tuple[Call, list[Decision]]], entries: list[Entry]
    ) -> None:
        await self._journal.append(entries)
        for call, decisions in decided:
            if not call.answer.done():
                call.answer.set_result(decisions)

    async def _read(self, connection: store.Connection, batch: list[Call]) -> Book:
        keys: set[UUID] = set()
        accounts: set[str] = set()
        payment_keys: set[UUID] = set()
        for call in batch:
            keys.update(call.keys)
            for posting in call.postings:
                keys.add(posting.key)
                accounts.add(posting.account)
                if posting.kind is not Kind.PAYMENT:
                    payment_keys.add(posting.payment_key)
        entries = await store.read_entries(connection, keys=list(keys | payment_keys))
        accounts.update(entry.account for entry in entries)
        reversed_cents = (
            await store.read_reversed_cents(connection, payment_keys=list(payment_keys))
            if payment_keys
            else {}
        )
        await self._know(connection, accounts)
        return Book(
            accounts=self._accounts,
            entries=entries,
            reversed_cents=reversed_cents,
            next_sequence=self._next_sequence,
            now=self._clock(),
        )

    async def _know(self, connection: store.Connection, accounts: set[str]) -> None:
        if len(self._accounts) > ACCOUNTS_KNOWN_MAX:
            self._accounts.clear()
        if unknown := accounts - self._accounts.keys():
            for account in await store.read_accounts(connection, accounts=list(unknown)):
                self._accounts[account.account] = account

    async def _connected(self) -> "asyncpg.Connection[Any]":
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        # What is being journaled now must be counted before the journal is compared.
        if self._answering:
            await asyncio.wait(self._answering)
        connection = await store.connect_writer(
            database_url=self._database_url, lock_wait_seconds=LOCK_WAIT_SECONDS
        )
        try:
            added = await self._journal.reconcile(
                lambda after, limit: store.list_entries(connection, after=after, limit=limit)
            )
            self._next_sequence = await store.read_next_sequence(connection)
        except BaseException:
            connection.terminate()
            raise
        if added:
            logger.warning("cis.journal.reconciled lines=%d", added)
        self._connection = connection
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
        self._accounts.clear()


def _fail(batch: list[Call], error: Exception) -> None:
    for call in batch:
        if not call.answer.done():
            call.answer.set_exception(error)

"""The ledger's tables and the few statements on them.

An entry is one row that names the debited account, the credited account and one amount. That shape
cannot be unbalanced: debits and credits of a row are the same number, and a check keeps the two
accounts apart. A table of lines would need a deferred trigger on every posting to promise what this
promises for nothing; auditors who think in lines read the view `entry_lines`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from paypost.simulators.cis.ledger import (
    OPENING_ACCOUNT,
    Account,
    Entry,
    Kind,
    Posting,
    debit_and_credit,
)

Connection: TypeAlias = "asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any]"

SCHEMA = "reference_cis"

# The number is arbitrary; that every CIS on this schema asks for the same one is what counts.
WRITER_LOCK = 7_236_110_021

MIGRATIONS = (
    """
    CREATE TABLE accounts (
        account text PRIMARY KEY,
        class text NOT NULL CHECK (class IN ('customer', 'ledger')),
        name text NOT NULL,
        status text NOT NULL CHECK (status IN ('active', 'closed')),
        cash_only boolean NOT NULL,
        currency text NOT NULL,
        balance_cents bigint NOT NULL
    ) WITH (fillfactor = 50);

    CREATE TABLE entries (
        sequence bigint PRIMARY KEY,
        key uuid NOT NULL UNIQUE,
        kind text NOT NULL CHECK (kind IN ('opening', 'payment', 'reversal', 'reinstatement')),
        account text NOT NULL,
        debit_account text NOT NULL,
        credit_account text NOT NULL,
        amount_cents bigint NOT NULL CHECK (amount_cents > 0),
        currency text NOT NULL,
        payment_key uuid NOT NULL,
        effective_date date NOT NULL,
        accepted_at timestamptz NOT NULL,
        posted_at timestamptz NOT NULL,
        reference text NOT NULL,
        memo text,
        CHECK (debit_account <> credit_account),
        CHECK (account IN (debit_account, credit_account)),
        CHECK ((kind IN ('opening', 'payment')) = (payment_key = key))
    );
    -- Serves the sum of what was reversed of a payment; payments themselves would only swell it.
    CREATE INDEX entries_of_payment ON entries (payment_key)
        WHERE kind IN ('reversal', 'reinstatement');

    CREATE VIEW entry_lines AS
        SELECT sequence, 1 AS line, debit_account AS account,
               amount_cents AS debit_cents, 0::bigint AS credit_cents FROM entries
        UNION ALL
        SELECT sequence, 2, credit_account, 0, amount_cents FROM entries;

    INSERT INTO accounts VALUES
        ('ledger:processor-clearing', 'ledger', 'Due from processors', 'active', false, 'USD', 0),
        ('ledger:opening-balances', 'ledger', 'Opening balances', 'active', false, 'USD', 0);
    """,
)

READ_ENTRIES = """
SELECT sequence, key, kind, account, amount_cents, currency, payment_key, posted_at
FROM entries WHERE key = ANY($1::uuid[]) AND kind <> 'opening'
"""

LIST_ENTRIES = """
SELECT sequence, key, kind, account, amount_cents, currency, payment_key, posted_at
FROM entries WHERE sequence > $1 AND kind <> 'opening' ORDER BY sequence LIMIT $2
"""

# The effect and its balances in one statement. The deltas come from the rows that were really
# inserted, so the stored balances cannot differ from the entries whoever else may be writing.
POST = """
WITH fresh AS (
    INSERT INTO entries (sequence, key, kind, account, debit_account, credit_account, amount_cents,
        currency, payment_key, effective_date, accepted_at, posted_at, reference, memo)
    SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[],
        $7::bigint[], $8::text[], $9::uuid[], $10::date[], $11::timestamptz[], $12::timestamptz[],
        $13::text[], $14::text[])
    ON CONFLICT (key) DO NOTHING
    RETURNING debit_account, credit_account, amount_cents
), moved AS (
    UPDATE accounts AS a SET balance_cents = a.balance_cents + sums.delta_cents
    FROM (
        SELECT account, sum(delta_cents)::bigint AS delta_cents FROM (
            SELECT debit_account AS account, amount_cents AS delta_cents FROM fresh
            UNION ALL SELECT credit_account, -amount_cents FROM fresh
        ) AS lines GROUP BY account
    ) AS sums
    WHERE a.account = sums.account
)
SELECT count(*) FROM fresh
"""

PROOF = """
WITH sums AS (
    SELECT account, sum(debit_cents - credit_cents)::bigint AS entries_cents
    FROM entry_lines GROUP BY account
)
SELECT coalesce(a.account, s.account) AS account, a.balance_cents,
       coalesce(s.entries_cents, 0) AS entries_cents
FROM accounts AS a FULL JOIN sums AS s USING (account)
WHERE a.balance_cents IS DISTINCT FROM coalesce(s.entries_cents, 0)
ORDER BY 1 LIMIT 100
"""


class SecondWriterError(Exception):
    """Another process wrote to the ledger although this one holds the writer's lock."""


class OpeningBalanceError(Exception):
    """An account that exists was given an opening balance other than its own."""

    def __init__(self, *, account: str, held_cents: int) -> None:
        super().__init__(f"account {account} was opened with {held_cents} cents")
        self.account = account
        self.held_cents = held_cents


async def connect_writer(
    *, database_url: str, lock_wait_seconds: float
) -> "asyncpg.Connection[Any]":
    """Connect as the ledger's only writer, and migrate the schema.

    A predecessor that was killed may hold the lock until the server notices; it is waited for.
    Raises OSError, asyncpg.PostgresError or asyncpg.InterfaceError.
    """
    connection = await connect(database_url=database_url)
    try:
        await connection.execute(f"SET lock_timeout = '{lock_wait_seconds}s'")
        await connection.execute("SELECT pg_advisory_lock($1)", WRITER_LOCK)
        await migrate(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def connect(*, database_url: str) -> "asyncpg.Connection[Any]":
    """Connect with the ledger's schema as search path."""
    connection: asyncpg.Connection[Any] = await asyncpg.connect(
        database_url,
        timeout=5,
        command_timeout=30,
        server_settings={
            "application_name": "reference-cis",
            "search_path": SCHEMA,
            # A ledger that starts empty has no statistics; without these the joins against
            # unnest() are planned as scans of all accounts and stay so for the connection's life.
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
            "plan_cache_mode": "force_generic_plan",
        },
    )
    return connection


async def migrate(connection: Connection) -> None:
    """Bring the schema to this version; creates the schema where it is absent."""
    async with connection.transaction():
        if not await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", SCHEMA
        ):
            await connection.execute(f"CREATE SCHEMA {SCHEMA}")
        await connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version int NOT NULL)")
        version = await connection.fetchval("SELECT coalesce(max(version), 0) FROM schema_version")
        for number, statements in enumerate(MIGRATIONS, start=1):
            if number > version:
                await connection.execute(statements)
                await connection.execute("INSERT INTO schema_version VALUES ($1)", number)


async def read_next_sequence(connection: Connection) -> int:
    """Return the number of the next entry. The writer counts itself: numbers then have no gaps."""
    return int(await connection.fetchval("SELECT coalesce(max(sequence), 0) + 1 FROM entries"))


async def read_entries(connection: Connection, *, keys: Sequence[UUID]) -> list[Entry]:
    """Return the postings that stand under these keys."""
    rows = await connection.fetch(READ_ENTRIES, keys)
    return [entry_of(row) for row in rows]


async def read_reversed_cents(
    connection: Connection, *, payment_keys: Sequence[UUID]
) -> dict[UUID, int]:
    """Return, per payment, what was reversed and not reinstated, in cents."""
    rows = await connection.fetch(
        "SELECT payment_key,"
        " sum(CASE kind WHEN 'reversal' THEN amount_cents ELSE -amount_cents END)::bigint AS cents"
        " FROM entries WHERE payment_key = ANY($1::uuid[])"
        " AND kind IN ('reversal', 'reinstatement') GROUP BY payment_key",
        payment_keys,
    )
    return {row["payment_key"]: row["cents"] for row in rows}


async def read_accounts(connection: Connection, *, accounts: Sequence[str]) -> list[Account]:
    """Return the customer accounts of these numbers."""
    rows = await connection.fetch(
        "SELECT account, name, status, cash_only, currency, balance_cents FROM accounts"
        " WHERE account = ANY($1::text[]) AND class = 'customer'",
        accounts,
    )
    return [Account(*row) for row in rows]


async def write_postings(connection: Connection, *, fresh: Sequence[tuple[Posting, Entry]]) -> None:
    """Write the effects and their balances in one statement, hence one transaction.

    Raises SecondWriterError when a key was taken in the meantime.
    """
    columns: list[list[Any]] = [[] for _ in range(14)]
    for posting, entry in fresh:
        debit, credit = debit_and_credit(kind=posting.kind, account=posting.account)
        for column, value in zip(
            columns,
            (
                entry.sequence,
                posting.key,
                posting.kind.value,
                posting.account,
                debit,
                credit,
                posting.amount_cents,
                posting.currency,
                posting.payment_key,
                posting.effective_date,
                posting.accepted_at,
                entry.posted_at,
                posting.reference,
                posting.memo,
            ),
            strict=True,
        ):
            column.append(value)
    if await connection.fetchval(POST, *columns) != len(fresh):
        raise SecondWriterError


async def write_accounts(
    connection: Connection,
    *,
    accounts: Sequence[Account],
    next_sequence: int,
    now: datetime,
) -> int:
    """Open or change accounts in one transaction; return the next free sequence.

    An opening balance is an entry like any other, against the ledger's opening account. Raises
    OpeningBalanceError when an existing account is given another one; nothing is changed then.
    """
    async with connection.transaction():
        numbers = [account.account for account in accounts]
        existing = {
            row["account"]: row["opening_cents"]
            for row in await connection.fetch(
                "SELECT a.account, coalesce(sum(CASE WHEN e.debit_account = a.account"
                " THEN e.amount_cents ELSE -e.amount_cents END), 0)::bigint AS opening_cents"
                " FROM accounts AS a LEFT JOIN entries AS e"
                " ON e.key = md5('opening:' || a.account)::uuid"
                " WHERE a.account = ANY($1::text[]) GROUP BY a.account",
                numbers,
            )
        }
        for account in accounts:
            held_cents = existing.get(account.account, account.balance_cents)
            if account.balance_cents not in {0, held_cents}:
                raise OpeningBalanceError(account=account.account, held_cents=held_cents)
        await connection.executemany(
            "INSERT INTO accounts VALUES ($1, 'customer', $2, $3, $4, $5, 0)"
            " ON CONFLICT (account) DO UPDATE SET name = excluded.name, status = excluded.status,"
            " cash_only = excluded.cash_only",
            [(a.account, a.name, a.status, a.cash_only, a.currency) for a in accounts],
        )
        opened = [a for a in accounts if a.account not in existing and a.balance_cents != 0]
        if opened:
            await _write_openings(connection, opened=opened, first=next_sequence, now=now)
        return next_sequence + len(opened)


async def _write_openings(
    connection: Connection, *, opened: Sequence[Account], first: int, now: datetime
) -> None:
    await connection.execute(
        "INSERT INTO entries (sequence, key, kind, account, debit_account, credit_account,"
        " amount_cents, currency, payment_key, effective_date, accepted_at, posted_at, reference)"
        " SELECT $1 + n - 1, md5('opening:' || account)::uuid, 'opening', account,"
        " CASE WHEN cents > 0 THEN account ELSE $2 END,"
        " CASE WHEN cents > 0 THEN $2 ELSE account END,"
        " abs(cents), currency, md5('opening:' || account)::uuid, $3::timestamptz::date, $3, $3,"
        " 'opening balance'"
        " FROM unnest($4::text[], $5::bigint[], $6::text[]) WITH ORDINALITY"
        " AS o (account, cents, currency, n)",
        first,
        OPENING_ACCOUNT,
        now,
        [a.account for a in opened],
        [a.balance_cents for a in opened],
        [a.currency for a in opened],
    )
    await connection.execute(
        "UPDATE accounts AS a SET balance_cents = a.balance_cents + o.cents"
        " FROM unnest($1::text[], $2::bigint[]) AS o (account, cents) WHERE a.account = o.account",
        [a.account for a in opened] + [OPENING_ACCOUNT],
        [a.balance_cents for a in opened] + [-sum(a.balance_cents for a in opened)],
    )


async def list_entries(connection: Connection, *, after: int, limit: int) -> list[Entry]:
    """Return the postings after a sequence, in order, at most `limit`."""
    rows = await connection.fetch(LIST_ENTRIES, after, limit)
    return [entry_of(row) for row in rows]


async def read_totals(connection: Connection) -> list[dict[str, Any]]:
    """Return count and sum in cents of the postings of each kind and currency."""
    rows = await connection.fetch(
        "SELECT kind, currency, count(*) AS count, sum(amount_cents)::bigint AS amount_cents"
        " FROM entries WHERE kind <> 'opening' GROUP BY kind, currency ORDER BY kind, currency"
    )
    return [dict(row) for row in rows]


async def read_proof(connection: Connection) -> dict[str, Any]:
    """Hold every stored balance against the sum of its entries.

    `differences` names what disagrees (at most 100), an account that only entries know included.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        differences = [dict(row) for row in await connection.fetch(PROOF)]
        row = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM entries) AS entries,"
            " (SELECT count(*) FROM accounts) AS accounts,"
            " (SELECT coalesce(sum(debit_cents), 0)::bigint FROM entry_lines) AS debits_cents,"
            " (SELECT coalesce(sum(credit_cents), 0)::bigint FROM entry_lines) AS credits_cents,"
            " (SELECT coalesce(sum(balance_cents), 0)::bigint FROM accounts) AS trial_balance_cents"
        )
    assert row is not None
    proof = dict(row)
    balanced = proof["debits_cents"] == proof["credits_cents"] and proof["trial_balance_cents"] == 0
    return {"proven": balanced and not differences, **proof, "differences": differences}


def entry_of(row: asyncpg.Record) -> Entry:
    """Return a row of READ_ENTRIES or LIST_ENTRIES as an entry."""
    return Entry(
        sequence=row["sequence"],
        # The driver's own UUID type is one that orjson does not know.
        key=UUID(int=row["key"].int),
        kind=Kind(row["kind"]),
        account=row["account"],
        amount_cents=row["amount_cents"],
        currency=row["currency"],
        payment_key=UUID(int=row["payment_key"].int),
        posted_at=row["posted_at"],
    )

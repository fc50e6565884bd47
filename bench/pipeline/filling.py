"""Millions of payments put into the product's tables, as copies of ones that went through it.

Invariant: a copied row differs from a real one only in its keys and times, and in the body of its
event, which is left empty: nothing on the way of a payment reads bodies, and a hundred million of
them need a disk of their own. The CIS's ledger is not filled: it is not the product's.

Indexes are dropped before and made again after, which is many times faster than growing them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

CHUNK = 500_000
SCHEMAS = ("payment_intake", "cis_poster", "notifier")

# By table: columns of which each row has its own, as expressions over the row `f` of the chunk.
OWN: Mapping[str, Mapping[str, str]] = {
    "payment_intake.events": {
        "event_id": "f.event_id",
        "reference": "f.reference",
        "digest": "decode(f.hash || f.hash, 'hex')",
        "body": "''::bytea",
        "received_at": "f.at",
    },
    "payment_intake.payments": {
        "id": "f.payment_id",
        "account_id": "f.account_id",
        "created_at": "f.at",
        "captured_at": "f.at",
    },
    "payment_intake.payment_references": {
        "reference": "f.reference",
        "payment_id": "f.payment_id",
    },
    "payment_intake.movements": {
        "id": "f.payment_id",
        "payment_id": "f.payment_id",
        "accepted_at": "f.at",
        "posted_at": "f.at",
        "confirmed_at": "f.at",
    },
    "cis_poster.postings": {
        "id": "f.payment_id",
        "payment_id": "f.payment_id",
        "account_id": "f.account_id",
        "reference": "f.reference",
        "accepted_at": "f.at",
        "due_at": "f.at",
        "taken_at": "f.at",
        "settled_at": "f.at",
    },
    "notifier.notifications": {
        # As `notification_id`: the time of the payment, then other digits than its own.
        "id": "overlay(f.payment_id::text placing '8' from 15)::uuid",
        "about": "f.other_hash::uuid",
        "payment_id": "f.payment_id",
        "posting_key": "f.payment_id",
        "account_id": "f.account_id",
        "accepted_at": "f.at",
        "happened_at": "f.at",
        "due_at": "f.at",
        "message_id": "f.hash",
        "taken_at": "f.at",
        "settled_at": "f.at",
    },
}
"""The rows that one payment leaves behind it."""

# A year of payments behind us, in order; ids as `shared.ids` makes them of that time.
_CHUNK_ROWS = """
CREATE TEMPORARY TABLE chunk AS
SELECT n, at, hash, md5('o' || hash) AS other_hash,
       'evt_' || substr(md5('e' || hash), 1, 24) AS event_id,
       'pi_' || substr(hash, 1, 24) AS reference,
       'B-' || lpad((1 + n % 2000)::text, 5, '0') AS account_id,
       (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(hash, 1, 3)
        || '8' || substr(hash, 4, 15))::uuid AS payment_id
FROM (SELECT n, md5('fill' || n) AS hash,
             now() - interval '1 year' + n * interval '1 second' * (31536000.0 / 200e6) AS at
      FROM generate_series($1::bigint, $2::bigint) AS n) AS made
"""


class NothingToCopyError(Exception):
    """No payment has gone through the product yet.

    Attributes:
        table: the one that is empty.
    """

    def __init__(self, *, table: str) -> None:
        super().__init__(f"{table} is empty: there is no payment to copy")
        self.table = table


@dataclass(frozen=True, slots=True)
class _Index:
    drop: str
    make: str


async def fill(
    connection: asyncpg.Connection[Any],
    *,
    held: int,
    wanted: int,
    say: Callable[[str], None],
) -> None:
    """Bring the tables from so many copied payments to so many.

    Args:
        connection: as superuser; the services are stopped, and nothing is on its way.
        held: how many were copied before.
        wanted: how many there are to be.
        say: hears how far it is.

    Raises:
        NothingToCopyError: at least one payment has to have gone through the product.
    """
    indexes = await _indexes(connection)
    for index in indexes:
        await connection.execute(index.drop)
    for start in range(held, wanted, CHUNK):
        end = min(start + CHUNK, wanted)
        await connection.execute("DROP TABLE IF EXISTS chunk")
        await connection.execute(_CHUNK_ROWS.replace("$1", str(start)).replace("$2", str(end - 1)))
        for table, own in OWN.items():
            await _copy(connection, table, own)
        say(f"{end / 1e6:.1f} million payments copied")
    await connection.execute("DROP TABLE IF EXISTS chunk")
    say("making the indexes")
    await connection.execute("SET maintenance_work_mem = '1GB'")
    for index in indexes:
        await connection.execute(index.make)
    say("vacuum and checkpoint")
    # What autovacuum would long have done; and so that nothing of it falls into a measurement.
    for table in OWN:
        await connection.execute(f"VACUUM (ANALYZE, PARALLEL 0) {table}")
    await connection.execute("CHECKPOINT")


async def size_bytes(connection: asyncpg.Connection[Any]) -> int:
    """What the product's tables and their indexes take on the disk."""
    return int(
        await connection.fetchval(
            "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c"
            " JOIN pg_namespace s ON s.oid = c.relnamespace"
            " WHERE s.nspname = ANY($1::text[]) AND c.relkind = 'r'",
            SCHEMAS,
        )
    )


async def _copy(connection: asyncpg.Connection[Any], table: str, own: Mapping[str, str]) -> None:
    columns = await _columns(connection, table)
    unknown = set(own) - set(columns)
    assert not unknown, f"{table} has no column {unknown}"
    # Any row will do: all have come to their end.
    model = await connection.fetchval(f"SELECT ctid::text FROM {table} LIMIT 1")
    if model is None:
        raise NothingToCopyError(table=table)
    values = [own.get(column, f"m.{column}") for column in columns]
    await connection.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)}"
        f" FROM chunk f CROSS JOIN (SELECT * FROM {table} WHERE ctid = '{model}'::tid) m"
        " ORDER BY f.n"
    )


async def _columns(connection: asyncpg.Connection[Any], table: str) -> Sequence[str]:
    rows = await connection.fetch(
        "SELECT column_name AS name FROM information_schema.columns"
        " WHERE table_schema || '.' || table_name = $1 AND is_identity = 'NO'"
        " ORDER BY ordinal_position",
        table,
    )
    return [row["name"] for row in rows]


async def _indexes(connection: asyncpg.Connection[Any]) -> list[_Index]:
    constraints = await connection.fetch(
        "SELECT conrelid::regclass::text AS table, conname AS name,"
        " pg_get_constraintdef(oid) AS definition FROM pg_constraint"
        " WHERE contype IN ('p', 'u') AND conrelid::regclass::text = ANY($1::text[])",
        list(OWN),
    )
    found = [
        _Index(
            drop=f"ALTER TABLE {row['table']} DROP CONSTRAINT {row['name']}",
            make=f"ALTER TABLE {row['table']} ADD CONSTRAINT {row['name']} {row['definition']}",
        )
        for row in constraints
    ]
    indexes = await connection.fetch(
        "SELECT schemaname || '.' || indexname AS name, indexdef AS definition FROM pg_indexes"
        " WHERE schemaname || '.' || tablename = ANY($1::text[]) AND NOT EXISTS ("
        "   SELECT FROM pg_constraint"
        "   WHERE conindid = (schemaname || '.' || indexname)::regclass)",
        list(OWN),
    )
    return found + [
        _Index(drop=f"DROP INDEX {row['name']}", make=row["definition"]) for row in indexes
    ]

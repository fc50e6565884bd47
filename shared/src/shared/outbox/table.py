"""The outbox: rows are inserted with the outcome they state and deleted once Kafka has them.

Invariant: a row exists from the commit of what it states until a broker has acknowledged it.
Rows are never updated, so that the table stays a short queue and vacuum has little to do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Identity,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    delete,
    func,
    select,
)
from sqlalchemy.ext.asyncio.engine import AsyncConnection

from shared.contracts.wire import OutboundRecord
from shared.db.bulk import arrays, insert_rows

DEPTH_COUNTED_MAX = 10_000
"""The backlog is measured every second: counting further would cost more than it tells."""

OUTBOX_COLUMNS = ("topic", "key", "value", "headers")
"""What a row holds of its record; `outbox_values` gives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """A committed record that waits for Kafka."""

    id: int
    record: OutboundRecord


def outbox_table(metadata: MetaData) -> Table:
    """Return the outbox of the schema that `metadata` describes."""
    return Table(
        "outbox",
        metadata,
        Column("id", BigInteger, Identity(), primary_key=True),
        Column("topic", Text, nullable=False),
        Column("key", LargeBinary, nullable=False),
        Column("value", LargeBinary, nullable=False),
        Column("headers", LargeBinary, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    )


def outbox_values(record: OutboundRecord) -> Mapping[str, Any]:
    """Return a record as the outbox's columns hold it."""
    return {
        "topic": record.topic,
        "key": record.key,
        "value": record.value,
        "headers": _pack(record),
    }


def outbox_rows(ids: Sequence[int], records: Sequence[OutboundRecord]) -> list[OutboxRow]:
    """Return the rows that were inserted for these records, whose ids came in their order."""
    return [OutboxRow(id=row_id, record=each) for row_id, each in zip(ids, records, strict=True)]


class Outbox:
    """Writes, reads and deletes outbox rows inside the caller's transaction."""

    def __init__(self, *, table: Table) -> None:
        self.table = table
        self._insert = insert_rows(table, OUTBOX_COLUMNS, returning="id")
        self._oldest = (
            select(table.c.id, table.c.topic, table.c.key, table.c.value, table.c.headers)
            # The database's own clock on both sides: a skewed host neither hides nor hurries rows.
            .where(
                table.c.created_at
                <= func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, bindparam("age"))
            )
            .order_by(table.c.id)
            .limit(bindparam("limit"))
            .with_for_update(skip_locked=True)
        )
        self._delete = delete(table).where(table.c.id == func.any(bindparam("ids")))
        oldest = select(table.c.created_at).order_by(table.c.id).limit(DEPTH_COUNTED_MAX).subquery()
        self._depth = select(
            func.count(),
            func.coalesce(
                func.extract("epoch", func.clock_timestamp() - func.min(oldest.c.created_at)), 0
            ),
        ).select_from(oldest)

    async def append(
        self, connection: AsyncConnection, records: Sequence[OutboundRecord]
    ) -> list[OutboxRow]:
        """Insert the records in their order and return them with their ids."""
        if not records:
            return []
        values = arrays(map(outbox_values, records), OUTBOX_COLUMNS)
        result = await connection.execute(self._insert, values)
        return outbox_rows(result.scalars().all(), records)

    async def claim(
        self, connection: AsyncConnection, *, older_than_seconds: float, limit: int
    ) -> list[OutboxRow]:
        """Lock and return the oldest rows of at least this age, oldest first."""
        result = await connection.execute(self._oldest, {"age": older_than_seconds, "limit": limit})
        return [
            OutboxRow(
                id=row.id,
                record=OutboundRecord(
                    topic=row.topic,
                    key=bytes(row.key),
                    value=bytes(row.value),
                    headers=_unpack(row.headers),
                ),
            )
            for row in result
        ]

    async def delete(self, connection: AsyncConnection, ids: Iterable[int]) -> None:
        await connection.execute(self._delete, {"ids": list(ids)})

    async def depth(self, connection: AsyncConnection) -> tuple[int, float]:
        """Return how many rows wait, counted up to a limit, and the oldest one's age in seconds."""
        row = (await connection.execute(self._depth)).one()
        return row[0], float(row[1])


def _pack(record: OutboundRecord) -> bytes:
    return orjson.dumps([(name, value.decode()) for name, value in record.headers])


def _unpack(packed: bytes) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, value.encode()) for name, value in orjson.loads(packed))

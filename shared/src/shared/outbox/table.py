"""The outbox: rows are inserted with the outcome they state and deleted once Kafka has them.

Invariant: a row exists from the commit of what it states until a broker has acknowledged it.
Rows are never updated, so that the table stays a short queue and vacuum has little to do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.contracts.wire import OutboundRecord
from shared.db.bulk import insert_rows

DEPTH_COUNTED_MAX = 10_000
"""The backlog is measured every second: counting further would cost more than it tells."""

_COLUMNS = ("topic", "key", "value", "headers")


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


class Outbox:
    """Writes, reads and deletes outbox rows inside the caller's transaction."""

    def __init__(self, *, table: Table) -> None:
        self._insert = insert_rows(table, _COLUMNS, returning="id")
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
        result = await connection.execute(
            self._insert,
            {
                "topic": [record.topic for record in records],
                "key": [record.key for record in records],
                "value": [record.value for record in records],
                "headers": [_pack(record) for record in records],
            },
        )
        ids = result.scalars().all()
        return [
            OutboxRow(id=row_id, record=record) for row_id, record in zip(ids, records, strict=True)
        ]

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

"""Settling: rows are brought to their outcome and what follows is stated, in one statement.

Invariant: a fact is stated only of a row that was settled. Somebody else may have settled it, or
hold its lease by now; then nothing is changed and nothing is said.

Measured: an outcome and its facts took four round trips as a transaction of two statements; the
session is free again after one.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio.engine import AsyncConnection

from shared.contracts.wire import OutboundRecord
from shared.db.bulk import arrays, update_rows
from shared.outbox.table import OUTBOX_COLUMNS, Outbox, OutboxRow, outbox_rows, outbox_values

_FACT_COLUMNS = tuple(f"fact_{name}" for name in OUTBOX_COLUMNS)
_CARRIED: Mapping[str, str] = MappingProxyType(
    {"place": "int", "fact_topic": "text", **dict.fromkeys(_FACT_COLUMNS[1:], "bytea")}
)
_NO_FACT: Mapping[str, Any] = MappingProxyType(dict.fromkeys(_FACT_COLUMNS))


class Settling:
    """The statement that settles rows of one table and states the facts of it."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        table: Table,
        columns: Sequence[str],
        where: str,
        also_set: str = "",
    ) -> None:
        """Prepare it.

        Args:
            outbox: where the facts go.
            table: whose rows are settled, by their `id`.
            columns: what is set of each.
            where: which of the rows are this process's to settle: SQL over `t` and `r`.
            also_set: see `shared.db.bulk.update_rows`.
        """
        self._columns = ("id", *columns)
        update = update_rows(
            table,
            key="id",
            columns=columns,
            also_set=also_set,
            where=where,
            returning=", ".join(("t.id", *(f"r.{name}" for name in _CARRIED))),
            carried=_CARRIED,
        )
        # Names come from the services' own table definitions, never from input.
        self._statement = text(
            f"""
            WITH settled AS ({update.text}), stated AS (
                INSERT INTO {outbox.table.fullname} ({", ".join(OUTBOX_COLUMNS)})
                SELECT {", ".join(_FACT_COLUMNS)} FROM settled
                WHERE fact_topic IS NOT NULL ORDER BY place
                RETURNING id
            )
            SELECT ARRAY(SELECT id FROM settled) AS settled, ARRAY(SELECT id FROM stated) AS stated
            """  # noqa: S608
        )

    async def run(
        self,
        connection: AsyncConnection,
        settlements: Sequence[tuple[Mapping[str, Any], OutboundRecord | None]],
        **parameters: Any,
    ) -> tuple[set[UUID], list[OutboxRow]]:
        """Settle, and return whose rows were, and the facts of them as they wait for Kafka.

        Facts are stated in the order given. The rows are locked in the order of their ids, as by
        everybody who locks several of them.

        Args:
            connection: of a transaction, or for this one statement.
            settlements: each row with its `id`, and what is stated of it, if anything is.
            parameters: what `where` and `also_set` name.
        """
        rows = [
            {**row, **_fact(record), "place": place}
            for place, (row, record) in enumerate(settlements)
        ]
        rows.sort(key=lambda row: row["id"])
        found = await connection.execute(
            self._statement, arrays(rows, (*self._columns, *_CARRIED)) | parameters
        )
        settled, stated = found.one()
        ours = set(settled)
        told = [record for row, record in settlements if record is not None and row["id"] in ours]
        return ours, outbox_rows(stated, told)


def _fact(record: OutboundRecord | None) -> Mapping[str, Any]:
    if record is None:
        return _NO_FACT
    return {f"fact_{name}": value for name, value in outbox_values(record).items()}

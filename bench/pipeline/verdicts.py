"""The rows of the table: every run with what it is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from bench.pipeline import goals
from bench.pipeline.goals import Row, Trials
from paypost.stack.local import SERVICES

_ROWS: Mapping[str, Callable[[Trials], list[Row]]] = {
    "max": goals.rows_of_maximum,
    "max-many": goals.rows_of_maximum_many,
    "ack": goals.rows_of_ack,
    "train": goals.rows_of_train,
    "latency": goals.rows_of_latency,
    "cis-latency": goals.rows_of_cis_latency,
    "others": goals.rows_of_others,
    "hot": goals.rows_of_hot,
    "outages": goals.rows_of_outages,
    "two": goals.rows_of_two,
    "memory": partial(goals.rows_of_memory, services=SERVICES),
    "start": goals.rows_of_start,
}


def rows_of(trials: Trials, *, runs: frozenset[str] | None = None) -> list[Row]:
    """All rows, or those of the runs that were asked for."""
    rows = [row for make in _ROWS.values() for row in make(trials)]
    return rows if runs is None else [row for row in rows if row.run in runs]

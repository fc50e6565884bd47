"""What some faults look for beyond the oracles: rows behind answers, answers of a moment."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.journals import Attempt, read_attempts
from tests.faults.run import Run
from tests.faults.violations import Violation


def sent_between(run: Run, begin: float, end: float) -> Sequence[Attempt]:
    """The deliveries that were sent, and answered, within this time of the epoch."""
    return [
        each
        for each in read_attempts(run.load.folder / "sent.jsonl")
        if begin <= each.sent_at.timestamp() and each.answered_at <= end
    ]


async def false_yes(run: Run) -> list[Violation]:
    """Events that were answered 2xx and are not in the database of who answered."""
    said = {each.event_id for each in read_attempts(run.load.folder / "sent.jsonl") if each.taken}
    rows = await run.controls.rows(
        "SELECT event_id FROM payment_intake.events WHERE event_id = ANY($1::text[])",
        sorted(said),
    )
    return [
        Violation(oracle="L", what=f"{each} was answered 2xx and is not in the database")
        for each in sorted(said - {row["event_id"] for row in rows})
    ]

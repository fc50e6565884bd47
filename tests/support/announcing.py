"""Who takes what is to be announced, in tests that announce nothing."""

from collections.abc import Sequence

from shared.outbox.table import OutboxRow


class Offered:
    """Keeps the rows that were offered, leaves them in the outbox, and is never behind."""

    def __init__(self) -> None:
        self.rows: list[OutboxRow] = []

    def was_behind(self, *, within_seconds: float) -> bool:
        return False

    def offer(self, rows: Sequence[OutboxRow]) -> None:
        self.rows.extend(rows)

"""Bounded periodic work of cis-poster; each may run twice, or on two machines, without harm."""

from dataclasses import dataclass
from datetime import datetime

from cis_poster.metrics import Metrics
from cis_poster.ports import Postings
from cis_poster.usecases import PostDue


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """The jobs of cis-poster, with what they need."""

    post_due: PostDue
    postings: Postings
    metrics: Metrics

    async def post_due_once(self, *, now: datetime, limit: int = 500) -> int:
        """Take up what is due, of unknown outcome, or left by a crash; return how many."""
        return await self.post_due(now=now, limit=limit)

    async def wake_waiting_once(self, *, now: datetime, limit: int = 500) -> int:
        """Make due the reversals whose payment has been posted meanwhile; return how many.

        Settling a payment wakes its reversals itself; this finds the one whose row was being
        inserted at that very moment.
        """
        return await self.postings.wake_waiting(now=now, limit=limit)

    async def measure_backlog_once(self, *, now: datetime) -> int:
        """Set the gauges of what is not settled; never finds work."""
        self.metrics.backlog(await self.postings.backlog(now=now))
        return 0

"""Bounded periodic work of notifier; each may run twice, or on two machines, without harm."""

from dataclasses import dataclass
from datetime import datetime

from notifier.metrics import Metrics
from notifier.ports import Notifications
from notifier.usecases import TellDue


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """The jobs of notifier, with what they need."""

    tell_due: TellDue
    notifications: Notifications
    metrics: Metrics

    async def resend_due_once(self, *, now: datetime, limit: int = 500) -> int:
        """Take up what is due, or left by a crash; return how many."""
        return await self.tell_due(now=now, limit=limit)

    async def measure_backlog_once(self, *, now: datetime) -> int:
        """Set the gauges of what is not settled; never finds work."""
        self.metrics.backlog(await self.notifications.backlog(now=now))
        return 0

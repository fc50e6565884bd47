"""Bounded periodic work of payment-intake; each may run twice, or on two machines."""

from dataclasses import dataclass
from datetime import datetime

from payment_intake.metrics import Metrics
from payment_intake.ports import Store
from payment_intake.usecases import AnnounceAgain, StateDelays


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """The jobs of payment-intake, with what they need."""

    announce_again: AnnounceAgain
    state_delays: StateDelays
    store: Store
    metrics: Metrics

    async def announce_again_once(self, *, now: datetime, limit: int = 500) -> int:
        """Say again what has not come through in time; return how many movements."""
        return await self.announce_again(now=now, limit=limit)

    async def state_delays_once(self, *, now: datetime, limit: int = 500) -> int:
        """State which payments have passed the city's limit; return how many."""
        return await self.state_delays(now=now, limit=limit)

    async def measure_backlog_once(self, *, now: datetime) -> int:
        """Set the gauges of the chains that have not ended; never finds work."""
        self.metrics.backlog(await self.store.backlog(now=now))
        return 0

"""Bounded periodic work of autopay-scheduler; each may run twice, or on two machines."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from autopay_scheduler.metrics import Metrics
from autopay_scheduler.ports.store import Store
from autopay_scheduler.usecases.announcing import (
    AnnounceCharges,
    RestateAnnouncements,
    WarnOfExpiry,
)
from autopay_scheduler.usecases.planning import PlanCharges
from autopay_scheduler.usecases.requesting import CloseHeld, RequestCharges, RestateRequests


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """The jobs of autopay-scheduler, with what they need."""

    plan: PlanCharges
    announce: AnnounceCharges
    request: RequestCharges
    close: CloseHeld
    restate_requests: RestateRequests
    restate_announcements: RestateAnnouncements
    warn_of_expiry: WarnOfExpiry
    store: Store
    metrics: Metrics

    async def plan_charges_once(self, *, now: datetime, limit: int = 2000) -> int:
        """Plan accounts that are due for it; return how many."""
        return await self.plan(now=now, limit=limit)

    async def announce_charges_once(self, *, now: datetime, limit: int = 500) -> int:
        """Announce planned charges; return how many were looked at."""
        return await self.announce(now=now, limit=limit)

    async def request_charges_once(self, *, now: datetime, limit: int = 100) -> int:
        """Ask for charges whose moment has come, retries included; return how many."""
        return await self.request(now=now, limit=limit)

    async def restate_unheard_once(self, *, now: datetime, limit: int = 500) -> int:
        """State again what nobody has answered; return how much."""
        requests = await self.restate_requests(now=now, limit=limit)
        return requests + await self.restate_announcements(now=now, limit=limit)

    async def close_held_once(self, *, now: datetime, limit: int = 500) -> int:
        """Close held charges whose bill was due; return how many."""
        return await self.close(now=now, limit=limit)

    async def warn_of_expiry_once(self, *, now: datetime, page_size: int = 1000) -> int:
        """Warn of cards that expire, page by page; never finds work left."""
        after: UUID | None = None
        while True:
            after = await self.warn_of_expiry(now=now, limit=page_size, after=after)
            if after is None:
                return 0

    async def measure_backlog_once(self, *, now: datetime) -> int:
        """Set the gauges of what jobs have to do; never finds work."""
        self.metrics.backlog(await self.store.backlog(now=now))
        self.metrics.paused(is_paused=(await self.store.switch_state()).is_paused)
        return 0

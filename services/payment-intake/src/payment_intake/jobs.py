"""Bounded periodic work of payment-intake; each may run twice, or on two machines."""

from dataclasses import dataclass
from datetime import datetime

from payment_intake.metrics import Metrics
from payment_intake.ports import Store
from payment_intake.usecases import (
    AnnounceAgain,
    ChargeDue,
    StateDelays,
    TurnSwitch,
    WithdrawExpired,
)


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """The jobs of payment-intake, with what they need."""

    announce_again: AnnounceAgain
    state_delays: StateDelays
    charge_due: ChargeDue | None
    """None without a key for the processor: what is asked for then waits, or expires."""
    withdraw_expired: WithdrawExpired
    switch: TurnSwitch
    store: Store
    metrics: Metrics

    async def announce_again_once(self, *, now: datetime, limit: int = 500) -> int:
        """Say again what has not come through in time; return how many movements."""
        return await self.announce_again(now=now, limit=limit)

    async def state_delays_once(self, *, now: datetime, limit: int = 500) -> int:
        """State which payments have passed the city's limit; return how many."""
        return await self.state_delays(now=now, limit=limit)

    async def charge_due_once(self, *, now: datetime, limit: int = 500) -> int:
        """Take up charges that are due, of unknown outcome, or left by a crash; return how many."""
        return await self.charge_due(now=now, limit=limit) if self.charge_due else 0

    async def withdraw_expired_once(self, *, now: datetime, limit: int = 500) -> int:
        """Withdraw what is asked for too long ago and was never sent; return how many."""
        return await self.withdraw_expired(now=now, limit=limit)

    async def measure_charges_once(self, *, now: datetime) -> int:
        """Set the gauges of unsettled charges and of the switch; never finds work."""
        self.metrics.charge_backlog(await self.store.charge_backlog(now=now))
        self.metrics.charges_paused.set((await self.switch.read()).is_paused)
        self.metrics.charges_possible.set(self.charge_due is not None)
        return 0

    async def measure_backlog_once(self, *, now: datetime) -> int:
        """Set the gauges of the chains that have not ended; never finds work."""
        self.metrics.backlog(await self.store.backlog(now=now))
        return 0

"""The processor counterpart as a whole: scenarios and API on one clock, one sender, one book.

It is opened from its book, so that a processor that was killed has forgotten no charge, no kept
answer, no pending debit and no event that its endpoint has not taken yet.
"""

import asyncio
import collections
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from paypost.simulators.processor.api import StripeApi
from paypost.simulators.processor.bank import BankBridge, BankUnavailableError
from paypost.simulators.processor.book import read_book
from paypost.simulators.processor.delivery import Delivery, read_deliveries
from paypost.simulators.processor.events import Event, EventBuilder
from paypost.simulators.processor.ledger import Ledger
from paypost.simulators.processor.processor import MovableClock, Processor
from paypost.simulators.processor.records import Announcement

_log = logging.getLogger(__name__)

ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterpart:
    """Everything that one processor does."""

    processor: Processor
    api: StripeApi
    ledger: Ledger
    builder: EventBuilder
    clock: MovableClock
    bridge: BankBridge | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the bank is asked: two at once would send a file twice."""

    def restore(self, *, book_path: Path, deliveries_path: Path | None) -> list[list[Event]]:
        """Bring back what the book holds; return the events that were never taken.

        They are of use only where deliveries were recorded; else nobody knows what was taken.
        """
        if not book_path.exists():
            return []
        taken = _taken(deliveries_path)
        moved_seconds = 0.0
        waiting: list[Announcement] = []
        for entry in read_book(book_path):
            self.api.restore(entry)
            moved_seconds = entry.moved_seconds
            if taken is not None and not entry.silent:
                waiting += [one for one in entry.change.announcements if one.id not in taken]
        self.clock.advance(timedelta(seconds=moved_seconds))
        return self.trains(waiting)

    async def advance(self, by: timedelta) -> list[Delivery]:
        """Move the clock; deliver what becomes due; return the deliveries.

        With a bank it is moved day by day, as what a return means depends on its day. Raises
        ValueError when that would be backwards.
        """
        deliveries: list[Delivery] = []
        if self.bridge is not None:
            deliveries += await self.follow_agenda()
            while by > ONE_DAY:
                deliveries += await self._move(ONE_DAY)
                by -= ONE_DAY
        return [*deliveries, *await self._move(by)]

    async def follow_agenda(self) -> list[Delivery]:
        """Do and deliver what is due by the clock; return the deliveries."""
        return await self._deliver(await self._settle())

    async def glance_at_agenda(self) -> None:
        """Do what is due by the clock, and deliver it in the background.

        An endpoint that is away does not keep the next debits from settling.
        """
        self.processor.run(self._deliver(await self._settle()))

    async def _deliver(self, announcements: Sequence[Announcement]) -> list[Delivery]:
        deliveries = await self.processor.deliver_due(now=self.clock())
        return [*deliveries, *await self.processor.announce_all(self.trains(announcements))]

    async def _move(self, by: timedelta) -> list[Delivery]:
        self.clock.advance(by)
        await self.api.record_clock()
        return await self.follow_agenda()

    async def _settle(self) -> list[Announcement]:
        async with self.lock:
            if self.bridge is None:
                return await self.api.settle_due()
            try:
                announcements = await self._exchange(self.bridge)
            except BankUnavailableError as error:
                # Asked again with the next look at the agenda; until then no debit has settled.
                _log.warning("processor.bank_unavailable", extra={"reason": str(error)})
                return []
            return [*announcements, *await self.api.settle_due()]

    async def _exchange(self, bridge: BankBridge) -> list[Announcement]:
        await self.api.record_at_bank(bridge.prepare())
        while change := await bridge.submit_next():
            await self.api.record_at_bank([change])
        return await self.api.record_at_bank(await bridge.collect())

    def trains(self, announcements: Sequence[Announcement]) -> list[list[Event]]:
        """Return the events of these announcements, those of one payment together."""
        trains: dict[str, list[Event]] = collections.defaultdict(list)
        for announcement in announcements:
            event = self.builder.announcement(announcement)
            trains[event.reference].append(event)
        return list(trains.values())


def _taken(path: Path | None) -> set[str] | None:
    if path is None or not path.exists():
        return None
    return {line["event_id"] for line in read_deliveries(path) if _is_taken(line)}


def _is_taken(line: dict[str, Any]) -> bool:
    status = line["status"]
    return status is not None and 200 <= status < 300

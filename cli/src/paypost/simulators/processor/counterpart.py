"""The processor counterpart as a whole: scenarios and API on one clock, one sender, one book.

It is opened from its book, so that a processor that was killed has forgotten no charge, no kept
answer, no pending debit and no event that its endpoint has not taken yet.
"""

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from paypost.simulators.processor.api import StripeApi
from paypost.simulators.processor.book import Book, read_book
from paypost.simulators.processor.delivery import Delivery, read_deliveries
from paypost.simulators.processor.events import Event, EventBuilder
from paypost.simulators.processor.ledger import Ledger
from paypost.simulators.processor.processor import MovableClock, Processor
from paypost.simulators.processor.records import Announcement


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterpart:
    """Everything that one processor does."""

    processor: Processor
    api: StripeApi
    ledger: Ledger
    book: Book
    builder: EventBuilder
    clock: MovableClock

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

        Raises ValueError when that would be backwards.
        """
        self.clock.advance(by)
        await self.api.record_clock()
        return await self.follow_agenda()

    async def follow_agenda(self) -> list[Delivery]:
        """Do and deliver what is due by the clock; return the deliveries."""
        deliveries = await self.processor.deliver_due(now=self.clock())
        announcements = await self.api.settle_due()
        return [*deliveries, *await self.processor.announce_all(self.trains(announcements))]

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

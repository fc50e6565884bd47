"""What the use cases need of the world."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from notifier.domain import Answer, Attempt, Contact, Decision, Notification
from shared.outbox.table import OutboxRow


@dataclass(frozen=True, slots=True, kw_only=True)
class MailMessage:
    """A message as it goes out: RFC 5322 content with CRLF line ends, no line above 998 octets."""

    message_id: str
    recipient: str
    content: bytes


class MailGateway(Protocol):
    """The mail server. Never raises for what it or the network does: it answers."""

    async def send(self, messages: Sequence[MailMessage]) -> Sequence[Answer]:
        """Send in order and return one answer for each, within a bounded time.

        What could not be begun in that time is UNAVAILABLE.
        """
        ...


class Composer(Protocol):
    """Puts a notification into words."""

    def compose(
        self, *, notification: Notification, contact: Contact, now: datetime
    ) -> MailMessage:
        """Return the message in the contact's language."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of taking a batch."""

    attempts: Sequence[Attempt]
    """New and free to be sent now, in order."""
    inserted: int
    duplicates: int
    skipped: Sequence[Notification]
    rows: Sequence[OutboxRow]
    """Committed facts: outcomes stated again, and what was skipped at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What came of claiming what is due."""

    attempts: Sequence[Attempt]
    repeats: int
    """How many of them may have been sent before: their lease had run out."""
    skipped: Sequence[Notification]
    """Nobody to tell any more: the contact has changed since."""
    rows: Sequence[OutboxRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The outcome of one attempt, ready to be written."""

    attempt: Attempt
    answer: Answer
    decision: Decision
    message_id: str | None
    due_at: datetime
    at: datetime
    duration_ms: int


class Notifications(Protocol):
    """The notifications of this service; every method is one transaction."""

    async def take(
        self,
        batch: Sequence[Notification],
        *,
        now: datetime,
        hold: bool,
        lanes_held: "HeldLanes",
    ) -> Taken:
        """Keep what is new, lease what can be sent, skip what cannot, say again what is settled.

        With `hold` nothing is leased: all that is new stays due for the recovery job.
        """
        ...

    async def claim_due(self, *, now: datetime, limit: int) -> Claimed:
        """Lease what is due, or has lapsed, and has nothing before it that is due later."""
        ...

    async def release(self, attempts: Sequence[Attempt], *, now: datetime) -> None:
        """Give back what was leased and not sent."""
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[OutboxRow]:
        """Write outcomes, and the facts that state them, for what is still ours."""
        ...

    async def backlog(self, *, now: datetime) -> Sequence[tuple[str, int, float]]:
        """Return status, count and age in seconds of the oldest, for what is not settled."""
        ...


class Contacts(Protocol):
    """How customers are to be reached."""

    async def keep(self, contacts: Sequence[Contact]) -> int:
        """Write what is newer than what is known, one an account; return how many were."""
        ...


class HeldLanes(Protocol):
    """What this process has in hand for each account."""

    def in_hand(self, lane: str) -> Sequence[Attempt]:
        """Return every attempt that is in hand for an account."""
        ...


class Announce(Protocol):
    """Takes committed outbox rows for announcement; never blocks."""

    def offer(self, rows: Sequence[OutboxRow]) -> None: ...

"""payment-intake and cis-poster joined by streams that lose, repeat and reorder what they carry.

The use cases are the product's own, the records are encoded and read as on Kafka. Ledger and
customers write down what they see wrong, since an error raised there would be taken for a fault.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from tests.support.cis_poster import NOON, InMemoryPostings, Poster, Row, StillClock, StubCisGateway
from tests.support.intake import policy
from tests.support.intake_store import InMemoryStore

from cis_poster.consumers import to_posting
from cis_poster.domain import UNSETTLED, Answer, Kind, Outcome, Posting, Status
from cis_poster.ports import Suspended
from cis_poster.usecases import ManageSuspense
from payment_intake.consumers import to_heard, to_told
from payment_intake.domain import ENDED
from payment_intake.ports import Incoming, Store
from payment_intake.usecases import AnnounceAgain, CatchingUp, FollowMovements, TakeEvents
from shared.contracts.fact import Fact
from shared.contracts.notifications import NotificationSent
from shared.contracts.payments import ChargeDeclined
from shared.contracts.postings import PostingPosted, PostingReversed
from shared.contracts.streams import NOTIFICATIONS
from shared.contracts.wire import OutboundRecord, Received, decode, encode
from shared.errors import TransientError
from shared.ids import uuid7
from shared.outbox.table import OutboxRow

READERS = {
    "poster": "payments.v1",
    "customers of payments": "payments.v1",
    "customers of postings": "postings.v1",
    "intake of postings": "postings.v1",
    "intake of notifications": "notifications.v1",
}
"""Who reads which stream, each at a pace of its own."""
_SIGNS = {Kind.PAYMENT: 1, Kind.REVERSAL: -1, Kind.REINSTATEMENT: 1}


class BrokenOffError(TransientError):
    """The database went away before the commit."""


class WatchedLedger(StubCisGateway):
    """The CIS, noting every call that ought not to have been made.

    Beside the faults of the stub a call may `stall_before` or `stall_after` its effect: no answer
    comes until `wake`. One that takes effect after the CIS was asked about it is left out: that
    the key then holds it is the CIS's promise, and a limit in docs/guarantees.md.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.stalled: list[asyncio.Event] = []
        self.stalled_for_ever = 0
        self.is_settled_before: Callable[[Posting, Sequence[Posting]], bool] = lambda *_: True
        self._open_questions: set[UUID] = set()

    async def post(self, postings: Sequence[Posting]) -> Sequence[Answer]:
        for posting in postings:
            self._judge(posting, postings)
        self._open_questions |= {posting.id for posting in postings}
        answers: Sequence[Answer]
        if self.post_faults and self.post_faults[0].startswith("stall"):
            answers = await self._stalled(self.post_faults.pop(0), postings)
        else:
            answers = await super().post(postings)
        for posting, answer in zip(postings, answers, strict=True):
            if answer.outcome is not Outcome.LOST:
                self._open_questions.discard(posting.id)
        return answers

    async def find(self, postings: Sequence[Posting]) -> Sequence[Answer]:
        answers = await super().find(postings)
        for posting, answer in zip(postings, answers, strict=True):
            if answer.outcome in (Outcome.EXISTS, Outcome.NOT_FOUND):
                self._open_questions.discard(posting.id)
        return answers

    def wake(self) -> None:
        """Let the answers of all stalled calls arrive."""
        for event in self.stalled:
            event.set()
        self.stalled.clear()

    def forget(self) -> None:
        """Let no stalled call come back: its process was killed."""
        self.stalled_for_ever += len(self.stalled)
        self.stalled.clear()

    def shows_cents(self, reference: str) -> int:
        """What is on the ledger of a payment, by the processor's name of it."""
        return sum(
            _SIGNS[posting.kind] * posting.amount_cents
            for posting in self.journal
            if posting.reference == reference
        )

    async def _stalled(self, fault: str, postings: Sequence[Posting]) -> Sequence[Answer]:
        lost = [Answer(outcome=Outcome.LOST, reason="cis_timeout") for _ in postings]
        answers = self._apply_all(postings) if fault == "stall_after" else lost
        event = asyncio.Event()
        self.stalled.append(event)
        await event.wait()
        return answers

    def _judge(self, posting: Posting, call: Sequence[Posting]) -> None:
        if posting.id in self._open_questions:
            self.wrong.append(f"{posting.kind} {posting.reference}: sent again, and not asked")
        if posting.kind is Kind.PAYMENT:
            others = {each.id for each in self.journal if each.reference == posting.reference}
            payments = {each for each in others if self.ledger[each].kind is Kind.PAYMENT}
            if payments - {posting.id}:
                self.wrong.append(f"{posting.reference}: a second payment")
        elif posting.payment_id not in self.ledger:
            self.wrong.append(f"{posting.kind} {posting.reference}: before its payment")
        if not self.is_settled_before(posting, call):
            self.wrong.append(f"{posting.reference}: overtakes an open one of its account")


class Backing(Protocol):
    """Where the two services keep what they know."""

    store: Store

    def poster(self, *, ledger: WatchedLedger, clock: StillClock) -> Poster:
        """A new process of cis-poster on the rows of the ones before."""
        ...

    async def stated(self) -> Sequence[OutboundRecord]:
        """What both services have committed to state and was not returned before."""
        ...

    async def left(self) -> Sequence[object]:
        """What has not come to its end at either service."""
        ...


class InMemory:
    """Both services on their fakes."""

    def __init__(self) -> None:
        self.store: Any = InMemoryStore()
        self.rows: dict[UUID, Row] = {}
        self.outbox: list[OutboxRow] = []
        self._read = [0, 0]

    def poster(self, *, ledger: WatchedLedger, clock: StillClock) -> Poster:
        ledger.is_settled_before = self._is_settled_before
        postings = InMemoryPostings(rows=self.rows, outbox=self.outbox)
        return Poster(postings=postings, gateway=ledger, clock=clock, monotonic=clock.monotonic)

    async def stated(self) -> Sequence[OutboundRecord]:
        announced = self.store.state.announced
        found = announced[self._read[0] :] + [row.record for row in self.outbox[self._read[1] :]]
        self._read = [len(announced), len(self.outbox)]
        return found

    async def left(self) -> Sequence[object]:
        movements = [
            held.owned
            for held in self.store.state.movements.values()
            if held.owned.status not in ENDED
        ]
        ends = (Status.POSTED, Status.RETURNED)
        return [*movements, *(row for row in self.rows.values() if row.status not in ends)]

    def _is_settled_before(self, posting: Posting, call: Sequence[Posting]) -> bool:
        together = {each.id for each in call}
        return not any(
            row.posting.account_id == posting.account_id
            and max(row.seq, row.behind) < self.rows[posting.id].seq
            and row.status in UNSETTLED
            and row.posting.id not in together
            for row in self.rows.values()
        )


@dataclass
class BreakableStore:
    """A store whose next transaction can be broken off before its commit."""

    inner: Store
    breaks: bool = False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self.inner.transaction() as unit:
            yield unit
            if self.breaks:
                self.breaks = False
                raise BrokenOffError

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Uncounted:
    """Metrics that nobody reads."""

    def was_behind(self, *, within_seconds: float) -> bool:
        return False

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


@dataclass
class Reader:
    """One reader of a stream: what it has yet to read, and what it has read before."""

    waiting: list[OutboundRecord] = field(default_factory=list)
    seen: list[OutboundRecord] = field(default_factory=list)


class Chain:
    """Everything between a webhook and the customer, in the hands of one test."""

    def __init__(self, backing: Backing, *, post_pending: bool) -> None:
        self.backing = backing
        self.clock = StillClock(NOON)
        self.ledger = WatchedLedger()
        self.readers = {name: Reader() for name in READERS}
        self.wrong = self.ledger.wrong
        self.store: Any = BreakableStore(backing.store)
        self.take = TakeEvents(
            store=self.store,
            policy=policy(post_pending=post_pending),
            new_id=uuid7,
            metrics=Uncounted(),
        )
        catching_up = CatchingUp(late_seconds=30.0, monotonic=lambda: self.clock().timestamp())
        self.follow = FollowMovements(
            store=self.store, metrics=Uncounted(), catching_up=catching_up
        )
        self.announce_again = AnnounceAgain(
            store=self.store,
            announce=Uncounted(),
            metrics=Uncounted(),
            catching_up=catching_up,
            first_seconds=30.0,
            cap_seconds=3600.0,
        )
        self._notified: list[OutboundRecord] = []
        self.posters: list[Poster] = []
        self.start_poster()

    def start_poster(self) -> None:
        """Start a process of cis-poster; what the one before has in hand is its own affair."""
        self.poster = self.backing.poster(ledger=self.ledger, clock=self.clock)
        self.posters.append(self.poster)
        self.suspense = ManageSuspense(
            postings=self.poster.postings, announce=self.poster.announced, clock=self.clock
        )

    async def takes(self, events: Sequence[Incoming], *, breaks_off: bool) -> bool:
        """Take webhooks; return whether they were kept."""
        self.store.breaks = breaks_off
        try:
            await self.take(events)
        except BrokenOffError:
            return False
        return True

    async def collect(self) -> None:
        """Bring what was stated to its readers."""
        stated = [*await self.backing.stated(), *self._notified]
        self._notified.clear()
        for name, stream in READERS.items():
            self.readers[name].waiting += [each for each in stated if each.topic == stream]

    async def read(self, name: str, records: Sequence[OutboundRecord]) -> None:
        """Deliver records to one reader, in one batch, in this order."""
        self.readers[name].seen += records
        received = [each for each in map(decode, records) if each is not None]
        match name:
            case "poster":
                await self.post(received)
            case "intake of postings":
                await self.follow.hear([h for each in received if (h := to_heard(each))])
            case "intake of notifications":
                told = [t for each in received if (t := to_told(each))]
                await self.follow.tell(told)
            case _:
                self._tell([each.fact for each in received])
        await self.idle()

    async def post(self, received: Sequence[Received]) -> None:
        postings = [posting for each in received if (posting := to_posting(each))]
        await self.poster.post_payments(postings)

    async def pass_time(self, seconds: float) -> None:
        """Let the clock go on, and every job run once."""
        now = self.clock.advance(seconds)
        await self.poster.postings.wake_waiting(now=now, limit=500)
        await self.poster.post_due(now=now, limit=500)
        await self.announce_again(now=now, limit=500)
        await self.idle()

    async def in_suspense(self) -> Sequence[Suspended]:
        return await self.suspense.list(limit=100)

    async def idle(self) -> None:
        """Return when cis-poster has nothing under way but what is stalled."""
        quiet = 0
        while quiet < 5:
            calls = sum(len(poster.lanes._calls) for poster in self.posters)
            stalled = len(self.ledger.stalled) + self.ledger.stalled_for_ever
            quiet = 0 if calls > stalled else quiet + 1
            await asyncio.sleep(0)

    def _tell(self, facts: Sequence[Fact]) -> None:
        """State that customers were told, as notifier does: after the ledger, again if asked."""
        for fact in facts:
            match fact:
                case PostingPosted(kind="payment"):
                    kind = "posted"
                case PostingPosted():
                    kind = "reinstated"
                case PostingReversed():
                    kind = "reversed"
                case ChargeDeclined():
                    kind = "declined"
                case _:
                    continue
            key = None if isinstance(fact, ChargeDeclined) else fact.posting_key
            if key is not None and key not in self.ledger.ledger:
                self.wrong.append(f"{kind}: told before it is on the ledger")
            self._notified.append(
                encode(_sent(fact, kind, key, self.clock()), stream=NOTIFICATIONS)
            )


def _sent(fact: Any, kind: Any, key: UUID | None, at: datetime) -> NotificationSent:
    return NotificationSent(
        notification_id=fact.id(),
        kind=kind,
        payment_id=fact.payment_id,
        posting_key=key,
        about=fact.id(),
        account_id=fact.account_id,
        sent_at=at,
        message_id=f"<{fact.id()}@example.org>",
    )

"""Kafka in: the portal's events, and what became of movements elsewhere; translation only."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from faststream.kafka import KafkaMessage, KafkaRouter

from payment_intake.domain import ENDING_NOTIFICATIONS, MovementStatus
from payment_intake.ports import Heard, Incoming, Told
from payment_intake.usecases import FollowMovements
from shared.clock import Clock
from shared.contracts.notifications import (
    NotificationFailed,
    NotificationSent,
    NotificationSkipped,
)
from shared.contracts.postings import (
    PostingDeferred,
    PostingPosted,
    PostingReturned,
    PostingReversed,
    PostingSuspended,
)
from shared.contracts.streams import NOTIFICATIONS, PORTAL, POSTINGS
from shared.contracts.wire import Received
from shared.messaging.inbox import Group, Inbox, on_batches

GROUP_ID = "payment-intake"

_ENDED_KINDS = {notification: kind for kind, notification in ENDING_NOTIFICATIONS.items()}


class ReadPortalRecord(Protocol):
    """Turns a portal's fact into an event to take, if it speaks of a payment."""

    def __call__(self, received: Received) -> Incoming | None: ...


def build_router(
    *,
    group: Group,
    inbox: Inbox,
    read_portal: ReadPortalRecord,
    take_batch: Callable[[Sequence[Incoming]], Awaitable[object]],
    follow: FollowMovements,
    clock: Clock,
) -> KafkaRouter:
    """Return the subscribers of payment-intake."""
    router = KafkaRouter()

    @on_batches(router, stream=PORTAL, group=group)
    async def on_portal_events(message: KafkaMessage) -> None:
        """Take what the portal says of payments; its other facts are for other services."""
        await inbox.deliver(message, lambda batch: _take(batch, read_portal, take_batch))

    @on_batches(router, stream=POSTINGS, group=group)
    async def on_postings(message: KafkaMessage) -> None:
        """Follow movements onto the ledger."""
        await inbox.deliver(message, lambda batch: _hear(batch, follow))

    @on_batches(router, stream=NOTIFICATIONS, group=group)
    async def on_notifications(message: KafkaMessage) -> None:
        """Follow movements to the customer."""
        await inbox.deliver(message, lambda batch: _tell(batch, follow, clock))

    return router


async def _take(
    batch: Sequence[Received],
    read_portal: ReadPortalRecord,
    take_batch: Callable[[Sequence[Incoming]], Awaitable[object]],
) -> None:
    events = [event for received in batch if (event := read_portal(received)) is not None]
    if events:
        await take_batch(events)


async def _hear(batch: Sequence[Received], follow: FollowMovements) -> None:
    heard = [each for received in batch if (each := to_heard(received)) is not None]
    if heard:
        await follow.hear(heard)


async def _tell(batch: Sequence[Received], follow: FollowMovements, clock: Clock) -> None:
    told = [each for received in batch if (each := to_told(received)) is not None]
    if told:
        await follow.tell(told, now=clock())


def to_heard(received: Received) -> Heard | None:
    """Return what a fact of `postings.v1` says about a movement."""
    fact = received.fact
    match fact:
        case PostingPosted() | PostingReversed():
            return Heard(
                movement_id=fact.posting_key,
                at=fact.posted_at,
                status=MovementStatus.POSTED,
                cis_reference=fact.cis_reference,
                balance_after_cents=fact.balance_after_cents,
            )
        case PostingSuspended():
            return Heard(
                movement_id=fact.posting_key,
                at=fact.suspended_at,
                status=MovementStatus.SUSPENDED,
                reason=fact.reason,
            )
        case PostingDeferred():
            return Heard(
                movement_id=fact.posting_key,
                at=fact.deferred_at,
                status=MovementStatus.ANNOUNCED,
                reason=fact.reason,
            )
        case PostingReturned():
            return Heard(
                movement_id=fact.posting_key,
                at=fact.returned_at,
                status=MovementStatus.RETURNED,
                reason=fact.reason,
            )
        case _:
            return None


def to_told(received: Received) -> Told | None:
    """Return what a fact of `notifications.v1` says about a movement; `delayed` ends nothing."""
    fact = received.fact
    match fact:
        case NotificationSent():
            at = fact.sent_at
        case NotificationFailed():
            at = fact.failed_at
        case NotificationSkipped():
            at = fact.skipped_at
        case _:
            return None
    kind = _ENDED_KINDS.get(fact.kind)
    if kind is None:
        return None
    return Told(
        payment_id=fact.payment_id,
        movement_id=fact.posting_key,
        kind=kind,
        at=at,
        outcome=fact.TYPE.removeprefix("notification."),
    )

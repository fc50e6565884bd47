"""Kafka in: the portal's events, autopay's charges, what became of movements; translation only."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from faststream.kafka import KafkaMessage, KafkaRouter

from payment_intake.domain import ENDING_NOTIFICATIONS, MovementStatus
from payment_intake.domain.charges import Cancellation, ChargeRequest
from payment_intake.ports import Heard, Incoming, Told
from payment_intake.usecases import FollowMovements
from shared.contracts.autopay import ChargeCancelled, ChargeRequested
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
from shared.contracts.streams import AUTOPAY, NOTIFICATIONS, PORTAL, POSTINGS
from shared.contracts.wire import Received
from shared.messaging.inbox import Group, Inbox, on_batches

GROUP_ID = "payment-intake"

_ENDED_KINDS = {
    notification: kind
    for kind, notifications in ENDING_NOTIFICATIONS.items()
    for notification in notifications
}


class ReadPortalRecord(Protocol):
    """Turns a portal's fact into an event to take, if it speaks of a payment."""

    def __call__(self, received: Received) -> Incoming | None: ...


def build_router(
    *,
    group: Group,
    inbox: Inbox,
    read_portal: ReadPortalRecord,
    take_batch: Callable[[Sequence[Incoming]], Awaitable[object]],
    take_charges: Callable[[Sequence[ChargeRequest | Cancellation]], Awaitable[None]],
    follow: FollowMovements,
) -> KafkaRouter:
    """Return the subscribers of payment-intake."""
    router = KafkaRouter()

    @on_batches(router, stream=PORTAL, group=group)
    async def on_portal_events(message: KafkaMessage) -> None:
        """Take what the portal says of payments; its other facts are for other services."""
        await inbox.deliver(message, lambda batch: _take(batch, read_portal, take_batch))

    @on_batches(router, stream=AUTOPAY, group=group)
    async def on_autopay(message: KafkaMessage) -> None:
        """Take what is to be charged, and what is not to be any more."""
        await inbox.deliver(message, lambda batch: _charge(batch, take_charges))

    @on_batches(router, stream=POSTINGS, group=group, is_unhurried=True)
    async def on_postings(message: KafkaMessage) -> None:
        """Follow movements onto the ledger."""
        await inbox.deliver(message, lambda batch: _hear(batch, follow))

    @on_batches(router, stream=NOTIFICATIONS, group=group, is_unhurried=True)
    async def on_notifications(message: KafkaMessage) -> None:
        """Follow movements to the customer."""
        await inbox.deliver(message, lambda batch: _tell(batch, follow))

    return router


async def _take(
    batch: Sequence[Received],
    read_portal: ReadPortalRecord,
    take_batch: Callable[[Sequence[Incoming]], Awaitable[object]],
) -> None:
    events = [event for received in batch if (event := read_portal(received)) is not None]
    if events:
        await take_batch(events)


async def _charge(
    batch: Sequence[Received],
    take_charges: Callable[[Sequence[ChargeRequest | Cancellation]], Awaitable[None]],
) -> None:
    wanted = [each for received in batch if (each := to_wanted(received)) is not None]
    if wanted:
        await take_charges(wanted)


async def _hear(batch: Sequence[Received], follow: FollowMovements) -> None:
    heard = [each for received in batch if (each := to_heard(received)) is not None]
    if heard:
        await follow.hear(heard)


async def _tell(batch: Sequence[Received], follow: FollowMovements) -> None:
    told = [each for received in batch if (each := to_told(received)) is not None]
    if told:
        await follow.tell(told)


def to_wanted(received: Received) -> ChargeRequest | Cancellation | None:
    """Return what a fact of `autopay.v1` asks for; its other facts are for other services."""
    fact = received.fact
    if not isinstance(fact, ChargeRequested | ChargeCancelled):
        return None
    about: dict[str, Any] = {
        "charge_id": fact.charge_id,
        "account_id": fact.account_id,
        "enrolment_id": fact.enrolment_id,
        "due_date": fact.due_date,
        "bill_reference": fact.bill_reference,
        "method_kind": fact.method.kind,
        "currency": fact.currency,
        "attempt": fact.attempt,
        "amount_cents": fact.amount_cents,
        "traceparent": received.traceparent,
    }
    if isinstance(fact, ChargeCancelled):
        return Cancellation(**about, cancelled_at=fact.cancelled_at)
    return ChargeRequest(
        **about,
        processor=fact.processor,
        payment_method_token=fact.payment_method_token,
        customer_token=fact.customer_token,
        mandate_token=fact.mandate_token,
        requested_at=fact.requested_at,
        valid_until=fact.valid_until,
    )


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
                traceparent=received.traceparent,
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
    if kind is None or fact.payment_id is None:
        # It tells of no payment: an announcement, a warning, the start of an enrolment.
        return None
    return Told(
        payment_id=fact.payment_id,
        movement_id=fact.posting_key,
        kind=kind,
        at=at,
        outcome=fact.TYPE.removeprefix("notification."),
        traceparent=received.traceparent,
    )

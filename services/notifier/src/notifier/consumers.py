"""Kafka in: what notifier hears, translated into notifications and contacts."""

from collections.abc import Sequence

from faststream.kafka import KafkaMessage, KafkaRouter

from notifier.domain import (
    AutopayFact,
    Contact,
    Kind,
    Notification,
    kind_told,
)
from notifier.usecases import KeepContacts, TellCustomers
from shared.contracts.autopay import (
    ChargeAnnounced,
    ChargeClosed,
    ChargeFailed,
    ChargeHeld,
    EnrolmentActivated,
    EnrolmentInvited,
    EnrolmentRefused,
    EnrolmentStopped,
    MethodExpiring,
)
from shared.contracts.notifications import notification_id
from shared.contracts.payments import (
    ChargeDeclined,
    PaymentAccepted,
    PaymentDelayed,
    PaymentPending,
    PaymentReinstated,
    PaymentReversed,
)
from shared.contracts.portal import ContactChanged, CustomerRegistered
from shared.contracts.postings import PostingPosted, PostingReversed
from shared.contracts.streams import AUTOPAY, PAYMENTS, PORTAL, POSTINGS
from shared.contracts.wire import Received
from shared.messaging.inbox import Group, Inbox, is_of_type, on_batches

GROUP_ID = "notifier"

TOLD_LATER = tuple(
    each.TYPE for each in (PaymentAccepted, PaymentPending, PaymentReversed, PaymentReinstated)
)
"""The facts of `payments.v1` of which cis-poster's answer is told, or nothing."""

_KINDS = {
    "payment": Kind.POSTED,
    "reversal": Kind.REVERSED,
    "reinstatement": Kind.REINSTATED,
}


def build_router(
    *, group: Group, inbox: Inbox, tell_customers: TellCustomers, keep_contacts: KeepContacts
) -> KafkaRouter:
    """Return the subscribers of notifier."""
    router = KafkaRouter()

    @on_batches(router, stream=POSTINGS, group=group)
    async def on_postings(message: KafkaMessage) -> None:
        """Tell of what is on the ledger; why a posting waits is intake's to say."""
        await inbox.deliver(message, lambda batch: _tell(batch, tell_customers))

    @on_batches(router, stream=PAYMENTS, group=group, is_unhurried=True)
    async def on_payments(message: KafkaMessage) -> None:
        """Tell of delays and declines; what was accepted is told of when it is posted."""
        await inbox.deliver(
            message, lambda batch: _tell(batch, tell_customers), passes_by=is_of_type(*TOLD_LATER)
        )

    @on_batches(router, stream=AUTOPAY, group=group)
    async def on_autopay_facts(message: KafkaMessage) -> None:
        """Tell of enrolments and charges; what is asked of payment-intake is not told."""
        await inbox.deliver(message, lambda batch: _tell(batch, tell_customers))

    @on_batches(router, stream=PORTAL, group=group)
    async def on_portal_facts(message: KafkaMessage) -> None:
        """Keep how customers are to be reached."""
        await inbox.deliver(message, lambda batch: _keep(batch, keep_contacts))

    return router


async def _tell(batch: Sequence[Received], tell_customers: TellCustomers) -> None:
    notifications = [found for received in batch if (found := to_notification(received))]
    if notifications:
        await tell_customers(notifications)


async def _keep(batch: Sequence[Received], keep_contacts: KeepContacts) -> None:
    contacts = [found for received in batch if (found := to_contact(received))]
    if contacts:
        await keep_contacts(contacts)


def to_notification(received: Received) -> Notification | None:
    """Return the notification that a fact calls for, if it calls for one."""
    match received.fact:
        case PostingPosted() | PostingReversed() as fact:
            return _of_posting(fact, received.traceparent)
        case PaymentDelayed() as fact:
            return _of_delay(fact, received.traceparent)
        case ChargeDeclined(charge_id=None) as fact:
            return _of_decline(fact, received.traceparent)
        case ChargeDeclined():
            # A charge of autopay: the scheduler tells it, since it knows what happens next.
            return None
        case (
            EnrolmentActivated()
            | EnrolmentRefused()
            | EnrolmentStopped()
            | EnrolmentInvited()
            | MethodExpiring()
            | ChargeAnnounced()
            | ChargeHeld()
            | ChargeFailed()
            | ChargeClosed()
        ) as fact:
            return _of_autopay(fact, received.traceparent)
        case _:
            return None


def _of_posting(fact: PostingPosted | PostingReversed, traceparent: str | None) -> Notification:
    kind = _KINDS[fact.kind]
    return Notification(
        id=notification_id(kind=kind, key=fact.posting_key),
        kind=kind,
        about=fact.id(),
        payment_id=fact.payment_id,
        posting_key=fact.posting_key,
        account_id=fact.account_id,
        amount_cents=fact.amount_cents,
        currency=fact.currency,
        effective_date=fact.effective_date,
        balance_after_cents=fact.balance_after_cents,
        accepted_at=fact.accepted_at,
        happened_at=fact.posted_at,
        traceparent=traceparent,
    )


def _of_delay(fact: PaymentDelayed, traceparent: str | None) -> Notification:
    return Notification(
        id=notification_id(kind=Kind.DELAYED, key=fact.posting_key),
        kind=Kind.DELAYED,
        about=fact.id(),
        payment_id=fact.payment_id,
        posting_key=fact.posting_key,
        account_id=fact.account_id,
        amount_cents=fact.amount_cents,
        currency=fact.currency,
        accepted_at=fact.accepted_at,
        happened_at=fact.delayed_at,
        traceparent=traceparent,
    )


def _of_decline(fact: ChargeDeclined, traceparent: str | None) -> Notification:
    return Notification(
        id=notification_id(kind=Kind.DECLINED, key=fact.id()),
        kind=Kind.DECLINED,
        about=fact.id(),
        payment_id=fact.payment_id,
        account_id=fact.account_id,
        amount_cents=fact.amount_cents,
        currency=fact.currency,
        happened_at=fact.declined_at,
        traceparent=traceparent,
    )


def _of_autopay(fact: AutopayFact, traceparent: str | None) -> Notification | None:
    kind = kind_told(fact)
    if kind is None:
        return None
    amount_cents, currency = _amount_of(fact)
    return Notification(
        id=notification_id(kind=kind, key=fact.id()),
        kind=kind,
        about=fact.id(),
        # Ends intake's chain: a decline of autopay is told by this, and by nothing else.
        payment_id=fact.payment_id if isinstance(fact, ChargeFailed) else None,
        account_id=fact.account_id,
        amount_cents=amount_cents,
        currency=currency,
        happened_at=fact.happened_at(),
        traceparent=traceparent,
        fact=fact,
    )


def _amount_of(fact: AutopayFact) -> tuple[int | None, str | None]:
    """Return the amount that a fact is about, as a timeline shows it; none where nothing moves."""
    match fact:
        case (
            ChargeAnnounced(amount_cents=amount_cents, currency=currency)
            | ChargeHeld(amount_cents=amount_cents, currency=currency)
            | ChargeFailed(amount_cents=amount_cents, currency=currency)
            | ChargeClosed(amount_cents=amount_cents, currency=currency)
        ) if amount_cents > 0:
            return amount_cents, currency
        case _:
            return None, None


def to_contact(received: Received) -> Contact | None:
    """Return the contact that a portal's fact states, if it states one."""
    match received.fact:
        case ContactChanged() as fact:
            return Contact(
                account_id=fact.account_id,
                name=fact.name,
                email=fact.email,
                locale=fact.locale,
                email_opted_out=fact.email_opted_out,
                changed_at=fact.changed_at,
            )
        case CustomerRegistered() as fact:
            return Contact(
                account_id=fact.account_id,
                name=fact.name,
                email=fact.email,
                locale=fact.locale,
                email_opted_out=None,
                changed_at=fact.registered_at,
            )
        case _:
            return None

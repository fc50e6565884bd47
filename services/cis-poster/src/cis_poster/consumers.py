"""Kafka in: what cis-poster hears, translated into postings."""

from collections.abc import Sequence

from faststream.kafka import KafkaMessage, KafkaRouter

from cis_poster.domain import Kind, Posting
from cis_poster.usecases import PostPayments
from shared.contracts.payments import PaymentAccepted, PaymentReinstated, PaymentReversed
from shared.contracts.streams import PAYMENTS
from shared.contracts.wire import Received
from shared.messaging.inbox import Group, Inbox, on_batches

GROUP_ID = "cis-poster"

_KINDS = {
    PaymentAccepted.TYPE: Kind.PAYMENT,
    PaymentReversed.TYPE: Kind.REVERSAL,
    PaymentReinstated.TYPE: Kind.REINSTATEMENT,
}


def build_router(*, group: Group, inbox: Inbox, post_payments: PostPayments) -> KafkaRouter:
    """Return the subscribers of cis-poster."""
    router = KafkaRouter()

    @on_batches(router, stream=PAYMENTS, group=group)
    async def on_payments(message: KafkaMessage) -> None:
        """Post what was accepted, reversed or reinstated; the other facts ask for no posting."""
        await inbox.deliver(message, lambda batch: _post(batch, post_payments))

    return router


async def _post(batch: Sequence[Received], post_payments: PostPayments) -> None:
    postings = [posting for received in batch if (posting := to_posting(received)) is not None]
    if postings:
        await post_payments(postings)


def to_posting(received: Received) -> Posting | None:
    """Return the posting that a fact of `payments.v1` asks for, if it asks for one."""
    fact = received.fact
    if not isinstance(fact, PaymentAccepted | PaymentReversed | PaymentReinstated):
        return None
    return Posting(
        id=fact.posting_key,
        payment_id=fact.payment_id,
        kind=_KINDS[fact.TYPE],
        account_id=fact.account_id,
        amount_cents=fact.amount_cents,
        currency=fact.currency,
        effective_date=fact.effective_date,
        accepted_at=fact.accepted_at,
        processor=fact.processor,
        reference=fact.reference,
        reason_code=None if isinstance(fact, PaymentAccepted) else fact.reason,
        traceparent=received.traceparent,
    )

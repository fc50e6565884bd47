"""Portal facts off Kafka, as events to take: the same reading as over HTTP."""

from payment_intake.adapters.card_numbers import masked
from payment_intake.adapters.portal import PortalReader, portal_source
from payment_intake.ingress import IngressMetrics, digest_of
from payment_intake.ports import Incoming
from shared.clock import Clock
from shared.contracts.portal import PaymentCaptured, PaymentSubmitted
from shared.contracts.wire import Received
from shared.runtime.tracing import traceparent_or_new


class PortalRecords:
    """See `payment_intake.consumers.ReadPortalRecord`."""

    def __init__(self, *, reader: PortalReader, clock: Clock, metrics: IngressMetrics) -> None:
        self._reader = reader
        self._clock = clock
        self._metrics = metrics

    def __call__(self, received: Received) -> Incoming | None:
        """Return the event to take; None for facts that are not about a payment.

        Raises:
            InvalidEventError: a currency that is not taken here; the record becomes a dead letter.
        """
        fact = received.fact
        if not isinstance(fact, PaymentSubmitted | PaymentCaptured):
            return None
        body = fact.model_dump_json().encode()
        kept, count = masked(body)
        if count:
            self._metrics.masked(source=portal_source(received.source), count=count)
            fact = type(fact).model_validate_json(kept)
        reading = self._reader.read_fact(fact, source=received.source, event_id=received.event_id)
        return Incoming(
            source=portal_source(received.source),
            event_id=received.event_id,
            event_type=received.event_type,
            body=kept,
            digest=digest_of(body),
            received_at=self._clock(),
            observation=reading.observation,
            is_untrusted=reading.is_untrusted,
            traceparent=traceparent_or_new(received.traceparent),
        )

"""The webhook doors: who may call, and how what they send is read."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from payment_intake.adapters.card_numbers import masked
from payment_intake.adapters.portal import EVENTS_IN_BATCH_MAX, PortalReader, portal_source
from payment_intake.adapters.readings import InvalidEventError, Reading
from payment_intake.adapters.signatures import (
    SignatureRefusedError,
    StandardSignature,
    StripeSignature,
)
from payment_intake.adapters.stripe import PROCESSOR, StripeReader
from payment_intake.ingress import (
    Call,
    IngressMetrics,
    RefusedError,
    UnreadableError,
    digest_of,
)
from payment_intake.ports import Incoming

_JSON = b"application/json"
_PORTAL_SOURCE = "portal"


@dataclass(frozen=True, kw_only=True)
class StripeDoor:
    """`POST /webhooks/stripe`."""

    signature: StripeSignature
    reader: StripeReader
    metrics: IngressMetrics
    name: str = "stripe"
    content_types: frozenset[bytes] = frozenset({_JSON})

    def source(self, call: Call) -> str:  # noqa: ARG002
        return PROCESSOR

    def read(self, call: Call) -> Sequence[Incoming]:
        try:
            self.signature.verify(headers=call.headers, body=call.body, now=call.received_at)
        except SignatureRefusedError as error:
            raise _unauthorised(error) from None
        kept = _masked(call.body, source=PROCESSOR, metrics=self.metrics)
        try:
            reading = self.reader.read(kept, traceparent=call.traceparent)
        except InvalidEventError as error:
            raise UnreadableError(field=error.field, message=error.message) from None
        return [_incoming(reading, call, kept=kept, source=PROCESSOR)]


@dataclass(frozen=True, kw_only=True)
class StandardDoor:
    """`POST /webhooks/standard/{source}`: Standard Webhooks from any source with a secret."""

    signature: StandardSignature
    reader: PortalReader
    metrics: IngressMetrics
    name: str = "standard"
    content_types: frozenset[bytes] = frozenset({_JSON})

    def source(self, call: Call) -> str:
        return call.path_rest

    def read(self, call: Call) -> Sequence[Incoming]:
        source = call.path_rest
        message_id = _verified(self.signature, source, call)
        kept = _masked(call.body, source=source, metrics=self.metrics)
        try:
            reading = self.reader.read_webhook(
                kept, source=source, message_id=message_id, traceparent=call.traceparent
            )
        except InvalidEventError as error:
            raise UnreadableError(field=error.field, message=error.message) from None
        return [_incoming(reading, call, kept=kept, source=f"standard:{source}")]


@dataclass(frozen=True, kw_only=True)
class PortalDoor:
    """`POST /portal/events`: CloudEvents in JSON, single or batch, signed by the portal."""

    signature: StandardSignature
    reader: PortalReader
    metrics: IngressMetrics
    name: str = "portal"
    content_types: frozenset[bytes] = frozenset(
        {_JSON, b"application/cloudevents+json", b"application/cloudevents-batch+json"}
    )

    def source(self, call: Call) -> str:  # noqa: ARG002
        return _PORTAL_SOURCE

    def read(self, call: Call) -> Sequence[Incoming]:
        _verified(self.signature, _PORTAL_SOURCE, call)
        try:
            document = orjson.loads(_masked(call.body, source=_PORTAL_SOURCE, metrics=self.metrics))
        except orjson.JSONDecodeError:
            raise UnreadableError(field="body", message="is not JSON") from None
        if isinstance(document, list):
            if not 0 < len(document) <= EVENTS_IN_BATCH_MAX:
                raise UnreadableError(
                    field="body", message=f"does not hold 1 to {EVENTS_IN_BATCH_MAX} events"
                )
            return [self._incoming(each, call, f"[{n}].") for n, each in enumerate(document)]
        return [self._incoming(document, call, "")]

    def _incoming(self, event: object, call: Call, prefix: str) -> Incoming:
        try:
            reading = self.reader.read_cloud_event(event, traceparent=call.traceparent)
        except InvalidEventError as error:
            raise UnreadableError(field=prefix + error.field, message=error.message) from None
        source = portal_source(reading.source or "")
        return _incoming(reading, call, kept=orjson.dumps(event), source=source)


def _verified(signature: StandardSignature, source: str, call: Call) -> str:
    try:
        return signature.verify(
            source=source, headers=call.headers, body=call.body, now=call.received_at
        )
    except SignatureRefusedError as error:
        raise _unauthorised(error) from None


def _unauthorised(error: SignatureRefusedError) -> RefusedError:
    return RefusedError(
        status=401,
        reason=f"signature_{error.reason}",
        title=f"The signature is refused: {error.reason}",
    )


def _masked(body: bytes, *, source: str, metrics: IngressMetrics) -> bytes:
    """Return the body without card numbers: nothing that is read from it can hold one."""
    kept, count = masked(body)
    if count:
        metrics.masked(source=source, count=count)
    return kept


def _incoming(reading: Reading, call: Call, *, kept: bytes, source: str) -> Incoming:
    return Incoming(
        source=source,
        event_id=reading.event_id,
        event_type=reading.event_type,
        body=kept,
        # A portal's event repeats by what it says, whichever way it comes; other bodies by their
        # bytes as received.
        digest=digest_of(reading.canonical or call.body),
        received_at=call.received_at,
        observation=reading.observation,
        about=reading.about,
        relay=reading.relay,
        is_untrusted=reading.is_untrusted,
        traceparent=call.traceparent,
    )

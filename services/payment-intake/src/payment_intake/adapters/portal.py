"""The portal's events, read into observations: from Kafka, CloudEvents JSON or a plain webhook.

All ways lead to the same reading and the same natural key, the event's source and id.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
from pydantic import ValidationError

from payment_intake.adapters.readings import InvalidEventError, Reading
from payment_intake.domain import Heard, Observation
from shared.contracts.fact import Fact
from shared.contracts.portal import PaymentCaptured, PaymentSubmitted
from shared.contracts.streams import PORTAL
from shared.contracts.wire import encode

EVENTS_IN_BATCH_MAX = 100
_NAME_LENGTH_MAX = 255


def portal_source(name: str) -> str:
    """Return the namespace of a portal event's id, the same over HTTP and Kafka.

    Names are the portal's to choose: none may stand for an event of another sender.
    """
    return f"portal:{name}"


class PortalReader:
    """Reads portal events; knows which sources may say that they took money themselves."""

    def __init__(self, *, trusted_sources: Sequence[str], currencies: Sequence[str]) -> None:
        self._trusted_sources = frozenset(trusted_sources)
        self._currencies = frozenset(currencies)

    def read_cloud_event(self, event: Any, *, traceparent: str) -> Reading:
        """Return what a CloudEvent in JSON format says (CloudEvents JSON Event Format 1.0.2).

        Raises:
            InvalidEventError: not a CloudEvent of a known shape; names the attribute or field.
        """
        if not isinstance(event, dict):
            raise InvalidEventError(field="body", message="is not a CloudEvent")
        if event.get("specversion") != "1.0":
            raise InvalidEventError(field="specversion", message="is not 1.0")
        source = _name(event, "source")
        event_id = _name(event, "id")
        event_type = _name(event, "type")
        if event_type not in PORTAL.by_type:
            canonical = orjson.dumps(event, option=orjson.OPT_SORT_KEYS)
            return Reading(
                event_id=event_id, event_type=event_type, source=source, canonical=canonical
            )
        fact = self._fact(event_type, event.get("data"), prefix="data.")
        reading = self.read_fact(fact, source=source, event_id=event_id)
        if reading.observation is not None or reading.is_untrusted:
            return reading
        # Other services hear the portal on Kafka: what came by HTTP is passed on as it was said.
        relay = encode(
            fact, stream=PORTAL, source=source, event_id=event_id, traceparent=traceparent
        )
        return replace(reading, relay=relay)

    def read_webhook(
        self, body: bytes, *, source: str, message_id: str, traceparent: str
    ) -> Reading:
        """Return what a Standard Webhooks body `{"type", "timestamp", "data"}` says.

        Raises:
            InvalidEventError: not of that form, or its data not of the type's shape.
        """
        try:
            event = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise InvalidEventError(field="body", message="is not JSON") from None
        if not isinstance(event, dict):
            raise InvalidEventError(field="body", message="is not an object")
        document = {
            "specversion": "1.0",
            "source": source,
            "id": message_id,
            "type": event.get("type"),
            "data": event.get("data"),
        }
        return self.read_cloud_event(document, traceparent=traceparent)

    def read_fact(self, fact: Fact, *, source: str, event_id: str) -> Reading:
        """Return what a portal's fact says about a payment, if it speaks of one.

        Raises:
            InvalidEventError: the currency is not taken here.
        """
        observation = None
        is_untrusted = False
        if isinstance(fact, PaymentSubmitted):
            observation = self._observation(fact, Heard.SUBMITTED, fact.submitted_at)
        elif isinstance(fact, PaymentCaptured):
            is_untrusted = source not in self._trusted_sources
            if not is_untrusted:
                observation = self._observation(fact, Heard.CAPTURED, fact.captured_at)
        return Reading(
            event_id=event_id,
            event_type=fact.TYPE,
            source=source,
            observation=observation,
            is_untrusted=is_untrusted,
            canonical=fact.model_dump_json().encode(),
        )

    def _observation(
        self, fact: PaymentSubmitted | PaymentCaptured, heard: Heard, at: datetime
    ) -> Observation:
        if fact.currency not in self._currencies:
            raise InvalidEventError(field="data.currency", message="is not taken here")
        return Observation(
            processor=fact.processor,
            references=(fact.reference,),
            heard=heard,
            at=at,
            amount_cents=fact.amount_cents,
            currency=fact.currency,
            account_id=fact.account_id,
            bill_reference=fact.bill_reference,
            method=fact.method if isinstance(fact, PaymentCaptured) else None,
        )

    def _fact(self, event_type: str, data: Any, *, prefix: str) -> Fact:
        if not isinstance(data, dict):
            raise InvalidEventError(field="data", message="is not an object")
        try:
            # From JSON, not from Python: only so are timestamps read and numbers kept strict.
            return PORTAL.by_type[event_type].model_validate_json(orjson.dumps(data))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = prefix + ".".join(str(part) for part in first["loc"])
            raise InvalidEventError(field=field, message=f"is not valid: {first['msg']}") from None


def _name(event: dict[str, Any], attribute: str) -> str:
    value = event.get(attribute)
    if not isinstance(value, str) or not value or len(value) > _NAME_LENGTH_MAX:
        raise InvalidEventError(
            field=attribute, message=f"is not a text of 1 to {_NAME_LENGTH_MAX} characters"
        )
    if not value.isprintable():
        raise InvalidEventError(field=attribute, message="holds control characters")
    return value

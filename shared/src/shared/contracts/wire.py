"""CloudEvents 1.0 in Kafka binary mode: attributes in `ce_` headers, the fact's JSON as value.

Source: CloudEvents Kafka Protocol Binding 1.0.2, section 3.2; W3C Trace Context for
`traceparent`, by the CloudEvents Distributed Tracing extension.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from pydantic import ValidationError

from shared.contracts.fact import Fact
from shared.contracts.streams import STREAMS, Stream
from shared.errors import PermanentError

Headers = tuple[tuple[str, bytes], ...]

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"


class UnreadableRecordError(PermanentError):
    """A record that no attempt will ever be able to read; belongs on the dead-letter topic."""

    def __init__(self, *, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundRecord:
    """A record ready for Kafka."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A fact as it came off a stream, with the attributes of its envelope."""

    fact: Fact
    event_id: str
    event_type: str
    source: str
    time: datetime | None
    traceparent: str | None


class KafkaRecord(Protocol):
    """What is read of a consumed record; aiokafka's `ConsumerRecord` fits."""

    @property
    def topic(self) -> str: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Iterable[tuple[str, bytes]]: ...


def encode(
    fact: Fact,
    *,
    stream: Stream,
    source: str | None = None,
    event_id: str | None = None,
    traceparent: str | None = None,
) -> OutboundRecord:
    """Return the record that states `fact` on `stream`.

    The id is the fact's own unless `event_id` is given, which only a relay of somebody else's
    event does.
    """
    return OutboundRecord(
        topic=stream.name,
        key=fact.partition_key().encode(),
        value=fact.model_dump_json().encode(),
        headers=envelope(
            event_id=event_id or str(fact.id()),
            event_type=fact.TYPE,
            source=source or f"/paypost/{stream.producer}",
            subject=fact.partition_key(),
            time=fact.happened_at(),
            traceparent=traceparent,
        ),
    )


def envelope(
    *,
    event_id: str,
    event_type: str,
    source: str,
    subject: str,
    time: datetime,
    traceparent: str | None,
) -> Headers:
    """Return the `ce_` headers of binary mode."""
    headers = [
        ("ce_specversion", SPEC_VERSION.encode()),
        ("ce_id", event_id.encode()),
        ("ce_type", event_type.encode()),
        ("ce_source", source.encode()),
        ("ce_subject", subject.encode()),
        ("ce_time", time.astimezone(UTC).isoformat().encode()),
        ("content-type", CONTENT_TYPE.encode()),
    ]
    if traceparent:
        headers.append(("traceparent", traceparent.encode()))
    return tuple(headers)


def decode(record: KafkaRecord) -> Received | None:
    """Return the fact in a record, or None for a type this version does not know.

    Raises:
        UnreadableRecordError: no value, no readable envelope, not JSON, or not of its type's shape.
    """
    headers = _text_headers(record)
    event_type = headers.get("ce_type")
    if event_type is None:
        raise UnreadableRecordError(reason="no_type", detail="header ce_type is missing")
    if headers.get("ce_specversion", SPEC_VERSION) != SPEC_VERSION:
        raise UnreadableRecordError(
            reason="unknown_version", detail=f"ce_specversion {headers['ce_specversion']}"
        )
    fact_class = STREAMS[record.topic].by_type.get(event_type)
    if fact_class is None:
        return None
    if record.value is None:
        raise UnreadableRecordError(reason="no_value", detail="the record's value is null")
    event_id = headers.get("ce_id")
    if not event_id:
        raise UnreadableRecordError(reason="no_id", detail="header ce_id is missing")
    try:
        fact = fact_class.model_validate_json(record.value)
    except ValidationError as error:
        raise UnreadableRecordError(reason="invalid", detail=describe(error)) from None
    return Received(
        fact=fact,
        event_id=event_id,
        event_type=event_type,
        source=headers.get("ce_source", ""),
        time=_instant(headers.get("ce_time")),
        traceparent=headers.get("traceparent"),
    )


def describe(error: ValidationError) -> str:
    """Return a validation error as `field: what is wrong`, without any of the input's values."""
    return "; ".join(
        f"{'.'.join(str(part) for part in entry['loc']) or 'body'}: {entry['msg']}"
        for entry in error.errors(include_url=False, include_input=False, include_context=False)
    )


def _text_headers(record: KafkaRecord) -> dict[str, str]:
    try:
        return {name: (value or b"").decode() for name, value in record.headers}
    except UnicodeDecodeError as error:
        raise UnreadableRecordError(reason="bad_header", detail=error.reason) from None


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant if instant.tzinfo else None

"""Spans of sampled payments, by OTLP: one trace from the webhook to the mail.

Invariant: tracing never holds up a payment. What is sampled is decided once, at the door, and
travels as the flag of `traceparent` through headers and tables; everything else costs one look at
that flag. Spans are made after the fact, wait in a bounded queue, and are dropped and counted when
a collector does not take them. Without an endpoint nothing of OpenTelemetry is imported.

A span of a batch has links to the payments that joined it, and each of theirs one to the batch.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from shared.contracts.wire import OutboundRecord
from shared.runtime.settings import ServiceSettings
from shared.runtime.tracing import is_traceparent

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Item = TypeVar("Item")
Result = TypeVar("Result")
Kind = Literal["SERVER", "CLIENT", "CONSUMER", "PRODUCER", "INTERNAL"]

QUEUE_SPANS_MAX = 4096
"""About 2 MiB: some seconds' worth at a ratio of 1, minutes at 1 %."""
EXPORT_SECONDS_MAX = 3.0
CLOSE_SECONDS_MAX = 3.0
LINKS_MAX = 64
"""A batch may hold 500 payments; a span with so many links helps nobody."""


class SpanMetrics(Protocol):
    """What is counted of spans."""

    def spans(self, *, outcome: str, count: int) -> None: ...


class Publisher(Protocol):
    """What publishes records, in bulk."""

    async def publish(self, records: Sequence[OutboundRecord]) -> None: ...


def open_spans(
    *, settings: ServiceSettings, service: str, version: str, metrics: SpanMetrics
) -> Spans | None:
    """Return what records spans, or None where no collector is named."""
    if settings.traces_otlp_endpoint is None:
        return None
    from shared.runtime.otlp import build_provider

    provider = build_provider(
        endpoint=settings.traces_otlp_endpoint, service=service, version=version, metrics=metrics
    )
    return Spans(provider=provider, sampled_ratio=settings.traces_sampled_ratio)


class Spans:
    """Records the spans of one service."""

    def __init__(self, *, provider: TracerProvider, sampled_ratio: float) -> None:
        from opentelemetry import trace

        self._provider = provider
        self._tracer = provider.get_tracer("paypost")
        self._trace = trace
        self._sampled_ratio = sampled_ratio

    async def close(self) -> None:
        """Send what waits, for a bounded time."""
        ended = threading.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            ended.set()

        # A thread of its own and not the loop's: a collector that hangs is left behind with it.
        threading.Thread(target=shut_down, name="spans-close", daemon=True).start()
        deadline = time.monotonic() + CLOSE_SECONDS_MAX
        while not ended.is_set() and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def door(self, app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """Return an ASGI application that begins a trace with each request, or goes on with it.

        Whether a trace is kept is the caller's word where it brings a `traceparent`.
        """

        async def traced(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http" or scope["method"] != "POST":
                await app(scope, receive, send)
                return
            given = _header(scope["headers"])
            if given is None:
                is_sampled = random.random() < self._sampled_ratio  # noqa: S311 - no secret
            else:
                is_sampled = _is_sampled(given)
            if not is_sampled:
                if given is None:
                    scope = _with_header(scope, _unsampled())
                await app(scope, receive, send)
                return
            span = self._tracer.start_span(
                f"POST {scope['path']}",
                context=self._context(given) if given else None,
                kind=self._trace.SpanKind.SERVER,
            )
            context = span.get_span_context()
            header = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

            async def noting(message: Mapping[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(self._trace.StatusCode.ERROR)
                await send(message)

            try:
                await app(_with_header(scope, header), receive, noting)
            finally:
                span.end()

        return traced

    def publisher(self, publisher: Publisher) -> Publisher:
        """Return a publisher that records the way of sampled records to Kafka."""
        return _TracedPublisher(spans=self, publisher=publisher)

    def act(
        self,
        call: Callable[[Sequence[Item]], Awaitable[Result]],
        *,
        name: str,
        kind: Kind,
        traceparent_of: Callable[[Item], str | None],
    ) -> Callable[[Sequence[Item]], Awaitable[Result]]:
        """Return a call for a batch that records a span for each sampled item of it."""

        async def traced(items: Sequence[Item]) -> Result:
            started_ns = time.time_ns()
            error: BaseException | None = None
            try:
                return await call(items)
            except BaseException as raised:
                error = raised
                raise
            finally:
                self.batch(
                    name=name,
                    kind=kind,
                    traceparents=[traceparent_of(item) for item in items],
                    started_ns=started_ns,
                    error=error,
                )

        return traced

    def batch(
        self,
        *,
        name: str,
        kind: Kind,
        traceparents: Sequence[str | None],
        started_ns: int,
        attributes: Mapping[str, str | int] | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Record what was just done for a batch: a span for each sampled item, one for all.

        Args:
            name: what was done.
            kind: OpenTelemetry's kind of span.
            traceparents: of the items; those that are not sampled cost a look each.
            started_ns: Unix time; it ends now.
            attributes: of each span.
            error: what it ended with, if it did not end well.
        """
        sampled = [each for each in traceparents if each is not None and _is_sampled(each)]
        if not sampled:
            return
        ended_ns = time.time_ns()
        contexts = [self._context(each) for each in sampled]
        about = {"paypost.batch_size": len(traceparents), **(attributes or {})}
        trace = self._trace
        link = []
        if len(traceparents) > 1:
            joined = self._tracer.start_span(
                f"{name} (batch)",
                context=None,
                links=[
                    trace.Link(trace.get_current_span(context).get_span_context())
                    for context in contexts[:LINKS_MAX]
                ],
                attributes=about,
                start_time=started_ns,
            )
            joined.end(ended_ns)
            link = [trace.Link(joined.get_span_context())]
        for context in contexts:
            span = self._tracer.start_span(
                name,
                context=context,
                kind=trace.SpanKind[kind],
                links=link,
                attributes=about,
                start_time=started_ns,
            )
            if error is not None:
                span.set_status(trace.StatusCode.ERROR, type(error).__name__)
            span.end(ended_ns)

    def _context(self, traceparent: str) -> Any:
        trace = self._trace
        _, trace_id, span_id, _ = traceparent.split("-")
        parent = trace.SpanContext(
            trace_id=int(trace_id, 16),
            span_id=int(span_id, 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
        )
        return trace.set_span_in_context(trace.NonRecordingSpan(parent))


class _TracedPublisher:
    def __init__(self, *, spans: Spans, publisher: Publisher) -> None:
        self._spans = spans
        self._publisher = publisher

    async def publish(self, records: Sequence[OutboundRecord]) -> None:
        started_ns = time.time_ns()
        await self._publisher.publish(records)
        topics = {record.topic for record in records}
        self._spans.batch(
            name=f"publish {topics.pop() if len(topics) == 1 else 'facts'}",
            kind="PRODUCER",
            traceparents=[_traceparent_of(record) for record in records],
            started_ns=started_ns,
            attributes={"messaging.system": "kafka"},
        )


def _traceparent_of(record: OutboundRecord) -> str | None:
    # The envelope writes it last.
    name, value = record.headers[-1]
    return value.decode() if name == "traceparent" else None


def _is_sampled(traceparent: str) -> bool:
    return traceparent.endswith(("1", "3", "5", "7", "9", "b", "d", "f")) and is_traceparent(
        traceparent
    )


def _unsampled() -> str:
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-00"


def _header(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name == b"traceparent":
            text = value.decode("latin-1")
            return text if is_traceparent(text) else None
    return None


def _with_header(scope: Mapping[str, Any], traceparent: str) -> dict[str, Any]:
    kept = [entry for entry in scope["headers"] if entry[0] != b"traceparent"]
    return {**scope, "headers": [*kept, (b"traceparent", traceparent.encode())]}

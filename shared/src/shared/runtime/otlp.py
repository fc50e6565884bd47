"""OpenTelemetry's own parts, put together so that a collector can neither block nor flood us.

Imported only where a collector is named.
"""

import logging
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from shared.runtime.spans import EXPORT_SECONDS_MAX, QUEUE_SPANS_MAX, SpanMetrics

EXPORT_INTERVAL_MS = 5000
EXPORT_SPANS_MAX = 512


def build_provider(
    *, endpoint: str, service: str, version: str, metrics: SpanMetrics
) -> TracerProvider:
    """Return a provider whose every span goes to the collector; the door has sampled already."""
    # Every failed export would be several lines: the counter says it, and an alert can.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    provider = TracerProvider(
        sampler=ALWAYS_ON,
        resource=Resource({"service.name": service, "service.version": version}),
        # The service closes it, within its drain time.
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS_MAX)
    provider.add_span_processor(_BoundedProcessor(exporter=exporter, metrics=metrics))
    return provider


class _Counting(SpanExporter):
    """Counts what the collector took and what not."""

    def __init__(self, *, exporter: SpanExporter, metrics: SpanMetrics) -> None:
        self._exporter = exporter
        self._metrics = metrics
        self.finished = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self.finished += len(spans)
            is_taken = result is SpanExportResult.SUCCESS
            self._metrics.spans(outcome="exported" if is_taken else "refused", count=len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _BoundedProcessor(BatchSpanProcessor):
    """Drops a span, and counts it, while the queue is full."""

    def __init__(self, *, exporter: SpanExporter, metrics: SpanMetrics) -> None:
        self._counting = _Counting(exporter=exporter, metrics=metrics)
        self._metrics = metrics
        self._queued = 0
        super().__init__(
            self._counting,
            max_queue_size=QUEUE_SPANS_MAX,
            schedule_delay_millis=EXPORT_INTERVAL_MS,
            max_export_batch_size=EXPORT_SPANS_MAX,
        )

    def on_end(self, span: ReadableSpan) -> None:
        if self._queued - self._counting.finished >= QUEUE_SPANS_MAX:
            self._metrics.spans(outcome="dropped", count=1)
            return
        self._queued += 1
        super().on_end(span)

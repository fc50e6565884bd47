"""The collectors that every service has, under its own prefix, in a registry of its own.

Invariant: a scrape reads memory alone. It asks neither the database nor Kafka, so it answers while
both are away; what was measured of them says when that was (`_measured_timestamp_seconds`), and an
age goes on growing while nobody can measure it.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from typing import Generic, Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

Metric = TypeVar("Metric", Counter, Gauge, Histogram)

SERIES_PER_METRIC_MAX = 200
"""More than the fullest metric has, notifier's mails by kind and outcome (90)."""
SERIES_PER_HISTOGRAM_MAX = 32
"""Each of these has a bucket's worth of series more; 2,000 of a service bound a scrape."""
OTHER = "other"
"""Stands for every label value beyond the bound."""

EXEMPLAR_INTERVAL_SECONDS = 0.1
"""An exemplar costs 2 µs: not each payment is to pay for it."""
EXEMPLAR_SLOW_SECONDS = 1.0
"""What took so long always leaves one: it is what somebody will look for."""

LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
"""From one healthy hop to ten minutes. 1 and 5 are the limits of the service levels."""
BATCH_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500)


class Labelled(Generic[Metric]):
    """A metric's series by their label values: never more than a bound, whatever values come.

    It remembers them, which makes finding one several times cheaper than `prometheus_client` does.
    """

    def __init__(self, metric: Metric, *, series_max: int | None = None) -> None:
        self._metric: Metric = metric
        is_histogram = isinstance(metric, Histogram)
        self._series_max = series_max or (
            SERIES_PER_HISTOGRAM_MAX if is_histogram else SERIES_PER_METRIC_MAX
        )
        self._series: dict[tuple[str, ...], Metric] = {}

    def labels(self, *values: str) -> Metric:
        """Return the series of these values; that of `other` once there are too many."""
        series = self._series.get(values)
        if series is not None:
            return series
        if len(self._series) >= self._series_max:
            return self._new(tuple(OTHER for _ in values))
        series = self._series[values] = self._new(values)
        return series

    def expect(self, *each: Iterable[str]) -> None:
        """Begin at 0 what is bound to come: what is born at 1 has never risen, for Prometheus."""
        for values in product(*each):
            self.labels(*values)

    def _new(self, values: tuple[str, ...]) -> Metric:
        series: Metric = self._metric.labels(*values)
        return series


class Backlog:
    """What waits, by status: how many, and since when the oldest of them.

    The age is worked out when it is read: it grows on while the database cannot be asked.
    """

    def __init__(self, *, count: Gauge, age: Gauge) -> None:
        self._count = Labelled(count)
        self._age = Labelled(age)
        self._oldest_at: dict[str, float | None] = {}

    def set(self, found: Sequence[tuple[str, int, float]]) -> None:
        """Take what was measured: status, count, age in seconds of the oldest."""
        now = time.monotonic()
        gone = self._oldest_at.keys() - {status for status, _, _ in found}
        for status, count, age_seconds in (*found, *((status, 0, 0.0) for status in gone)):
            self._count.labels(status).set(count)
            if status not in self._oldest_at:
                self._age.labels(status).set_function(self._age_of(status))
            self._oldest_at[status] = now - max(0.0, age_seconds) if count else None

    def _age_of(self, status: str) -> Callable[[], float]:
        def age() -> float:
            oldest_at = self._oldest_at.get(status)
            return 0.0 if oldest_at is None else time.monotonic() - oldest_at

        return age


class TracedHistogram:
    """A histogram whose buckets name a payment's trace, now and then."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._next_at = 0.0

    def observe(self, seconds: float, *, traceparent: str | None = None) -> None:
        """Count a duration; of a sampled trace it may leave the trace's id beside it."""
        if traceparent is not None and traceparent.endswith("1"):
            now = time.monotonic()
            if seconds >= EXEMPLAR_SLOW_SECONDS or now >= self._next_at:
                self._next_at = now + EXEMPLAR_INTERVAL_SECONDS
                self._histogram.observe(seconds, {"trace_id": traceparent[3:35]})
                return
        self._histogram.observe(seconds)


class Pool(Protocol):
    """What is read of a database pool; SQLAlchemy's fits."""

    def checkedout(self) -> int: ...
    def checkedin(self) -> int: ...
    def size(self) -> int: ...


class ServiceMetrics:
    """Counts what the shared parts of a service do; a service's own metrics derive from it."""

    def __init__(self, *, prefix: str) -> None:
        self.prefix = prefix
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.version = _version_of(prefix)
        Info(f"{prefix}_build", "What is running.", registry=self.registry).info(
            {"version": self.version}
        )
        self._consumed = Labelled(
            self._counter("consumed_records", "Records taken off a stream.", "stream")
        )
        self._ignored = Labelled(
            self._counter(
                "ignored_records", "Records of a type that this version does not know.", "stream"
            )
        )
        self._dead = Labelled(
            self._counter(
                "dead_letters", "Records that were given up, by reason.", "stream", "reason"
            )
        )
        self._batch_seconds = Labelled(
            self._histogram(
                "consumer_batch_seconds",
                "Batches off a stream, from their taking to their keeping.",
                "stream",
                buckets=LATENCY_SECONDS,
            )
        )
        self._lag = Labelled(
            self._gauge(
                "consumer_lag_records",
                "Records that Kafka holds beyond what was taken, by stream.",
                "stream",
            )
        )
        self._heard_age = Labelled(
            self._gauge(
                "consumer_heard_age_seconds",
                "Since when Kafka has not said how far a stream goes.",
                "stream",
            )
        )
        self._heard_at: dict[str, float] = {}
        self._lost = Labelled(
            self._counter(
                "consumers_lost",
                "Consumers started anew because their group had lost them, by stream.",
                "stream",
            )
        )
        self._announced = self._counter("announced_records", "Facts that Kafka has acknowledged.")
        self._outbox_depth = self._gauge(
            "outbox_rows", "Facts that wait for Kafka (counted up to 10000)."
        )
        self._outbox_oldest_at: float | None = None
        self._gauge(
            "outbox_oldest_age_seconds", "Age of the oldest fact that waits for Kafka."
        ).set_function(self._outbox_age)
        self._measured = Labelled(
            self._gauge(
                "measured_timestamp_seconds",
                "When what is read from the database was last measured, by what it is.",
                "what",
            )
        )
        self._spans = Labelled(
            self._counter("spans", "Spans, by whether the collector took them.", "outcome")
        )
        self._pool = self._gauge(
            "database_pool_connections", "Sessions of the pool, by whether one is used.", "state"
        )
        self._pool_size = self._gauge(
            "database_pool_size_connections", "Sessions that the pool may have."
        )

    def consumed(self, *, stream: str, count: int) -> None:
        self._consumed.labels(stream).inc(count)

    def ignored(self, *, stream: str) -> None:
        self._ignored.labels(stream).inc()

    def dead_lettered(self, *, stream: str, reason: str) -> None:
        self._dead.labels(stream, reason).inc()

    def batch_taken(self, *, stream: str, seconds: float) -> None:
        self._batch_seconds.labels(stream).observe(seconds)

    def announced(self, count: int) -> None:
        self._announced.inc(count)

    def outbox(self, *, depth: int, oldest_age_seconds: float) -> None:
        self._outbox_depth.set(depth)
        self._outbox_oldest_at = time.monotonic() - oldest_age_seconds if depth else None
        self.measured("outbox")

    def consuming(self, *, stream: str, lag_records: int | None, heard_at: float) -> None:
        """Take how far a stream has been read.

        Args:
            stream: its name.
            lag_records: None while it is not known.
            heard_at: the Unix time at which Kafka last said how far it goes.
        """
        if stream not in self._heard_at:
            self._heard_age.labels(stream).set_function(
                lambda: max(0.0, time.time() - self._heard_at[stream])
            )
            self._lost.expect((stream,))
        self._heard_at[stream] = heard_at
        if lag_records is not None:
            self._lag.labels(stream).set(lag_records)

    def consumer_lost(self, *, stream: str) -> None:
        self._lost.labels(stream).inc()

    def measured(self, what: str) -> None:
        """Note that something was read from the database just now."""
        self._measured.labels(what).set(time.time())

    def spans(self, *, outcome: str, count: int) -> None:
        self._spans.labels(outcome).inc(count)

    def watch_pool(self, pool: Callable[[], Pool]) -> None:
        """Read a database pool's sessions at each scrape."""
        self._pool.labels("in_use").set_function(lambda: pool().checkedout())
        self._pool.labels("idle").set_function(lambda: pool().checkedin())
        self._pool_size.set_function(lambda: pool().size())

    def _outbox_age(self) -> float:
        oldest_at = self._outbox_oldest_at
        return 0.0 if oldest_at is None else time.monotonic() - oldest_at

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{self.prefix}_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{self.prefix}_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(
            f"{self.prefix}_{name}", text, labels, buckets=buckets, registry=self.registry
        )


def _version_of(prefix: str) -> str:
    try:
        return version(prefix.replace("_", "-"))
    except PackageNotFoundError:
        # A service that is run from a folder, or a test's own.
        return "unknown"

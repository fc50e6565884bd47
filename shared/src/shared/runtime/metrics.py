"""The collectors that every service has, under its own prefix, in a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector


class ServiceMetrics:
    """Counts what the shared parts of a service do; a service's own metrics derive from it."""

    def __init__(self, *, prefix: str, version: str = "0.1.0") -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        Info(f"{prefix}_build", "What is running.", registry=self.registry).info(
            {"version": version}
        )
        self._consumed = Counter(
            f"{prefix}_consumed_records",
            "Records taken off a stream.",
            ["stream"],
            registry=self.registry,
        )
        self._ignored = Counter(
            f"{prefix}_ignored_records",
            "Records of a type that this version does not know.",
            ["stream"],
            registry=self.registry,
        )
        self._dead = Counter(
            f"{prefix}_dead_letters",
            "Records that were given up, by reason.",
            ["stream", "reason"],
            registry=self.registry,
        )
        self._announced = Counter(
            f"{prefix}_announced_records",
            "Facts that Kafka has acknowledged.",
            registry=self.registry,
        )
        self._outbox_depth = Gauge(
            f"{prefix}_outbox_rows",
            "Facts that wait for Kafka (counted up to 10000).",
            registry=self.registry,
        )
        self._outbox_age = Gauge(
            f"{prefix}_outbox_oldest_age_seconds",
            "Age of the oldest fact that waits for Kafka.",
            registry=self.registry,
        )

    def consumed(self, *, stream: str, count: int) -> None:
        self._consumed.labels(stream).inc(count)

    def ignored(self, *, stream: str) -> None:
        self._ignored.labels(stream).inc()

    def dead_lettered(self, *, stream: str, reason: str) -> None:
        self._dead.labels(stream, reason).inc()

    def announced(self, count: int) -> None:
        self._announced.inc(count)

    def outbox(self, *, depth: int, oldest_age_seconds: float) -> None:
        self._outbox_depth.set(depth)
        self._outbox_age.set(oldest_age_seconds)

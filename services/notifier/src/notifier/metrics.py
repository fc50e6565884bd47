"""Every collector of notifier."""

from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from shared.runtime.metrics import ServiceMetrics

_LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)


class Metrics(ServiceMetrics):
    """What notifier counts beside what every service counts."""

    def __init__(self) -> None:
        super().__init__(prefix="notifier")
        self._taken = Counter(
            "notifier_taken",
            "Notifications taken, new or known.",
            ["outcome"],
            registry=self.registry,
        )
        self._notifications = Counter(
            "notifier_notifications",
            "Attempts and skips by what became of the notification.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self._repeats = Counter(
            "notifier_repeats",
            "Mails sent again under the same Message-ID, since they may have been sent before.",
            registry=self.registry,
        )
        self._confirmed_after = Histogram(
            "notifier_accepted_to_confirmed_seconds",
            "From acceptance by payment-intake to the mail server's taking the confirmation.",
            buckets=_LATENCY_SECONDS,
            registry=self.registry,
        )
        self._contacts = Counter(
            "notifier_contacts",
            "Contacts stated by the portal.",
            ["outcome"],
            registry=self.registry,
        )
        self._mail = Histogram(
            "notifier_smtp_call_seconds",
            "Calls to the mail server, each with a batch of mails.",
            buckets=_LATENCY_SECONDS,
            registry=self.registry,
        )
        self._batch = Histogram(
            "notifier_smtp_batch_size",
            "Mails in one call to the mail server.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
            registry=self.registry,
        )
        self._connections = Counter(
            "notifier_smtp_connections",
            "Connections to the mail server, by what came of opening them.",
            ["outcome"],
            registry=self.registry,
        )
        self._backlog = Gauge(
            "notifier_backlog_notifications",
            "Notifications that are not settled, by status.",
            ["status"],
            registry=self.registry,
        )
        self._backlog_age = Gauge(
            "notifier_backlog_oldest_age_seconds",
            "Age of the oldest notification that is not settled, by status.",
            ["status"],
            registry=self.registry,
        )
        self.breaker_open = Gauge(
            "notifier_breaker_open",
            "1 while nothing is sent to the mail server because it took nothing.",
            registry=self.registry,
        )
        self.held = Gauge(
            "notifier_held_notifications", "Notifications in memory.", registry=self.registry
        )

    def taken(self, *, inserted: int, duplicates: int) -> None:
        self._taken.labels("new").inc(inserted)
        self._taken.labels("duplicate").inc(duplicates)

    def settled(self, *, kind: str, status: str) -> None:
        self._notifications.labels(kind, status).inc()

    def repeated(self, count: int) -> None:
        self._repeats.inc(count)

    def confirmed_after(self, seconds: float) -> None:
        self._confirmed_after.observe(seconds)

    def contacts(self, *, kept: int, outdated: int) -> None:
        self._contacts.labels("kept").inc(kept)
        self._contacts.labels("outdated").inc(outdated)

    def mailed(self, *, seconds: float, size: int) -> None:
        self._mail.observe(seconds)
        self._batch.observe(size)

    def connected(self, *, outcome: str) -> None:
        self._connections.labels(outcome).inc()

    def backlog(self, found: Sequence[tuple[str, int, float]]) -> None:
        for status, count, age_seconds in found:
            self._backlog.labels(status).set(count)
            self._backlog_age.labels(status).set(age_seconds)

"""Every collector of notifier."""

from collections.abc import Sequence

from notifier.domain import Kind, Status
from shared.runtime.metrics import (
    BATCH_SIZES,
    LATENCY_SECONDS,
    Backlog,
    Labelled,
    ServiceMetrics,
    TracedHistogram,
)


class Metrics(ServiceMetrics):
    """What notifier counts beside what every service counts."""

    def __init__(self) -> None:
        super().__init__(prefix="notifier")
        self._taken = Labelled(
            self._counter("taken", "Notifications taken, new or known.", "outcome")
        )
        self._notifications = Labelled(
            self._counter(
                "notifications",
                "Attempts and skips by what became of the notification.",
                "kind",
                "outcome",
            )
        )
        self._repeats = self._counter(
            "repeats",
            "Mails sent again under the same Message-ID, since they may have been sent before.",
        )
        self._confirmed_after = TracedHistogram(
            self._histogram(
                "accepted_to_confirmed_seconds",
                "From acceptance by payment-intake to the mail server's taking the confirmation.",
                buckets=LATENCY_SECONDS,
            )
        )
        self._contacts = Labelled(
            self._counter("contacts", "Contacts stated by the portal.", "outcome")
        )
        self._mail = self._histogram(
            "smtp_call_seconds",
            "Calls to the mail server, each with a batch of mails.",
            buckets=LATENCY_SECONDS,
        )
        self._batch = self._histogram(
            "smtp_batch_size", "Mails in one call to the mail server.", buckets=BATCH_SIZES
        )
        self._connections = Labelled(
            self._counter(
                "smtp_connections",
                "Connections to the mail server, by what came of opening them.",
                "outcome",
            )
        )
        self._backlog = Backlog(
            count=self._gauge(
                "backlog_notifications",
                "Notifications that are not settled, by status (counted up to 10000).",
                "status",
            ),
            age=self._gauge(
                "backlog_oldest_age_seconds",
                "Age of the oldest notification that is not settled, by status.",
                "status",
            ),
        )
        self.breaker_open = self._gauge(
            "breaker_open", "1 while nothing is sent to the mail server because it took nothing."
        )
        self.held = self._gauge("held_notifications", "Notifications in memory.")

        self._taken.expect(("new", "duplicate"))
        self._notifications.expect(Kind, (Status.SENT, Status.FAILED, Status.SKIPPED))
        self._contacts.expect(("kept", "outdated"))

    def taken(self, *, inserted: int, duplicates: int) -> None:
        self._taken.labels("new").inc(inserted)
        self._taken.labels("duplicate").inc(duplicates)

    def settled(self, *, kind: str, status: str) -> None:
        self._notifications.labels(kind, status).inc()

    def repeated(self, count: int) -> None:
        self._repeats.inc(count)

    def confirmed_after(self, seconds: float, *, traceparent: str | None) -> None:
        self._confirmed_after.observe(seconds, traceparent=traceparent)

    def contacts(self, *, kept: int, outdated: int) -> None:
        self._contacts.labels("kept").inc(kept)
        self._contacts.labels("outdated").inc(outdated)

    def mailed(self, *, seconds: float, size: int) -> None:
        self._mail.observe(seconds)
        self._batch.observe(size)

    def connected(self, *, outcome: str) -> None:
        self._connections.labels(outcome).inc()

    def backlog(self, found: Sequence[tuple[str, int, float]]) -> None:
        self._backlog.set(found)
        self.measured("notifications")

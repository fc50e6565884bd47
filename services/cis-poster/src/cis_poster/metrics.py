"""Every collector of cis-poster."""

from collections.abc import Sequence

from cis_poster.domain import Kind, Status
from shared.runtime.metrics import (
    BATCH_SIZES,
    LATENCY_SECONDS,
    Backlog,
    Labelled,
    ServiceMetrics,
    TracedHistogram,
)


class Metrics(ServiceMetrics):
    """What cis-poster counts beside what every service counts."""

    def __init__(self) -> None:
        super().__init__(prefix="cis_poster")
        self._taken = Labelled(self._counter("taken", "Postings taken, new or known.", "outcome"))
        self._postings = Labelled(
            self._counter("postings", "Attempts by what became of the posting.", "kind", "outcome")
        )
        self._calls = Labelled(
            self._histogram(
                "cis_call_seconds",
                "Calls to the CIS.",
                "operation",
                "outcome",
                buckets=LATENCY_SECONDS,
            )
        )
        self._batch = self._histogram(
            "cis_batch_size", "Postings in one call to the CIS.", buckets=BATCH_SIZES
        )
        self._posted_after = TracedHistogram(
            self._histogram(
                "accepted_to_posted_seconds",
                "From acceptance by payment-intake to the CIS's acknowledgement.",
                buckets=LATENCY_SECONDS,
            )
        )
        self._conflicts = self._counter(
            "amount_conflicts",
            "The CIS held one of our keys with other content. Any increase is an alarm.",
        )
        self._backlog = Backlog(
            count=self._gauge(
                "backlog_postings",
                "Postings that are not settled, by status (counted up to 10000).",
                "status",
            ),
            age=self._gauge(
                "backlog_oldest_age_seconds",
                "Age of the oldest posting that is not settled, by status.",
                "status",
            ),
        )
        self.breaker_open = self._gauge(
            "breaker_open", "1 while nothing is sent to the CIS because it did not answer."
        )
        self.concurrency_limit = self._gauge(
            "cis_concurrency_limit_calls", "Calls that may be in flight at the CIS now."
        )
        self.held = self._gauge("held_postings", "Postings in memory.")

        self._taken.expect(("new", "duplicate"))
        self._postings.expect(Kind, (Status.POSTED, Status.SUSPENDED, Status.CONFLICTED))

    def taken(self, *, inserted: int, duplicates: int) -> None:
        self._taken.labels("new").inc(inserted)
        self._taken.labels("duplicate").inc(duplicates)

    def settled(self, *, kind: str, status: str) -> None:
        self._postings.labels(kind, status).inc()

    def called(self, *, operation: str, outcome: str, seconds: float, size: int) -> None:
        self._calls.labels(operation, outcome).observe(seconds)
        self._batch.observe(size)

    def posted_after(self, seconds: float, *, traceparent: str | None) -> None:
        self._posted_after.observe(seconds, traceparent=traceparent)

    def conflict(self) -> None:
        self._conflicts.inc()

    def backlog(self, found: Sequence[tuple[str, int, float]]) -> None:
        self._backlog.set(found)
        self.measured("postings")

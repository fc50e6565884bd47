"""Every collector of autopay-scheduler."""

from collections.abc import Mapping, Sequence
from typing import get_args

from autopay_scheduler.domain.declines import NEXT_STEPS
from autopay_scheduler.domain.notices import NoticeStatus
from autopay_scheduler.domain.reenrolment import ReenrolmentEvent
from shared.contracts.autopay import StopReason
from shared.runtime.metrics import Backlog, Labelled, ServiceMetrics

_LATENESS_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 6 * 3600, 24 * 3600, 72 * 3600)


class Metrics(ServiceMetrics):
    """What autopay-scheduler counts beside what every service counts."""

    def __init__(self) -> None:
        super().__init__(prefix="autopay_scheduler")
        self._words = Labelled(
            self._counter(
                "words",
                "Customers' words about autopay, by kind and what they made of the enrolment.",
                "kind",
                "outcome",
            )
        )
        self._stopped = Labelled(
            self._counter(
                "stopped_enrolments", "Enrolments that were stopped, by reason.", "reason"
            )
        )
        self._bills = Labelled(self._counter("bills", "Bills stated by the CIS.", "outcome"))
        self._postings = Labelled(
            self._counter("postings", "Postings counted, each once.", "outcome")
        )
        self._planned = self._counter("planned_accounts", "Accounts planned.")
        self._charges = Labelled(
            self._counter(
                "charges",
                "Charges by the status they came to, with its reason. `missed` is an alarm.",
                "status",
                "reason",
            )
        )
        self._notices_asked = Labelled(
            self._counter(
                "announcements",
                "Advance notices asked for, first ones and new ones after a rise.",
                "kind",
            )
        )
        self._noticed = Labelled(
            self._counter("notices", "What became of telling customers of charges.", "outcome")
        )
        self._requested = Labelled(
            self._counter("requests", "Charges asked for, by attempt.", "attempt")
        )
        self._lateness = self._histogram(
            "request_lateness_seconds",
            "From the moment at which a charge was due to its request.",
            buckets=_LATENESS_SECONDS,
        )
        self._restated = Labelled(
            self._counter(
                "restated",
                "Requests and announcements stated again, since nobody had answered.",
                "what",
            )
        )
        self._undecidable = Labelled(
            self._counter(
                "undecidable",
                "Plans, notices and requests put off by an hour since a defect kept them from being"
                " decided. Each is an alarm.",
                "what",
            )
        )
        self._declines = Labelled(
            self._counter(
                "declines", "Declines by category and what follows.", "category", "next_step"
            )
        )
        self._expiring = Labelled(
            self._counter("expiry_warnings", "Warnings that a card expires.", "days")
        )
        self._methods = Labelled(
            self._counter("method_news", "What processors said of payment methods.", "outcome")
        )
        self._paused = self._gauge("paused", "1 while an operator has paused all requests.")
        self._backlog = Backlog(
            count=self._gauge(
                "backlog", "What jobs have to do now, by kind (counted up to 10000).", "kind"
            ),
            age=self._gauge(
                "backlog_oldest_age_seconds", "How long the oldest of it has been due.", "kind"
            ),
        )
        self._imported = Labelled(
            self._counter(
                "imported_lines",
                "Lines of the old portal's files, by what became of them.",
                "kind",
                "outcome",
            )
        )
        self._moved = Labelled(
            self._counter(
                "move_events",
                "The move from the old portal: imported, invited, reminded, enrolled, declined,"
                " past.",
                "event",
            )
        )
        self._reenrolments = Labelled(
            self._gauge("reenrolments", "Imported enrolments by status.", "status")
        )
        self._without_email = self._gauge(
            "reenrolments_without_email",
            "Awaiting re-enrolment and not to be reached by e-mail: a clerk's list.",
        )

        self._stopped.expect(get_args(StopReason))
        self._bills.expect(("kept", "outdated"))
        self._postings.expect(("kept", "duplicate"))
        self._notices_asked.expect(("first", "anew"))
        self._noticed.expect((NoticeStatus.SENT, NoticeStatus.FAILED, NoticeStatus.SKIPPED))
        self._requested.expect(("1",))
        self._restated.expect(("request", "announcement"))
        for category, steps in NEXT_STEPS.items():
            self._declines.expect((category,), steps)
        self._methods.expect(("updated", "outdated", "withdrawn", "unknown"))
        self._moved.expect(ReenrolmentEvent)

    def word(self, *, kind: str, outcome: str) -> None:
        self._words.labels(kind, outcome).inc()

    def stopped(self, *, reason: str) -> None:
        self._stopped.labels(reason).inc()

    def bills(self, *, kept: int, outdated: int) -> None:
        self._bills.labels("kept").inc(kept)
        self._bills.labels("outdated").inc(outdated)

    def postings(self, *, kept: int, duplicates: int) -> None:
        self._postings.labels("kept").inc(kept)
        self._postings.labels("duplicate").inc(duplicates)

    def planned(self, *, accounts: int) -> None:
        self._planned.inc(accounts)

    def charge(self, *, status: str, reason: str, count: int = 1) -> None:
        self._charges.labels(status, reason).inc(count)

    def notice_asked(self, *, anew: bool) -> None:
        self._notices_asked.labels("anew" if anew else "first").inc()

    def noticed(self, *, outcome: str, count: int) -> None:
        self._noticed.labels(outcome).inc(count)

    def requested(self, *, attempt: int, lateness_seconds: float) -> None:
        self._requested.labels(str(attempt)).inc()
        self._lateness.observe(max(0.0, lateness_seconds))

    def restated(self, *, what: str, count: int) -> None:
        self._restated.labels(what).inc(count)

    def undecidable(self, *, what: str) -> None:
        self._undecidable.labels(what).inc()

    def declined(self, *, category: str, next_step: str) -> None:
        self._declines.labels(category, next_step).inc()

    def expiring(self, *, days: int) -> None:
        self._expiring.labels(str(days)).inc()

    def method(self, *, outcome: str) -> None:
        self._methods.labels(outcome).inc()

    def paused(self, *, is_paused: bool) -> None:
        self._paused.set(1 if is_paused else 0)

    def backlog(self, found: Sequence[tuple[str, int, float]]) -> None:
        self._backlog.set(found)
        self.measured("charges")

    def reenrolment_imported(self, *, kind: str, outcome: str, lines: int) -> None:
        self._imported.labels(kind, outcome).inc(lines)

    def reenrolment_happened(self, *, event: str, count: int) -> None:
        self._moved.labels(event).inc(count)

    def reenrolments(self, *, by_status: Mapping[str, int], without_email: int) -> None:
        for status, count in by_status.items():
            self._reenrolments.labels(status).set(count)
        self._without_email.set(without_email)

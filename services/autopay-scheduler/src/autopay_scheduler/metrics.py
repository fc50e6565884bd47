"""Every collector of autopay-scheduler."""

from collections.abc import Mapping, Sequence

from prometheus_client import Counter, Gauge, Histogram

from shared.runtime.metrics import Backlog, Labelled, ServiceMetrics

_LATENESS_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 6 * 3600, 24 * 3600, 72 * 3600)


class Metrics(ServiceMetrics):
    """What autopay-scheduler counts beside what every service counts."""

    def __init__(self) -> None:
        super().__init__(prefix="autopay_scheduler")
        registry = self.registry
        self._words = Labelled(
            Counter(
                "autopay_scheduler_words",
                "Customers' words about autopay, by kind and what they made of the enrolment.",
                ["kind", "outcome"],
                registry=registry,
            )
        )
        self._stopped = Labelled(
            Counter(
                "autopay_scheduler_stopped_enrolments",
                "Enrolments that were stopped, by reason.",
                ["reason"],
                registry=registry,
            )
        )
        self._bills = Labelled(
            Counter(
                "autopay_scheduler_bills",
                "Bills stated by the CIS.",
                ["outcome"],
                registry=registry,
            )
        )
        self._postings = Labelled(
            Counter(
                "autopay_scheduler_postings",
                "Postings counted, each once.",
                ["outcome"],
                registry=registry,
            )
        )
        self._planned = Counter(
            "autopay_scheduler_planned_accounts", "Accounts planned.", registry=registry
        )
        self._charges = Labelled(
            Counter(
                "autopay_scheduler_charges",
                "Charges by the status they came to, with its reason. `missed` is an alarm.",
                ["status", "reason"],
                registry=registry,
            )
        )
        self._notices_asked = Labelled(
            Counter(
                "autopay_scheduler_announcements",
                "Advance notices asked for, first ones and new ones after a rise.",
                ["kind"],
                registry=registry,
            )
        )
        self._noticed = Labelled(
            Counter(
                "autopay_scheduler_notices",
                "What became of telling customers of charges.",
                ["outcome"],
                registry=registry,
            )
        )
        self._requested = Labelled(
            Counter(
                "autopay_scheduler_requests",
                "Charges asked for, by attempt.",
                ["attempt"],
                registry=registry,
            )
        )
        self._lateness = Histogram(
            "autopay_scheduler_request_lateness_seconds",
            "From the moment at which a charge was due to its request.",
            buckets=_LATENESS_SECONDS,
            registry=registry,
        )
        self._restated = Labelled(
            Counter(
                "autopay_scheduler_restated",
                "Requests and announcements stated again, since nobody had answered.",
                ["what"],
                registry=registry,
            )
        )
        self._undecidable = Labelled(
            Counter(
                "autopay_scheduler_undecidable",
                "Plans, notices and requests put off by an hour since a defect kept them from being"
                " decided. Each is an alarm.",
                ["what"],
                registry=registry,
            )
        )
        self._declines = Labelled(
            Counter(
                "autopay_scheduler_declines",
                "Declines by category and what follows.",
                ["category", "next_step"],
                registry=registry,
            )
        )
        self._expiring = Labelled(
            Counter(
                "autopay_scheduler_expiry_warnings",
                "Warnings that a card expires.",
                ["days"],
                registry=registry,
            )
        )
        self._methods = Labelled(
            Counter(
                "autopay_scheduler_method_news",
                "What processors said of payment methods.",
                ["outcome"],
                registry=registry,
            )
        )
        self._paused = Gauge(
            "autopay_scheduler_paused",
            "1 while an operator has paused all requests.",
            registry=registry,
        )
        self._backlog = Backlog(
            count=Gauge(
                "autopay_scheduler_backlog",
                "What jobs have to do now, by kind (counted up to 10000).",
                ["kind"],
                registry=registry,
            ),
            age=Gauge(
                "autopay_scheduler_backlog_oldest_age_seconds",
                "How long the oldest of it has been due.",
                ["kind"],
                registry=registry,
            ),
        )
        self._imported = Labelled(
            Counter(
                "autopay_scheduler_imported_lines",
                "Lines of the old portal's files, by what became of them.",
                ["kind", "outcome"],
                registry=registry,
            )
        )
        self._moved = Labelled(
            Counter(
                "autopay_scheduler_move_events",
                "The move from the old portal: imported, invited, reminded, enrolled, declined,"
                " past.",
                ["event"],
                registry=registry,
            )
        )
        self._reenrolments = Labelled(
            Gauge(
                "autopay_scheduler_reenrolments",
                "Imported enrolments by status.",
                ["status"],
                registry=registry,
            )
        )
        self._without_email = Gauge(
            "autopay_scheduler_reenrolments_without_email",
            "Awaiting re-enrolment and not to be reached by e-mail: a clerk's list.",
            registry=registry,
        )

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

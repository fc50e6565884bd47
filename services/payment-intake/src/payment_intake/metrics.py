"""Every collector of payment-intake."""

from collections.abc import Sequence

from payment_intake.domain import MovementKind
from payment_intake.domain.charges import ChargeStatus
from payment_intake.ports import Outcome
from shared.runtime.metrics import (
    BATCH_SIZES,
    LATENCY_SECONDS,
    Backlog,
    Labelled,
    ServiceMetrics,
    TracedHistogram,
)

SENDERS = ("stripe", "standard", "portal")
CONFLICTS = (
    "event_body",
    "charge_request",
    "payment_amount",
    "payment_currency",
    "two_payments",
    "reversed_more_than_paid",
)


class Metrics(ServiceMetrics):
    """What payment-intake counts beside what every service counts.

    As the owner of a payment's chain it measures both service levels: accepted → posted and
    accepted → confirmed.
    """

    def __init__(self) -> None:
        super().__init__(prefix="payment_intake")
        self._requests = Labelled(
            self._counter(
                "webhook_requests",
                "Requests at the webhook doors, by door and HTTP status.",
                "door",
                "status",
            )
        )
        self._answered = Labelled(
            self._histogram(
                "webhook_answer_seconds",
                "From the request to its answer, commit included, by the class of its HTTP status.",
                "door",
                "status_class",
                buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            )
        )
        self._refused = Labelled(
            self._counter(
                "refused_requests", "Requests refused at the door, by reason.", "door", "reason"
            )
        )
        self._events = Labelled(
            self._counter(
                "events", "Events taken, by source and what became of them.", "source", "outcome"
            )
        )
        self._movements = Labelled(
            self._counter("movements", "Money movements and declines announced.", "kind")
        )
        self._conflicts = Labelled(
            self._counter(
                "conflicts",
                "Statements that contradict one another. Any increase is an alarm.",
                "kind",
            )
        )
        self._masked = Labelled(
            self._counter(
                "masked_card_numbers",
                "Card numbers masked before anything was kept. Any increase is an alarm.",
                "source",
            )
        )
        self._batch = self._histogram(
            "take_batch_size", "Events committed in one transaction.", buckets=BATCH_SIZES
        )
        self._posted_after = TracedHistogram(
            self._histogram(
                "accepted_to_posted_seconds",
                "From acceptance to the CIS's acknowledgement.",
                buckets=LATENCY_SECONDS,
            )
        )
        self._confirmed_after = TracedHistogram(
            self._histogram(
                "accepted_to_confirmed_seconds",
                "From acceptance until the customer is known to have been told.",
                buckets=LATENCY_SECONDS,
            )
        )
        self._announced_again = self._counter(
            "announced_again",
            "Movements announced again because their chain had not ended in time.",
        )
        self._delayed = self._counter("delayed", "Payments of which `payment.delayed` was stated.")
        self._backlog = Backlog(
            count=self._gauge(
                "unfinished_movements",
                "Chains that have not ended, by status (counted up to 10000).",
                "status",
            ),
            age=self._gauge(
                "unfinished_oldest_age_seconds",
                "Age of the oldest chain that has not ended, by status.",
                "status",
            ),
        )

        self._charges_heeded = Labelled(
            self._counter(
                "charge_requests",
                "Requests and cancellations of autopay taken, by what became of them.",
                "kind",
                "outcome",
            )
        )
        self._charges_settled = Labelled(
            self._counter(
                "charges",
                "Charges by the status that a call, or its absence, has brought them to.",
                "status",
            )
        )
        self._charge_calls = Labelled(
            self._histogram(
                "charge_call_seconds",
                "Calls of the processor, by what was asked and what it said.",
                "operation",
                "outcome",
                buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30),
            )
        )
        self._charges_resolved = Labelled(
            self._counter(
                "unknown_charges_resolved",
                "Charges of unknown outcome that the processor was asked about, by its answer.",
                "outcome",
            )
        )
        self._charge_trouble = Labelled(
            self._counter(
                "charge_trouble",
                "Calls refused for our key, our rights or our request. Any increase is an alarm.",
                "reason",
            )
        )
        self._charge_backlog = Backlog(
            count=self._gauge(
                "unsettled_charges",
                "Charges that are not settled, by status (counted up to 10000).",
                "status",
            ),
            age=self._gauge(
                "unsettled_charges_oldest_age_seconds",
                "Age of the oldest charge that is not settled, by status.",
                "status",
            ),
        )
        self.charges_paused = self._gauge(
            "charges_paused", "1 while an operator has paused charges."
        )
        self.charges_possible = self._gauge(
            "charges_possible", "0 without a key for the processor: charges wait and expire."
        )
        self.charge_breaker_open = self._gauge(
            "charge_breaker_open", "1 while the processor does not answer and is left alone."
        )

        self._movements.expect(MovementKind)
        self._conflicts.expect(CONFLICTS)
        self._events.expect(SENDERS, Outcome)
        self._masked.expect(("stripe", "portal"))
        self._charges_settled.expect(ChargeStatus)

    def answered(self, *, door: str, status: int, seconds: float) -> None:
        self._requests.labels(door, str(status)).inc()
        self._answered.labels(door, f"{status // 100}xx").observe(seconds)

    def refused(self, *, door: str, reason: str) -> None:
        self._refused.labels(door, reason).inc()

    def taken(self, *, source: str, outcome: str) -> None:
        self._events.labels(_sender(source), outcome).inc()

    def moved(self, *, kind: str) -> None:
        self._movements.labels(kind).inc()

    def conflict(self, *, kind: str) -> None:
        self._conflicts.labels(kind).inc()

    def masked(self, *, source: str, count: int) -> None:
        self._masked.labels(_sender(source)).inc(count)

    def batch(self, size: int) -> None:
        self._batch.observe(size)

    def posted_after(self, seconds: float, *, traceparent: str | None) -> None:
        self._posted_after.observe(seconds, traceparent=traceparent)

    def confirmed_after(self, seconds: float, *, traceparent: str | None) -> None:
        self._confirmed_after.observe(seconds, traceparent=traceparent)

    def announced_again(self, count: int) -> None:
        self._announced_again.inc(count)

    def delayed(self, count: int) -> None:
        self._delayed.inc(count)

    def backlog(self, found: Sequence[tuple[str, int, float]]) -> None:
        self._backlog.set(found)
        self.measured("movements")

    def heeded(self, *, kind: str, outcome: str, count: int) -> None:
        self._charges_heeded.labels(kind, outcome).inc(count)

    def settled(self, *, status: str) -> None:
        self._charges_settled.labels(status).inc()

    def gateway_called(self, *, operation: str, outcome: str, seconds: float) -> None:
        self._charge_calls.labels(operation, outcome).observe(seconds)

    def resolved(self, *, outcome: str) -> None:
        self._charges_resolved.labels(outcome).inc()

    def our_trouble(self, *, reason: str) -> None:
        self._charge_trouble.labels(reason).inc()

    def charge_backlog(self, found: Sequence[tuple[str, int, float]]) -> None:
        self._charge_backlog.set(found)
        self.measured("charges")


def _sender(source: str) -> str:
    """Return a source's kind: names after the colon are free text and would be endless labels."""
    return source.partition(":")[0]

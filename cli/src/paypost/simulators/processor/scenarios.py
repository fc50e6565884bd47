"""What one payment makes the processor send: its trains of events, by name.

A step's delay says how much later, by the processor's clock, Stripe would send it; steps of delay
zero leave at once, in this order unless reordered on the way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from paypost.simulators.processor.events import (
    Event,
    EventBuilder,
    Ids,
    PaymentIds,
    Purchase,
)
from paypost.simulators.processor.tokens import ach_return

BANK = "us_bank_account"
ACH_DAYS = 4


@dataclass(frozen=True, slots=True)
class Step:
    """One event of a train; `build` is called when it is due, with the time that it then is."""

    delay: timedelta
    build: Callable[[datetime], Event]


@dataclass(frozen=True, slots=True)
class Train:
    """All events of one payment; `reference` is the processor's id of it."""

    reference: str
    ids: PaymentIds
    purchase: Purchase
    steps: Sequence[Step]


class Scenarios:
    """Makes trains; one for each name in SCENARIOS."""

    def __init__(self, *, ids: Ids, builder: EventBuilder) -> None:
        self._ids = ids
        self._builder = builder

    def make(self, name: str, *, purchase: Purchase) -> Train:
        """Return a new payment's train. Raises KeyError for a name that is not in SCENARIOS."""
        return SCENARIOS[name](self, purchase)

    def card(self, purchase: Purchase) -> Train:
        """Return the usual train of a card payment: four events, of which one posting comes."""
        ids = self._ids.payment()
        return Train(ids.payment_intent, ids, purchase, self._card_steps(ids, purchase))

    def ach(self, purchase: Purchase) -> Train:
        """Return an ACH payment that settles four days later."""
        ids = self._ids.payment()
        settled = timedelta(days=ACH_DAYS)
        return Train(
            ids.payment_intent,
            ids,
            purchase,
            [
                *self._ach_submission(ids, purchase),
                self._charge_step("charge.succeeded", ids, purchase, BANK, settled),
                self._intent_step("payment_intent.succeeded", ids, purchase, BANK, settled),
            ],
        )

    def ach_return(self, purchase: Purchase, *, return_code: str = "R01") -> Train:
        """Return an ACH payment that comes back four days later, with its NACHA code."""
        ids = self._ids.payment()
        returned = timedelta(days=ACH_DAYS)
        failure = ach_return(return_code)

        def fail_charge(at: datetime) -> Event:
            return self._builder.charge(
                "charge.failed", ids=ids, purchase=purchase, at=at, method=BANK, failure=failure
            )

        def fail_intent(at: datetime) -> Event:
            return self._builder.payment_intent(
                "payment_intent.payment_failed",
                ids=ids,
                purchase=purchase,
                at=at,
                method=BANK,
                failure=failure,
            )

        return Train(
            ids.payment_intent,
            ids,
            purchase,
            [
                *self._ach_submission(ids, purchase),
                Step(returned, fail_charge),
                Step(returned, fail_intent),
            ],
        )

    def refund(self, purchase: Purchase) -> Train:
        """Return a card payment that is refunded in full afterwards."""
        ids = self._ids.payment()
        steps = [*self._card_steps(ids, purchase), self._refund_step(ids, purchase)]
        return Train(ids.payment_intent, ids, purchase, steps)

    def refund_first(self, purchase: Purchase) -> Train:
        """Return a refunded card payment whose refund is sent before the payment itself."""
        ids = self._ids.payment()
        steps = [self._refund_step(ids, purchase), *self._card_steps(ids, purchase)]
        return Train(ids.payment_intent, ids, purchase, steps)

    def partial_refunds(self, purchase: Purchase) -> Train:
        """Return a card payment refunded twice, a third and then the rest, the rest failing.

        `charge.refunded` is cumulative, so the second carries the whole; the failure brings the
        second refund's money back.
        """
        ids = self._ids.payment()
        first = (self._ids.new("re"), max(1, purchase.gross_cents // 3))
        second = (self._ids.new("re"), purchase.gross_cents - first[1])

        def fail(at: datetime) -> Event:
            return self._builder.refund_updated(
                ids=ids,
                purchase=purchase,
                at=at,
                refund_id=second[0],
                amount_cents=second[1],
                status="failed",
            )

        return Train(
            ids.payment_intent,
            ids,
            purchase,
            [
                *self._card_steps(ids, purchase),
                self._refunded(ids, purchase, [first]),
                self._refunded(ids, purchase, [first, second]),
                Step(timedelta(), fail),
            ],
        )

    def dispute(self, purchase: Purchase) -> Train:
        """Return a card payment that is disputed and lost: inquiry, money withdrawn, closed."""
        return self._disputed(
            purchase,
            [
                ("charge.dispute.created", "warning_needs_response"),
                ("charge.dispute.funds_withdrawn", "needs_response"),
                ("charge.dispute.closed", "lost"),
            ],
        )

    def dispute_won(self, purchase: Purchase) -> Train:
        """Return a card payment that is disputed and won: the money is withdrawn and comes back."""
        return self._disputed(
            purchase,
            [
                ("charge.dispute.created", "warning_needs_response"),
                ("charge.dispute.funds_withdrawn", "needs_response"),
                ("charge.dispute.funds_reinstated", "won"),
                ("charge.dispute.closed", "won"),
            ],
        )

    def decline(self, purchase: Purchase) -> Train:
        """Return a card that is declined: no money moves."""
        ids = self._ids.payment()
        return Train(
            ids.payment_intent,
            ids,
            purchase,
            [
                self._intent_step("payment_intent.created", ids, purchase),
                self._charge_step("charge.failed", ids, purchase),
                self._intent_step("payment_intent.payment_failed", ids, purchase),
            ],
        )

    def single(self, event_type: str, purchase: Purchase) -> Train:
        """Return a train of just one event. Raises KeyError for a type not in SINGLE_EVENTS."""
        ids = self._ids.payment()
        step = SINGLE_EVENTS[event_type](self, event_type, ids, purchase)
        return Train(ids.payment_intent, ids, purchase, [step])

    def _card_steps(self, ids: PaymentIds, purchase: Purchase) -> list[Step]:
        return [
            self._intent_step("payment_intent.created", ids, purchase),
            self._charge_step("charge.succeeded", ids, purchase),
            self._intent_step("payment_intent.succeeded", ids, purchase),
            self._charge_step("charge.updated", ids, purchase),
        ]

    def _ach_submission(self, ids: PaymentIds, purchase: Purchase) -> list[Step]:
        return [
            self._intent_step("payment_intent.created", ids, purchase, BANK),
            self._intent_step("payment_intent.processing", ids, purchase, BANK),
        ]

    def _disputed(self, purchase: Purchase, events: Sequence[tuple[str, str]]) -> Train:
        ids = self._ids.payment()
        dispute_id = self._ids.new("dp")
        return Train(
            ids.payment_intent,
            ids,
            purchase,
            [
                *self._card_steps(ids, purchase),
                *(
                    self._dispute_step(event_type, status, ids, purchase, dispute_id)
                    for event_type, status in events
                ),
            ],
        )

    def _intent_step(
        self,
        event_type: str,
        ids: PaymentIds,
        purchase: Purchase,
        method: str = "card",
        delay: timedelta = timedelta(),
    ) -> Step:
        def build(at: datetime) -> Event:
            return self._builder.payment_intent(
                event_type, ids=ids, purchase=purchase, at=at, method=method
            )

        return Step(delay, build)

    def _charge_step(
        self,
        event_type: str,
        ids: PaymentIds,
        purchase: Purchase,
        method: str = "card",
        delay: timedelta = timedelta(),
    ) -> Step:
        def build(at: datetime) -> Event:
            return self._builder.charge(
                event_type, ids=ids, purchase=purchase, at=at, method=method
            )

        return Step(delay, build)

    def _refund_step(self, ids: PaymentIds, purchase: Purchase) -> Step:
        return self._refunded(ids, purchase, [(self._ids.new("re"), purchase.gross_cents)])

    def _refunded(
        self, ids: PaymentIds, purchase: Purchase, refunds: list[tuple[str, int]]
    ) -> Step:
        def build(at: datetime) -> Event:
            return self._builder.charge_refunded(ids=ids, purchase=purchase, at=at, refunds=refunds)

        return Step(timedelta(), build)

    def _dispute_step(
        self, event_type: str, status: str, ids: PaymentIds, purchase: Purchase, dispute_id: str
    ) -> Step:
        def build(at: datetime) -> Event:
            return self._builder.dispute(
                event_type,
                ids=ids,
                purchase=purchase,
                at=at,
                dispute_id=dispute_id,
                status=status,
                amount_cents=purchase.gross_cents,
            )

        return Step(timedelta(), build)

    def _single_intent(self, event_type: str, ids: PaymentIds, purchase: Purchase) -> Step:
        method = BANK if event_type == "payment_intent.processing" else "card"
        return self._intent_step(event_type, ids, purchase, method)

    def _single_charge(self, event_type: str, ids: PaymentIds, purchase: Purchase) -> Step:
        return self._charge_step(event_type, ids, purchase)

    def _single_refund(self, event_type: str, ids: PaymentIds, purchase: Purchase) -> Step:
        del event_type
        return self._refund_step(ids, purchase)

    def _single_dispute(self, event_type: str, ids: PaymentIds, purchase: Purchase) -> Step:
        status = DISPUTE_STATUS.get(event_type, "needs_response")
        return self._dispute_step(event_type, status, ids, purchase, self._ids.new("dp"))


DISPUTE_STATUS = {
    "charge.dispute.created": "warning_needs_response",
    "charge.dispute.funds_reinstated": "won",
    "charge.dispute.closed": "lost",
}

SCENARIOS: dict[str, Callable[[Scenarios, Purchase], Train]] = {
    "card": Scenarios.card,
    "ach": Scenarios.ach,
    "ach_return": Scenarios.ach_return,
    "refund": Scenarios.refund,
    "refund_first": Scenarios.refund_first,
    "partial_refunds": Scenarios.partial_refunds,
    "dispute": Scenarios.dispute,
    "dispute_won": Scenarios.dispute_won,
    "decline": Scenarios.decline,
}

SINGLE_EVENTS: dict[str, Callable[[Scenarios, str, PaymentIds, Purchase], Step]] = {
    **dict.fromkeys(
        (
            "payment_intent.created",
            "payment_intent.processing",
            "payment_intent.succeeded",
            "payment_intent.payment_failed",
        ),
        Scenarios._single_intent,
    ),
    **dict.fromkeys(
        ("charge.succeeded", "charge.updated", "charge.failed", "charge.pending"),
        Scenarios._single_charge,
    ),
    "charge.refunded": Scenarios._single_refund,
    **dict.fromkeys(
        (
            "charge.dispute.created",
            "charge.dispute.updated",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.funds_reinstated",
            "charge.dispute.closed",
        ),
        Scenarios._single_dispute,
    ),
}

"""payment-intake in tests: observations and events by hand, the real trains, a payment's ledger."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from payment_intake.adapters.stripe import MetadataFields, StripeReader
from payment_intake.domain import (
    Change,
    Conflict,
    Heard,
    Movement,
    MovementKind,
    Observation,
    Payment,
    PaymentStatus,
    Policy,
    observe,
)
from payment_intake.ports import Incoming
from paypost.simulators.processor.events import Event, EventBuilder, Ids, Purchase
from paypost.simulators.processor.scenarios import Scenarios

NOW = datetime(2026, 3, 2, 18, 0, tzinfo=UTC)
"""Noon in Chicago, on a Monday."""
NET_CENTS = 8250
FEE_CENTS = 250
GROSS_CENTS = 8500
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

FIELDS = MetadataFields(
    account="account_number", fee="convenience_fee_cents", bill="bill_reference"
)


def numbered_ids() -> Iterator[UUID]:
    """Ids that can be told apart at a glance, in order."""
    return (UUID(int=number) for number in count(1))


def policy(**changes: Any) -> Policy:
    rules = {"time_zone": ZoneInfo("America/Chicago"), "cutoff": None, "post_pending": False}
    return Policy(**(rules | changes))


def heard(what: Heard, *, minute: int = 0, **changes: Any) -> Observation:
    """An observation of the one payment `pi_1`, so many minutes after NOW."""
    amounts = {
        Heard.REFUNDED: GROSS_CENTS,
        Heard.REFUND_FAILED: GROSS_CENTS,
        Heard.FUNDS_WITHDRAWN: GROSS_CENTS,
        Heard.FUNDS_REINSTATED: GROSS_CENTS,
        Heard.SUBMITTED: NET_CENTS,
    }
    is_charge = what not in amounts
    fields = {
        "processor": "stripe",
        "references": ("pi_1", "ch_1"),
        "heard": what,
        "at": NOW + timedelta(minutes=minute),
        "amount_cents": amounts.get(what, GROSS_CENTS),
        "currency": "USD",
        "fee_cents": FEE_CENTS if is_charge else 0,
        "account_id": "1002003",
    }
    return Observation(**(fields | changes))


@dataclass
class Watched:
    """One payment, and all that its observations have moved."""

    policy: Policy = field(default_factory=policy)
    payment: Payment = field(
        default_factory=lambda: Payment(
            id=UUID(int=0),
            processor="stripe",
            references=frozenset(),
            status=PaymentStatus.SEEN,
            created_at=NOW,
        )
    )
    movements: list[Movement] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    times_pending: int = 0
    now: datetime = NOW + timedelta(days=1)
    _ids: Iterator[UUID] = field(default_factory=numbered_ids)

    def hears(self, *observations: Observation) -> Change:
        """Apply them in this order; return what the last one changed."""
        for observation in observations:
            change = observe(
                payment=self.payment,
                observation=observation,
                policy=self.policy,
                now=self.now,
                new_id=lambda: next(self._ids),
            )
            self.payment = change.payment
            self.movements += change.movements
            self.conflicts += change.conflicts
            self.times_pending += change.became_pending
        return change

    @property
    def ledger_cents(self) -> int:
        """What the ledger shows of the payment when every movement is on it."""
        signs = {
            MovementKind.PAYMENT: 1,
            MovementKind.REVERSAL: -1,
            MovementKind.REINSTATEMENT: 1,
            MovementKind.DECLINE: 0,
        }
        return sum(signs[each.kind] * each.amount_cents for each in self.movements)

    def moved(self) -> list[tuple[str, int]]:
        return [(str(each.kind), each.amount_cents) for each in self.movements]


PURCHASE = Purchase(
    account="1002003",
    amount_cents=NET_CENTS,
    fee_cents=FEE_CENTS,
    bill_reference="B-2026-03",
)


def stripe_train(
    name: str, *, api_version: str = "2020-08-27", seed: int = 7, purchase: Purchase = PURCHASE
) -> list[Event]:
    """The events of one payment as the processor's counterpart makes them of the real fixtures."""
    ids = Ids(chance=random.Random(seed))
    scenarios = Scenarios(ids=ids, builder=EventBuilder(ids=ids, api_version=api_version))
    train = scenarios.make(name, purchase=purchase)
    at = NOW
    events = []
    for step in train.steps:
        at += step.delay + timedelta(seconds=1)
        events.append(step.build(at))
    return events


def stripe_reader() -> StripeReader:
    return StripeReader(fields=FIELDS, currencies=["USD"])


def observed(events: Sequence[Event]) -> list[Observation]:
    """What the reader makes of events; those that say nothing of money are left out."""
    readings = [stripe_reader().read(event.body) for event in events]
    return [reading.observation for reading in readings if reading.observation is not None]


def incoming(
    observation: Observation | None = None, *, event_id: str, body: bytes = b"{}", **changes: Any
) -> Incoming:
    """An event as the doors hand it on."""
    fields = {
        "source": "stripe",
        "event_id": event_id,
        "event_type": "test",
        "body": body,
        "digest": sha256(body).digest(),
        "received_at": NOW,
        "observation": observation,
        "traceparent": TRACE,
    }
    return Incoming(**(fields | changes))

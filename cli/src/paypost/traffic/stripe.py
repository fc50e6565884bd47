"""Payments as the processor sends them: the library of the counterpart, in this process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from paypost.simulators.processor.connections import Connections
from paypost.simulators.processor.delivery import (
    Delivery,
    DeliveryJournal,
    Disorder,
    RetryPolicy,
    WebhookSender,
)
from paypost.simulators.processor.processor import MovableClock, Order, Processor, real_time
from paypost.simulators.processor.scenarios import Train
from paypost.stack.state import StackState

LATER = timedelta(days=5)
"""Longer than anything that a scenario leaves for later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentPayment:
    """One payment that was sent, as the processor knows it."""

    reference: str
    account: str
    amount_cents: int
    fee_cents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What was sent and how the endpoint answered.

    Attributes:
        payments: in the order of sending.
        deliveries: one for each copy of an event.
        started_at: when the first one left.
        seconds: until the last one was answered.
    """

    payments: tuple[SentPayment, ...]
    deliveries: tuple[Delivery, ...]
    started_at: datetime
    seconds: float

    @property
    def references(self) -> tuple[str, ...]:
        """The processor's names of the payments."""
        return tuple(payment.reference for payment in self.payments)

    @property
    def not_taken(self) -> int:
        """How many copies were never answered with 2xx."""
        return sum(not delivery.taken for delivery in self.deliveries)

    @property
    def payments_per_second(self) -> float:
        """Payments accepted for each second of sending."""
        return len(self.payments) / self.seconds if self.seconds else 0.0

    @property
    def events_per_second(self) -> float:
        """Events answered for each second of sending."""
        return len(self.deliveries) / self.seconds if self.seconds else 0.0

    def ack_seconds(self) -> list[float]:
        """How long each answer took."""
        return [delivery.latency_seconds for delivery in self.deliveries]


@dataclass(slots=True)
class _Outgoing:
    """Trains on their way, noted as they leave."""

    trains: Iterable[Train]
    on_payment: Callable[[int], None]
    payments: list[SentPayment] = field(default_factory=list)

    def __iter__(self) -> Iterator[Train]:
        for train in self.trains:
            self.payments.append(
                SentPayment(
                    reference=train.reference,
                    account=train.purchase.account,
                    amount_cents=train.purchase.amount_cents,
                    fee_cents=train.purchase.fee_cents,
                )
            )
            if len(self.payments) % 50 == 0:
                self.on_payment(len(self.payments))
            yield train


class StripeSender:
    """Sends orders to a stack's webhook endpoint over kept connections; a context manager."""

    def __init__(
        self,
        *,
        state: StackState,
        seed: int | None = None,
        concurrency: int = 64,
        retry: RetryPolicy | None = None,
        journal_path: Path | None = None,
    ) -> None:
        """Connects when the first event leaves.

        Args:
            state: the stack.
            seed: of ids, amounts and disorder; random when absent.
            concurrency: how many payments are under way at most; bounds the connections too.
            retry: when an event that was not taken is sent again.
            journal_path: where every attempt is recorded.
        """
        chance = random.Random(seed)  # noqa: S311 — ids of make-believe payments
        self._journal = DeliveryJournal(path=journal_path) if journal_path else None
        self._connections = Connections(
            url=f"{state.http_urls['payment-intake']}/webhooks/stripe",
            connections_max=concurrency * 2,
            timeout_seconds=20.0,
        )
        self._processor = Processor(
            sender=WebhookSender(
                connections=self._connections,
                secrets=[state.secrets.stripe_webhook_secret],
                clock=real_time,
                chance=chance,
                journal=self._journal,
                retry=retry or RetryPolicy(),
            ),
            clock=MovableClock(real=real_time),
            chance=chance,
            concurrency=concurrency,
        )

    async def __aenter__(self) -> StripeSender:
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        self._connections.close()
        if self._journal is not None:
            await self._journal.close()

    async def send(
        self,
        orders: Sequence[Order],
        *,
        disorder: Disorder | None = None,
        payments_per_second: float | None = None,
        later: bool = True,
        on_payment: Callable[[int], None] | None = None,
    ) -> Sent:
        """Send these orders one after the other and wait until every event was answered.

        Args:
            orders: what happens.
            disorder: how deliveries differ from one of each, in order.
            payments_per_second: at most; as fast as it goes when absent.
            later: whether what a scenario leaves for later days (ACH) follows at once.
            on_payment: hears now and then how many payments have left.

        Raises:
            UnknownScenarioError, ValueError: an order makes no sense; nothing was sent.
        """
        prepared = [self._processor.prepare(order) for order in orders]
        return await self.send_trains(
            (train for trains in prepared for train in trains),
            disorder=disorder,
            payments_per_second=payments_per_second,
            later=later,
            on_payment=on_payment,
        )

    def prepare(self, order: Order) -> list[Train]:
        """Make an order's payments, with their references, and send nothing yet.

        Raises:
            UnknownScenarioError, ValueError: the order makes no sense.
        """
        return list(self._processor.prepare(order))

    async def send_trains(
        self,
        trains: Iterable[Train],
        *,
        disorder: Disorder | None = None,
        payments_per_second: float | None = None,
        later: bool = True,
        on_payment: Callable[[int], None] | None = None,
    ) -> Sent:
        """Send prepared payments; see `send`."""
        outgoing = _Outgoing(trains=trains, on_payment=on_payment or (lambda _count: None))
        started_at = datetime.now(UTC)
        started = time.perf_counter()
        deliveries = await self._processor.deliver(
            outgoing, disorder=disorder, trains_per_second=payments_per_second
        )
        if later and self._processor.scheduled:
            deliveries = deliveries + await self._processor.advance(LATER)
        return Sent(
            payments=tuple(outgoing.payments),
            deliveries=tuple(deliveries),
            started_at=started_at,
            seconds=time.perf_counter() - started,
        )

    async def send_later(self) -> list[Delivery]:
        """Move the processor's clock by days and send what was left for later."""
        return await self._processor.advance(LATER)

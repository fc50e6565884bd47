"""The load of a run: a plan that a seed decides, sent as the processor, the portal and the CIS do.

Invariant: what is sent, and each answer, is on disk before the oracles read it. The plan (accounts,
amounts, what happens to each payment) is a function of the seed alone, so that two runs of one seed
have to end in equal ledgers; ids and accounts' prefixes are new in each run, since nothing that was
ever taken may be sent as new again.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from zoneinfo import ZoneInfo

import asyncpg
import orjson
from tests.faults.journals import DueCharge, Movement, Payment

from paypost.simulators.append_log import AppendLog
from paypost.simulators.processor.connections import Connections
from paypost.simulators.processor.delivery import (
    Delivery,
    DeliveryJournal,
    Disorder,
    RetryPolicy,
    WebhookSender,
)
from paypost.simulators.processor.events import EventBuilder, Ids, Purchase
from paypost.simulators.processor.scenarios import Scenarios, Train
from paypost.stack.local import CITY_TIME_ZONE
from paypost.stack.state import StackState
from paypost.traffic.autopay import Subscriber, enrol, subscriber_of
from paypost.traffic.bills import StatedBill, bill_of, publish_bills
from paypost.traffic.customers import customer_of, ensure_customers
from shared.contracts.enrolments import AutopayRule
from shared.messaging.producer import KafkaUnavailableError

CONNECTIONS_MAX = 96
ANSWER_SECONDS_MAX = 10.0
CONCURRENCY = 64
RETRY = RetryPolicy(attempts_max=90, first_seconds=0.2, longest_seconds=2.0)
"""About two minutes and a half: longer than any fault lasts."""
FEED_SECONDS_MAX = 150.0
DOUBLED = Disorder(duplicates=1, duplicate_share=0.1)
"""One event in ten comes twice at once, as Stripe warns that it does."""
FIRST_AMOUNT_CENTS = 1_001


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How much there is of a run's plan.

    Attributes:
        payments: sent while the fault comes and goes.
        tail: sent when everything is healed.
        charges: customers with autopay, each with a bill due today.
        accounts: over which the payments are spread; few enough that several share one.
        lead_seconds: of load before the fault.
        lag_seconds: of load after it.
    """

    payments: int = 150
    tail: int = 16
    charges: int = 10
    accounts: int = 40
    lead_seconds: float = 2.0
    lag_seconds: float = 1.5


SCENARIO_WEIGHTS = {
    "card": 58,
    "ach": 8,
    "ach_return": 4,
    "refund": 6,
    "refund_first": 5,
    "partial_refunds": 5,
    "dispute": 4,
    "dispute_won": 4,
    "decline": 6,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One payment of the plan, before it has a name."""

    account: int
    amount_cents: int
    scenario: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a seed has the load do."""

    payments: tuple[Planned, ...]
    tail: tuple[Planned, ...]
    charges: tuple[int, ...]
    """The amount of each customer's bill, in cents."""


def plan_of(*, seed: int, shape: Shape) -> Plan:
    """The plan of a seed: the same for ever."""
    chance = random.Random(f"plan {seed}")
    names, weights = tuple(SCENARIO_WEIGHTS), tuple(SCENARIO_WEIGHTS.values())
    amounts = count(FIRST_AMOUNT_CENTS)

    def draw(scenario: str | None = None) -> Planned:
        return Planned(
            account=chance.randrange(shape.accounts),
            amount_cents=next(amounts),
            scenario=scenario or chance.choices(names, weights)[0],
        )

    return Plan(
        payments=tuple(draw() for _ in range(shape.payments)),
        tail=tuple(draw("card") for _ in range(shape.tail)),
        charges=tuple(next(amounts) for _ in range(shape.charges)),
    )


def movements_of(*, scenario: str, amount_cents: int) -> tuple[Movement, ...]:
    """What a payment without a fee has to leave on the ledger, worked out by hand."""
    paid: Movement = ("payment", amount_cents)
    back: Movement = ("reversal", amount_cents)
    third = amount_cents // 3
    rest = amount_cents - third
    return {
        "card": (paid,),
        "ach": (paid,),
        "ach_return": (),
        "refund": (paid, back),
        "refund_first": (paid, back),
        "partial_refunds": (paid, ("reversal", third), ("reversal", rest), ("reinstatement", rest)),
        "dispute": (paid, back),
        "dispute_won": (paid, back, ("reinstatement", amount_cents)),
        "decline": (),
    }[scenario]


DECLINED = frozenset({"decline", "ach_return"})


@dataclass(kw_only=True)
class Load:
    """Sends a plan to a stack, and what a fault wants sent beside it.

    Attributes:
        state: of the stack.
        plan, shape: what is sent.
        folder: where `sent.jsonl` (every delivery and its answer) and `plan.jsonl` (every payment
            and bill) are.
        prefix: of this run's accounts.
        secrets: the processor signs with all of these; may be changed under way.
        payments: what was sent so far, or is about to be.
    """

    state: StackState
    plan: Plan
    shape: Shape
    folder: Path
    prefix: str
    secrets: list[str] = field(default_factory=list)
    payments: list[Payment] = field(default_factory=list)
    charges: list[DueCharge] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    _sending: list[asyncio.Task[None]] = field(default_factory=list)

    async def open(self) -> None:
        """Open journals; make accounts known, customers reachable, and autopay enrolled.

        Raises:
            TimeoutError: a service has not heard of them in time.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._journal = DeliveryJournal(path=self.folder / "sent.jsonl")
        self._log = AppendLog(path=self.folder / "plan.jsonl")
        self._log.open()
        self.secrets[:] = self.secrets or [self.state.secrets.stripe_webhook_secret]
        self._chance = random.Random(f"{self.prefix} {secrets.token_hex(8)}")
        ids = Ids(chance=self._chance)
        self.builder = EventBuilder(ids=ids)
        self.scenarios = Scenarios(ids=ids, builder=self.builder)
        self._amounts = count(FIRST_AMOUNT_CENTS + 50_000)
        self._connections = Connections(
            url=f"{self.state.http_urls['payment-intake']}/webhooks/stripe",
            connections_max=CONNECTIONS_MAX,
            timeout_seconds=ANSWER_SECONDS_MAX,
        )
        self.sender = WebhookSender(
            connections=self._connections,
            secrets=self.secrets,
            clock=lambda: datetime.now(UTC),
            chance=self._chance,
            journal=self._journal,
            retry=RETRY,
        )
        today = datetime.now(UTC).astimezone(ZoneInfo(CITY_TIME_ZONE)).date()
        self.subscribers: list[Subscriber] = [
            subscriber_of(account=account, rule=AutopayRule(maximum_cents=1_000_000))
            for account in self.autopay_accounts
        ]
        self.bills: list[StatedBill] = [
            bill_of(account=account, amount_cents=cents, due_date=today)
            for account, cents in zip(self.autopay_accounts, self.plan.charges, strict=True)
        ]
        connection = await asyncpg.connect(self.state.superuser_dsn)
        try:
            await ensure_customers(
                state=self.state, connection=connection, accounts=sorted(self.known_accounts)
            )
            if self.subscribers:
                await self.until_known(connection, self.autopay_accounts)
                await enrol(state=self.state, connection=connection, subscribers=self.subscribers)
        finally:
            await connection.close()

    async def close(self) -> None:
        """Give up what is still being sent; write the journals out and close them."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        self._connections.close()
        await self._journal.close()
        await self._log.close()

    @property
    def accounts(self) -> list[str]:
        """Those of the plan's payments."""
        return [f"{self.prefix}-{number:03d}" for number in range(self.shape.accounts)]

    @property
    def autopay_accounts(self) -> list[str]:
        """Those with autopay."""
        return [f"{self.prefix}-S{number:03d}" for number in range(len(self.plan.charges))]

    @property
    def extra_accounts(self) -> list[str]:
        """Those for what a fault sends by itself."""
        return [f"{self.prefix}-X{number:03d}" for number in range(10)]

    @property
    def known_accounts(self) -> frozenset[str]:
        """All accounts of this run."""
        return frozenset([*self.accounts, *self.autopay_accounts, *self.extra_accounts])

    @property
    def addresses(self) -> dict[str, str]:
        """By account, its customer's address."""
        return {
            account: customer_of(account=account).email or "" for account in self.known_accounts
        }

    def begin(self, *, seconds: float) -> None:
        """Start to send the plan's payments, spread over that time, and its bills at its middle."""
        trains = [self._train_of(each) for each in self.plan.payments]
        pace = len(trains) / seconds
        self._sending.append(asyncio.create_task(self._send(trains, trains_per_second=pace)))
        self._sending.append(asyncio.create_task(self._feed(over_seconds=seconds)))

    async def end(self) -> None:
        """Send the tail, and return when every event of the plan was taken or given up."""
        self._sending.append(
            asyncio.create_task(
                self._send([self._train_of(each) for each in self.plan.tail], trains_per_second=16)
            )
        )
        await asyncio.gather(*self._sending)
        await self._journal.flush()
        await self._log.append(b"")

    def extra(
        self,
        *,
        scenario: str = "card",
        account: str | None = None,
        movements: tuple[Movement, ...] | None = None,
        in_order: bool = True,
    ) -> Train:
        """A payment beside the plan, expected by the oracles as soon as it is made.

        Args:
            scenario: what happens to it.
            account: by default one of `extra_accounts` in turn.
            movements: what it has to leave on the ledger, where that is not the scenario's own.
            in_order: whether its events will be sent in theirs.
        """
        cents = next(self._amounts)
        # The first three are for faults that single one account out.
        account = account or self.extra_accounts[3 + cents % (len(self.extra_accounts) - 3)]
        return self._train(
            account=account,
            amount_cents=cents,
            scenario=scenario,
            planned=False,
            movements=movements,
            in_order=in_order,
        )

    async def send(
        self,
        trains: Sequence[Train],
        *,
        trains_per_second: float | None = None,
        disorder: Disorder | None = None,
        concurrency: int = CONCURRENCY,
    ) -> list[Delivery]:
        """Deliver these now, each event until it is taken; the deliveries."""
        return await self._send(
            trains,
            trains_per_second=trains_per_second,
            disorder=disorder,
            concurrency=concurrency,
        )

    async def state_bills_again(self) -> None:
        """Have the CIS's feed state its bills once more, as after a loss of Kafka's data."""
        await self._publish(self.bills)

    async def _send(
        self,
        trains: Sequence[Train],
        *,
        trains_per_second: float | None = None,
        disorder: Disorder | None = DOUBLED,
        concurrency: int = CONCURRENCY,
    ) -> list[Delivery]:
        deliveries = await self.sender.send_all(
            [[step.build for step in train.steps] for train in trains],
            concurrency=concurrency,
            trains_per_second=trains_per_second,
            disorder=disorder,
        )
        self.deliveries += deliveries
        return deliveries

    async def _feed(self, *, over_seconds: float) -> None:
        """State the bills in five parts, as they come out of the CIS's billing."""
        size = max(1, -(-len(self.bills) // 5))
        for start in range(0, len(self.bills), size):
            await asyncio.sleep(over_seconds / 5)
            some = self.bills[start : start + size]
            for each in some:
                self.charges.append(DueCharge(account=each.account, amount_cents=each.amount_cents))
                self._note(what="bill", account=each.account, amount_cents=each.amount_cents)
            await self._publish(some)

    async def _publish(self, bills: Sequence[StatedBill]) -> None:
        deadline = time.monotonic() + FEED_SECONDS_MAX
        facts = [each.stated(at=datetime.now(UTC)) for each in bills]
        while True:
            try:
                return await publish_bills(state=self.state, facts=facts)
            except KafkaUnavailableError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.5)

    async def unheard_bills(self, connection: asyncpg.Connection[asyncpg.Record]) -> int:
        """How many of the bills stated so far the scheduler does not have yet.

        Until it has them nothing is due because of them, so nothing that waits would say so.
        """
        stated = {each.account for each in self.charges}
        heard: int = await connection.fetchval(
            "SELECT count(DISTINCT account_id) FROM autopay_scheduler.bills"
            " WHERE account_id = ANY($1::text[])",
            sorted(stated),
        )
        return len(stated) - heard

    async def until_known(
        self, connection: asyncpg.Connection[asyncpg.Record], accounts: Sequence[str]
    ) -> None:
        """Wait until autopay-scheduler has heard of these customers. Raises TimeoutError."""
        deadline = time.monotonic() + 30
        while (
            await connection.fetchval(
                "SELECT count(*) FROM autopay_scheduler.accounts"
                " WHERE account_id = ANY($1::text[])",
                list(accounts),
            )
        ) < len(accounts):
            if time.monotonic() > deadline:
                raise TimeoutError("autopay-scheduler has not heard of all customers")
            await asyncio.sleep(0.05)

    def _train_of(self, planned: Planned) -> Train:
        return self._train(
            account=self.accounts[planned.account],
            amount_cents=planned.amount_cents,
            scenario=planned.scenario,
            planned=True,
            movements=None,
        )

    def _train(
        self,
        *,
        account: str,
        amount_cents: int,
        scenario: str,
        planned: bool,
        movements: tuple[Movement, ...] | None,
        in_order: bool = True,
    ) -> Train:
        train = self.scenarios.make(
            scenario, purchase=Purchase(account=account, amount_cents=amount_cents)
        )
        payment = Payment(
            reference=train.reference,
            account=account,
            amount_cents=amount_cents,
            scenario=scenario,
            movements=movements_of(scenario=scenario, amount_cents=amount_cents)
            if movements is None
            else movements,
            declined=scenario in DECLINED,
            planned=planned,
            in_order=in_order,
        )
        self.payments.append(payment)
        self._note(
            what="payment",
            reference=payment.reference,
            account=account,
            amount_cents=amount_cents,
            scenario=scenario,
        )
        return train

    def _note(self, **line: object) -> None:
        self._log.write(
            orjson.dumps(line | {"at": datetime.now(UTC)}, option=orjson.OPT_APPEND_NEWLINE)
        )

"""Charges in tests: requests by hand, a desk that works them, a gateway that is told what to do."""

import os
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import aiohttp
import orjson
from aiohttp import web
from tests.integration.simulators.counterparts import free_port, running
from tests.support.intake import FIELDS, NOW, TRACE, heard, incoming, policy
from tests.support.intake_database import IntakeDatabase, sqlalchemy_url
from tests.support.intake_service import (
    RunningIntake,
    eventually_async,
    intake_settings,
    records_on,
)

from payment_intake.adapters.stripe_gateway import StripeGateway
from payment_intake.domain import Heard, Observation, Payment
from payment_intake.domain.charges import (
    Answer,
    AnswerKind,
    Cancellation,
    Charge,
    ChargeRequest,
    ChargeStatus,
    Hand,
)
from payment_intake.domain.declines import decline_category
from payment_intake.metrics import Metrics
from payment_intake.ports import Store
from payment_intake.settings import Settings
from payment_intake.usecases import (
    ChargeDue,
    Charging,
    SettleCharges,
    TakeCharges,
    TakeEvents,
    TurnSwitch,
    WithdrawExpired,
)
from paypost.simulators.processor.tokens import behaviour_of
from shared.contracts.autopay import ChargeCancelled, ChargeRequested
from shared.contracts.enrolments import PaymentMethod
from shared.contracts.fact import Fact
from shared.contracts.streams import AUTOPAY, PAYMENTS
from shared.contracts.wire import encode
from shared.ids import uuid7
from shared.messaging.producer import RecordProducer
from shared.work.backoff import Backoff
from shared.work.batcher import MicroBatcher
from shared.work.lanes import Lanes
from shared.work.limit import AdaptiveLimit, Breaker, RateLimit

STRIPE_KEY = "sk_test_of_the_tests"
CHARGE = UUID("11111111-2222-5333-8444-555555555555")
ENROLMENT = UUID("99999999-2222-5333-8444-555555555555")
DUE = date(2026, 3, 2)
CENTS = 8250


def request(**changes: Any) -> ChargeRequest:
    fields = {
        "charge_id": CHARGE,
        "account_id": "1002003",
        "enrolment_id": ENROLMENT,
        "due_date": DUE,
        "bill_reference": "B-2026-03",
        "method_kind": "card",
        "currency": "USD",
        "attempt": 1,
        "amount_cents": CENTS,
        "processor": "stripe",
        "payment_method_token": "pm_card_visa",
        "customer_token": "cus_1002003",
        "mandate_token": None,
        "requested_at": NOW,
        "valid_until": NOW + timedelta(hours=6),
        "traceparent": TRACE,
    }
    return ChargeRequest(**(fields | changes))


def cancellation(**changes: Any) -> Cancellation:
    fields = {
        "charge_id": CHARGE,
        "account_id": "1002003",
        "enrolment_id": ENROLMENT,
        "due_date": DUE,
        "bill_reference": "B-2026-03",
        "method_kind": "card",
        "currency": "USD",
        "attempt": 1,
        "amount_cents": CENTS,
        "cancelled_at": NOW,
        "traceparent": TRACE,
    }
    return Cancellation(**(fields | changes))


def a_charge(**changes: Any) -> Charge:
    """A charge in hand, of its first attempt."""
    fields = {
        "id": CHARGE,
        "account_id": "1002003",
        "enrolment_id": ENROLMENT,
        "due_date": DUE,
        "bill_reference": "B-2026-03",
        "method_kind": "card",
        "currency": "USD",
        "attempt": 1,
        "amount_cents": CENTS,
        "processor": "stripe",
        "payment_method_token": "pm_card_visa",
        "customer_token": "cus_1002003",
        "requested_at": NOW,
        "valid_until": NOW + timedelta(hours=6),
        "status": ChargeStatus.CHARGING,
        "due_at": NOW,
        "created_at": NOW,
        "traceparent": TRACE,
    }
    return Charge(**(fields | changes))


def requested_fact(**changes: Any) -> ChargeRequested:
    """`charge.requested`, of this moment, of a charge that no other test knows."""
    now = datetime.now(UTC)
    fields = {
        "charge_id": uuid4(),
        "account_id": "1002003",
        "enrolment_id": ENROLMENT,
        "due_date": DUE,
        "currency": "USD",
        "bill_reference": "B-2026-03",
        "method": PaymentMethod(kind="card", label="Visa", last4="4242"),
        "attempt": 1,
        "amount_cents": CENTS,
        "processor": "stripe",
        "payment_method_token": "pm_card_visa",
        "customer_token": f"cus_{uuid4().hex[:14]}",
        "mandate_token": None,
        "requested_at": now,
        "valid_until": now + timedelta(hours=6),
    }
    return ChargeRequested(**(fields | changes))


def cancelled_fact(asked: ChargeRequested, **changes: Any) -> ChargeCancelled:
    """`charge.cancelled` of what was asked for, said now."""
    shared = asked.model_dump(include=set(ChargeCancelled.model_fields))
    return ChargeCancelled(**(shared | {"cancelled_at": datetime.now(UTC)} | changes))


@dataclass
class Intent:
    """What the stub holds of one charge."""

    reference: str
    status: str
    amount_cents: int
    parts: list[str] = field(default_factory=list)
    code: str | None = None
    is_refunded: bool = False


@dataclass
class StubGateway:
    """See `payment_intake.ports.ChargeGateway`; does by its tokens what the counterpart does.

    `faults` are used up one a call: `down` and `refused` do nothing; `lost_before` and `lost_after`
    lose the answer of what was not, or was, done; `ours` is a key that does not fit.
    """

    intents: dict[UUID, Intent] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    at: datetime = NOW
    before_charge: Any = None
    """Awaited while a charge is under way: what happens meanwhile."""
    processor: str = "stripe"

    async def charge(self, charge: Charge) -> Answer:
        self.calls.append("charge")
        if self.before_charge is not None:
            await self.before_charge()
        if (lost := self._fault("down", "lost_before", "ours")) is not None:
            return lost
        if behaviour_of(charge.payment_method_token or "") is None:
            return Answer(kind=AnswerKind.REFUSED, reason="resource_missing", category="hard")
        intent = self.intents.setdefault(
            charge.id, Intent(f"pi_{charge.id.hex}", "requires_payment_method", 0)
        )
        if intent.status == "requires_payment_method" and len(intent.parts) < charge.attempt:
            self._present(intent, charge)
        if (lost := self._fault("lost_after")) is not None:
            return lost
        return self._answer(intent)

    async def find(self, charge: Charge) -> Answer:
        self.calls.append("find")
        if (lost := self._fault("find_down")) is not None:
            return lost
        intent = self.intents.get(charge.id)
        if intent is None:
            return Answer(kind=AnswerKind.NOT_FOUND)
        is_earlier = charge.attempt > 1 and intent.parts[-1] in charge.earlier
        if intent.status == "requires_payment_method" and is_earlier:
            return Answer(kind=AnswerKind.NOT_FOUND, reference=intent.reference)
        return self._answer(intent)

    async def refund(self, charge: Charge) -> Answer:
        self.calls.append("refund")
        if (lost := self._fault("down", "lost_before", "refused")) is not None:
            return lost
        intent = self.intents[charge.id]
        intent.is_refunded = True
        if (lost := self._fault("lost_after")) is not None:
            return lost
        return Answer(
            kind=AnswerKind.REFUNDED,
            reference=intent.reference,
            amount_cents=intent.amount_cents,
            at=self.at,
        )

    async def cancel(self, charge: Charge) -> Answer:
        self.calls.append("cancel")
        intent = self.intents[charge.id]
        if "cancellable" not in (charge.payment_method_token or ""):
            return Answer(kind=AnswerKind.PROCESSING, reference=intent.reference)
        intent.status = "canceled"
        return Answer(
            kind=AnswerKind.CANCELLED, reason="canceled", reference=intent.reference, at=self.at
        )

    def settle(self) -> None:
        """Let the bank settle what is under way."""
        for intent in self.intents.values():
            if intent.status == "processing":
                intent.status = "succeeded"

    def _fault(self, *names: str) -> Answer | None:
        if not self.faults or self.faults[0] not in names:
            return None
        match self.faults.pop(0):
            case "down":
                return Answer(kind=AnswerKind.UNAVAILABLE, reason="processor_unreachable")
            case "ours":
                return Answer(
                    kind=AnswerKind.UNAVAILABLE, reason="our_authentication", is_our_trouble=True
                )
            case "refused":
                return Answer(kind=AnswerKind.REFUSED, reason="charge_disputed")
            case _:
                return Answer(kind=AnswerKind.UNKNOWN, reason="processor_timeout")

    def _present(self, intent: Intent, charge: Charge) -> None:
        intent.amount_cents = charge.amount_cents
        intent.parts.append(f"ch_{len(intent.parts) + 1}_{charge.id.hex}")
        intent.code = None
        behaviour = behaviour_of(charge.payment_method_token or "")
        assert behaviour is not None
        failure = behaviour.failure_of(attempt=len(intent.parts))
        if behaviour.method_type == "us_bank_account":
            intent.status = "processing"
        elif failure is not None:
            intent.code = failure.decline_code
        else:
            intent.status = "succeeded"

    def _answer(self, intent: Intent) -> Answer:
        kinds = {"succeeded": AnswerKind.SUCCEEDED, "processing": AnswerKind.PROCESSING}
        kind = kinds.get(intent.status, AnswerKind.DECLINED)
        category = decline_category(kind="card", codes=[intent.code]) if intent.code else None
        if category == "action_required":
            kind = AnswerKind.ACTION_REQUIRED
        return Answer(
            kind=kind,
            reason=intent.code,
            category=category,
            reference=intent.reference,
            part=intent.parts[-1],
            amount_cents=intent.amount_cents,
            currency="USD",
            at=self.at,
        )


class Desk:
    """Everything that charges, on a store, a stub and a clock of the test's."""

    def __init__(self, store: Store, *, gateway: StubGateway | None = None, **rules: Any) -> None:
        self.store = store
        self.gateway = gateway or StubGateway()
        self.now = NOW
        self.metrics = Metrics()
        self.policy = policy(**rules)
        self.owner = uuid4()
        self.breaker = Breaker(failures_max=3, pause_seconds=60, pause_seconds_max=60)
        self.limit = AdaptiveLimit(minimum=1, initial=4, maximum=8)
        self.take = TakeCharges(
            store=store, policy=self.policy, clock=self.clock, metrics=self.metrics
        )
        self.take_events = TakeEvents(
            store=store, policy=self.policy, new_id=uuid7, metrics=self.metrics
        )
        self.settle = SettleCharges(
            store=store, policy=self.policy, new_id=uuid7, metrics=self.metrics
        )
        self.switch = TurnSwitch(store=store, clock=self.clock)
        self.withdraw_expired = WithdrawExpired(store=store, metrics=self.metrics)
        self.settler = MicroBatcher(flush=self.settle, batch_size_max=64, queue_size_max=1000)
        self.charging = Charging(
            gateway=self.gateway,
            store=store,
            settle=self.settler,
            breaker=self.breaker,
            limit=self.limit,
            rate=RateLimit(per_second=10_000, burst=1000),
            backoff=Backoff(initial_seconds=1.0, cap_seconds=60.0),
            clock=self.clock,
            randomness=random.Random(7),
            metrics=self.metrics,
            call_seconds_max=5.0,
        )
        self.lanes: Lanes[Hand] = Lanes(
            lane_of=lambda hand: hand.charge.account_id,
            act=self.charging,
            settle=self.charging.settled,
            give_up=self._release,
            limit=self.limit,
            batch_size_max=1,
            items_max=100,
        )
        self.due = ChargeDue(
            store=store,
            lanes=self.lanes,
            breaker=self.breaker,
            owner=self.owner,
            lease=timedelta(seconds=60),
        )

    def clock(self) -> datetime:
        return self.now

    def later(self, **elapsed: float) -> None:
        self.now += timedelta(**elapsed)

    async def work(self) -> int:
        """Take up what is due now and see it through; return how many."""
        count = await self.due(now=self.now, limit=100)
        await self._idle()
        return count

    async def ask(self, *wanted: ChargeRequest | Cancellation) -> None:
        """Take and work."""
        await self.take(wanted)
        await self.work()

    async def lease(self) -> Sequence[Hand]:
        """Take what is due in hand and die."""
        async with self.store.transaction() as unit:
            return await unit.charges.claim(
                now=self.now,
                limit=100,
                owner=uuid4(),
                leased_until=self.now + timedelta(seconds=60),
            )

    async def hear(self, *observations: Observation) -> None:
        """What webhooks say."""
        await self.take_events(
            [
                incoming(each, event_id=f"evt_{uuid4().hex}", received_at=self.now)
                for each in observations
            ]
        )

    async def charge(self, charge_id: UUID = CHARGE) -> Charge:
        view = await self.store.charge(charge_id)
        assert view is not None
        return view.charge

    async def payment(self, charge_id: UUID = CHARGE) -> Payment:
        view = await self.store.payment_by_reference(
            processor="stripe", reference=f"autopay:{charge_id}"
        )
        assert view is not None
        return view.payment

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def _release(self, hands: Sequence[Hand]) -> None:
        async with self.store.transaction() as unit:
            await unit.charges.release(hands, owner=self.owner, now=self.now)

    async def _idle(self) -> None:
        async def is_idle() -> bool:
            return self.lanes.held == 0

        await eventually_async(is_idle)


def webhook(heard_of: Heard, **changes: Any) -> Observation:
    """What a webhook says of the one charge."""
    fields = {
        "references": (f"pi_{CHARGE.hex}", f"ch_1_{CHARGE.hex}", f"autopay:{CHARGE}"),
        "amount_cents": CENTS,
        "fee_cents": 0,
        "bill_reference": "B-2026-03",
    }
    return heard(heard_of, **(fields | changes))


class CounterpartProcessor:
    """The processor counterpart, as the stack runs it, and its switches."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url = url
        self._http = http

    async def switch(self, **switches: Any) -> None:
        async with self._http.put(f"{self.url}/_switches", json=switches) as answer:
            assert answer.status == 200, await answer.text()

    async def reset(self) -> None:
        async with self._http.post(f"{self.url}/_switches/reset") as answer:
            assert answer.status == 200

    async def advance(self, *, days: int) -> None:
        body = {"days": days}
        async with self._http.post(f"{self.url}/clock/advance", json=body) as answer:
            assert answer.status == 200, await answer.text()

    async def settle(self) -> None:
        """Return when every webhook that is under way has come to its end."""
        async with self._http.post(f"{self.url}/settle") as answer:
            assert answer.status == 200

    async def charged(self, charge_id: UUID) -> Mapping[str, Any]:
        """What the processor has taken for a charge: the ground truth."""
        async with self._http.get(
            f"{self.url}/_charges", params={"charge_id": str(charge_id)}
        ) as answer:
            found: Mapping[str, Any] = await answer.json()
            return found

    def gateway(self, *, api_key: str = STRIPE_KEY, timeout_seconds: float = 2.0) -> StripeGateway:
        return StripeGateway(
            api_key=api_key,
            api_base=self.url,
            fields=FIELDS,
            timeout_seconds=timeout_seconds,
            connections_max=8,
            metrics=Metrics(),
        )


@contextmanager
def processor_process(*, target: str, secret: str) -> Iterator[str]:
    """Run the counterpart; hand out its address."""
    port = free_port()
    with (
        patch.dict(os.environ, {"PROCESSOR_API_KEY": STRIPE_KEY}),
        running(
            module="paypost.simulators.processor",
            arguments=["--port", str(port), "--target", target, "--secret", secret],
            ready_url=f"http://127.0.0.1:{port}/readyz",
        ),
    ):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def counterpart(*, target: str, secret: str) -> AsyncIterator[CounterpartProcessor]:
    """Run the counterpart with a client of its switches."""
    with processor_process(target=target, secret=secret) as url:
        async with aiohttp.ClientSession() as http:
            yield CounterpartProcessor(url, http)


@asynccontextmanager
async def deaf_endpoint() -> AsyncIterator[str]:
    """An address that takes every webhook and does nothing with it."""

    async def take(_: web.Request) -> web.Response:
        return web.json_response({})

    application = web.Application()
    application.router.add_post("/webhooks/stripe", take)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}/webhooks/stripe"
    finally:
        await runner.cleanup()


def again(asked: ChargeRequested, **changes: Any) -> ChargeRequested:
    """The same charge's next attempt."""
    return asked.model_copy(
        update={"attempt": asked.attempt + 1, "requested_at": datetime.now(UTC)} | changes
    )


def settings_for(rows: IntakeDatabase, topics: str, **changes: Any) -> Settings:
    """Settings of a service that charges, and is quick to notice what is amiss."""
    fields = {
        "database_url": sqlalchemy_url(rows.database),
        "kafka": topics,
        "stripe_api_key": STRIPE_KEY,
        "charges_per_second": 200,
        "charge_timeout_seconds": 0.6,
        "charge_lease_seconds": 3.0,
        "charge_retry_initial_seconds": 0.1,
        "charge_retry_cap_seconds": 0.5,
        "charge_breaker_pause_seconds": 0.1,
        "charge_breaker_pause_seconds_max": 0.5,
        "charge_recovery_interval_seconds": 0.05,
        "kafka_session_timeout_seconds": 2,
    }
    return intake_settings(**(fields | changes))


async def ask(producer: RecordProducer, *facts: Fact) -> None:
    """State facts as autopay-scheduler does."""
    await producer.publish([encode(fact, stream=AUTOPAY) for fact in facts])


async def facts_of(topics: str, charge_id: UUID) -> list[tuple[str, Any]]:
    """Type and content of every fact about a charge, in its order, each once."""
    found: dict[bytes, tuple[str, Any]] = {}
    for record in await records_on(bootstrap=topics, topic=PAYMENTS.name):
        # Others leave on the stream what nobody can read.
        if str(charge_id).encode() not in (record.value or b""):
            continue
        headers = dict(record.headers)
        content = orjson.loads(record.value)
        if content.get("charge_id") == str(charge_id):
            found.setdefault(headers["ce_id"], (headers["ce_type"].decode(), content))
    return list(found.values())


async def eventually_stated(topics: str, charge_id: UUID, *types: str) -> list[Any]:
    """Wait until these, and no others, are stated of a charge; return them."""

    async def are_stated() -> bool:
        return len(await facts_of(topics, charge_id)) >= len(types)

    await eventually_async(are_stated, timeout_seconds=30)
    facts = await facts_of(topics, charge_id)
    assert [fact_type for fact_type, _ in facts] == list(types)
    return [content for _, content in facts]


async def eventually_status(intake: RunningIntake, charge_id: UUID, status: str) -> None:
    async def is_there() -> bool:
        found, charge = await intake.get(f"/charges/{charge_id}")
        return bool(found == 200 and charge["status"] == status)

    await eventually_async(is_there, timeout_seconds=30)

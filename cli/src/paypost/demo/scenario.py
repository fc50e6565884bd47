"""Who pays what, and what goes wrong meanwhile.

Every amount and every count is fixed here, so that `expectations` can say by hand what must come
of it; ids, times and which events are doubled differ from run to run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from paypost.demo.autopay import (
    CLOCK_AHEAD,
    SCHEDULER,
    SCHEDULER_ENVIRONMENT,
    AutopayPlayed,
    play_autopay,
)
from paypost.remote import Remote
from paypost.simulators.processor.delivery import Disorder, RetryPolicy
from paypost.simulators.processor.processor import Order
from paypost.stack.local import LocalStack
from paypost.stack.state import StackState
from paypost.traffic.customers import NAMES, Customer, open_accounts, register
from paypost.traffic.journeys import Journey, read_journeys
from paypost.traffic.portal import KIOSK_SOURCE, Way, say
from paypost.traffic.stripe import Sent, StripeSender
from paypost.verify.pending import Pending, wait_until_settled
from shared.contracts.fact import Fact
from shared.contracts.portal import PaymentCaptured, PaymentSubmitted

SPANISH_NAMES = ("Lucía Fernández", "Mateo García", "Sofía Morales")
CUSTOMERS = 50
WITHOUT_ADDRESS = "D-050"
UNKNOWN_ACCOUNT = "D-999"

KILLED = "cis-poster"
OUTAGE_SECONDS = 4.0
"""At least: what is paid meanwhile may take longer on a busy machine."""
SETTLE_SECONDS = 45.0

ENVIRONMENTS = {
    # A city's limit is a minute; here two seconds, so that the outage is felt by customers.
    "payment-intake": {"PAYMENT_INTAKE_DELAYED_AFTER_SECONDS": "2"},
    # What a killed process had in hand is free for its successor after the lease.
    SCHEDULER: SCHEDULER_ENVIRONMENT,
    "cis-poster": {
        "CIS_POSTER_CIS_TIMEOUT_SECONDS": "1",
        "CIS_POSTER_LEASE_SECONDS": "2.5",
        "CIS_POSTER_BREAKER_PAUSE_SECONDS_MAX": "1",
        "CIS_POSTER_RETRY_CAP_SECONDS": "2",
    },
}
"""Where the demo differs from a stack of `paypost up`: it waits for less."""

CALM, KILL, DOWN = "all is well", f"{KILLED} killed, CIS times out", "CIS down for 4 s"

STORY = (
    "The portal registers 50 customers over Kafka: nine Spanish, one without an e-mail address.",
    "300 card payments come in as real Stripe webhooks, four events each; some events arrive "
    "twice, some out of order.",
    "Beside them: an unknown account, a refund before its payment, an ACH debit that settles and "
    "one that is returned, the portal's own events over Kafka and HTTP, two kiosk payments.",
    "Meanwhile the CIS applies postings without answering, cis-poster is killed with SIGKILL, "
    "and then the CIS is down for four seconds.",
    "Eight customers turn autopay on, and are billed while all charges are paused. Then one is "
    "charged, one declined and charged three days later on a moved clock, one declined for good; a "
    "bank debit comes back and is presented again; one waits for its notice, one is above its "
    "maximum, one cancels, and one cancels while the charge is made, which is given back.",
    "The old portal's enrolments are imported and invited; the lapse report says who would miss a "
    "due date.",
    "In the end every payment must be on the ledger exactly once and every customer told.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of the scenario, told from the others by when payments were accepted."""

    name: str
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What was done, and how it had come out when nothing was on its way any more.

    Attributes:
        windows: the stretches of the three hundred.
        journeys: of every payment that Stripe spoke of.
        autopay: what came of the customers with autopay.
        sent: what was sent to Stripe's door.
        references: of the payments with a story of their own, by name.
        restarts: how often the killed service was started.
        pending: what was still on its way at the end.
        doubled: how many copies of events were sent beyond the first.
        seconds: from the first registration to the end.
    """

    windows: tuple[Window, ...]
    journeys: tuple[Journey, ...]
    sent: tuple[Sent, ...]
    references: dict[str, str]
    autopay: AutopayPlayed
    restarts: int
    pending: Pending
    doubled: int
    seconds: float

    def journeys_in(self, window: Window) -> list[Journey]:
        """Those of the payments that were accepted in a stretch."""
        return [
            each
            for each in self.journeys
            if each.kind == "payment" and window.since <= each.accepted_at < window.until
        ]


def customers() -> list[Customer]:
    """The city's customers: every fifth of the first 45 is told in Spanish."""
    found = []
    for number in range(1, CUSTOMERS + 1):
        account = f"D-{number:03d}"
        spanish = number % 5 == 0 and number <= 45
        names = SPANISH_NAMES if spanish else NAMES
        found.append(
            Customer(
                account=account,
                name=names[number % len(names)],
                email=None
                if account == WITHOUT_ADDRESS
                else f"{account.lower()}@customers.example",
                locale="es" if spanish else "en",
                owed_cents=50_000,
            )
        )
    return found


def card_order(*, amount_cents: int) -> Order:
    """A hundred card payments over all customers, two each, with a fee that stays off the bill."""
    return Order(
        scenario="card",
        accounts=[customer.account for customer in customers()],
        amount_cents=amount_cents,
        fee_cents=250,
        count=100,
    )


def one(scenario: str, *, account: str, amount_cents: int) -> Order:
    """A single payment with a story of its own."""
    return Order(scenario=scenario, accounts=[account], amount_cents=amount_cents)


@dataclass(slots=True)
class _Play:
    """The scenario while it runs."""

    stack: LocalStack
    sender: StripeSender
    connection: asyncpg.Connection[Any]
    cis: Remote
    tell: Callable[[str], None]
    sent: list[Sent] = field(default_factory=list)
    references: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> StackState:
        return self.stack.state

    async def register_customers(self) -> None:
        self.tell("the portal registers 50 customers over Kafka")
        people = customers()
        await open_accounts(state=self.state, customers=people)
        await register(state=self.state, connection=self.connection, customers=people)

    async def pay(
        self, order: Order, *, rate: float | None = None, disorder: Disorder | None = None
    ) -> None:
        self.sent.append(
            await self.sender.send(
                [order], payments_per_second=rate, disorder=disorder, later=False
            )
        )

    async def settle(self, *, ahead: timedelta = timedelta()) -> Pending:
        return await wait_until_settled(
            connection=self.connection, timeout_seconds=SETTLE_SECONDS, ahead=ahead
        )

    async def pay_with_a_story(self) -> None:
        """The single payments, each of which asks something else of the system."""
        self.tell("an unknown account, a refund before its payment, two ACH debits, the kiosk …")
        for name, scenario, account, amount_cents in (
            ("unknown account", "card", UNKNOWN_ACCOUNT, 6_000),
            ("refund before its payment", "refund_first", "D-001", 7_500),
            ("ACH that settles", "ach", "D-002", 15_000),
            ("ACH that is returned", "ach_return", "D-003", 9_000),
        ):
            await self._pay_named(name, one(scenario, account=account, amount_cents=amount_cents))
        await self._pay_by_portal("portal over Kafka, webhook after", Way.KAFKA, "D-004", 5_500)
        await self._pay_by_portal("portal over HTTP, webhook before", Way.HTTP, "D-005", 6_500)
        never = _submitted(account="D-006", reference="pi_never_paid", amount_cents=4_200)
        await say(state=self.state, facts=[never], way=Way.KAFKA)
        self.references["submitted, never paid"] = "pi_never_paid"
        for way, account, amount_cents in ((Way.KAFKA, "D-007", 4_000), (Way.HTTP, "D-008", 3_500)):
            reference = f"kiosk-{way}-1"
            captured = _captured(account=account, reference=reference, amount_cents=amount_cents)
            await say(state=self.state, facts=[captured], way=way, source=KIOSK_SOURCE)
            self.references[f"kiosk over {way}"] = reference

    async def _pay_named(self, name: str, order: Order) -> None:
        trains = self.sender.prepare(order)
        self.references[name] = trains[0].reference
        self.sent.append(await self.sender.send_trains(trains, later=False))

    async def _pay_by_portal(self, name: str, way: Way, account: str, amount_cents: int) -> None:
        trains = self.sender.prepare(one("card", account=account, amount_cents=amount_cents))
        reference = trains[0].reference
        self.references[name] = reference
        submitted = _submitted(account=account, reference=reference, amount_cents=amount_cents)
        if way is Way.HTTP:
            self.sent.append(await self.sender.send_trains(trains))
        await say(state=self.state, facts=[submitted], way=way)
        if way is Way.KAFKA:
            await self._heard_of(reference)
            self.sent.append(await self.sender.send_trains(trains))

    async def _heard_of(self, reference: str) -> None:
        # The portal's word is to come first here; over Kafka it takes some milliseconds.
        for _ in range(200):
            if await self.connection.fetchval(
                "SELECT payment_id FROM payment_intake.payment_references WHERE reference = $1",
                reference,
            ):
                return
            await asyncio.sleep(0.05)

    async def kill_while_the_cis_times_out(self) -> None:
        """The second hundred: lost answers, doubled and disordered events, a SIGKILL."""
        self.tell("the CIS applies postings without answering")
        await self.cis.put("/_switches", {"timeout_after_apply": {"count": 2}})
        disorder = Disorder(duplicates=1, duplicate_share=0.5, reorder=True)
        paying = asyncio.create_task(
            self.pay(card_order(amount_cents=8_275), rate=60, disorder=disorder)
        )
        try:
            # Past the poster's time-out of one second, so that it learns that an answer was lost.
            await asyncio.sleep(1.6)
            self.tell(f"SIGKILL to {KILLED}; the supervisor starts it again")
            self.stack.supervisor.kill(name=KILLED)
            await paying
            await asyncio.to_thread(
                self.stack.supervisor.wait_ready, name=KILLED, timeout_seconds=30
            )
        finally:
            await _ended(paying)

    async def pay_while_the_cis_is_down(self) -> None:
        """The third hundred, and the single payments, into a CIS that is away for 4 s."""
        self.tell("the CIS is down; webhooks are still accepted")
        await self.cis.put("/_switches", {"down": True})
        outage = asyncio.create_task(asyncio.sleep(OUTAGE_SECONDS))
        try:
            await self.pay(card_order(amount_cents=12_010), rate=60)
            await self.pay_with_a_story()
            await outage
        finally:
            await _ended(outage)
        self.tell("the CIS is back")
        await self.cis.post("/_switches/reset")

    async def let_the_bank_decide(self) -> None:
        """Days later, by the processor's clock: one ACH debit has settled, one has come back."""
        self.tell("four days later by the processor's clock: ACH settles, ACH returns")
        await self.sender.send_later()


def _submitted(*, account: str, reference: str, amount_cents: int) -> Fact:
    return PaymentSubmitted(
        account_id=account,
        processor="stripe",
        reference=reference,
        amount_cents=amount_cents,
        currency="USD",
        submitted_at=datetime.now(UTC),
    )


def _captured(*, account: str, reference: str, amount_cents: int) -> Fact:
    return PaymentCaptured(
        account_id=account,
        processor=KIOSK_SOURCE,
        reference=reference,
        amount_cents=amount_cents,
        currency="USD",
        method="cash",
        captured_at=datetime.now(UTC),
    )


async def _ended(task: asyncio.Task[Any]) -> None:
    if not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def play(*, stack: LocalStack, tell: Callable[[str], None]) -> Played:
    """Play the scenario on a stack that is up and empty.

    Args:
        stack: whose CIS may be switched, and one of whose services is killed.
        tell: hears of each step as it begins.
    """
    began = datetime.now(UTC)
    state = stack.state
    connection = await asyncpg.connect(state.superuser_dsn)
    try:
        async with (
            # Impatient: nothing is to wait longer for the webhook than for the CIS.
            StripeSender(state=state, retry=RetryPolicy(first_seconds=0.2)) as sender,
            Remote(base_url=state.http_urls["cis"]) as cis,
        ):
            run = _Play(stack=stack, sender=sender, connection=connection, cis=cis, tell=tell)
            marks = await _act(run)
            await run.settle()
            autopay = await play_autopay(stack=stack, connection=connection, tell=tell)
            tell("waiting until every payment is posted and every customer told")
            pending = await run.settle(ahead=CLOCK_AHEAD)
        references = [name for sent in run.sent for name in sent.references]
        journeys = await read_journeys(connection=connection, references=references)
    finally:
        await connection.close()
    copies = sum(len(sent.deliveries) for sent in run.sent)
    distinct = len({each.event_id for sent in run.sent for each in sent.deliveries})
    return Played(
        windows=_windows(marks),
        journeys=tuple(journeys),
        sent=tuple(run.sent),
        references=run.references,
        autopay=autopay,
        restarts=stack.supervisor.starts(name=KILLED),
        pending=pending,
        doubled=copies - distinct,
        seconds=(datetime.now(UTC) - began).total_seconds(),
    )


async def _act(run: _Play) -> Sequence[datetime]:
    await run.register_customers()
    marks = [datetime.now(UTC)]
    run.tell("100 card payments, all is well")
    await run.pay(card_order(amount_cents=4_500), rate=100)
    await run.settle()
    marks.append(datetime.now(UTC))
    await run.kill_while_the_cis_times_out()
    # So that the next stretch is told from this one by more than its name.
    await run.settle()
    marks.append(datetime.now(UTC))
    await run.pay_while_the_cis_is_down()
    marks.append(datetime.now(UTC))
    await run.let_the_bank_decide()
    return marks


def _windows(marks: Sequence[datetime]) -> tuple[Window, ...]:
    return tuple(
        Window(name=name, since=since, until=until)
        for name, since, until in zip((CALM, KILL, DOWN), marks, marks[1:], strict=False)
    )

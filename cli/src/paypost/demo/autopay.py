"""The demo's act of autopay: eight customers, days by moved clocks, and the move to it.

| account | what it shows | bill |
|---|---|---|
| P-001 | announced, charged on its due date, posted, confirmed | 84.50, due today |
| P-002 | declined for now, presented again three days later, then paid | 61.20, due today |
| P-003 | declined for good: autopay is stopped, the customer told | 40.00, due today |
| P-004 | varies and has no maximum: announced, and waits its notice days | 70.00, due in 20 days |
| P-005 | above the customer's maximum: held, the customer asked | 120.00, due in 10 days |
| P-006 | cancelled between announcement and charge: not charged | 33.00, due in 5 days |
| P-007 | a bank debit that comes back as R01, is presented again, and settles | 52.75, due today |
| P-008 | cancelled while the charge is at the processor: given back | 29.90, due today |

All charges are paused while the bills come in, and nothing is charged until they go on.

Three old enrolments and a bad line are imported: three are invited, and one of them, who is billed,
would lapse on a day.
"""

from __future__ import annotations

import asyncio
import collections
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg

from paypost.remote import Remote
from paypost.stack.local import CITY_TIME_ZONE, LocalStack, process_spec
from paypost.traffic.autopay import Subscriber, enrol, state_words, subscriber_of
from paypost.traffic.bills import StatedBill, bill, bill_of
from paypost.traffic.customers import Customer, open_accounts, register
from shared.contracts.enrolments import AutopayRule

SCHEDULER = "autopay-scheduler"
OPERATOR = "demo"
SCHEDULER_ENVIRONMENT = {
    # From midnight and on any day, so that the demo does not depend on when it is run.
    "AUTOPAY_SCHEDULER_CHARGE_TIME": "00:00",
    "AUTOPAY_SCHEDULER_BUSINESS_DAYS": "same",
    "AUTOPAY_SCHEDULER_JOB_INTERVAL_SECONDS": "0.2",
    "AUTOPAY_SCHEDULER_RESTATE_AFTER_SECONDS": "5",
}
CLOCK_AHEAD = timedelta(days=3, hours=2)
"""Past the first retry day; two hours more, for the day on which clocks go back."""
BANK_DAYS = 5
"""By the processor's clock: longer than a debit takes to settle or to come back."""
PAUSE_SECONDS = 1.0
"""Five times the interval at which the scheduler looks for charges that are due."""
ANSWER_DELAY_MS = 1_000
"""How long the processor keeps an answer to itself: time for a customer to change their mind."""
OUTCOME_TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.05

WITH_MAXIMUM = AutopayRule(maximum_cents=50_000)
"""A range agreed with the customer: no notice days are owed within it."""

OLD_ENROLMENTS = """\
old_account,account,name,email,charge_on,days_before,day_of_month,amount,fixed_cents,\
minimum_cents,maximum_cents,locale
0047110815,D-010,Lucía Fernández,d-010@customers.example,due_date,,,full_balance,,,,es
0047110816,D-011,Ben Carter,d-011@customers.example,days_before_due,3,,statement_balance,,,40000,en
0047110817,D-012,Chloe Young,d-012@customers.example,,,,,,,,
0047110818,D-998,Nobody Known,nobody@customers.example,,,,,,,,
"""
LAPSING = "D-010"
SHOWN_ACCOUNT = "P-002"
RACING = "P-008"
"""Whose cancellation comes while the processor has the charge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopayPlayed:
    """What came of the act.

    Attributes:
        due_today: the city's day on which it was played.
        statuses: of the charges, by account.
        enrolments: status and reason, by account.
        imported: the answer to the import.
        lapsing: who would miss a due date, from the lapse report.
        charged_while_paused: how many charges the processor was asked for meanwhile.
        charged: how often money was taken of each account, by the processor's own book.
        given_back_cents: of which the processor has given back this much, by account.
        account: the API's view of the account that was declined and paid.
    """

    due_today: date
    statuses: Mapping[str, str]
    enrolments: Mapping[str, str]
    imported: Mapping[str, Any]
    lapsing: list[dict[str, Any]]
    charged_while_paused: int
    charged: Mapping[str, int]
    given_back_cents: Mapping[str, int]
    account: Mapping[str, Any]


def subscribers() -> dict[str, Subscriber]:
    """Who turns autopay on, by account."""
    return {
        each.account: each
        for each in (
            subscriber_of(account="P-001", rule=WITH_MAXIMUM),
            subscriber_of(
                account="P-002",
                token="pm_script_declined_insufficient_funds_1",  # noqa: S106
                rule=WITH_MAXIMUM,
            ),
            subscriber_of(
                account="P-003",
                token="pm_card_chargeDeclinedLostCard",  # noqa: S106
                rule=WITH_MAXIMUM,
            ),
            subscriber_of(account="P-004"),
            subscriber_of(account="P-005", rule=AutopayRule(maximum_cents=5_000)),
            subscriber_of(account="P-006", rule=WITH_MAXIMUM),
            subscriber_of(
                account="P-007",
                token="pm_script_ach_R01_1",  # noqa: S106
                rule=WITH_MAXIMUM,
            ),
            subscriber_of(account=RACING, rule=WITH_MAXIMUM),
        )
    }


def bills(today: date) -> list[StatedBill]:
    """What they owe, and until when."""
    owed = (
        ("P-001", 8_450, 0),
        ("P-002", 6_120, 0),
        ("P-003", 4_000, 0),
        ("P-004", 7_000, 20),
        ("P-005", 12_000, 10),
        ("P-006", 3_300, 5),
        ("P-007", 5_275, 0),
        (RACING, 2_990, 0),
    )
    return [
        bill_of(account=account, amount_cents=cents, due_date=today + timedelta(days=days))
        for account, cents, days in owed
    ]


async def play_autopay(
    *,
    stack: LocalStack,
    connection: asyncpg.Connection[Any],
    tell: Callable[[str], None],
) -> AutopayPlayed:
    """Play the act on a stack whose other customers are registered.

    Raises:
        TimeoutError: something that was to come did not.
    """
    today = datetime.now(UTC).astimezone(ZoneInfo(CITY_TIME_ZONE)).date()
    act = _Act(stack=stack, connection=connection, today=today)
    tell("eight customers turn autopay on; their bills come while all charges are paused")
    await act.enrol()
    asked = await act.bill_while_paused()
    tell("charges go on: one is paid, one declined for now, one for good, one is with the bank")
    await act.charge()
    tell("one cancels before the charge, one while the processor has it: that is given back")
    await act.cancel_before_the_charge()
    await act.cancel_in_the_race()
    tell("the old portal's list is imported, its customers are invited")
    imported, lapsing = await act.move()
    tell("five days later by the processor's clock: the bank debit comes back, R01")
    await act.let_the_bank_return()
    tell("three days later by autopay's clock: SIGKILL to the scheduler, both are presented again")
    await act.present_again()
    charged, given_back_cents = await act.processors_book()
    return AutopayPlayed(
        due_today=today,
        statuses=await act.statuses(),
        enrolments=await act.enrolments(),
        imported=imported,
        lapsing=lapsing,
        charged_while_paused=asked,
        charged=charged,
        given_back_cents=given_back_cents,
        account=await act.shown_account(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Act:
    """The act while it runs; whatever does not come in time raises TimeoutError."""

    stack: LocalStack
    connection: asyncpg.Connection[Any]
    today: date

    async def enrol(self) -> None:
        people = _customers(self.today)
        accounts = [each.account for each in people]
        await open_accounts(state=self.stack.state, customers=people)
        await register(state=self.stack.state, connection=self.connection, customers=people)
        await self._until(lambda: self._knows(accounts), "customers known to the scheduler")
        await enrol(
            state=self.stack.state,
            connection=self.connection,
            subscribers=list(subscribers().values()),
        )

    async def bill_while_paused(self) -> int:
        """Return how many charges the processor was asked for."""
        await self._turn("pause")
        await self._bill(each for each in bills(self.today) if each.account != RACING)
        due = dict.fromkeys(("P-001", "P-002", "P-003", "P-007"), "announced")
        await self._reached(due | {"P-004": "announced", "P-005": "held", "P-006": "announced"})
        await asyncio.sleep(PAUSE_SECONDS)
        asked = len(await self._charges())
        await self._turn("resume")
        return asked

    async def charge(self) -> None:
        await self._reached(
            {"P-001": "paid", "P-002": "retrying", "P-003": "failed", "P-007": "pending"}
        )

    async def cancel_before_the_charge(self) -> None:
        await self._cancel("P-006")
        await self._reached({"P-006": "cancelled"})

    async def cancel_in_the_race(self) -> None:
        """Cancel when the processor has taken the money and has not said so yet."""
        async with self._processor() as processor:
            await processor.put("/_switches", {"answer_delay_ms": ANSWER_DELAY_MS})
            try:
                await self._bill(each for each in bills(self.today) if each.account == RACING)
                await self._until(lambda: self._has_taken(RACING), "the charge is made")
                await self._cancel(RACING)
            finally:
                await processor.post("/_switches/reset")
        await self._reached({RACING: "refunded"})

    async def move(self) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
        """Bring the old portal's list; return the answer and who would miss a due date."""
        due_date = self.today + timedelta(days=10)
        await self._bill([bill_of(account=LAPSING, amount_cents=9_900, due_date=due_date)])
        async with self._scheduler() as scheduler:
            with tempfile.TemporaryDirectory(prefix="paypost-demo-") as folder:
                file = Path(folder) / "old-enrolments.csv"
                file.write_text(OLD_ENROLMENTS, encoding="utf-8")
                imported = await scheduler.upload(
                    "/reenrolment/imports",
                    file=file,
                    media_type="text/csv",
                    file_name=file.name,
                    operator=OPERATOR,
                )
            until = self.today + timedelta(days=30)
            page = await scheduler.get("/reenrolment/lapsing", until=until.isoformat())
        return imported, page["lapsing"]

    async def let_the_bank_return(self) -> None:
        await self._let_days_pass_at_the_bank()
        await self._reached({"P-007": "retrying"})

    async def present_again(self) -> None:
        await asyncio.to_thread(self._move_clock)
        await self._reached({"P-002": "paid", "P-007": "pending"})
        await self._let_days_pass_at_the_bank()
        await self._reached({"P-007": "paid"})

    async def processors_book(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return how often each account was charged, and what was given back, in cents."""
        taken: collections.Counter[str] = collections.Counter()
        given_back: collections.Counter[str] = collections.Counter()
        for each in await self._charges():
            taken[each["account"]] += each["outcome"] == "succeeded"
            given_back[each["account"]] += each["refunded_cents"]
        return dict(+taken), dict(+given_back)

    async def statuses(self) -> dict[str, str]:
        rows = await self.connection.fetch(
            "SELECT account_id, status FROM autopay_scheduler.charges"
        )
        return {row["account_id"]: row["status"] for row in rows}

    async def enrolments(self) -> dict[str, str]:
        rows = await self.connection.fetch(
            "SELECT account_id, status || coalesce(': ' || reason, '') AS stands"
            " FROM autopay_scheduler.enrolments"
        )
        return {row["account_id"]: row["stands"] for row in rows}

    async def shown_account(self) -> Mapping[str, Any]:
        async with self._scheduler() as scheduler:
            found: Mapping[str, Any] = await scheduler.get(f"/accounts/{SHOWN_ACCOUNT}/autopay")
            return found

    async def _turn(self, action: str) -> None:
        """Pause or resume at both services: what asks for charges, and what makes them."""
        body = {"operator": OPERATOR, "note": "the demo"}
        async with self._scheduler() as scheduler, self._remote("payment-intake") as intake:
            await scheduler.post(f"/autopay/{action}", body)
            await intake.post(f"/charges/{action}", body)

    async def _bill(self, owed: Iterable[StatedBill]) -> None:
        await bill(state=self.stack.state, connection=self.connection, bills=list(owed))

    async def _cancel(self, account: str) -> None:
        words = [subscribers()[account].cancelled(at=datetime.now(UTC))]
        await state_words(state=self.stack.state, words=words)

    async def _knows(self, accounts: list[str]) -> bool:
        found: int = await self.connection.fetchval(
            "SELECT count(*) FROM autopay_scheduler.accounts WHERE account_id = ANY($1::text[])",
            accounts,
        )
        return found == len(accounts)

    async def _has_taken(self, account: str) -> bool:
        return any(
            each["account"] == account and each["outcome"] == "succeeded"
            for each in await self._charges()
        )

    async def _charges(self) -> list[dict[str, Any]]:
        async with self._processor() as processor:
            book = await processor.get("/_charges")
        found: list[dict[str, Any]] = book["charges"]
        return found

    async def _let_days_pass_at_the_bank(self) -> None:
        async with self._processor() as processor:
            await processor.post("/clock/advance", {"days": BANK_DAYS})

    async def _reached(self, wanted: Mapping[str, str]) -> None:
        async def reached() -> bool:
            statuses = await self.statuses()
            return all(statuses.get(account) == status for account, status in wanted.items())

        try:
            await self._until(reached, f"charges come to {wanted}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; they are {await self.statuses()}") from None

    async def _until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        deadline = time.monotonic() + OUTCOME_TIMEOUT_SECONDS
        while not await holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {OUTCOME_TIMEOUT_SECONDS:g} s: {what}")
            await asyncio.sleep(POLL_SECONDS)

    def _move_clock(self) -> None:
        """Kill the scheduler, as a crash would, and start it with its clock moved ahead."""
        supervisor = self.stack.supervisor
        supervisor.kill(name=SCHEDULER, restart=False)
        ahead = {"AUTOPAY_SCHEDULER_CLOCK_OFFSET_SECONDS": str(int(CLOCK_AHEAD.total_seconds()))}
        supervisor.start(
            process_spec(
                name=SCHEDULER,
                state=self.stack.state,
                environ=os.environ,
                overrides=SCHEDULER_ENVIRONMENT | ahead,
            )
        )
        supervisor.wait_ready(name=SCHEDULER, timeout_seconds=30)

    def _scheduler(self) -> Remote:
        return self._remote(SCHEDULER)

    def _processor(self) -> Remote:
        return Remote(base_url=self.stack.state.http_urls["processor"])

    def _remote(self, service: str) -> Remote:
        state = self.stack.state
        return Remote(base_url=state.http_urls[service], bearer_key=state.secrets.operator_key)


def _customers(today: date) -> list[Customer]:
    owed = {each.account: each.amount_cents for each in bills(today)}
    return [
        Customer(
            account=account,
            name="Ana Ortiz" if account == "P-004" else f"Pat {account[-1]}. Miller",
            email=f"{account.lower()}@customers.example",
            locale="es" if account == "P-004" else "en",
            owed_cents=cents,
        )
        for account, cents in owed.items()
    ]

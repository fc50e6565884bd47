"""The demo's act of autopay: six customers, three days by a moved clock, and the move to it.

| account | what it shows | bill |
|---|---|---|
| P-001 | announced, charged on its due date, posted, confirmed | 84.50, due today |
| P-002 | declined for now, presented again three days later, then paid | 61.20, due today |
| P-003 | declined for good: autopay is stopped, the customer told | 40.00, due today |
| P-004 | varies and has no maximum: announced, and waits its notice days | 70.00, due in 20 days |
| P-005 | above the customer's maximum: held, the customer asked | 120.00, due in 10 days |
| P-006 | cancelled between announcement and charge: not charged | 33.00, due in 5 days |

Three old enrolments and a bad line are imported: three are invited, and one of them, who is billed,
would lapse on a day.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Mapping
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
SCHEDULER_ENVIRONMENT = {
    # From midnight and on any day, so that the demo does not depend on when it is run.
    "AUTOPAY_SCHEDULER_CHARGE_TIME": "00:00",
    "AUTOPAY_SCHEDULER_BUSINESS_DAYS": "same",
    "AUTOPAY_SCHEDULER_JOB_INTERVAL_SECONDS": "0.2",
    "AUTOPAY_SCHEDULER_RESTATE_AFTER_SECONDS": "5",
}
CLOCK_AHEAD = timedelta(days=3, hours=2)
"""Past the first retry day; two hours more, for the day on which clocks go back."""
OUTCOME_TIMEOUT_SECONDS = 30.0

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


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopayPlayed:
    """What came of the act.

    Attributes:
        due_today: the city's day on which it was played.
        statuses: of the charges, by account.
        enrolments: status and reason, by account.
        imported: the answer to the import.
        lapsing: who would miss a due date, from the lapse report.
        charged: how often each account's card was charged, by the processor's own book.
        account: the API's view of the account that was declined and paid.
    """

    due_today: date
    statuses: Mapping[str, str]
    enrolments: Mapping[str, str]
    imported: Mapping[str, Any]
    lapsing: list[dict[str, Any]]
    charged: Mapping[str, int]
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
    state = stack.state
    today = datetime.now(UTC).astimezone(ZoneInfo(CITY_TIME_ZONE)).date()
    tell("six customers turn autopay on; their bills come; three are due today")
    people = _customers(today)
    await open_accounts(state=state, customers=people)
    await register(state=state, connection=connection, customers=people)
    await _known(connection, [each.account for each in people])
    enrolled = subscribers()
    await enrol(state=state, connection=connection, subscribers=list(enrolled.values()))
    await bill(state=state, connection=connection, bills=bills(today))
    await _reached(
        connection,
        {
            "P-001": "paid",
            "P-002": "retrying",
            "P-003": "failed",
            "P-004": "announced",
            "P-005": "held",
            "P-006": "announced",
        },
    )
    tell("one cancels before the charge; the old portal's list is imported, customers invited")
    await state_words(state=state, words=[enrolled["P-006"].cancelled(at=datetime.now(UTC))])
    await _reached(connection, {"P-006": "cancelled"})
    due = bill_of(account=LAPSING, amount_cents=9_900, due_date=today + timedelta(days=10))
    await bill(state=state, connection=connection, bills=[due])
    imported, lapsing = await _import(stack, until=today + timedelta(days=30))
    tell("three days later by autopay's clock: SIGKILL to the scheduler, the decline is retried")
    await asyncio.to_thread(_move_clock, stack)
    await _reached(connection, {"P-002": "paid"})
    return AutopayPlayed(
        due_today=today,
        statuses=await _statuses(connection),
        enrolments=await _enrolments(connection),
        imported=imported,
        lapsing=lapsing,
        charged=await _charged(stack),
        account=await _account(stack),
    )


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


async def _known(connection: asyncpg.Connection[Any], accounts: list[str]) -> None:
    async def known() -> bool:
        found: int = await connection.fetchval(
            "SELECT count(*) FROM autopay_scheduler.accounts WHERE account_id = ANY($1::text[])",
            accounts,
        )
        return found == len(accounts)

    await _until(known, "autopay-scheduler has not heard of all customers")


async def _reached(connection: asyncpg.Connection[Any], wanted: Mapping[str, str]) -> None:
    async def reached() -> bool:
        statuses = await _statuses(connection)
        return all(statuses.get(account) == status for account, status in wanted.items())

    await _until(reached, f"charges have not come to {wanted}")


async def _until(holds: Callable[[], Any], complaint: str) -> None:
    deadline = time.monotonic() + OUTCOME_TIMEOUT_SECONDS
    while not await holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{complaint}; see the logs")
        await asyncio.sleep(0.1)


async def _statuses(connection: asyncpg.Connection[Any]) -> dict[str, str]:
    rows = await connection.fetch("SELECT account_id, status FROM autopay_scheduler.charges")
    return {row["account_id"]: row["status"] for row in rows}


async def _enrolments(connection: asyncpg.Connection[Any]) -> dict[str, str]:
    rows = await connection.fetch(
        "SELECT account_id, status || coalesce(': ' || reason, '') AS stands"
        " FROM autopay_scheduler.enrolments"
    )
    return {row["account_id"]: row["stands"] for row in rows}


async def _import(
    stack: LocalStack, *, until: date
) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    async with _scheduler(stack) as scheduler:
        with tempfile.TemporaryDirectory(prefix="paypost-demo-") as folder:
            file = Path(folder) / "old-enrolments.csv"
            file.write_text(OLD_ENROLMENTS, encoding="utf-8")
            imported = await scheduler.upload(
                "/reenrolment/imports",
                file=file,
                media_type="text/csv",
                file_name=file.name,
                operator="demo",
            )
        page = await scheduler.get("/reenrolment/lapsing", until=until.isoformat())
    return imported, page["lapsing"]


def _move_clock(stack: LocalStack) -> None:
    """Kill the scheduler, as a crash would, and start it with its clock moved ahead."""
    stack.supervisor.kill(name=SCHEDULER, restart=False)
    ahead = {"AUTOPAY_SCHEDULER_CLOCK_OFFSET_SECONDS": str(int(CLOCK_AHEAD.total_seconds()))}
    stack.supervisor.start(
        process_spec(
            name=SCHEDULER,
            state=stack.state,
            environ=os.environ,
            overrides=SCHEDULER_ENVIRONMENT | ahead,
        )
    )
    stack.supervisor.wait_ready(name=SCHEDULER, timeout_seconds=30)


async def _charged(stack: LocalStack) -> dict[str, int]:
    async with Remote(base_url=stack.state.http_urls["processor"]) as processor:
        book = await processor.get("/_charges")
    charged: dict[str, int] = {}
    for each in book["charges"]:
        if each["outcome"] == "succeeded":
            account = each["metadata"]["account_number"]
            charged[account] = charged.get(account, 0) + 1
    return charged


async def _account(stack: LocalStack) -> Mapping[str, Any]:
    async with _scheduler(stack) as scheduler:
        found: Mapping[str, Any] = await scheduler.get(f"/accounts/{SHOWN_ACCOUNT}/autopay")
        return found


def _scheduler(stack: LocalStack) -> Remote:
    state = stack.state
    return Remote(base_url=state.http_urls[SCHEDULER], bearer_key=state.secrets.operator_key)

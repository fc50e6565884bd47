"""Customers with autopay beside those of the load, and a scheduler whose clock a fault moves."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from tests.faults.controls import until
from tests.faults.journals import DueCharge
from tests.faults.run import Run
from tests.faults.violations import Violation

from paypost.remote import Remote
from paypost.stack.local import CITY_TIME_ZONE
from paypost.traffic.autopay import Subscriber, enrol, subscriber_of
from paypost.traffic.bills import StatedBill, bill, bill_of
from shared.contracts.enrolments import AutopayRule

SCHEDULER = "autopay-scheduler"
ZONE = ZoneInfo(CITY_TIME_ZONE)
CENTS = 60_001
"""The first amount: above all of the load's, so that the two are never taken for one another."""


def today() -> date:
    """The city's day."""
    return datetime.now(UTC).astimezone(ZONE).date()


@dataclass(kw_only=True)
class Subscribers:
    """Some of a run's extra accounts with autopay, and what the processor's book says of them.

    Attributes:
        run: whose accounts they are.
        tokens: by number of the extra account, the payment method that each has.
        rule: that they agreed to.
        bills: what was stated of them so far.
    """

    run: Run
    tokens: dict[int, str]
    rule: AutopayRule = field(default_factory=lambda: AutopayRule(maximum_cents=1_000_000))
    bills: list[StatedBill] = field(default_factory=list)

    def account(self, number: int) -> str:
        """The account of this number."""
        return self.run.load.extra_accounts[number]

    @property
    def accounts(self) -> list[str]:
        """All of them."""
        return [self.account(number) for number in self.tokens]

    async def enrol(self) -> None:
        """Let them turn autopay on; returns when the scheduler has answered each."""
        people: Sequence[Subscriber] = [
            subscriber_of(account=self.account(number), token=token, rule=self.rule)
            for number, token in self.tokens.items()
        ]
        async with self.run.controls.database() as connection:
            await self.run.load.until_known(connection, self.accounts)
            await enrol(state=self.run.stack.state, connection=connection, subscribers=people)

    async def bill(
        self, *, due_on: date, owed_once: bool = True, numbers: Sequence[int] | None = None
    ) -> None:
        """State a bill of each for that day; returns when the scheduler has them.

        Args:
            due_on: by when they are to be paid.
            numbers: of the accounts that are billed; by default all.
            owed_once: whether the oracles have to find each on the ledger, once.
        """
        stated = [
            bill_of(
                account=account,
                amount_cents=CENTS + len(self.bills) + number,
                due_date=due_on,
            )
            for number, account in enumerate(
                self.accounts if numbers is None else map(self.account, numbers)
            )
        ]
        self.bills += stated
        if owed_once:
            self.expect(stated)
        async with self.run.controls.database() as connection:
            await bill(state=self.run.stack.state, connection=connection, bills=stated)

    def expect(self, bills: Sequence[StatedBill]) -> None:
        """Have the oracles look for these on the ledger."""
        self.run.load.charges += [
            DueCharge(account=each.account, amount_cents=each.amount_cents, planned=False)
            for each in bills
        ]

    async def statuses(self, due_on: date) -> dict[str, tuple[str, str | None]]:
        """By account, what has become of the charge of that due date, and why."""
        rows = await self.run.controls.rows(
            "SELECT account_id, status, reason FROM autopay_scheduler.charges"
            " WHERE account_id = ANY($1::text[]) AND due_date = $2",
            self.accounts,
            due_on,
        )
        return {row["account_id"]: (row["status"], row["reason"]) for row in rows}

    async def come_to(
        self, wanted: dict[int, str], *, due_on: date, timeout_seconds: float = 30.0
    ) -> None:
        """Wait until the charges of that due date have come to this, by account's number.

        Raises:
            TimeoutError: they have not in time; says what they are.
        """
        named = {self.account(number): status for number, status in wanted.items()}

        async def there() -> bool:
            found = await self.statuses(due_on)
            return all(found.get(account, ("",))[0] == each for account, each in named.items())

        try:
            await until(there, timeout_seconds=timeout_seconds, what=f"charges come to {wanted}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; they are {await self.statuses(due_on)}") from None

    async def attempts(self) -> list[dict[str, Any]]:
        """Every attempt that the processor's book has of them, in its order."""
        async with Remote(base_url=self.run.stack.state.http_urls["processor"]) as processor:
            book = await processor.get("/_charges")
        ours = set(self.accounts)
        return [each for each in book["charges"] if each["account"] in ours]

    async def wrongly_charged(self, *, once: Sequence[StatedBill]) -> list[Violation]:
        """What is not as it should be where exactly these bills are to be charged, once each."""
        taken = Counter(
            (each["account"], each["amount_cents"])
            for each in await self.attempts()
            if each["outcome"] == "succeeded"
        )
        wanted = Counter((each.account, each.amount_cents) for each in once)
        return [
            Violation(
                oracle="D" if taken[name] > wanted[name] else "L",
                what=f"{name[0]} was charged {name[1]} cents {taken[name]} times, "
                f"not {wanted[name]}",
            )
            for name in sorted({*taken, *wanted})
            if taken[name] != wanted[name]
        ]

    async def attempts_by_account(self) -> dict[str, list[str]]:
        """By account, how each attempt ended."""
        found: dict[str, list[str]] = defaultdict(list)
        for each in await self.attempts():
            found[each["account"]].append(each["outcome"])
        return dict(found)


async def start_scheduler(
    run: Run,
    *,
    ahead: timedelta = timedelta(),
    wait: bool = True,
    settings: Mapping[str, str] | None = None,
) -> None:
    """Kill the scheduler as a crash would, and start it with its clock so far ahead."""
    supervisor = run.stack.supervisor
    spec = supervisor._get(SCHEDULER).spec
    env = {
        name: value
        for name, value in spec.env.items()
        if name not in ("AUTOPAY_SCHEDULER_CLOCK_OFFSET_SECONDS", "PAYPOST_FAILPOINT")
    }
    if ahead:
        env["AUTOPAY_SCHEDULER_CLOCK_OFFSET_SECONDS"] = str(int(ahead.total_seconds()))
    await run.blocking(supervisor.kill, name=SCHEDULER, restart=False)
    await run.blocking(supervisor.start, replace(spec, env={**env, **(settings or {})}))
    if wait:
        await run.blocking(supervisor.wait_ready, name=SCHEDULER, timeout_seconds=40)


async def let_days_pass_at_the_bank(run: Run, *, days: int = 5) -> None:
    """Move the processor's clock: debits settle, or come back."""
    async with Remote(base_url=run.stack.state.http_urls["processor"]) as processor:
        await processor.post("/clock/advance", {"days": days})

"""Customers with autopay on the whole stack, and what the processor's own book says of them."""

from collections import Counter
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from zoneinfo import ZoneInfo

import asyncpg
from tests.support.pipeline import Pipeline, eventually_true

from paypost.remote import Remote
from paypost.stack.local import CITY_TIME_ZONE
from paypost.traffic.autopay import Subscriber, enrol, state_words, subscriber_of
from paypost.traffic.bills import StatedBill, bill, bill_of
from paypost.traffic.customers import ensure_customers
from paypost.verify.report import Places, verify
from shared.contracts.enrolments import AutopayRule

COUNT = 60
WITH_MAXIMUM = AutopayRule(maximum_cents=100_000)


class Autopay:
    """Customers of one test with autopay, and what the processor's book says of them."""

    def __init__(self, pipeline: Pipeline, prefix: str, *, count: int = COUNT) -> None:
        self.pipeline = pipeline
        self.state = pipeline.state
        self.today = datetime.now(UTC).astimezone(ZoneInfo(CITY_TIME_ZONE)).date()
        self.subscribers: list[Subscriber] = [
            subscriber_of(account=f"{prefix}-{number:03d}", rule=WITH_MAXIMUM)
            for number in range(count)
        ]
        self.accounts = [each.account for each in self.subscribers]
        self.bills: list[StatedBill] = [
            bill_of(account=account, amount_cents=1_000 + number, due_date=self.today)
            for number, account in enumerate(self.accounts)
        ]

    async def __aenter__(self) -> Self:
        self.connection = await asyncpg.connect(self.state.superuser_dsn)
        await ensure_customers(state=self.state, connection=self.connection, accounts=self.accounts)
        await self._known()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.connection.close()

    async def enrol(self) -> None:
        found = await enrol(
            state=self.state, connection=self.connection, subscribers=self.subscribers
        )
        assert found == {"active": len(self.subscribers)}

    async def bill(self) -> None:
        await bill(state=self.state, connection=self.connection, bills=self.bills)

    async def statuses(self) -> Counter[str]:
        rows = await self.connection.fetch(
            "SELECT status, count(*) AS n FROM autopay_scheduler.charges"
            " WHERE account_id = ANY($1::text[]) GROUP BY status",
            self.accounts,
        )
        return Counter({row["status"]: row["n"] for row in rows})

    async def is_in_mid_flow(self) -> None:
        async def some_are_asked_for() -> bool:
            found = await self.statuses()
            return 0 < found["requested"] + found["paid"] < len(self.accounts)

        await eventually_true(some_are_asked_for, timeout_seconds=20, what="in mid-flow")

    async def come_to(self, status: str, *, timeout_seconds: float = 60.0) -> None:
        async def there() -> bool:
            return await self.statuses() == {status: len(self.accounts)}

        try:
            await eventually_true(there, timeout_seconds=timeout_seconds, what=status)
        except AssertionError:
            raise AssertionError(f"not all {status}: {await self.statuses()}") from None

    async def cancel(self) -> None:
        now = datetime.now(UTC)
        words = [each.cancelled(at=now) for each in self.subscribers]
        await state_words(state=self.state, words=words)

    async def taken(self) -> list[dict[str, Any]]:
        """The charges that took money, by the processor's own book."""
        async with Remote(base_url=self.state.http_urls["processor"]) as processor:
            book = await processor.get("/_charges", outcome="succeeded")
        ours = set(self.accounts)
        return [each for each in book["charges"] if each["account"] in ours]

    async def notices(self) -> int:
        """How many notices there are of all customers, whatever became of them."""
        found: int = await self.connection.fetchval("SELECT count(*) FROM notifier.notifications")
        return found

    async def assert_each_is_charged_once(self) -> None:
        taken = [(each["account"], each["amount_cents"]) for each in await self.taken()]
        assert sorted(taken) == sorted((each.account, each.amount_cents) for each in self.bills)

    async def assert_books_agree(self) -> None:
        report = await verify(places=Places.of(state=self.state), wait_seconds=40)
        found = report.as_json()
        assert report.holds, found

    async def _known(self) -> None:
        async def known() -> bool:
            found = await self.connection.fetchval(
                "SELECT count(*) FROM autopay_scheduler.accounts"
                " WHERE account_id = ANY($1::text[])",
                self.accounts,
            )
            return bool(found == len(self.accounts))

        await eventually_true(known, timeout_seconds=20, what="accounts known to autopay")

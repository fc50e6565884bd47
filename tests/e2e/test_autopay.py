"""Autopay through the whole system, its parts killed in mid-flow.

What is believed is the processor's own book, and `paypost verify` beside it.
"""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from tests.support.pipeline import Pipeline, eventually_true

from paypost.remote import Remote
from paypost.stack.local import CITY_TIME_ZONE, LocalStack, process_spec
from paypost.traffic.autopay import Subscriber, enrol, state_words, subscriber_of
from paypost.traffic.bills import StatedBill, bill, bill_of
from paypost.traffic.customers import ensure_customers
from paypost.verify.report import Places, verify
from shared.contracts.enrolments import AutopayRule

pytestmark = pytest.mark.stack

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

    async def __aenter__(self):
        self.connection = await asyncpg.connect(self.state.superuser_dsn)
        await ensure_customers(state=self.state, connection=self.connection, accounts=self.accounts)
        await self._known()
        return self

    async def __aexit__(self, *_: object) -> None:
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

    async def come_to(self, status: str, *, timeout_seconds: float = 60) -> None:
        async def there() -> bool:
            return await self.statuses() == {status: len(self.accounts)}

        try:
            await eventually_true(there, timeout_seconds=timeout_seconds, what=status)
        except AssertionError:
            raise AssertionError(f"not all {status}: {await self.statuses()}") from None

    async def assert_each_is_charged_once(self) -> None:
        async with Remote(base_url=self.state.http_urls["processor"]) as processor:
            book = await processor.get("/_charges")
        ours = set(self.accounts)
        taken = [
            (each["metadata"]["account_number"], each["amount_cents"])
            for each in book["charges"]
            if each["outcome"] == "succeeded" and each["metadata"]["account_number"] in ours
        ]
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
            return found == len(self.accounts)

        await eventually_true(known, timeout_seconds=20, what="accounts known to autopay")


class TestDueDates:
    @pytest.mark.parametrize(
        "killed", ["autopay-scheduler", "payment-intake", "notifier", "processor"]
    )
    async def test_are_each_charged_once_whatever_is_killed_meanwhile(
        self, pipeline: Pipeline, whole_stack: LocalStack, killed: str
    ) -> None:
        async with Autopay(pipeline, f"K{killed[:4]}") as autopay:
            await autopay.enrol()
            await autopay.bill()
            await autopay.is_in_mid_flow()
            whole_stack.supervisor.kill(name=killed)
            await asyncio.sleep(0.7)
            whole_stack.supervisor.kill(name=killed)
            await autopay.come_to("paid")
            await autopay.assert_each_is_charged_once()
            await autopay.assert_books_agree()

    async def test_are_each_charged_once_by_two_schedulers_and_words_said_twice(
        self, pipeline: Pipeline, whole_stack: LocalStack, tmp_path: Path
    ) -> None:
        name = "autopay-scheduler"
        second = process_spec(name=name, state=whole_stack.state, environ={}, overrides={})
        environment = dict(second.env) | {
            "PATH": "",
            "AUTOPAY_SCHEDULER_HTTP_PORT": "0",
            "AUTOPAY_SCHEDULER_OPS_PORT": "0",
            "AUTOPAY_SCHEDULER_CHARGE_TIME": "00:00",
            "AUTOPAY_SCHEDULER_BUSINESS_DAYS": "same",
        }
        environment.pop("AUTOPAY_SCHEDULER_KAFKA_GROUP_INSTANCE_ID", None)
        log = tmp_path / "second.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *second.command, env=environment, stderr=output
            )

        async def has_started() -> bool:
            return "service.started" in log.read_text(encoding="utf-8")

        try:
            await eventually_true(has_started, timeout_seconds=30, what="a second scheduler")
            async with Autopay(pipeline, "TWO") as autopay:
                await autopay.enrol()
                words = [each.enrolled(at=datetime.now(UTC)) for each in autopay.subscribers]
                await state_words(state=autopay.state, words=words)
                await autopay.bill()
                await autopay.bill()
                await autopay.come_to("paid")
                await autopay.assert_each_is_charged_once()
                await autopay.assert_books_agree()
            assert process.returncode is None, log.read_text(encoding="utf-8")
        finally:
            process.terminate()
            await process.wait()


class TestACancellation:
    async def test_before_the_day_charges_nobody(self, pipeline: Pipeline) -> None:
        async with Autopay(pipeline, "CAN", count=10) as autopay:
            later = autopay.today + timedelta(days=5)
            autopay.bills = [
                bill_of(account=each.account, amount_cents=each.amount_cents, due_date=later)
                for each in autopay.bills
            ]
            await autopay.enrol()
            await autopay.bill()
            await autopay.come_to("announced")
            now = datetime.now(UTC)
            await state_words(
                state=autopay.state, words=[each.cancelled(at=now) for each in autopay.subscribers]
            )
            await autopay.come_to("cancelled")
            autopay.bills = []
            await autopay.assert_each_is_charged_once()
            await autopay.assert_books_agree()

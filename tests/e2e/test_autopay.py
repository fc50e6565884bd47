"""Autopay through the whole system, its parts killed in mid-flow.

What is believed is the processor's own book, and `paypost verify` beside it.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.pipeline import Pipeline, eventually_true
from tests.support.whole_autopay import Autopay

from paypost.stack.local import LocalStack, process_spec
from paypost.traffic.autopay import state_words
from paypost.traffic.bills import bill_of

pytestmark = pytest.mark.stack


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
            await autopay.cancel()
            await autopay.come_to("cancelled")
            autopay.bills = []
            await autopay.assert_each_is_charged_once()
            await autopay.assert_books_agree()

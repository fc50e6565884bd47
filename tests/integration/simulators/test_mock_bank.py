"""ACH debits end to end against a bank that nobody here wrote."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import stripe
from tests.integration.simulators.processor_api import (
    RunningProcessor,
    autopay_charge,
    running_processor,
)
from tests.support.mock_bank import MockBankProcess, running_mock_bank

from paypost.simulators.processor.nacha import Debit, Originator, render_debits

TOKEN = "pm_usBankAccount_success"


@pytest.fixture
def bank() -> Iterator[MockBankProcess]:
    with running_mock_bank() as bank:
        yield bank


@pytest.fixture
def processor(bank: MockBankProcess, tmp_path: Path) -> Iterator[RunningProcessor]:
    options = ["--bank-url", bank.url]
    with running_processor(directory=tmp_path, options=options) as processor:
        yield processor


def debit(processor: RunningProcessor, charge_id: str, **changes: Any) -> stripe.PaymentIntent:
    params = autopay_charge(charge_id, payment_method=TOKEN, **changes)
    intent: stripe.PaymentIntent = processor.client.v1.payment_intents.create(params)
    return intent


def reference_of(intent: stripe.PaymentIntent) -> str:
    """By which name the bank knows it: the end of its charge's id."""
    return str(intent.latest_charge)[-15:]


class TestDebitsAtTheBank:
    @pytest.mark.parametrize(
        ("return_code", "code"),
        [("R01", "insufficient_funds"), ("R10", "debit_not_authorized")],
    )
    def test_come_back_before_they_have_settled(
        self, processor: RunningProcessor, bank: MockBankProcess, return_code: str, code: str
    ) -> None:
        returned, settled = debit(processor, "back"), debit(processor, "stays", amount=2_500)
        processor.advance(seconds=0)
        assert {
            (one["end_to_end_id"], one["amount"], one["status"]) for one in bank.collections()
        } == {
            (reference_of(returned), 8_450, "accepted"),
            (reference_of(settled), 2_500, "accepted"),
        }
        bank.refuse(reference_of(returned), reason=return_code)
        # The fifth day is behind any weekend on which the bank does not return.
        processor.advance(days=5)
        intents = processor.client.v1.payment_intents
        error = intents.retrieve(returned.id).last_payment_error
        assert error is not None
        assert (error.code, error.network_decline_code) == (code, return_code)
        assert intents.retrieve(settled.id).status == "succeeded"
        failed, told = processor.endpoint.about(returned.id)[2:]
        assert (failed.type, told.type) == ("charge.failed", "payment_intent.payment_failed")
        assert failed.subject["outcome"]["network_decline_code"] == return_code
        assert failed.subject["metadata"]["paypost_charge_id"] == "back"
        assert processor.endpoint.types_of(settled.id)[2:] == [
            "charge.succeeded",
            "payment_intent.succeeded",
        ]

    def test_become_disputes_when_they_come_back_later(
        self, processor: RunningProcessor, bank: MockBankProcess
    ) -> None:
        intent = debit(processor, "late")
        processor.advance(days=6)
        assert processor.client.v1.payment_intents.retrieve(intent.id).status == "succeeded"
        bank.refuse(reference_of(intent), reason="R10")
        processor.advance(days=4)
        (charged,) = processor.charges(charge_id="late")["charges"]
        assert (charged["outcome"], charged["dispute_reason"]) == (
            "succeeded",
            "debit_not_authorized",
        )
        disputes = [
            told for told in processor.endpoint.events if told.subject["id"] == charged["dispute"]
        ]
        assert [told.type for told in disputes] == [
            "charge.dispute.created",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.closed",
        ]
        assert disputes[1].subject["charge"] == intent.latest_charge
        assert disputes[1].subject["amount"] == 8_450
        assert disputes[1].subject["reason"] == "debit_not_authorized"

    def test_are_presented_again_as_such(
        self, processor: RunningProcessor, bank: MockBankProcess
    ) -> None:
        intent = debit(processor, "again")
        processor.advance(seconds=0)
        bank.refuse(reference_of(intent), reason="R01")
        processor.advance(days=5)
        intents = processor.client.v1.payment_intents
        retried = intents.confirm(intent.id, {"payment_method": TOKEN, "off_session": True})
        assert retried.status == "processing"
        processor.advance(days=6)
        assert intents.retrieve(intent.id).status == "succeeded"
        assert [one["status"] for one in bank.collections()] == ["accepted", "rejected"]
        assert [
            (one["attempt"], one["network_decline_code"])
            for one in processor.charges(charge_id="again")["charges"]
        ] == [(1, "R01"), (2, None)]

    def test_are_recalled_only_until_the_bank_has_them(
        self, processor: RunningProcessor, bank: MockBankProcess
    ) -> None:
        intents = processor.client.v1.payment_intents
        handed_over = debit(processor, "gone")
        processor.advance(seconds=0)
        with pytest.raises(stripe.InvalidRequestError):
            intents.cancel(handed_over.id)
        kept = debit(processor, "kept")
        assert intents.cancel(kept.id).status == "canceled"
        processor.advance(days=1)
        assert [one["end_to_end_id"] for one in bank.collections()] == [reference_of(handed_over)]

    def test_neither_settle_nor_get_lost_while_the_bank_is_away(
        self, processor: RunningProcessor, bank: MockBankProcess
    ) -> None:
        bank.stop()
        intent = debit(processor, "away")
        processor.advance(days=10)
        assert processor.client.v1.payment_intents.retrieve(intent.id).status == "processing"
        bank.start()
        processor.advance(seconds=0)
        assert [one["end_to_end_id"] for one in bank.collections()] == [reference_of(intent)]
        processor.advance(days=6)
        assert processor.client.v1.payment_intents.retrieve(intent.id).status == "succeeded"

    def test_reach_the_bank_once_whatever_crashes(
        self, processor: RunningProcessor, bank: MockBankProcess
    ) -> None:
        intent = debit(processor, "crash")
        processor.advance(seconds=0)
        (file,) = [
            line for line in processor.book_path.read_text().splitlines() if '"taken":true' in line
        ]
        processor.process.kill()
        # As if the crash had come between the bank's answer and the note of it.
        book = processor.book_path.read_text().replace(f"{file}\n", "")
        processor.book_path.write_text(book)
        processor.process.start()
        processor.advance(days=6)
        assert len(bank.collections()) == 1
        assert processor.client.v1.payment_intents.retrieve(intent.id).status == "succeeded"


class TestFilesOfDebits:
    @pytest.mark.parametrize("count", [1, 5, 6, 17])
    def test_find_no_fault_with_the_bank(self, bank: MockBankProcess, count: int) -> None:
        debits = [
            Debit(
                trace=f"99999999{number:07d}",
                reference=f"PAY{number}",
                routing_number="110000000",
                account_number=f"1234{number}",
                amount_cents=100 + number,
                name="Jürgen of the Very Long Name and Sons",
                again=number % 3 == 0,
            )
            for number in range(count)
        ]
        now = datetime.now(UTC)
        file = render_debits(
            debits,
            originator=Originator(),
            created_at=now,
            modifier="A",
            effective_on=now.date(),
        )
        status, findings = bank.validate(file)
        assert status == 200, findings
        assert f"{count} collection" in findings

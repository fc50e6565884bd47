"""The processor's switches as a caller meets them, and what a crash leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import stripe
from tests.integration.simulators.processor_api import (
    API_KEY,
    RunningProcessor,
    autopay_charge,
    running_processor,
)
from tests.support.processes import eventually


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProcessor]:
    with running_processor(directory=tmp_path_factory.mktemp("processor")) as processor:
        yield processor


@pytest.fixture
def processor(running: RunningProcessor) -> RunningProcessor:
    running.switch()
    return running


def keyed(charge_id: str) -> Any:
    return {"idempotency_key": charge_id}


def impatient(processor: RunningProcessor) -> stripe.StripeClient:
    """A client that waits a quarter of a second for an answer."""
    return processor.client_with(API_KEY, http_client=stripe.RequestsClient(timeout=0.25))


class TestFaultsBeforeTheEffect:
    @pytest.mark.parametrize(
        ("switch", "error", "status"),
        [
            ("down", stripe.APIError, 503),
            ("rate_limited", stripe.RateLimitError, 429),
            ("error_before_effect", stripe.APIError, 500),
            ("connection_reset", stripe.APIConnectionError, None),
        ],
    )
    def test_charge_nobody_and_leave_the_key_free(
        self,
        processor: RunningProcessor,
        switch: str,
        error: type[stripe.StripeError],
        status: int | None,
    ) -> None:
        processor.switch(**{switch: {"count": 1}})
        intents = processor.client.v1.payment_intents
        with pytest.raises(error) as raised:
            intents.create(autopay_charge(switch), keyed(switch))
        assert raised.value.http_status == status
        assert processor.charges(charge_id=switch)["count"] == 0
        assert intents.create(autopay_charge(switch), keyed(switch)).status == "succeeded"

    def test_never_answer_and_leave_the_key_free(self, processor: RunningProcessor) -> None:
        processor.switch(timeout_before_effect={"count": 1})
        intents = processor.client.v1.payment_intents
        with pytest.raises(stripe.APIConnectionError):
            impatient(processor).v1.payment_intents.create(autopay_charge("tb"), keyed("tb"))
        assert processor.charges(charge_id="tb")["count"] == 0

        def charged() -> bool:
            try:
                return intents.create(autopay_charge("tb"), keyed("tb")).status == "succeeded"
            except stripe.APIError as error:
                # Until the processor has noticed that the first caller has gone.
                assert error.http_status == 409
                return False

        eventually(charged)
        assert processor.charges(charge_id="tb")["count"] == 1

    def test_can_be_an_answer_that_is_kept(self, processor: RunningProcessor) -> None:
        processor.switch(error_instead_of_effect={"count": 1})
        intents = processor.client.v1.payment_intents
        for _ in range(2):
            with pytest.raises(stripe.APIError) as raised:
                intents.create(autopay_charge("ei"), keyed("ei"))
            assert raised.value.http_status == 500
        assert processor.charges(charge_id="ei")["count"] == 0
        assert intents.create(autopay_charge("ei"), keyed("ei-2")).status == "succeeded"


class TestFaultsAfterTheEffect:
    @pytest.mark.parametrize("switch", ["timeout_after_effect", "connection_reset_after_effect"])
    def test_charge_once_and_keep_the_answer(
        self, processor: RunningProcessor, switch: str
    ) -> None:
        processor.switch(**{switch: {"count": 1}})
        with pytest.raises(stripe.APIConnectionError):
            impatient(processor).v1.payment_intents.create(autopay_charge(switch), keyed(switch))
        (charged,) = processor.charges(charge_id=switch)["charges"]
        assert charged["outcome"] == "succeeded"
        eventually(lambda: len(processor.endpoint.about(charged["payment_intent"])) == 4)
        intents = processor.client.v1.payment_intents
        again = intents.create(autopay_charge(switch), keyed(switch))
        assert again.id == charged["payment_intent"]
        assert again.last_response is not None
        assert again.last_response.headers["idempotent-replayed"] == "true"
        assert processor.charges(charge_id=switch)["count"] == 1

    def test_can_be_an_error_that_is_kept(self, processor: RunningProcessor) -> None:
        processor.switch(error_after_effect={"count": 1})
        intents = processor.client.v1.payment_intents
        for _ in range(2):
            with pytest.raises(stripe.APIError) as raised:
                intents.create(autopay_charge("ea", customer="cus_ea"), keyed("ea"))
            assert raised.value.http_status == 500
        (found,) = intents.list({"customer": "cus_ea"}).data
        assert found.status == "succeeded"
        assert found.metadata["paypost_charge_id"] == "ea"

    def test_delay_the_answer_but_not_the_effect(self, processor: RunningProcessor) -> None:
        processor.switch(answer_delay_ms=400)
        started = time.monotonic()
        asking = threading.Thread(
            target=processor.client.v1.payment_intents.create, args=(autopay_charge("late"),)
        )
        asking.start()
        eventually(lambda: processor.charges(charge_id="late")["succeeded"] == 1)
        assert asking.is_alive()
        asking.join()
        assert time.monotonic() - started >= 0.4


class TestSwitches:
    def test_meet_only_whom_they_name(self, processor: RunningProcessor) -> None:
        processor.switch(down={"subjects": ["A-hit"]})
        intents = processor.client.v1.payment_intents
        assert intents.create(autopay_charge("missed")).status == "succeeded"
        with pytest.raises(stripe.APIError):
            intents.create(autopay_charge("hit"))

    def test_meet_only_what_they_name(self, processor: RunningProcessor) -> None:
        processor.switch(down={"operations": ["refund"]})
        client = processor.client
        intent = client.v1.payment_intents.create(autopay_charge("ops"))
        with pytest.raises(stripe.APIError):
            client.v1.refunds.create({"payment_intent": intent.id})
        processor.switch()
        assert client.v1.refunds.create({"payment_intent": intent.id}).status == "succeeded"

    def test_keep_webhooks_back(self, processor: RunningProcessor) -> None:
        processor.switch(webhooks_off=True)
        silent = processor.client.v1.payment_intents.create(autopay_charge("silent"))
        processor.switch()
        loud = processor.client.v1.payment_intents.create(autopay_charge("loud"))
        eventually(lambda: len(processor.endpoint.about(loud.id)) == 4)
        assert processor.endpoint.about(silent.id) == []

    def test_send_webhooks_first(self, processor: RunningProcessor) -> None:
        processor.switch(webhooks_first=True)
        processor.endpoint.open.clear()
        try:
            asking = threading.Thread(
                target=processor.client.v1.payment_intents.create, args=(autopay_charge("first"),)
            )
            asking.start()
            eventually(lambda: processor.charges(charge_id="first")["succeeded"] == 1)
            (charged,) = processor.charges(charge_id="first")["charges"]
            assert asking.is_alive()
        finally:
            processor.endpoint.open.set()
        asking.join()
        assert len(processor.endpoint.about(charged["payment_intent"])) == 4

    def test_answer_before_the_webhooks_otherwise(self, processor: RunningProcessor) -> None:
        processor.endpoint.open.clear()
        try:
            intent = processor.client.v1.payment_intents.create(autopay_charge("then"))
            assert processor.endpoint.about(intent.id) == []
        finally:
            processor.endpoint.open.set()
        eventually(lambda: len(processor.endpoint.about(intent.id)) == 4)


class TestAnEndpointThatIsAway:
    def test_keeps_no_debit_from_settling(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        processor.endpoint.open.clear()
        advancing: list[threading.Thread] = []

        def is_settled(intent: str) -> bool:
            return intents.retrieve(intent).status == "succeeded"

        try:
            for charge_id in ("away1", "away2"):
                params = autopay_charge(charge_id, payment_method="pm_usBankAccount_success")
                intent = intents.create(params).id
                # Without waiting for the endpoint first, as `advance` does.
                move = ("POST", "/clock/advance", {"days": 4})
                advancing.append(threading.Thread(target=processor.call, args=move))
                advancing[-1].start()
                eventually(partial(is_settled, intent))
                assert advancing[-1].is_alive()
        finally:
            processor.endpoint.open.set()
        for thread in advancing:
            thread.join()
        assert "payment_intent.succeeded" in processor.endpoint.types_of(intent)


class TestACrash:
    def test_forgets_nothing(self, tmp_path: Path) -> None:
        with running_processor(directory=tmp_path) as processor:
            intents = processor.client.v1.payment_intents
            charged = intents.create(autopay_charge("c1"), keyed("c1"))
            processor.client.v1.refunds.create({"payment_intent": charged.id, "amount": 100})
            with pytest.raises(stripe.CardError) as declined:
                intents.create(
                    autopay_charge("c2", payment_method="pm_script_declined_do_not_honor_1"),
                    keyed("c2"),
                )
            processor.advance(hours=2)
            debit = intents.create(
                autopay_charge("c3", payment_method="pm_usBankAccount_insufficientFunds"),
            )
            created = debit.created
            before = processor.charges()
            processor.process.kill()
            processor.process.start()

            assert processor.charges() == before
            again = intents.create(autopay_charge("c1"), keyed("c1"))
            assert again.to_dict() == charged.to_dict()
            with pytest.raises(stripe.CardError) as repeated:
                intents.create(
                    autopay_charge("c2", payment_method="pm_script_declined_do_not_honor_1"),
                    keyed("c2"),
                )
            assert repeated.value.http_body == declined.value.http_body
            listed = intents.list({"customer": "cus_1", "created": {"gte": created}})
            assert [intent.id for intent in listed] == [debit.id]
            processor.advance(days=4)
            error = intents.retrieve(debit.id).last_payment_error
            assert error is not None
            assert error.network_decline_code == "R01"
            assert processor.endpoint.types_of(debit.id)[-2:] == [
                "charge.failed",
                "payment_intent.payment_failed",
            ]
            charge_ids = {one["charge"] for one in processor.charges()["charges"]}
            assert intents.create(autopay_charge("c4")).latest_charge not in charge_ids

    def test_between_effect_and_answer_charges_once(self, tmp_path: Path) -> None:
        with running_processor(directory=tmp_path) as processor:
            processor.switch(timeout_after_effect=True)
            with pytest.raises(stripe.APIConnectionError):
                impatient(processor).v1.payment_intents.create(autopay_charge("c5"), keyed("c5"))
            processor.process.kill()
            processor.process.start()
            intent = processor.client.v1.payment_intents.create(autopay_charge("c5"), keyed("c5"))
            assert intent.status == "succeeded"
            assert processor.charges(charge_id="c5")["count"] == 1

    def test_keeps_no_event_from_the_endpoint(self, tmp_path: Path) -> None:
        with running_processor(directory=tmp_path) as processor:
            processor.endpoint.open.clear()
            intent = processor.client.v1.payment_intents.create(autopay_charge("c6"))
            processor.process.kill()
            processor.endpoint.open.set()
            processor.process.start()
            eventually(lambda: len({one.id for one in processor.endpoint.about(intent.id)}) == 4)

    def test_in_mid_flight_leaves_the_book_and_the_callers_of_one_mind(
        self, tmp_path: Path
    ) -> None:
        with running_processor(directory=tmp_path) as processor:
            answered: list[str] = []

            def charge(number: int) -> None:
                for one in range(number, 4_000, 8):
                    try:
                        processor.client.v1.payment_intents.create(
                            autopay_charge(f"m{one}"), keyed(f"m{one}")
                        )
                    except stripe.APIConnectionError:
                        return
                    answered.append(f"m{one}")

            threads = [threading.Thread(target=charge, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            eventually(lambda: len(answered) > 150)
            processor.process.kill()
            for thread in threads:
                thread.join()
            processor.process.start()
            charged = [one["paypost_charge_id"] for one in processor.charges()["charges"]]
            assert set(answered) <= set(charged)
            assert len(charged) == len(set(charged))
            # Those that had no answer: whoever asks again under the key, charges nobody twice.
            for charge_id in [*charged[-8:], "m3999"]:
                processor.client.v1.payment_intents.create(
                    autopay_charge(charge_id), keyed(charge_id)
                )
            again = [one["paypost_charge_id"] for one in processor.charges()["charges"]]
            assert len(again) == len(set(again)) == len({*charged, "m3999"})

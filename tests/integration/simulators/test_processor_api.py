"""The processor's API as the official SDK sees it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.error import HTTPError

import pytest
import stripe
from tests.integration.simulators.processor_api import (
    API_KEY,
    VERSION_BEFORE_LATEST_CHARGE,
    RunningProcessor,
    autopay_charge,
    running_processor,
)
from tests.support.processes import eventually


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProcessor]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PROCESSOR_API_KEY", API_KEY)
        with running_processor(directory=tmp_path_factory.mktemp("processor")) as processor:
            yield processor


@pytest.fixture
def processor(running: RunningProcessor) -> RunningProcessor:
    running.switch()
    return running


class TestCreatingAndConfirming:
    def test_charges_a_card_off_session(self, processor: RunningProcessor) -> None:
        intent = processor.client.v1.payment_intents.create(
            autopay_charge("card"), {"idempotency_key": "card"}
        )
        assert intent.status == "succeeded"
        assert (intent.amount, intent.amount_received, intent.currency) == (8_450, 8_450, "usd")
        assert intent.customer == "cus_1"
        assert intent.payment_method == "pm_card_visa"
        assert intent.metadata["paypost_charge_id"] == "card"
        (charged,) = processor.charges(charge_id="card")["charges"]
        assert intent.latest_charge == charged["charge"]
        assert charged["outcome"] == "succeeded"
        assert charged["idempotency_key"] == "card"
        assert charged["account"] == "A-card"

    async def test_does_so_asynchronously(self, processor: RunningProcessor) -> None:
        async with processor.asynchronous() as client:
            intents = client.v1.payment_intents
            intent = await intents.create_async(
                autopay_charge("async", confirm=None, off_session=None)
            )
            assert intent.status == "requires_confirmation"
            intent = await intents.confirm_async(intent.id, {"off_session": True})
            assert intent.status == "succeeded"
            assert (await intents.retrieve_async(intent.id)).latest_charge == intent.latest_charge
            refund = await client.v1.refunds.create_async({"payment_intent": intent.id})
            assert refund.status == "succeeded"
            token = "pm_card_chargeDeclinedInsufficientFunds"
            with pytest.raises(stripe.CardError, match="insufficient funds"):
                await intents.create_async(autopay_charge("async", payment_method=token))

    def test_announces_it_with_its_metadata(self, processor: RunningProcessor) -> None:
        intent = processor.client.v1.payment_intents.create(autopay_charge("told"))
        eventually(lambda: len(processor.endpoint.about(intent.id)) == 4)
        created, charged, succeeded, booked = processor.endpoint.about(intent.id)
        assert [created.type, charged.type, succeeded.type, booked.type] == [
            "payment_intent.created",
            "charge.succeeded",
            "payment_intent.succeeded",
            "charge.updated",
        ]
        for event in (created, charged, succeeded, booked):
            assert event.subject["metadata"]["paypost_charge_id"] == "told"
            assert event.subject["amount"] == 8_450
        assert created.subject["status"] == "requires_payment_method"
        assert charged.subject["id"] == intent.latest_charge
        assert charged.subject["payment_method_details"]["card"]["last4"] == "4242"

    def test_answers_and_announces_the_same(self, processor: RunningProcessor) -> None:
        options: Any = {"stripe_version": VERSION_BEFORE_LATEST_CHARGE}
        intent = processor.client.v1.payment_intents.create(
            autopay_charge("same", allowed_payment_method_types=None), options
        )
        eventually(lambda: len(processor.endpoint.about(intent.id)) == 4)
        announced = processor.endpoint.about(intent.id)[2].subject
        answered = intent.to_dict()
        assert announced["charges"]["data"][0].pop("balance_transaction") is None
        assert answered["charges"]["data"][0].pop("balance_transaction").startswith("txn_")
        assert announced == answered

    @pytest.mark.parametrize(
        ("token", "code", "decline_code", "network_code"),
        [
            ("pm_card_chargeDeclined", "card_declined", "generic_decline", "05"),
            (
                "pm_card_chargeDeclinedInsufficientFunds",
                "card_declined",
                "insufficient_funds",
                "51",
            ),
            ("pm_card_visa_chargeDeclinedLostCard", "card_declined", "lost_card", "41"),
            ("pm_card_chargeDeclinedStolenCard", "card_declined", "stolen_card", "43"),
            ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card", "54"),
            ("pm_card_chargeDeclinedProcessingError", "processing_error", "processing_error", "96"),
            (
                "pm_card_authenticationRequired",
                "authentication_required",
                "authentication_required",
                "1A",
            ),
        ],
    )
    def test_declines_a_card(
        self,
        processor: RunningProcessor,
        token: str,
        code: str,
        decline_code: str,
        network_code: str,
    ) -> None:
        with pytest.raises(stripe.CardError) as raised:
            processor.client.v1.payment_intents.create(autopay_charge(token, payment_method=token))
        error = raised.value.error
        assert raised.value.http_status == 402
        assert error is not None
        assert (error.code, error.decline_code) == (code, decline_code)
        intent = error.payment_intent
        assert intent is not None
        assert intent.status == "requires_payment_method"
        assert intent.payment_method is None
        assert intent.latest_charge == error.charge
        eventually(lambda: len(processor.endpoint.about(intent.id)) == 3)
        _, failed, told = processor.endpoint.about(intent.id)
        assert (failed.type, told.type) == ("charge.failed", "payment_intent.payment_failed")
        assert failed.subject["outcome"]["network_decline_code"] == network_code
        assert failed.subject["outcome"]["reason"] == decline_code
        assert told.subject["last_payment_error"]["decline_code"] == decline_code
        (charged,) = processor.charges(payment_intent=intent.id)["charges"]
        assert (charged["outcome"], charged["code"]) == ("failed", decline_code)

    def test_waits_for_a_customer_who_is_there(self, processor: RunningProcessor) -> None:
        card = {"payment_method": "pm_card_authenticationRequired", "off_session": False}
        intents = processor.client.v1.payment_intents
        intent = intents.create(autopay_charge("sca", **card))
        assert intent.status == "requires_action"
        assert intent.next_action is not None
        with pytest.raises(stripe.CardError) as raised:
            intents.create(autopay_charge("sca", **card, error_on_requires_action=True))
        assert raised.value.code == "authentication_required"
        assert processor.charges(charge_id="sca")["count"] == 0

    def test_charges_the_same_intent_again_after_a_decline(
        self, processor: RunningProcessor
    ) -> None:
        token = "pm_script_declined_insufficient_funds_2"
        intents = processor.client.v1.payment_intents
        with pytest.raises(stripe.CardError) as raised:
            intents.create(autopay_charge("again", payment_method=token))
        assert raised.value.error is not None
        declined = raised.value.error.payment_intent
        assert declined is not None
        with pytest.raises(stripe.InvalidRequestError) as without:
            intents.confirm(declined.id, {"off_session": True})
        assert without.value.code == "payment_intent_unexpected_state"
        with pytest.raises(stripe.CardError):
            intents.confirm(declined.id, {"off_session": True, "payment_method": token})
        intents.update(declined.id, {"amount": 5_000})
        intent = intents.confirm(declined.id, {"off_session": True, "payment_method": token})
        assert intent.status == "succeeded"
        assert intent.last_payment_error is None
        charged = processor.charges(charge_id="again")
        outcomes = [
            (one["attempt"], one["outcome"], one["amount_cents"]) for one in charged["charges"]
        ]
        assert outcomes == [(1, "failed", 8_450), (2, "failed", 8_450), (3, "succeeded", 5_000)]
        assert charged["succeeded_cents"] == 5_000

    def test_never_charges_an_intent_twice(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        intent = intents.create(autopay_charge("once"))
        for attempt in ("payment_method", None):
            given: Any = {"payment_method": "pm_card_visa"} if attempt else {}
            with pytest.raises(stripe.InvalidRequestError) as raised:
                intents.confirm(intent.id, given)
            assert raised.value.code == "payment_intent_unexpected_state"
            assert "already succeeded" in str(raised.value)
        assert processor.charges(charge_id="once")["succeeded"] == 1

    def test_confirms_once_however_many_ask(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        intent = intents.create(
            {"amount": 900, "currency": "usd", "payment_method": "pm_card_visa"}
        )

        def confirm(_: int) -> str:
            try:
                return intents.confirm(intent.id).status
            except stripe.InvalidRequestError as error:
                return error.code or ""

        with ThreadPoolExecutor(16) as pool:
            outcomes = Counter(pool.map(confirm, range(16)))
        assert outcomes == {"succeeded": 1, "payment_intent_unexpected_state": 15}
        assert processor.charges(payment_intent=intent.id)["count"] == 1


class TestAch:
    def test_settles_days_later(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        intent = intents.create(autopay_charge("ach", payment_method="pm_usBankAccount_success"))
        assert intent.status == "processing"
        with pytest.raises(stripe.InvalidRequestError) as raised:
            intents.confirm(intent.id, {"payment_method": "pm_usBankAccount_success"})
        assert raised.value.code == "payment_intent_unexpected_state"
        processor.advance(days=3)
        assert intents.retrieve(intent.id).status == "processing"
        processor.advance(days=1)
        assert intents.retrieve(intent.id).status == "succeeded"
        assert processor.endpoint.types_of(intent.id) == [
            "payment_intent.created",
            "payment_intent.processing",
            "charge.succeeded",
            "payment_intent.succeeded",
        ]
        charge = processor.client.v1.charges.retrieve(str(intent.latest_charge))
        assert charge.payment_method_details is not None
        assert charge.payment_method_details.type == "us_bank_account"

    @pytest.mark.parametrize(
        ("token", "return_code", "code"),
        [
            ("pm_usBankAccount_insufficientFunds", "R01", "insufficient_funds"),
            ("pm_usBankAccount_accountClosed", "R02", "account_closed"),
            ("pm_usBankAccount_noAccount", "R03", "no_account"),
            ("pm_usBankAccount_debitNotAuthorized", "R10", "debit_not_authorized"),
        ],
    )
    def test_comes_back_with_the_banks_code(
        self, processor: RunningProcessor, token: str, return_code: str, code: str
    ) -> None:
        intents = processor.client.v1.payment_intents
        intent = intents.create(autopay_charge(token, payment_method=token))
        processor.advance(days=4)
        returned = intents.retrieve(intent.id, {"expand": ["latest_charge"]})
        assert returned.status == "requires_payment_method"
        assert returned.last_payment_error is not None
        assert returned.last_payment_error.code == code
        assert returned.last_payment_error.network_decline_code == return_code
        assert isinstance(returned.latest_charge, stripe.Charge)
        assert returned.latest_charge.failure_code == code
        assert returned.latest_charge.outcome is not None
        assert returned.latest_charge.outcome.network_decline_code == return_code
        failed, told = processor.endpoint.about(intent.id)[2:]
        assert (failed.type, told.type) == ("charge.failed", "payment_intent.payment_failed")
        assert failed.subject["outcome"]["network_decline_code"] == return_code
        assert told.subject["last_payment_error"]["network_decline_code"] == return_code

    def test_is_presented_again_on_the_same_intent(self, processor: RunningProcessor) -> None:
        token = "pm_script_ach_R01_2"
        intents = processor.client.v1.payment_intents
        intent = intents.create(autopay_charge("represented", payment_method=token))
        for status in ("requires_payment_method", "requires_payment_method", "succeeded"):
            processor.advance(days=4)
            assert intents.retrieve(intent.id).status == status
            if status != "succeeded":
                given: Any = {"payment_method": token, "off_session": True, "mandate": "mandate_1"}
                assert intents.confirm(intent.id, given).status == "processing"
        charged = processor.charges(charge_id="represented")["charges"]
        assert [one["network_decline_code"] for one in charged] == ["R01", "R01", None]

    def test_ends_the_mandate_that_was_not_given(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        bank = {"payment_method": "pm_usBankAccount_debitNotAuthorized", "mandate": "mandate_ann"}
        intent = intents.create(autopay_charge("not mine", **bank))
        processor.advance(days=4)
        (told,) = [one for one in processor.endpoint.events if one.subject["id"] == "mandate_ann"]
        assert (told.type, told.subject["status"]) == ("mandate.updated", "inactive")
        assert told.subject["payment_method"] == "pm_usBankAccount_debitNotAuthorized"
        given: Any = bank | {"off_session": True}
        with pytest.raises(stripe.InvalidRequestError) as raised:
            intents.confirm(intent.id, given)
        assert raised.value.code == "payment_intent_mandate_invalid"

    def test_is_cancelled_only_where_stripe_still_can(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        fixed = intents.create(autopay_charge("fixed", payment_method="pm_usBankAccount_success"))
        with pytest.raises(stripe.InvalidRequestError) as raised:
            intents.cancel(fixed.id)
        assert raised.value.code == "payment_intent_unexpected_state"
        with pytest.raises(stripe.InvalidRequestError):
            processor.client.v1.refunds.create({"payment_intent": fixed.id})
        recalled = intents.create(autopay_charge("r", payment_method="pm_script_ach_cancellable"))
        assert intents.cancel(recalled.id).status == "canceled"
        processor.advance(days=4)
        assert intents.retrieve(recalled.id).status == "canceled"
        assert intents.retrieve(fixed.id).status == "succeeded"


class TestRefunding:
    def test_gives_back_in_parts_and_no_more(self, processor: RunningProcessor) -> None:
        client = processor.client
        intent = client.v1.payment_intents.create(autopay_charge("refunds"))
        first = client.v1.refunds.create(
            {"payment_intent": intent.id, "amount": 450, "metadata": {"why": "late"}}
        )
        with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded"):
            client.v1.refunds.create({"payment_intent": intent.id, "amount": 8_001})
        second = client.v1.refunds.create({"charge": str(intent.latest_charge)})
        assert (first.amount, second.amount, second.status) == (450, 8_000, "succeeded")
        with pytest.raises(stripe.InvalidRequestError) as raised:
            client.v1.refunds.create({"payment_intent": intent.id})
        assert raised.value.code == "charge_already_refunded"
        assert client.v1.refunds.retrieve(first.id).to_dict()["metadata"] == {"why": "late"}
        listed = client.v1.refunds.list({"payment_intent": intent.id})
        assert [refund.id for refund in listed] == [second.id, first.id]
        (charged,) = processor.charges(charge_id="refunds")["charges"]
        assert charged["refunded_cents"] == 8_450
        assert [refund["amount_cents"] for refund in charged["refunds"]] == [450, 8_000]
        eventually(lambda: len(processor.endpoint.about(intent.id)) == 8)
        told = [
            (event.subject["amount_refunded"], event.subject["refunded"])
            for event in processor.endpoint.about(intent.id)
            if event.type == "charge.refunded"
        ]
        assert sorted(told) == [(450, False), (8_450, True)]

    def test_of_a_debit_takes_days(self, processor: RunningProcessor) -> None:
        client = processor.client
        token = "pm_usBankAccount_success"
        intent = client.v1.payment_intents.create(autopay_charge("slow", payment_method=token))
        processor.advance(days=4)
        refund = client.v1.refunds.create({"payment_intent": intent.id})
        assert refund.status == "pending"
        processor.advance(days=4)
        assert client.v1.refunds.retrieve(refund.id).status == "succeeded"

    def test_comes_back_from_a_dead_card(self, processor: RunningProcessor) -> None:
        client = processor.client
        token = "pm_card_refundFail"
        intent = client.v1.payment_intents.create(autopay_charge("dead", payment_method=token))
        refund = client.v1.refunds.create({"payment_intent": intent.id})
        assert refund.status == "succeeded"
        processor.advance(days=4)
        assert client.v1.refunds.retrieve(refund.id).status == "failed"
        assert processor.charges(charge_id="dead")["refunded_cents"] == 0


class TestModifyingAndCancelling:
    def test_changes_what_is_not_charged_yet(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        intent = intents.create(
            {"amount": 900, "currency": "usd", "metadata": {"a": "1", "b": "2"}}
        )
        assert intent.status == "requires_payment_method"
        intent = intents.update(
            intent.id,
            {"amount": 800, "payment_method": "pm_card_visa", "metadata": {"a": "", "c": "3"}},
        )
        assert (intent.amount, intent.status) == (800, "requires_confirmation")
        assert intent.to_dict()["metadata"] == {"b": "2", "c": "3"}
        assert intents.confirm(intent.id).amount_received == 800
        with pytest.raises(stripe.InvalidRequestError) as raised:
            intents.update(intent.id, {"amount": 900})
        assert raised.value.code == "payment_intent_unexpected_state"
        intent = intents.update(intent.id, {"metadata": {"c": ""}})
        assert intent.to_dict()["metadata"] == {"b": "2"}

    def test_cancels_what_is_not_charged_yet(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        intent = intents.create(
            {"amount": 900, "currency": "usd", "payment_method": "pm_card_visa"}
        )
        cancelled = intents.cancel(intent.id, {"cancellation_reason": "requested_by_customer"})
        assert cancelled.status == "canceled"
        assert cancelled.cancellation_reason == "requested_by_customer"
        for again in (intents.cancel, intents.confirm):
            with pytest.raises(stripe.InvalidRequestError) as raised:
                again(intent.id)
            assert raised.value.code == "payment_intent_unexpected_state"
        eventually(lambda: "payment_intent.canceled" in processor.endpoint.types_of(intent.id))


class TestListing:
    def test_pages_a_customers_intents_newest_first(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        customer = processor.client.v1.customers.create({"email": "ann@example.org"}).id
        made = [intents.create(autopay_charge(f"l{n}", customer=customer)).id for n in range(5)]
        newest_first = made[::-1]
        page = intents.list({"customer": customer, "limit": 2})
        assert [intent.id for intent in page.data] == newest_first[:2]
        assert page.has_more
        assert [intent.id for intent in page.auto_paging_iter()] == newest_first
        back = intents.list({"customer": customer, "limit": 2, "ending_before": made[0]})
        assert [intent.id for intent in back.data] == [made[2], made[1]]
        assert intents.list({"customer": "cus_of_nobody"}).data == []

    def test_sees_what_was_just_made(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        for number in range(20):
            customer = f"cus_consistent{number}"
            made = intents.create(autopay_charge(f"now{number}", customer=customer))
            listed = intents.list({"customer": customer, "created": {"gte": made.created}})
            assert [intent.id for intent in listed.data] == [made.id]

    def test_keeps_to_the_times_asked_for(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        early = intents.create(autopay_charge("early", customer="cus_times"))
        processor.advance(hours=1)
        late = intents.create(autopay_charge("late", customer="cus_times"))
        for bounds, expected in (
            ({"gte": early.created}, [late.id, early.id]),
            ({"gt": early.created}, [late.id]),
            ({"lt": late.created}, [early.id]),
            ({"gte": early.created + 1, "lte": late.created - 1}, []),
        ):
            params: Any = {"customer": "cus_times", "created": bounds}
            assert [intent.id for intent in intents.list(params)] == expected

    def test_follows_an_intent_to_its_new_customer(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        intent = intents.create({"amount": 900, "currency": "usd", "customer": "cus_moved_a"})
        intents.update(intent.id, {"customer": "cus_moved_b"})
        assert [one.id for one in intents.list({"customer": "cus_moved_b"})] == [intent.id]
        assert intents.list({"customer": "cus_moved_a"}).data == []


class TestPaymentMethodsAndCustomers:
    def test_are_made_attached_and_charged(self, processor: RunningProcessor) -> None:
        client = processor.client
        customer = client.v1.customers.create({"name": "Ann", "metadata": {"account": "A-1"}})
        assert client.v1.customers.retrieve(customer.id).to_dict()["metadata"] == {"account": "A-1"}
        account: Any = {"routing_number": "110000000", "account_number": "000222222227"}
        account["account_holder_type"] = "individual"
        bank = client.v1.payment_methods.create(
            {"type": "us_bank_account", "us_bank_account": account}
        )
        assert bank.us_bank_account is not None
        assert bank.us_bank_account.last4 == "2227"
        client.v1.payment_methods.attach(bank.id, {"customer": customer.id})
        assert client.v1.payment_methods.retrieve(bank.id).customer == customer.id
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.payment_intents.create(autopay_charge("own", payment_method=bank.id))
        intent = client.v1.payment_intents.create(
            autopay_charge("own", payment_method=bank.id, customer=customer.id)
        )
        processor.advance(days=4)
        error = client.v1.payment_intents.retrieve(intent.id).last_payment_error
        assert error is not None
        assert error.network_decline_code == "R01"
        assert "000222222227" not in processor.book_path.read_text()


class TestWhatHappensAtTheCustomersBank:
    def test_is_told(self, processor: RunningProcessor) -> None:
        method = {"payment_method": "pm_renewed"}
        renewed = method | {"last4": "1881", "exp_month": 3, "exp_year": 2031}
        processor.call("POST", "/payment_methods/renew", renewed)
        processor.call("POST", "/mandates/withdraw", method | {"mandate": "mandate_ben"})
        with pytest.raises(HTTPError):
            processor.call("POST", "/payment_methods/renew", renewed | {"exp_month": 0})
        card, mandate = processor.endpoint.events[-2:]
        assert card.type == "payment_method.automatically_updated"
        assert card.subject["id"] == "pm_renewed"
        assert (card.subject["card"]["last4"], card.subject["card"]["exp_year"]) == ("1881", 2031)
        assert (mandate.type, mandate.subject["status"]) == ("mandate.updated", "inactive")
        found = processor.client.v1.payment_methods.retrieve("pm_renewed")
        assert found.card is not None
        assert found.card.last4 == "1881"
        assert (
            processor.client.v1.payment_intents.create(autopay_charge("new")).status == "succeeded"
        )


class TestErrors:
    def test_name_what_is_wrong_with_the_request(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        wrong: list[tuple[Any, str | None, str]] = [
            ({"currency": "usd"}, "parameter_missing", "amount"),
            ({"amount": 900}, "parameter_missing", "currency"),
            ({"amount": "9.00", "currency": "usd"}, "parameter_invalid_integer", "amount"),
            ({"amount": 0, "currency": "usd"}, "parameter_invalid_integer", "amount"),
            ({"amount": 49, "currency": "usd"}, "amount_too_small", "amount"),
            ({"amount": 10**8, "currency": "usd"}, "amount_too_large", "amount"),
            ({"amount": 900, "currency": "usd", "foo": 1}, "parameter_unknown", "foo"),
            (
                {"amount": 900, "currency": "usd", "customer": ""},
                "parameter_invalid_empty",
                "customer",
            ),
            ({"amount": 900, "currency": "usd", "off_session": True}, None, "off_session"),
            (
                {"amount": 900, "currency": "usd", "capture_method": "manual"},
                None,
                "capture_method",
            ),
            ({"amount": 900, "currency": "usd", "transfer_group": "x"}, None, "transfer_group"),
            (
                {"amount": 900, "currency": "usd", "payment_method_types": ["card"]},
                "payment_method_types_no_longer_supported",
                "payment_method_types",
            ),
            (
                autopay_charge("x", payment_method="pm_script_missing"),
                "resource_missing",
                "payment_method",
            ),
            (autopay_charge("x", payment_method="tok_visa"), "resource_missing", "payment_method"),
            (autopay_charge("x", customer="cus_script_missing"), "resource_missing", "customer"),
            (autopay_charge("x", mandate="mnd_1"), "resource_missing", "mandate"),
            (
                autopay_charge("x", mandate="mandate_script_inactive"),
                "payment_intent_mandate_invalid",
                "mandate",
            ),
            (
                autopay_charge(
                    "x",
                    payment_method="pm_usBankAccount_success",
                    allowed_payment_method_types=["card"],
                ),
                "payment_intent_incompatible_payment_method",
                "payment_method",
            ),
            (autopay_charge("x", expand=["balance"]), None, "expand"),
        ]
        before = processor.charges()["count"]
        for params, code, param in wrong:
            with pytest.raises(stripe.InvalidRequestError) as raised:
                intents.create(params)
            assert (raised.value.http_status, raised.value.code) == (400, code), params
            assert raised.value.param == param
        assert processor.charges()["count"] == before

    def test_say_what_does_not_exist(self, processor: RunningProcessor) -> None:
        client = processor.client
        for ask in (
            lambda: client.v1.payment_intents.retrieve("pi_none"),
            lambda: client.v1.payment_intents.confirm("pi_none"),
            lambda: client.v1.charges.retrieve("ch_none"),
            lambda: client.v1.refunds.retrieve("re_none"),
            lambda: client.v1.payment_methods.retrieve("pm_script_missing"),
        ):
            with pytest.raises(stripe.InvalidRequestError) as raised:
                ask()
            assert (raised.value.http_status, raised.value.code) == (404, "resource_missing")
        with pytest.raises(stripe.InvalidRequestError) as of_refund:
            client.v1.refunds.create({"payment_intent": "pi_none"})
        assert (of_refund.value.http_status, of_refund.value.code) == (400, "resource_missing")
        with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL"):
            client.v1.subscriptions.list()

    def test_refuse_a_version_that_is_none(self, processor: RunningProcessor) -> None:
        with pytest.raises(stripe.InvalidRequestError, match="Invalid Stripe API version"):
            processor.client.v1.payment_intents.list({}, {"stripe_version": "newest"})

    def test_refuse_another_key(self, processor: RunningProcessor) -> None:
        with pytest.raises(stripe.AuthenticationError) as raised:
            processor.client_with("sk_test_of_somebody_else").v1.payment_intents.list()
        assert raised.value.http_status == 401
        assert "sk_test_of_somebody_else" not in str(raised.value)


class TestIdempotencyKeys:
    def test_repeat_the_first_answer(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        first = intents.create(autopay_charge("key"), {"idempotency_key": "key-1"})
        again = intents.create(autopay_charge("key"), {"idempotency_key": "key-1"})
        assert again.to_dict() == first.to_dict()
        assert first.last_response is not None
        assert again.last_response is not None
        assert "idempotent-replayed" not in first.last_response.headers
        assert again.last_response.headers["idempotent-replayed"] == "true"
        assert (
            again.last_response.headers["original-request"]
            == first.last_response.headers["request-id"]
        )
        assert processor.charges(charge_id="key")["count"] == 1

    def test_repeat_a_decline_even_when_the_card_would_now_pay(
        self, processor: RunningProcessor
    ) -> None:
        given = autopay_charge("kd", payment_method="pm_script_declined_insufficient_funds_1")
        bodies = []
        for _ in range(3):
            with pytest.raises(stripe.CardError) as raised:
                processor.client.v1.payment_intents.create(given, {"idempotency_key": "kd"})
            bodies.append(raised.value.http_body)
        assert bodies[0] == bodies[1] == bodies[2]
        assert processor.charges(charge_id="kd")["count"] == 1

    def test_are_not_for_other_parameters_or_addresses(self, processor: RunningProcessor) -> None:
        client = processor.client
        options: Any = {"idempotency_key": "key-2"}
        intent = client.v1.payment_intents.create(autopay_charge("k2"), options)
        with pytest.raises(stripe.IdempotencyError):
            client.v1.payment_intents.create(autopay_charge("k2", amount=1), options)
        with pytest.raises(stripe.IdempotencyError):
            client.v1.refunds.create({"payment_intent": intent.id}, options)
        reordered = dict(reversed(autopay_charge("k2").items()))
        given: Any = reordered
        assert client.v1.payment_intents.create(given, options).id == intent.id

    def test_are_free_again_after_what_was_never_begun(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        options: Any = {"idempotency_key": "key-3"}
        with pytest.raises(stripe.InvalidRequestError):
            intents.create(autopay_charge("k3", amount=1), options)
        processor.switch(rate_limited={"count": 1})
        with pytest.raises(stripe.RateLimitError):
            intents.create(autopay_charge("k3"), options)
        with pytest.raises(stripe.AuthenticationError):
            processor.client_with("sk_wrong").v1.payment_intents.create(
                autopay_charge("k3"), options
            )
        assert intents.create(autopay_charge("k3"), options).status == "succeeded"

    def test_keep_a_refusal_that_was_decided(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        intent = intents.create(autopay_charge("k4"))
        for _ in range(2):
            with pytest.raises(stripe.InvalidRequestError) as raised:
                intents.confirm(intent.id, {}, {"idempotency_key": "key-4"})
        assert raised.value.headers is not None
        assert raised.value.headers["idempotent-replayed"] == "true"

    def test_are_forgotten_after_a_day(self, processor: RunningProcessor) -> None:
        intents = processor.client.v1.payment_intents
        options: Any = {"idempotency_key": "key-5"}
        first = intents.create(autopay_charge("k5"), options)
        processor.advance(hours=23)
        assert intents.create(autopay_charge("k5"), options).id == first.id
        processor.advance(hours=1)
        assert intents.create(autopay_charge("k5"), options).id != first.id
        assert processor.charges(charge_id="k5")["succeeded"] == 2

    async def test_let_one_of_fifty_at_once_through(self, processor: RunningProcessor) -> None:
        processor.switch(latency_ms=300)

        async def create(client: stripe.StripeClient) -> str | int | None:
            try:
                intent = await client.v1.payment_intents.create_async(
                    autopay_charge("fifty"), {"idempotency_key": "key-6"}
                )
            except stripe.APIError as error:
                assert error.error is not None
                assert error.error.code == "idempotency_key_in_use"
                return error.http_status
            return intent.id

        async with processor.asynchronous() as client:
            answers = Counter(await asyncio.gather(*(create(client) for _ in range(50))))
            assert answers.pop(409) == 49
            assert await create(client) in answers
        assert processor.charges(charge_id="fifty")["count"] == 1

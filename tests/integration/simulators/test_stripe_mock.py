"""The requests that payment-intake makes, checked against Stripe's own OpenAPI by stripe-mock.

The same calls go to the counterpart: what it takes, the real one has to take as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import stripe
from tests.integration.simulators.processor_api import (
    API_KEY,
    autopay_charge,
    running_processor,
)
from tests.support.stripe_mock import running_stripe_mock

Call = Callable[[stripe.StripeClient, str], Any]

KEY: Any = {"idempotency_key": "0197a5d0-0000-5000-8000-000000000001"}

CALLS: dict[str, Call] = {
    "charge": lambda client, _: client.v1.payment_intents.create(
        autopay_charge("conform", expand=["latest_charge"]), KEY
    ),
    "charge a debit under its mandate": lambda client, _: client.v1.payment_intents.create(
        autopay_charge(
            "debit",
            payment_method="pm_usBankAccount_success",
            allowed_payment_method_types=["us_bank_account"],
            mandate="mandate_1",
        ),
    ),
    "charge by automatic methods": lambda client, _: client.v1.payment_intents.create(
        autopay_charge(
            "automatic",
            allowed_payment_method_types=None,
            automatic_payment_methods={"enabled": True, "allow_redirects": "never"},
            error_on_requires_action=True,
            statement_descriptor_suffix="AUTOPAY",
            receipt_email="ann@example.org",
        ),
    ),
    "find": lambda client, _: client.v1.payment_intents.list(
        {
            "customer": "cus_1",
            "created": {"gte": 1_700_000_000},
            "limit": 100,
            "expand": ["data.latest_charge"],
        }
    ),
    "modify": lambda client, intent: client.v1.payment_intents.update(
        intent, {"amount": 5_000, "metadata": {"paypost_charge_id": "conform"}}
    ),
    "retrieve": lambda client, intent: client.v1.payment_intents.retrieve(
        intent, {"expand": ["latest_charge", "payment_method"]}
    ),
    "confirm": lambda client, intent: client.v1.payment_intents.confirm(
        intent,
        {
            "payment_method": "pm_card_visa",
            "off_session": True,
            "mandate": "mandate_1",
            "expand": ["latest_charge"],
        },
        KEY | {"idempotency_key": f"{intent}-2"},
    ),
    "refund": lambda client, intent: client.v1.refunds.create(
        {
            "payment_intent": intent,
            "amount": 100,
            "reason": "requested_by_customer",
            "metadata": {"paypost_charge_id": "conform"},
        },
        KEY | {"idempotency_key": f"{intent}-refund"},
    ),
    "refunds of it": lambda client, intent: client.v1.refunds.list({"payment_intent": intent}),
}


@pytest.fixture(scope="module")
def stripe_mock() -> Iterator[stripe.StripeClient]:
    with running_stripe_mock() as url:
        yield stripe.StripeClient(API_KEY, base_addresses={"api": url}, max_network_retries=0)


@pytest.fixture(scope="module")
def counterpart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stripe.StripeClient]:
    with running_processor(directory=tmp_path_factory.mktemp("processor")) as processor:
        yield processor.client


def new_intent(client: stripe.StripeClient) -> str:
    return client.v1.payment_intents.create({"amount": 8_450, "currency": "usd"}).id


class TestRequestsOfPaymentIntake:
    @pytest.mark.parametrize("call", [*CALLS.values()], ids=[*CALLS])
    def test_are_taken_by_stripes_openapi(
        self, stripe_mock: stripe.StripeClient, call: Call
    ) -> None:
        call(stripe_mock, new_intent(stripe_mock))

    def test_are_taken_by_the_counterpart(self, counterpart: stripe.StripeClient) -> None:
        intent = new_intent(counterpart)
        for call in CALLS.values():
            call(counterpart, intent)

    @pytest.mark.parametrize("client", ["stripe_mock", "counterpart"])
    def test_cancel_what_waits(self, client: str, request: pytest.FixtureRequest) -> None:
        asked: stripe.StripeClient = request.getfixturevalue(client)
        asked.v1.payment_intents.cancel(
            new_intent(asked), {"cancellation_reason": "requested_by_customer"}
        )

    @pytest.mark.parametrize("client", ["stripe_mock", "counterpart"])
    @pytest.mark.parametrize(
        "wrong",
        [{"amount": None}, {"currency": None}, {"amount": "eight"}, {"amount_in_cents": 8_450}],
        ids=["no amount", "no currency", "amount in words", "unknown parameter"],
    )
    def test_are_refused_by_both_when_they_are_wrong(
        self, client: str, wrong: dict[str, Any], request: pytest.FixtureRequest
    ) -> None:
        asked: stripe.StripeClient = request.getfixturevalue(client)
        with pytest.raises(stripe.InvalidRequestError):
            asked.v1.payment_intents.create(autopay_charge("wrong", **wrong))


class TestAnswersOfTheCounterpart:
    """stripe-mock's answers are Stripe's own fixtures: what both have must be of one kind."""

    def test_have_the_kinds_of_stripes_own(
        self, stripe_mock: stripe.StripeClient, counterpart: stripe.StripeClient
    ) -> None:
        theirs = stripe_mock.v1.payment_intents.create(autopay_charge("kinds")).to_dict()
        ours = counterpart.v1.payment_intents.create(autopay_charge("kinds")).to_dict()
        for name in set(theirs) & set(ours):
            if theirs[name] is not None and ours[name] is not None:
                assert type(ours[name]) is type(theirs[name]), name
        needed = {
            *("id", "object", "amount", "amount_received", "created", "currency", "customer"),
            *("last_payment_error", "latest_charge", "metadata", "next_action", "payment_method"),
            *("payment_method_types", "status"),
        }
        assert needed <= set(ours)
        assert needed <= set(theirs)

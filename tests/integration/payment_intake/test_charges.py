"""Charges end to end: real Kafka, real PostgreSQL, Stripe's SDK, the processor counterpart."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import orjson
import pytest
from tests.support.intake_charges import (
    CENTS,
    again,
    ask,
    cancelled_fact,
    counterpart,
    eventually_stated,
    eventually_status,
    facts_of,
    requested_fact,
    settings_for,
)
from tests.support.intake_database import intake_database
from tests.support.intake_service import (
    API_KEY,
    STRIPE_SECRET,
    running_intake,
)

from shared.contracts.enrolments import PaymentMethod
from shared.contracts.topics import create_topics
from shared.messaging.producer import RecordProducer

BANK = {"method": PaymentMethod(kind="us_bank_account", label="Bank", last4="6789")}


@pytest.fixture(scope="module")
async def rows(database):
    async with intake_database(database) as found:
        yield found


@pytest.fixture(scope="module")
async def topics(kafka):
    await create_topics(bootstrap_servers=kafka.bootstrap, replication_factor=1)
    return kafka.bootstrap


@pytest.fixture(scope="module")
async def world(rows, topics):
    """The counterpart and the service, each knowing where the other is."""
    settings = settings_for(rows, topics)
    target = f"http://127.0.0.1:{settings.http_port}/webhooks/stripe"
    async with counterpart(target=target, secret=STRIPE_SECRET) as processor:
        yield processor, settings.model_copy(update={"stripe_api_base": processor.url})


@pytest.fixture(scope="module")
async def intake(world):
    async with running_intake(world[1]) as found:
        yield found


@pytest.fixture
async def processor(world):
    await world[0].reset()
    yield world[0]
    await world[0].reset()


@pytest.fixture(scope="module")
async def producer(topics):
    found = RecordProducer(bootstrap_servers=topics, client_id="test", security={})
    yield found
    await found.close()


class TestCharge:
    async def test_becomes_a_payment(self, intake, processor, producer, topics):
        asked = requested_fact()
        await ask(producer, asked)
        [paid] = await eventually_stated(topics, asked.charge_id, "payment.accepted")
        assert (paid["account_id"], paid["amount_cents"], paid["bill_reference"]) == (
            "1002003",
            CENTS,
            "B-2026-03",
        )
        await processor.settle()
        assert (await processor.charged(asked.charge_id))["succeeded_cents"] == CENTS
        status, charge = await intake.get(f"/charges/{asked.charge_id}")
        assert (status, charge["status"], charge["payment_id"]) == (
            200,
            "charged",
            paid["payment_id"],
        )
        assert "pm_card_visa" not in orjson.dumps(charge).decode()

    async def test_counts_once_when_its_webhooks_come_first(
        self, intake, processor, producer, topics
    ):
        await processor.switch(webhooks_first=True)
        asked = requested_fact()
        await ask(producer, asked)
        await eventually_status(intake, asked.charge_id, "charged")
        await processor.settle()
        await eventually_stated(topics, asked.charge_id, "payment.accepted")

    async def test_counts_once_when_no_webhook_ever_comes(
        self, intake, processor, producer, topics
    ):
        await processor.switch(webhooks_off=True)
        asked = requested_fact()
        await ask(producer, asked)
        await eventually_stated(topics, asked.charge_id, "payment.accepted")

    async def test_is_made_once_when_its_answer_is_lost(self, intake, processor, producer, topics):
        await processor.switch(timeout_after_effect={"count": 1}, webhooks_off=True)
        asked = requested_fact()
        await ask(producer, asked)
        await eventually_stated(topics, asked.charge_id, "payment.accepted")
        _, charge = await intake.get(f"/charges/{asked.charge_id}")
        assert [(each["operation"], each["outcome"]) for each in charge["calls"]] == [
            ("charge", "unknown"),
            ("find", "succeeded"),
        ]
        assert (await processor.charged(asked.charge_id))["count"] == 1

    @pytest.mark.parametrize(
        "switch",
        [
            "rate_limited",
            "down",
            "connection_reset",
            "connection_reset_after_effect",
            "timeout_before_effect",
            "error_before_effect",
            "error_instead_of_effect",
            "error_after_effect",
        ],
    )
    async def test_is_made_once_whatever_the_processor_does(
        self, intake, processor, producer, topics, switch
    ):
        await processor.switch(**{switch: {"count": 1}})
        asked = requested_fact()
        await ask(producer, asked)
        await eventually_stated(topics, asked.charge_id, "payment.accepted")
        await processor.settle()
        found = await processor.charged(asked.charge_id)
        assert (found["count"], found["succeeded_cents"]) == (1, CENTS)

    async def test_is_made_once_however_often_it_is_asked_for(
        self, intake, processor, producer, topics
    ):
        asked = requested_fact()
        await ask(producer, *[asked] * 20)
        await eventually_stated(topics, asked.charge_id, "payment.accepted")
        await ask(producer, asked)
        await eventually_status(intake, asked.charge_id, "charged")
        assert (await processor.charged(asked.charge_id))["count"] == 1

    async def test_of_fifty_accounts_is_made_once_each(self, intake, processor, producer, topics):
        asked = [requested_fact(account_id=f"F{n}") for n in range(50)]
        await ask(producer, *asked)
        for each in asked:
            await eventually_status(intake, each.charge_id, "charged")
        for each in asked:
            assert (await processor.charged(each.charge_id))["count"] == 1


class TestDeclines:
    @pytest.mark.parametrize("answers_lost", [0, 1])
    async def test_are_presented_again_as_the_same_payment(
        self, intake, processor, producer, topics, answers_lost
    ):
        if answers_lost:
            await processor.switch(timeout_after_effect={"count": answers_lost})
        token = f"pm_script_declined_insufficient_funds_1_{uuid4().hex}"
        asked = requested_fact(payment_method_token=token)
        await ask(producer, asked)
        [declined] = await eventually_stated(topics, asked.charge_id, "charge.declined")
        assert declined["category"] == "soft"
        # Its webhook may have told of it first: until the answer has come, nothing goes past it.
        await eventually_status(intake, asked.charge_id, "declined")
        await ask(producer, again(asked, amount_cents=5000))
        _, paid = await eventually_stated(
            topics, asked.charge_id, "charge.declined", "payment.accepted"
        )
        assert (paid["payment_id"], paid["amount_cents"]) == (declined["payment_id"], 5000)
        assert (await processor.charged(asked.charge_id))["succeeded_cents"] == 5000

    async def test_of_a_debit_that_the_bank_returns_twice(
        self, intake, processor, producer, topics
    ):
        token = f"pm_script_ach_R01_2_{uuid4().hex}"
        asked = requested_fact(payment_method_token=token, **BANK)
        await ask(producer, asked)
        stated = ["payment.pending"]
        await eventually_stated(topics, asked.charge_id, *stated)
        await processor.advance(days=5)
        stated += ["charge.declined"]
        facts = await eventually_stated(topics, asked.charge_id, *stated)
        assert (facts[-1]["reason_code"], facts[-1]["category"]) == ("R01", "soft")
        second = again(asked)
        await ask(producer, second)
        await eventually_status(intake, asked.charge_id, "pending")
        await processor.advance(days=5)
        stated += ["charge.declined"]
        await eventually_stated(topics, asked.charge_id, *stated)
        await ask(producer, again(second))
        await eventually_status(intake, asked.charge_id, "pending")
        await processor.advance(days=5)
        stated += ["payment.accepted"]
        await eventually_stated(topics, asked.charge_id, *stated)
        await eventually_status(intake, asked.charge_id, "charged")
        found = await processor.charged(asked.charge_id)
        assert (found["count"], found["succeeded_cents"]) == (3, CENTS)
        assert len({each["payment_intent"] for each in found["charges"]}) == 1


class TestCancellation:
    async def test_of_what_was_charged_a_moment_ago_is_given_back(
        self, intake, processor, producer, topics
    ):
        asked = requested_fact()
        await ask(producer, asked)
        await eventually_status(intake, asked.charge_id, "charged")
        await ask(producer, cancelled_fact(asked))
        await eventually_status(intake, asked.charge_id, "refunded")
        await processor.settle()
        facts = await facts_of(topics, asked.charge_id)
        assert [each for each, _ in facts] == [
            "payment.accepted",
            "payment.reversed",
            "charge.withdrawn",
        ]
        assert facts[-1][1]["is_refunded"] is True
        found = await processor.charged(asked.charge_id)
        assert found["refunded_cents"] == CENTS

    async def test_before_its_request_charges_nothing(self, intake, processor, producer, topics):
        asked = requested_fact()
        await ask(producer, cancelled_fact(asked), asked)
        await eventually_stated(topics, asked.charge_id, "charge.withdrawn")
        assert (await processor.charged(asked.charge_id))["count"] == 0

    async def test_of_a_request_that_came_too_late_charges_nothing(
        self, intake, processor, producer, topics
    ):
        asked = requested_fact(valid_until=datetime.now(UTC) - timedelta(minutes=1))
        await ask(producer, asked)
        [fact] = await eventually_stated(topics, asked.charge_id, "charge.withdrawn")
        assert fact["reason"] == "expired"


class TestSwitch:
    async def test_pauses_from_one_second_to_the_next_and_resumes(
        self, intake, processor, producer, topics, rows
    ):
        said = {"operator": "dana", "note": "double drafts"}
        status, found = await intake.operate("POST", "/charges/pause", said)
        assert (status, found["is_paused"], found["operator"]) == (200, True, "dana")
        asked = requested_fact()
        await ask(producer, asked)
        await eventually_status(intake, asked.charge_id, "due")
        await asyncio.sleep(1)
        assert (await processor.charged(asked.charge_id))["count"] == 0
        status, found = await intake.operate("POST", "/charges/resume", said | {"note": "fixed"})
        assert (status, found["is_paused"]) == (200, False)
        await eventually_status(intake, asked.charge_id, "charged")
        changes = await rows.fetch("SELECT operator, note, is_paused FROM switch_changes")
        assert [tuple(each) for each in changes] == [
            ("dana", "double drafts", True),
            ("dana", "fixed", False),
        ]

    async def test_is_not_turned_by_whom_it_is_not_for(self, intake):
        said = {"operator": "eve", "note": "because"}
        for key in (None, API_KEY, "guessed"):
            assert (await intake.operate("POST", "/charges/pause", said, key=key))[0] == 401
            assert (await intake.operate("GET", "/charges/switch", key=key))[0] == 401
        assert (await intake.operate("GET", "/charges/switch"))[1]["is_paused"] is False

    @pytest.mark.parametrize("body", [{}, {"operator": "dana"}, {"operator": "", "note": "x"}])
    async def test_is_not_turned_without_a_name_and_a_reason(self, intake, body):
        status, problem = await intake.operate("POST", "/charges/pause", body)
        assert status == 422
        assert problem["errors"]

    async def test_says_that_it_does_not_know_a_charge(self, intake):
        assert (await intake.get(f"/charges/{uuid4()}"))[0] == 404
        assert (await intake.get("/charges/not-one"))[0] == 422

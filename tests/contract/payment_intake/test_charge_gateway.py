"""The scenarios of the charge gateway: the stub, and Stripe's SDK against the counterpart."""

from dataclasses import replace
from uuid import uuid4

import pytest
from tests.support.intake_charges import CENTS, StubGateway, a_charge, counterpart, deaf_endpoint
from tests.support.intake_service import eventually_async

from payment_intake.domain.charges import AnswerKind


@pytest.fixture(scope="module")
async def processor():
    async with (
        deaf_endpoint() as target,
        counterpart(target=target, secret="whsec_of-the-tests") as found,
    ):
        yield found


class StubWorld:
    """The stub, under the same handles."""

    def __init__(self):
        self.gateway = StubGateway()

    async def lose_next_answer(self):
        self.gateway.faults.append("lost_after")

    async def lose_next_request(self):
        self.gateway.faults.append("lost_before")

    async def go_down(self):
        self.gateway.faults.append("down")

    async def let_days_pass(self):
        self.gateway.settle()

    async def takings(self, charge):
        intent = self.gateway.intents.get(charge.id)
        is_paid = intent is not None and intent.status == "succeeded"
        taken = intent.amount_cents if is_paid else 0
        return taken, taken if is_paid and intent.is_refunded else 0


class CounterpartWorld:
    def __init__(self, processor):
        self.processor = processor
        self.gateway = processor.gateway(timeout_seconds=1.0)

    async def lose_next_answer(self):
        await self.processor.switch(timeout_after_effect={"count": 1})

    async def lose_next_request(self):
        await self.processor.switch(timeout_before_effect={"count": 1})

    async def go_down(self):
        # A port that nobody listens on: the connection is refused.
        self.gateway._opened = None
        self.gateway._api_base = "http://127.0.0.1:9"

    async def let_days_pass(self):
        await self.processor.advance(days=5)

    async def takings(self, charge):
        found = await self.processor.charged(charge.id)
        return found["succeeded_cents"], found["refunded_cents"]


@pytest.fixture(params=["stub", "counterpart"])
async def world(request, processor):
    if request.param == "stub":
        yield StubWorld()
        return
    await processor.reset()
    found = CounterpartWorld(processor)
    yield found
    await found.gateway.close()


def new(**changes):
    """A charge that no other test knows, of a customer of its own."""
    charge_id = uuid4()
    fields = {"id": charge_id, "customer_token": f"cus_{charge_id.hex[:14]}"}
    return a_charge(**(fields | changes))


def next_attempt(charge, answer, **changes):
    """The attempt after a decline."""
    fields = {
        "attempt": charge.attempt + 1,
        "reference": answer.reference,
        "earlier": (*charge.earlier, answer.part),
    }
    return replace(charge, **(fields | changes))


def debit(**changes):
    return new(
        **({"method_kind": "us_bank_account", "payment_method_token": "pm_usBankAccount_success"})
        | changes
    )


async def eventually_charges(world, charge):
    """The processor may still hold the key of the request that was lost, and says so a while."""

    async def is_charged():
        return (await world.gateway.charge(charge)).kind is AnswerKind.SUCCEEDED

    await eventually_async(is_charged)


class TestCharge:
    async def test_takes_the_money(self, world):
        charge = new()
        answer = await world.gateway.charge(charge)
        assert (answer.kind, answer.amount_cents, answer.currency) == (
            AnswerKind.SUCCEEDED,
            CENTS,
            "USD",
        )
        assert answer.reference.startswith("pi_")
        assert answer.part.startswith(("ch_", "py_"))
        assert await world.takings(charge) == (CENTS, 0)

    async def test_takes_it_once_however_often_it_is_asked_to(self, world):
        charge = new()
        first = await world.gateway.charge(charge)
        again = await world.gateway.charge(charge)
        assert (again.kind, again.reference, again.part) == (
            AnswerKind.SUCCEEDED,
            first.reference,
            first.part,
        )
        assert await world.takings(charge) == (CENTS, 0)

    @pytest.mark.parametrize(
        ("token", "kind", "category"),
        [
            ("pm_script_declined_insufficient_funds", AnswerKind.DECLINED, "soft"),
            ("pm_script_declined_lost_card", AnswerKind.DECLINED, "hard"),
            ("pm_script_declined_revocation_of_authorization", AnswerKind.DECLINED, "withdrawn"),
            (
                "pm_script_declined_authentication_required",
                AnswerKind.ACTION_REQUIRED,
                "action_required",
            ),
        ],
    )
    async def test_says_what_a_decline_means(self, world, token, kind, category):
        charge = new(payment_method_token=token)
        answer = await world.gateway.charge(charge)
        assert (answer.kind, answer.category) == (kind, category)
        assert answer.reference.startswith("pi_")
        assert answer.reason
        assert await world.takings(charge) == (0, 0)

    async def test_presents_the_same_charge_again_after_a_decline(self, world):
        charge = new(payment_method_token=f"pm_script_declined_insufficient_funds_1_{uuid4().hex}")
        declined = await world.gateway.charge(charge)
        second = next_attempt(charge, declined)
        answer = await world.gateway.charge(second)
        assert (answer.kind, answer.reference) == (AnswerKind.SUCCEEDED, declined.reference)
        assert answer.part != declined.part
        assert await world.takings(charge) == (CENTS, 0)

    async def test_presents_less_where_less_is_owed(self, world):
        charge = new(payment_method_token=f"pm_script_declined_insufficient_funds_1_{uuid4().hex}")
        declined = await world.gateway.charge(charge)
        answer = await world.gateway.charge(next_attempt(charge, declined, amount_cents=5000))
        assert (answer.kind, answer.amount_cents) == (AnswerKind.SUCCEEDED, 5000)
        assert await world.takings(charge) == (5000, 0)

    async def test_of_a_bank_account_is_under_way(self, world):
        charge = debit()
        answer = await world.gateway.charge(charge)
        assert answer.kind is AnswerKind.PROCESSING
        assert await world.takings(charge) == (0, 0)
        await world.let_days_pass()
        found = await world.gateway.find(replace(charge, reference=answer.reference))
        assert found.kind is AnswerKind.SUCCEEDED
        assert await world.takings(charge) == (CENTS, 0)

    async def test_is_refused_for_a_token_that_the_processor_does_not_know(self, world):
        charge = new(payment_method_token="pm_script_missing")
        answer = await world.gateway.charge(charge)
        assert (answer.kind, answer.reason, answer.category) == (
            AnswerKind.REFUSED,
            "resource_missing",
            "hard",
        )
        assert (await world.gateway.find(charge)).kind is AnswerKind.NOT_FOUND

    async def test_that_never_left_is_known_not_to_have_taken_effect(self, world):
        await world.go_down()
        answer = await world.gateway.charge(new())
        assert answer.kind is AnswerKind.UNAVAILABLE


class TestLostAnswers:
    async def test_are_unknown_and_found_when_they_took_effect(self, world):
        charge = new()
        await world.lose_next_answer()
        assert (await world.gateway.charge(charge)).kind is AnswerKind.UNKNOWN
        found = await world.gateway.find(charge)
        assert (found.kind, found.amount_cents) == (AnswerKind.SUCCEEDED, CENTS)
        assert await world.takings(charge) == (CENTS, 0)

    async def test_are_unknown_and_not_found_when_they_did_not(self, world):
        charge = new()
        await world.lose_next_request()
        assert (await world.gateway.charge(charge)).kind is AnswerKind.UNKNOWN
        assert (await world.gateway.find(charge)).kind is AnswerKind.NOT_FOUND
        await eventually_charges(world, charge)
        assert await world.takings(charge) == (CENTS, 0)

    async def test_of_a_further_attempt_are_not_mistaken_for_the_decline_before(self, world):
        charge = new(payment_method_token="pm_script_declined_insufficient_funds")
        declined = await world.gateway.charge(charge)
        second = next_attempt(charge, declined)
        await world.lose_next_request()
        assert (await world.gateway.charge(second)).kind is AnswerKind.UNKNOWN
        found = await world.gateway.find(second)
        assert (found.kind, found.reference) == (AnswerKind.NOT_FOUND, declined.reference)

        async def is_declined_anew():
            again = await world.gateway.charge(second)
            return again.kind is AnswerKind.DECLINED and again.part != declined.part

        await eventually_async(is_declined_anew)
        assert (await world.gateway.find(second)).kind is AnswerKind.DECLINED


class TestRefund:
    async def test_gives_all_of_it_back_once(self, world):
        charge = new()
        taken = await world.gateway.charge(charge)
        known = replace(charge, reference=taken.reference)
        first = await world.gateway.refund(known)
        again = await world.gateway.refund(known)
        assert [first.kind, again.kind] == [AnswerKind.REFUNDED] * 2
        assert [first.amount_cents, again.amount_cents] == [CENTS] * 2
        assert await world.takings(charge) == (CENTS, CENTS)


class TestCancel:
    async def test_stops_a_debit_that_can_be_stopped(self, world):
        charge = debit(payment_method_token="pm_script_ach_cancellable_x")
        taken = await world.gateway.charge(charge)
        answer = await world.gateway.cancel(replace(charge, reference=taken.reference))
        assert answer.kind is AnswerKind.CANCELLED
        await world.let_days_pass()
        assert await world.takings(charge) == (0, 0)

    async def test_says_when_it_cannot(self, world):
        charge = debit()
        taken = await world.gateway.charge(charge)
        answer = await world.gateway.cancel(replace(charge, reference=taken.reference))
        assert answer.kind is AnswerKind.PROCESSING


class TestStripeGateway:
    """What only the adapter can meet."""

    @pytest.fixture
    async def gateway(self, processor):
        await processor.reset()
        found = processor.gateway(timeout_seconds=1.0)
        yield found
        await found.close()

    @pytest.mark.parametrize(
        ("switch", "kind", "reason"),
        [
            ("rate_limited", AnswerKind.UNAVAILABLE, "rate_limited"),
            ("down", AnswerKind.UNKNOWN, "processor_http_503"),
            ("error_before_effect", AnswerKind.UNKNOWN, "processor_http_500"),
            ("error_after_effect", AnswerKind.UNKNOWN, "processor_http_500"),
            ("connection_reset", AnswerKind.UNKNOWN, "processor_lost"),
            ("connection_reset_after_effect", AnswerKind.UNKNOWN, "processor_lost"),
            ("timeout_after_effect", AnswerKind.UNKNOWN, "processor_timeout"),
        ],
    )
    async def test_answers_whatever_the_processor_does(
        self, processor, gateway, switch, kind, reason
    ):
        await processor.switch(**{switch: {"count": 1}})
        answer = await gateway.charge(new())
        assert (answer.kind, answer.reason, answer.is_our_trouble) == (kind, reason, False)

    async def test_blames_itself_for_a_key_that_does_not_fit(self, processor):
        gateway = processor.gateway(api_key="sk_test_another")
        answer = await gateway.charge(new())
        await gateway.close()
        assert (answer.kind, answer.reason, answer.is_our_trouble) == (
            AnswerKind.UNAVAILABLE,
            "our_authentication",
            True,
        )

    async def test_blames_itself_for_a_request_that_is_wrong_for_everybody(self, gateway):
        answer = await gateway.charge(new(currency="XXX"))
        assert (answer.kind, answer.is_our_trouble) == (AnswerKind.UNAVAILABLE, True)

    async def test_charges_under_a_new_key_what_stripe_repeats_a_failure_for(
        self, processor, gateway
    ):
        charge = new()
        await processor.switch(error_instead_of_effect={"count": 1})
        failed = await gateway.charge(charge)
        assert (failed.kind, failed.is_key_spent) == (AnswerKind.UNKNOWN, True)
        repeated = await gateway.charge(charge)
        assert (repeated.kind, repeated.reason) == (AnswerKind.UNKNOWN, "processor_http_500")
        assert (await gateway.find(charge)).kind is AnswerKind.NOT_FOUND
        answer = await gateway.charge(replace(charge, keys_spent=1))
        assert answer.kind is AnswerKind.SUCCEEDED
        assert (await processor.charged(charge.id))["succeeded"] == 1

    async def test_looks_through_all_that_a_customer_has(self, processor, gateway):
        one = new()
        await gateway.charge(one)
        for _ in range(101):
            await gateway.charge(new(customer_token=one.customer_token))
        assert (await gateway.find(one)).kind is AnswerKind.SUCCEEDED

    async def test_names_account_bill_and_charge_to_the_processor(self, processor, gateway):
        charge = new()
        await gateway.charge(charge)
        [made] = (await processor.charged(charge.id))["charges"]
        assert made["metadata"] == {
            "account_number": "1002003",
            "bill_reference": "B-2026-03",
            "paypost_charge_id": str(charge.id),
        }
        assert made["idempotency_key"] == str(charge.id)

    async def test_knows_a_debit_that_the_bank_has_returned(self, processor, gateway):
        charge = debit(payment_method_token=f"pm_script_ach_R01_1_{uuid4().hex}")
        taken = await gateway.charge(charge)
        await processor.advance(days=5)
        known = replace(charge, reference=taken.reference)
        found = await gateway.find(known)
        assert (found.kind, found.reason, found.category, found.part) == (
            AnswerKind.DECLINED,
            "R01",
            "soft",
            taken.part,
        )
        second = next_attempt(known, found)
        assert (await gateway.find(second)).kind is AnswerKind.NOT_FOUND
        again = await gateway.charge(second)
        assert (again.kind, again.part != taken.part) == (AnswerKind.PROCESSING, True)

    async def test_says_nothing_of_its_calls_in_the_log(self, gateway, caplog):
        with caplog.at_level("DEBUG"):
            await gateway.charge(new())
        assert [each for each in caplog.records if each.name.startswith("stripe")] == []

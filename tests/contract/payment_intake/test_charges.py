"""The scenarios of a charge: on the store in memory and on PostgreSQL, one and the same."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import orjson
import pytest
from tests.support.announcing import Offered
from tests.support.intake import NOW
from tests.support.intake_charges import (
    CENTS,
    CHARGE,
    Desk,
    cancellation,
    request,
    webhook,
)
from tests.support.intake_database import intake_database
from tests.support.intake_store import InMemoryStore

from payment_intake.domain import Heard, MovementKind, PaymentStatus
from payment_intake.domain.charges import ChargeStatus
from payment_intake.ports import Permit
from payment_intake.usecases import AnnounceAgain, CatchingUp

SOFT = "pm_script_declined_insufficient_funds_1"
SOFT_ALWAYS = "pm_script_declined_insufficient_funds"
HARD = "pm_script_declined_lost_card"
BANK = {"method_kind": "us_bank_account", "payment_method_token": "pm_usBankAccount_success"}
STOPPABLE = {
    "method_kind": "us_bank_account",
    "payment_method_token": "pm_script_ach_cancellable",
}


@pytest.fixture(scope="module")
async def rows(database):
    async with intake_database(database) as found:
        yield found


class Announced:
    """What has been stated, on either store."""

    def __init__(self, store, rows):
        self._store = store
        self._rows = rows

    def records(self):
        if isinstance(self._store, InMemoryStore):
            return self._store.state.announced
        return [row.record for row in self._rows.offered.rows]

    def types(self):
        return [dict(each.headers)["ce_type"].decode() for each in self.records()]

    def facts(self, fact_type):
        return [
            orjson.loads(each.value)
            for each in self.records()
            if dict(each.headers)["ce_type"].decode() == fact_type
        ]

    def ids(self, fact_type):
        headers = [dict(each.headers) for each in self.records()]
        return [each["ce_id"] for each in headers if each["ce_type"].decode() == fact_type]


@pytest.fixture(params=["memory", "postgres"])
async def store(request, rows):
    if request.param == "memory":
        return InMemoryStore()
    await rows.empty()
    return rows.store()


@pytest.fixture
def stated(store, rows):
    return Announced(store, rows)


@pytest.fixture
def desk(store):
    return Desk(store)


class TestRequest:
    async def test_is_charged_and_accepted_as_a_payment(self, desk, stated):
        await desk.ask(request())
        charge = await desk.charge()
        assert (charge.status, charge.reference) == (ChargeStatus.CHARGED, f"pi_{CHARGE.hex}")
        [fact] = stated.facts("payment.accepted")
        assert (fact["charge_id"], fact["account_id"], fact["amount_cents"]) == (
            str(CHARGE),
            "1002003",
            CENTS,
        )
        assert (fact["reference"], fact["bill_reference"], fact["method"]) == (
            f"pi_{CHARGE.hex}",
            "B-2026-03",
            "card",
        )
        assert stated.types() == ["payment.accepted"]

    async def test_is_charged_once_however_often_it_comes(self, desk, stated):
        await desk.ask(request(), request())
        await desk.ask(request())
        assert desk.gateway.calls == ["charge"]
        # What is asked for again has not been heard of: stated again, as the same fact.
        assert len(stated.ids("payment.accepted")) == 2
        assert len(set(stated.ids("payment.accepted"))) == 1

    async def test_waits_durably_before_anything_is_sent(self, desk, stated):
        await desk.take([request()])
        assert (await desk.charge()).status is ChargeStatus.DUE
        assert desk.gateway.calls == []
        assert stated.types() == []

    async def test_of_another_amount_under_the_same_attempt_is_a_conflict(self, desk, store):
        await desk.take([request(), request(amount_cents=9999)])
        await desk.work()
        assert desk.gateway.intents[CHARGE].amount_cents == CENTS
        assert desk.counted("payment_intake_conflicts_total", kind="charge_request") == 1

    async def test_of_a_processor_that_nobody_speaks_to_is_declined_for_good(self, desk, stated):
        await desk.ask(request(processor="adyen"))
        assert desk.gateway.calls == []
        [fact] = stated.facts("charge.declined")
        assert (fact["reason_code"], fact["category"], fact["processor"]) == (
            "unknown_processor",
            "hard",
            "adyen",
        )

    async def test_that_was_too_long_on_its_way_is_not_charged(self, desk, stated):
        await desk.ask(request(valid_until=NOW - timedelta(seconds=1)))
        assert desk.gateway.calls == []
        [fact] = stated.facts("charge.withdrawn")
        assert (fact["charge_id"], fact["reason"], fact["is_refunded"]) == (
            str(CHARGE),
            "expired",
            False,
        )
        assert (fact["attempt"], fact["amount_cents"]) == (1, CENTS)

    async def test_that_expires_while_it_waits_is_withdrawn(self, desk, stated):
        await desk.take([request()])
        desk.later(hours=7)
        assert await desk.withdraw_expired(now=desk.now, limit=10) == 1
        assert await desk.withdraw_expired(now=desk.now, limit=10) == 0
        await desk.work()
        assert desk.gateway.calls == []
        assert stated.types() == ["charge.withdrawn"]

    async def test_that_expires_in_hand_is_withdrawn(self, desk, stated):
        await desk.take([request()])
        desk.later(hours=7)
        await desk.work()
        assert desk.gateway.calls == []
        assert (await desk.charge()).status is ChargeStatus.WITHDRAWN
        assert stated.types() == ["charge.withdrawn"]

    async def test_that_expired_may_be_asked_for_anew(self, desk, stated):
        await desk.ask(request(valid_until=NOW - timedelta(seconds=1)))
        await desk.ask(request(attempt=2))
        assert (await desk.charge()).status is ChargeStatus.CHARGED
        # Nobody knows it by name there: it is looked for before it is made.
        assert desk.gateway.calls == ["find", "charge"]

    async def test_keeps_no_more_of_it_than_tokens(self, desk, store):
        await desk.ask(request())
        view = await store.charge(CHARGE)
        assert [(call.operation, call.outcome) for call in view.calls] == [("charge", "succeeded")]
        assert view.payment_id == (await desk.payment()).id


class TestDecline:
    async def test_is_stated_with_what_it_means(self, desk, stated):
        await desk.ask(request(payment_method_token=HARD))
        [fact] = stated.facts("charge.declined")
        assert (fact["reason_code"], fact["category"], fact["charge_id"]) == (
            "lost_card",
            "hard",
            str(CHARGE),
        )
        charge = await desk.charge()
        assert (charge.status, charge.reason, charge.category) == (
            ChargeStatus.DECLINED,
            "lost_card",
            "hard",
        )

    async def test_that_needs_the_customer_says_so(self, desk, stated):
        await desk.ask(request(payment_method_token="pm_script_declined_authentication_required"))
        [fact] = stated.facts("charge.declined")
        assert fact["category"] == "action_required"

    async def test_of_a_token_that_is_not_known_is_hard(self, desk, stated):
        await desk.ask(request(payment_method_token="pm_script_missing"))
        [fact] = stated.facts("charge.declined")
        assert (fact["reason_code"], fact["category"]) == ("resource_missing", "hard")
        assert fact["reference"] == f"autopay:{CHARGE}"

    async def test_is_followed_by_another_attempt_of_the_same_payment(self, desk, stated):
        await desk.ask(request(payment_method_token=SOFT))
        desk.later(days=3)
        desk.gateway.at = desk.now
        await desk.ask(
            request(
                payment_method_token=SOFT,
                attempt=2,
                amount_cents=5000,
                requested_at=desk.now,
                valid_until=desk.now + timedelta(hours=6),
            )
        )
        assert stated.types() == ["charge.declined", "payment.accepted"]
        [paid] = stated.facts("payment.accepted")
        [declined] = stated.facts("charge.declined")
        assert (paid["payment_id"], paid["amount_cents"]) == (declined["payment_id"], 5000)
        assert desk.gateway.calls == ["charge", "charge"]

    async def test_is_one_decline_an_attempt(self, desk, stated):
        for attempt in (1, 2, 3):
            desk.gateway.at = desk.now
            await desk.ask(
                request(
                    payment_method_token=SOFT_ALWAYS,
                    attempt=attempt,
                    valid_until=desk.now + timedelta(hours=6),
                )
            )
            desk.later(days=3)
        assert stated.types() == ["charge.declined"] * 3
        assert len(set(stated.ids("charge.declined"))) == 3

    async def test_is_stated_again_to_who_asks_for_that_attempt_again(self, desk, stated):
        await desk.ask(request(payment_method_token=HARD))
        await desk.ask(request(payment_method_token=HARD))
        assert desk.gateway.calls == ["charge"]
        first, again = stated.ids("charge.declined")
        assert first == again
        assert [each["category"] for each in stated.facts("charge.declined")] == ["hard"] * 2

    async def test_keeps_its_category_when_it_is_announced_again(self, desk, store, stated):
        await desk.ask(request(payment_method_token=HARD))
        again = AnnounceAgain(
            store=store,
            announce=Offered(),
            metrics=desk.metrics,
            catching_up=CatchingUp(late_seconds=1),
            first_seconds=1,
            cap_seconds=60,
        )
        assert await again(now=NOW + timedelta(hours=1), limit=10) == 1
        assert [each["category"] for each in stated.facts("charge.declined")] == ["hard"] * 2

    async def test_that_its_scheduler_has_not_heard_of_holds_up_the_next_attempt(
        self, desk, stated
    ):
        desk.gateway.faults = ["lost_before"]
        await desk.ask(request())
        await desk.take([request(attempt=2)])
        assert (await desk.charge()).attempt == 1
        assert (await desk.charge()).status is ChargeStatus.UNKNOWN


class TestUnknown:
    async def test_is_asked_about_and_found(self, desk, stated):
        desk.gateway.faults = ["lost_after"]
        await desk.ask(request())
        assert (await desk.charge()).status is ChargeStatus.UNKNOWN
        assert stated.types() == []
        assert await desk.work() == 0
        desk.later(minutes=2)
        await desk.work()
        assert desk.gateway.calls == ["charge", "find"]
        assert stated.types() == ["payment.accepted"]
        assert (
            desk.counted("payment_intake_unknown_charges_resolved_total", outcome="succeeded") == 1
        )

    async def test_is_asked_about_and_sent_when_it_was_not(self, desk, stated):
        desk.gateway.faults = ["lost_before"]
        await desk.ask(request())
        desk.later(minutes=2)
        await desk.work()
        assert desk.gateway.calls == ["charge", "find", "charge"]
        assert stated.types() == ["payment.accepted"]

    async def test_stays_so_while_nobody_answers(self, desk):
        desk.gateway.faults = ["lost_after", "find_down", "find_down"]
        await desk.ask(request())
        for _ in range(2):
            desk.later(minutes=2)
            await desk.work()
            assert (await desk.charge()).status is ChargeStatus.UNKNOWN
        assert desk.gateway.calls == ["charge", "find", "find"]

    async def test_is_what_a_process_leaves_that_dies_with_it_in_hand(self, desk, stated):
        await desk.take([request()])
        [hand] = await desk.lease()
        await desk.gateway.charge(hand.charge)
        assert await desk.work() == 0
        desk.later(minutes=2)
        await desk.work()
        assert desk.gateway.calls == ["charge", "find"]
        assert stated.types() == ["payment.accepted"]

    async def test_is_settled_by_a_webhook_without_asking(self, desk, stated):
        desk.gateway.faults = ["lost_after"]
        await desk.ask(request())
        await desk.hear(webhook(Heard.CAPTURED))
        desk.later(minutes=2)
        assert await desk.work() == 0
        assert (await desk.charge()).status is ChargeStatus.CHARGED
        assert stated.types() == ["payment.accepted"]

    async def test_is_not_sent_again_once_it_has_expired(self, desk, stated):
        desk.gateway.faults = ["lost_before"]
        await desk.ask(request())
        desk.later(hours=7)
        await desk.work()
        assert desk.gateway.calls == ["charge", "find"]
        assert stated.types() == ["charge.withdrawn"]

    async def test_goes_back_when_it_turns_out_paid_after_it_was_withdrawn(self, desk, stated):
        desk.gateway.faults = ["lost_before"]
        await desk.ask(request())
        desk.later(hours=7)
        await desk.work()
        # The processor had it all the time, and says so late.
        held = await desk.charge()
        await desk.gateway.charge(replace(held, attempt=1))
        await desk.hear(webhook(Heard.CAPTURED))
        assert (await desk.charge()).status is ChargeStatus.REFUND_DUE
        await desk.work()
        assert (await desk.charge()).status is ChargeStatus.REFUNDED
        assert desk.gateway.intents[CHARGE].is_refunded


class TestAnswerAndWebhook:
    async def test_count_once_when_the_answer_is_first(self, desk, stated, store):
        await desk.ask(request())
        await desk.hear(webhook(Heard.CAPTURED))
        assert stated.types() == ["payment.accepted"]

    async def test_count_once_when_the_webhook_is_first(self, desk, stated):
        async def webhook_comes() -> None:
            await desk.hear(webhook(Heard.CAPTURED))

        desk.gateway.before_charge = webhook_comes
        await desk.ask(request())
        assert stated.types() == ["payment.accepted"]
        charge = await desk.charge()
        assert (charge.status, charge.reference) == (ChargeStatus.CHARGED, f"pi_{CHARGE.hex}")
        payment = await desk.payment()
        assert payment.references == {
            f"pi_{CHARGE.hex}",
            f"ch_1_{CHARGE.hex}",
            f"autopay:{CHARGE}",
        }

    @pytest.mark.parametrize("webhook_first", [True, False])
    async def test_are_one_decline(self, desk, stated, webhook_first):
        failed = webhook(Heard.FAILED, code="lost_card", category="hard", part=f"ch_1_{CHARGE.hex}")
        if webhook_first:

            async def webhook_comes() -> None:
                await desk.hear(failed)

            desk.gateway.before_charge = webhook_comes
        await desk.ask(request(payment_method_token=HARD))
        if not webhook_first:
            await desk.hear(failed)
        assert stated.types() == ["charge.declined"]
        assert (await desk.charge()).status is ChargeStatus.DECLINED

    async def test_of_a_debit_that_has_failed_before_its_answer_came(self, desk, stated):
        async def webhooks_come() -> None:
            await desk.hear(
                webhook(Heard.PENDING),
                webhook(Heard.FAILED, minute=1, code="R02", category="hard", part="py_1"),
            )

        desk.gateway.before_charge = webhooks_come
        await desk.ask(request(**BANK))
        assert (await desk.charge()).status is ChargeStatus.DECLINED
        assert (await desk.payment()).status is PaymentStatus.FAILED
        assert stated.types() == ["payment.pending", "charge.declined"]


class TestCancellation:
    async def test_before_it_was_sent_withdraws(self, desk, stated):
        await desk.take([request(), cancellation()])
        await desk.work()
        assert desk.gateway.calls == []
        [fact] = stated.facts("charge.withdrawn")
        assert (fact["reason"], fact["is_refunded"], fact["attempt"]) == ("cancelled", False, 1)

    async def test_before_its_request_leaves_a_stone_that_the_request_falls_over(
        self, desk, stated
    ):
        await desk.ask(cancellation())
        await desk.ask(request())
        assert desk.gateway.calls == []
        assert (await desk.charge()).status is ChargeStatus.WITHDRAWN
        assert stated.types() == ["charge.withdrawn"] * 2
        assert len(set(stated.ids("charge.withdrawn"))) == 1

    async def test_in_hand_but_not_sent_withdraws(self, desk, stated, store):
        await desk.take([request()])
        async with store.transaction() as unit:
            [hand] = await unit.charges.claim(
                now=NOW, limit=1, owner=desk.owner, leased_until=NOW + timedelta(seconds=60)
            )
        await desk.take([cancellation()])
        assert stated.types() == []
        await desk.charging.settled(await desk.charging([hand]))
        assert desk.gateway.calls == []
        assert stated.types() == ["charge.withdrawn"]

    async def test_that_loses_the_race_by_a_moment_gives_it_back_and_says_so(self, desk, stated):
        async def customer_cancels() -> None:
            await desk.take([cancellation()])

        desk.gateway.before_charge = customer_cancels
        await desk.ask(request())
        assert (await desk.charge()).status is ChargeStatus.REFUND_DUE
        assert stated.types() == ["payment.accepted"]
        await desk.work()
        [fact] = stated.facts("charge.withdrawn")
        assert (fact["reason"], fact["is_refunded"]) == ("cancelled", True)
        assert stated.types() == ["payment.accepted", "payment.reversed", "charge.withdrawn"]
        [reversal] = stated.facts("payment.reversed")
        assert (reversal["amount_cents"], reversal["reason"], reversal["charge_id"]) == (
            CENTS,
            "refund",
            str(CHARGE),
        )
        assert desk.gateway.calls == ["charge", "find", "refund"]

    async def test_within_the_grace_gives_it_back(self, desk, stated):
        await desk.ask(request())
        await desk.ask(cancellation(cancelled_at=NOW + timedelta(seconds=60)))
        assert stated.facts("charge.withdrawn")[0]["is_refunded"] is True

    async def test_past_the_grace_leaves_the_charge_as_it_is(self, desk, stated):
        await desk.ask(request())
        await desk.ask(cancellation(cancelled_at=NOW + timedelta(seconds=61)))
        assert (await desk.charge()).status is ChargeStatus.CHARGED
        assert desk.gateway.calls == ["charge"]
        # Who cancels has not heard that it was paid.
        assert stated.types() == ["payment.accepted"] * 2

    async def test_counts_once_however_often_it_comes(self, desk, stated):
        await desk.ask(request())
        await desk.ask(cancellation())
        await desk.ask(cancellation())
        assert desk.gateway.calls == ["charge", "find", "refund"]
        assert len(set(stated.ids("charge.withdrawn"))) == 1
        assert len(set(stated.ids("payment.reversed"))) == 1

    async def test_of_what_was_declined_ends_it(self, desk, stated):
        await desk.ask(request(payment_method_token=SOFT))
        await desk.ask(cancellation())
        assert (await desk.charge()).status is ChargeStatus.WITHDRAWN
        await desk.ask(request(payment_method_token=SOFT, attempt=2))
        assert desk.gateway.calls == ["charge"]

    async def test_of_what_is_unknown_waits_for_the_answer(self, desk, stated):
        desk.gateway.faults = ["lost_after"]
        await desk.ask(request())
        await desk.take([cancellation()])
        assert (await desk.charge()).status is ChargeStatus.UNKNOWN
        desk.later(minutes=2)
        await desk.work()
        await desk.work()
        assert (await desk.charge()).status is ChargeStatus.REFUNDED

    async def test_of_what_was_never_there_withdraws_after_asking(self, desk, stated):
        desk.gateway.faults = ["lost_before"]
        await desk.ask(request())
        await desk.take([cancellation()])
        desk.later(minutes=2)
        await desk.work()
        assert desk.gateway.calls == ["charge", "find"]
        assert stated.facts("charge.withdrawn")[0]["is_refunded"] is False

    async def test_stops_a_debit_that_can_be_stopped(self, desk, stated):
        await desk.ask(request(**STOPPABLE))
        await desk.ask(cancellation())
        assert desk.gateway.calls == ["charge", "find", "cancel"]
        assert (await desk.charge()).status is ChargeStatus.WITHDRAWN
        assert stated.facts("charge.withdrawn")[0]["is_refunded"] is False
        assert "payment.accepted" not in stated.types()

    async def test_of_a_debit_that_cannot_be_stopped_is_given_back_once_it_settles(
        self, desk, stated
    ):
        await desk.ask(request(**BANK))
        await desk.ask(cancellation())
        assert (await desk.charge()).status is ChargeStatus.PENDING
        assert "charge.withdrawn" not in stated.types()
        desk.later(days=4)
        desk.gateway.settle()
        await desk.hear(webhook(Heard.CAPTURED, minute=60))
        await desk.work()
        assert (await desk.charge()).status is ChargeStatus.REFUNDED
        assert stated.facts("charge.withdrawn")[0]["is_refunded"] is True

    async def test_of_a_debit_that_comes_back_anyway_withdraws(self, desk, stated):
        await desk.ask(request(**BANK))
        await desk.ask(cancellation())
        await desk.hear(webhook(Heard.FAILED, minute=60, code="R01", category="soft", part="p"))
        assert (await desk.charge()).status is ChargeStatus.WITHDRAWN
        assert stated.facts("charge.withdrawn")[0]["is_refunded"] is False

    async def test_is_given_back_when_the_refunds_answer_was_lost(self, desk, stated):
        await desk.ask(request())
        desk.gateway.faults = ["lost_after"]
        await desk.ask(cancellation())
        assert (await desk.charge()).status is ChargeStatus.REFUND_DUE
        desk.later(minutes=2)
        await desk.work()
        assert (await desk.charge()).status is ChargeStatus.REFUNDED
        assert len(stated.ids("payment.reversed")) == 1

    async def test_that_the_processor_will_not_give_back_is_loud_and_tried_again(
        self, desk, stated
    ):
        await desk.ask(request())
        desk.gateway.faults = ["refused"]
        await desk.ask(cancellation())
        assert (await desk.charge()).status is ChargeStatus.REFUND_DUE
        assert desk.counted("payment_intake_charge_trouble_total", reason="refund_refused") == 1
        assert "charge.declined" not in stated.types()
        desk.later(minutes=59)
        assert await desk.work() == 0
        desk.later(minutes=2)
        await desk.work()
        assert (await desk.charge()).status is ChargeStatus.REFUNDED


class TestSwitch:
    async def test_holds_what_is_not_in_hand(self, desk):
        await desk.switch.turn(is_paused=True, operator="dana", note="double drafts")
        await desk.ask(request())
        assert desk.gateway.calls == []
        assert (await desk.charge()).status is ChargeStatus.DUE
        await desk.switch.turn(is_paused=False, operator="dana", note="found it")
        await desk.work()
        assert desk.gateway.calls == ["charge"]

    async def test_holds_what_is_in_hand_already(self, desk, store):
        await desk.take([request()])
        async with store.transaction() as unit:
            [hand] = await unit.charges.claim(
                now=NOW, limit=1, owner=desk.owner, leased_until=NOW + timedelta(seconds=60)
            )
        await desk.switch.turn(is_paused=True, operator="dana", note="double drafts")
        await desk.charging.settled(await desk.charging([hand]))
        assert desk.gateway.calls == []
        charge = await desk.charge()
        assert (charge.status, charge.reason) == (ChargeStatus.DUE, "paused")

    async def test_lets_the_unknown_be_asked_about_and_sends_nothing(self, desk):
        desk.gateway.faults = ["lost_before"]
        await desk.ask(request())
        await desk.switch.turn(is_paused=True, operator="dana", note="double drafts")
        desk.later(minutes=2)
        await desk.work()
        assert desk.gateway.calls == ["charge", "find"]
        assert (await desk.charge()).status is ChargeStatus.DUE

    async def test_lets_money_go_back(self, desk):
        await desk.ask(request())
        await desk.switch.turn(is_paused=True, operator="dana", note="double drafts")
        await desk.ask(cancellation())
        assert (await desk.charge()).status is ChargeStatus.REFUNDED

    async def test_says_who_turned_it(self, desk):
        assert (await desk.switch.read()).is_paused is False
        desk.later(minutes=1)
        await desk.switch.turn(is_paused=True, operator="dana", note="double drafts")
        found = await desk.switch.read()
        assert (found.is_paused, found.operator, found.note, found.changed_at) == (
            True,
            "dana",
            "double drafts",
            NOW + timedelta(minutes=1),
        )


class TestTrouble:
    async def test_of_ours_declines_nothing_and_stops_the_calls(self, desk, stated):
        desk.gateway.faults = ["ours"] * 10
        await desk.take([request(charge_id=UUID(int=n), account_id=f"A{n}") for n in range(1, 11)])
        await desk.work()
        desk.later(minutes=1)
        await desk.work()
        assert len(desk.gateway.calls) == 3
        assert stated.types() == []
        assert desk.breaker.state == "open"
        assert desk.counted("payment_intake_charge_trouble_total", reason="our_authentication") == 3

    async def test_that_never_left_is_tried_again_without_asking(self, desk):
        desk.gateway.faults = ["down"]
        await desk.ask(request())
        charge = await desk.charge()
        assert (charge.status, charge.tries) == (ChargeStatus.DUE, 1)
        desk.later(minutes=2)
        await desk.work()
        assert desk.gateway.calls == ["charge", "charge"]

    async def test_of_one_account_holds_up_no_other(self, desk):
        desk.gateway.faults = ["down"]
        other = UUID(int=7)
        await desk.ask(request(), request(charge_id=other, account_id="2"))
        statuses = {(await desk.charge(each)).status for each in (CHARGE, other)}
        assert statuses == {ChargeStatus.DUE, ChargeStatus.CHARGED}

    async def test_of_a_lease_that_is_about_to_lapse_sends_nothing(self, desk):
        await desk.take([request()])
        [hand] = await desk.lease()
        desk.later(seconds=56)
        await desk.charging.settled(await desk.charging([hand]))
        assert desk.gateway.calls == []
        assert (await desk.charge()).status is ChargeStatus.DUE


class TestLeases:
    async def test_are_given_once(self, desk, store):
        await desk.take([request(charge_id=UUID(int=n)) for n in range(1, 5)])
        assert len(await desk.lease()) == 4
        assert await desk.lease() == []

    async def test_of_another_are_not_settled_over(self, desk, stated):
        await desk.take([request()])
        [slow] = await desk.lease()
        desk.later(minutes=2)
        await desk.lease()
        await desk.charging.settled(await desk.charging([slow]))
        assert (await desk.charge()).status is ChargeStatus.CHARGING

    async def test_that_are_given_up_are_due_or_unknown_as_before(self, desk, store):
        await desk.take([request()])
        desk.gateway.faults = ["lost_before"]
        await desk.ask(request(charge_id=UUID(int=5)))
        desk.later(minutes=2)
        owner = UUID(int=99)
        async with store.transaction() as unit:
            hands = await unit.charges.claim(
                now=desk.now, limit=9, owner=owner, leased_until=desk.now + timedelta(minutes=1)
            )
            await unit.charges.release(hands, owner=owner, now=desk.now)
        statuses = {hand.charge.id: (await desk.charge(hand.charge.id)).status for hand in hands}
        assert statuses == {hand.charge.id: _before(hand) for hand in hands}

    async def test_permit_only_their_owner(self, desk, store):
        await desk.take([request()])
        [hand] = await desk.lease()
        async with store.transaction() as unit:
            owner = hand.charge.lease_owner
            assert await unit.charges.permit(CHARGE, owner=owner) is Permit.GRANTED
            assert await unit.charges.permit(CHARGE, owner=UUID(int=3)) is Permit.LOST
            assert await unit.charges.permit(UUID(int=4), owner=owner) is Permit.LOST


def _before(hand):
    return ChargeStatus.UNKNOWN if hand.ask_first else ChargeStatus.DUE


class TestReturnedDebits:
    """ACH: presented, returned, presented again, returned, presented again, settled."""

    async def present(self, desk, attempt):
        desk.gateway.at = desk.now
        if attempt > 1:
            desk.gateway.intents[CHARGE].status = "requires_payment_method"
        await desk.ask(
            request(
                **BANK,
                attempt=attempt,
                requested_at=desk.now,
                valid_until=desk.now + timedelta(hours=6),
            )
        )

    async def comes_back(self, desk, attempt):
        desk.later(days=3)
        await desk.hear(
            webhook(
                Heard.FAILED,
                at=desk.now,
                code="R01",
                category="soft",
                part=f"ch_{attempt}_{CHARGE.hex}",
            )
        )
        desk.later(days=3)

    async def through_all(self, desk):
        for attempt in (1, 2):
            await self.present(desk, attempt)
            assert (await desk.charge()).status is ChargeStatus.PENDING
            await self.comes_back(desk, attempt)
            assert (await desk.charge()).status is ChargeStatus.DECLINED
        await self.present(desk, 3)
        desk.later(days=4)
        await desk.hear(webhook(Heard.CAPTURED, at=desk.now))
        assert (await desk.charge()).status is ChargeStatus.CHARGED

    async def test_are_declined_each_once_and_accepted_once(self, desk, stated):
        await self.through_all(desk)
        assert stated.types() == [
            "payment.pending",
            "charge.declined",
            "payment.pending",
            "charge.declined",
            "payment.pending",
            "payment.accepted",
        ]
        assert len(set(stated.ids("charge.declined"))) == 2
        assert {each["category"] for each in stated.facts("charge.declined")} == {"soft"}

    async def test_balance_where_debits_are_posted_at_submission(self, store, stated):
        desk = Desk(store, post_pending=True)
        await self.through_all(desk)
        view = await store.payment_by_reference(processor="stripe", reference=f"autopay:{CHARGE}")
        assert [each.movement.kind for each in view.movements] == [
            MovementKind.PAYMENT,
            MovementKind.REVERSAL,
            MovementKind.REINSTATEMENT,
            MovementKind.REVERSAL,
            MovementKind.REINSTATEMENT,
        ]
        assert {each.movement.amount_cents for each in view.movements} == {CENTS}
        assert stated.types().count("payment.accepted") == 1
        assert {each["charge_id"] for each in stated.facts("payment.reversed")} == {str(CHARGE)}


class TestBacklog:
    async def test_counts_what_is_not_settled(self, desk, store):
        desk.gateway.faults = ["lost_before"]
        await desk.ask(request())
        await desk.take([request(charge_id=UUID(int=5))])
        desk.later(minutes=1)
        found = {
            status: (count, age) for status, count, age in await store.charge_backlog(now=desk.now)
        }
        assert found["unknown"] == (1, 60.0)
        assert found["due"] == (1, 60.0)
        assert found["refund_due"] == (0, 0.0)

    async def test_knows_no_charge_that_nobody_asked_for(self, store):
        assert await store.charge(UUID(int=1)) is None

"""What may become of a charge: the table, and each decision on its own."""

from dataclasses import replace
from datetime import timedelta
from itertools import product
from uuid import UUID

import pytest
from tests.support.intake import NOW
from tests.support.intake_charges import CENTS, CHARGE, a_charge, cancellation, request

from payment_intake.domain import Heard, PaymentStatus
from payment_intake.domain.charges import (
    CHARGE_TRANSITIONS,
    IN_HAND,
    UNSETTLED,
    WAITING,
    Answer,
    AnswerKind,
    ChargeStatus,
    Hand,
    Heeding,
    answered,
    cancelled,
    charge_id_of,
    charge_name,
    given_back,
    heard,
    observation_of,
    requested,
    withdrawn,
)
from shared.contracts.payments import ChargeWithdrawn

GRACE = timedelta(seconds=60)
LATER = NOW + timedelta(minutes=5)
OWNER = UUID(int=7)


def answering(charge, answer, *, ask_first=False, payment=None, now=NOW):
    return answered(
        hand=Hand(charge=charge, ask_first=ask_first, leased_until=NOW + timedelta(minutes=1)),
        charge=charge,
        answer=answer,
        payment=payment,
        grace=GRACE,
        now=now,
        again_at=LATER,
    )


def moved(before, after):
    """The change of status, None where there is none."""
    return None if before.status is after.status else (before.status, after.status)


class TestChargeTransitions:
    def test_are_of_known_statuses_and_reach_each_of_them(self):
        reached = {to for _, to in CHARGE_TRANSITIONS}
        assert reached == set(ChargeStatus)
        assert {source for source, _ in CHARGE_TRANSITIONS} - {None} <= set(ChargeStatus)

    def test_state_every_withdrawal_and_every_refund(self):
        ends = {ChargeStatus.WITHDRAWN, ChargeStatus.REFUNDED}
        for (_, to), fact in CHARGE_TRANSITIONS.items():
            assert (fact == ChargeWithdrawn.TYPE) == (to in ends)

    def test_leave_what_was_given_back_for_ever(self):
        assert not [source for source, _ in CHARGE_TRANSITIONS if source is ChargeStatus.REFUNDED]

    def test_send_only_what_is_in_hand(self):
        assert WAITING | IN_HAND == UNSETTLED
        into_hand = {(source, to) for source, to in CHARGE_TRANSITIONS if to in IN_HAND}
        assert {source for source, _ in into_hand} == UNSETTLED

    @pytest.mark.parametrize(
        ("kind", "payment", "is_cancelled", "is_late", "asks"),
        list(
            product(
                AnswerKind,
                (None, PaymentStatus.FAILED, PaymentStatus.PENDING),
                (True, False),
                (True, False),
                (True, False),
            )
        ),
    )
    def test_allow_whatever_an_answer_makes_of_a_charge(
        self, kind, payment, is_cancelled, is_late, asks
    ):
        charge = a_charge(cancelled_at=NOW if is_cancelled else None, lease_owner=OWNER)
        now = NOW + timedelta(hours=7) if is_late else NOW
        after = answering(charge, Answer(kind=kind), ask_first=asks, payment=payment, now=now)
        assert (charge.status, after.status) in CHARGE_TRANSITIONS
        assert after.lease_owner is None

    @pytest.mark.parametrize(("status", "payment"), list(product(ChargeStatus, PaymentStatus)))
    @pytest.mark.parametrize("is_cancelled", [True, False])
    def test_allow_whatever_a_payment_makes_of_a_charge(self, status, payment, is_cancelled):
        charge = a_charge(status=status, cancelled_at=NOW if is_cancelled else None)
        after = heard(charge=charge, payment=payment, reference="pi_1", grace=GRACE, now=NOW)
        assert moved(charge, after) is None or moved(charge, after) in CHARGE_TRANSITIONS
        assert after.reference == "pi_1"

    @pytest.mark.parametrize(("status", "attempt"), list(product(ChargeStatus, (1, 2))))
    @pytest.mark.parametrize("is_late", [True, False])
    def test_allow_whatever_a_request_makes_of_a_charge(self, status, attempt, is_late):
        charge = a_charge(status=status)
        wanted = request(attempt=attempt)
        after = requested(
            charge=charge, request=wanted, now=NOW + timedelta(hours=7 if is_late else 0)
        ).charge
        assert moved(charge, after) is None or moved(charge, after) in CHARGE_TRANSITIONS

    @pytest.mark.parametrize("status", ChargeStatus)
    @pytest.mark.parametrize("seconds", [0, 60, 61])
    def test_allow_whatever_a_cancellation_makes_of_a_charge(self, status, seconds):
        charge = a_charge(status=status, answered_at=NOW)
        said = cancellation(cancelled_at=NOW + timedelta(seconds=seconds))
        after = cancelled(charge=charge, cancellation=said, grace=GRACE, now=NOW).charge
        assert moved(charge, after) is None or moved(charge, after) in CHARGE_TRANSITIONS

    @pytest.mark.parametrize("kind", AnswerKind)
    def test_allow_whatever_comes_of_giving_back(self, kind):
        charge = a_charge(status=ChargeStatus.REFUNDING, reason="cancelled")
        after = given_back(charge=charge, answer=Answer(kind=kind), now=NOW, again_at=LATER)
        assert (charge.status, after.status) in CHARGE_TRANSITIONS
        assert after.reason == "cancelled"


class TestAnswered:
    @pytest.mark.parametrize(
        ("kind", "status"),
        [
            (AnswerKind.SUCCEEDED, ChargeStatus.CHARGED),
            (AnswerKind.PROCESSING, ChargeStatus.PENDING),
            (AnswerKind.DECLINED, ChargeStatus.DECLINED),
            (AnswerKind.ACTION_REQUIRED, ChargeStatus.DECLINED),
            (AnswerKind.REFUSED, ChargeStatus.DECLINED),
            (AnswerKind.UNKNOWN, ChargeStatus.UNKNOWN),
            (AnswerKind.UNAVAILABLE, ChargeStatus.DUE),
            (AnswerKind.NOT_FOUND, ChargeStatus.DUE),
            (AnswerKind.HELD, ChargeStatus.DUE),
        ],
    )
    def test_is_what_was_learnt(self, kind, status):
        assert answering(a_charge(), Answer(kind=kind)).status is status

    @pytest.mark.parametrize("kind", [AnswerKind.UNAVAILABLE, AnswerKind.HELD])
    def test_leaves_open_what_was_open_before(self, kind):
        after = answering(a_charge(), Answer(kind=kind), ask_first=True)
        assert (after.status, after.due_at) == (ChargeStatus.UNKNOWN, LATER)

    def test_counts_only_what_was_tried(self):
        tried = answering(a_charge(tries=2), Answer(kind=AnswerKind.UNAVAILABLE))
        held = answering(a_charge(tries=2), Answer(kind=AnswerKind.HELD))
        assert (tried.tries, held.tries) == (3, 2)

    def test_counts_the_keys_that_are_spent(self):
        answer = Answer(kind=AnswerKind.UNKNOWN, is_key_spent=True)
        assert answering(a_charge(keys_spent=1), answer).keys_spent == 2

    def test_keeps_when_it_was_known_first(self):
        charge = a_charge(answered_at=NOW)
        after = answering(charge, Answer(kind=AnswerKind.SUCCEEDED), now=LATER)
        assert after.answered_at == NOW


class TestRequested:
    def test_begins_a_further_attempt_afresh(self):
        held = a_charge(
            status=ChargeStatus.DECLINED,
            reason="insufficient_funds",
            category="soft",
            tries=3,
            keys_spent=1,
            reference="pi_1",
            answered_at=NOW,
        )
        wanted = request(attempt=2, amount_cents=5000, payment_method_token="pm_other")
        heeded = requested(charge=held, request=wanted, names={"pi_1", "ch_1"}, now=NOW)
        after = heeded.charge
        assert heeded.heeding is Heeding.NEW
        assert (after.status, after.attempt, after.amount_cents) == (ChargeStatus.DUE, 2, 5000)
        assert (after.reason, after.category, after.tries, after.keys_spent) == (None, None, 0, 0)
        assert (after.answered_at, after.reference) == (None, "pi_1")
        assert after.earlier == ("ch_1", "pi_1")
        assert after.payment_method_token == "pm_other"

    @pytest.mark.parametrize("status", [ChargeStatus.CHARGED, ChargeStatus.REFUNDED])
    def test_never_charges_again_what_was_paid(self, status):
        heeded = requested(charge=a_charge(status=status), request=request(attempt=2), now=NOW)
        assert (heeded.heeding, heeded.charge.status) == (Heeding.REPEATED, status)

    @pytest.mark.parametrize("status", sorted(UNSETTLED | {ChargeStatus.PENDING}))
    def test_does_not_run_ahead_of_an_open_attempt(self, status):
        held = a_charge(status=status)
        heeded = requested(charge=held, request=request(attempt=2), now=NOW)
        assert (heeded.heeding, heeded.charge) == (Heeding.EARLY, held)

    def test_does_not_go_back_to_an_earlier_attempt(self):
        held = a_charge(status=ChargeStatus.DECLINED, attempt=3)
        assert requested(charge=held, request=request(attempt=2), now=NOW).charge == held

    def test_after_its_cancellation_charges_nothing(self):
        held = a_charge(status=ChargeStatus.DECLINED, cancelled_at=NOW)
        heeded = requested(charge=held, request=request(attempt=2), now=NOW)
        assert (heeded.heeding, heeded.charge.status) == (
            Heeding.CANCELLED,
            ChargeStatus.DECLINED,
        )


class TestCancelled:
    def test_marks_what_is_in_hand_and_lets_its_answer_decide(self):
        held = a_charge(lease_owner=OWNER)
        after = cancelled(charge=held, cancellation=cancellation(), grace=GRACE, now=NOW).charge
        assert after == replace(held, cancelled_at=NOW)

    @pytest.mark.parametrize(
        ("seconds", "status"), [(60, ChargeStatus.REFUND_DUE), (61, ChargeStatus.CHARGED)]
    )
    def test_gives_back_within_the_grace(self, seconds, status):
        held = a_charge(status=ChargeStatus.CHARGED, answered_at=NOW)
        said = cancellation(cancelled_at=NOW + timedelta(seconds=seconds))
        after = cancelled(charge=held, cancellation=said, grace=GRACE, now=LATER).charge
        assert after.status is status


class TestObservationOf:
    def test_names_the_payment_by_all_its_names(self):
        answer = Answer(
            kind=AnswerKind.SUCCEEDED,
            reference="pi_1",
            part="ch_1",
            amount_cents=CENTS,
            currency="USD",
            at=LATER,
        )
        said = observation_of(charge=a_charge(), answer=answer, now=NOW)
        assert said.references == ("pi_1", "ch_1", f"autopay:{CHARGE}")
        assert (said.heard, said.at, said.amount_cents) == (Heard.CAPTURED, LATER, CENTS)
        assert (said.account_id, said.bill_reference, said.method) == (
            "1002003",
            "B-2026-03",
            "card",
        )

    @pytest.mark.parametrize(
        "kind", [AnswerKind.UNKNOWN, AnswerKind.UNAVAILABLE, AnswerKind.NOT_FOUND, AnswerKind.HELD]
    )
    def test_says_nothing_of_what_is_not_known(self, kind):
        assert observation_of(charge=a_charge(), answer=Answer(kind=kind), now=NOW) is None

    def test_takes_a_refusal_to_refund_for_no_decline(self):
        charge = a_charge(status=ChargeStatus.REFUNDING)
        refusal = Answer(kind=AnswerKind.REFUSED, reason="charge_disputed")
        assert observation_of(charge=charge, answer=refusal, now=NOW) is None

    def test_tells_refusals_of_two_attempts_apart(self):
        refusal = Answer(kind=AnswerKind.REFUSED, reason="resource_missing", category="hard")
        parts = {
            observation_of(charge=a_charge(attempt=attempt), answer=refusal, now=NOW).part
            for attempt in (1, 2)
        }
        assert parts == {f"autopay:{CHARGE}:1", f"autopay:{CHARGE}:2"}


class TestNames:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            (str(CHARGE), CHARGE),
            (str(CHARGE).upper(), CHARGE),
            (CHARGE.hex, None),
            (f"{{{CHARGE}}}", None),
            (f"urn:uuid:{CHARGE}", None),
            ("", None),
            ("B-2026-03", None),
        ],
    )
    def test_are_uuids_as_everybody_writes_them(self, text, found):
        assert charge_id_of(text) == found

    def test_stand_for_a_charge_only_with_their_prefix(self):
        assert charge_name(f"autopay:{CHARGE}") == CHARGE
        assert charge_name(str(CHARGE)) is None
        assert charge_name("pi_1") is None


class TestWithdrawn:
    def test_keeps_when_it_ended_first(self):
        first = withdrawn(a_charge(), reason="expired", now=NOW)
        assert withdrawn(first, reason="cancelled", now=LATER).ended_at == NOW

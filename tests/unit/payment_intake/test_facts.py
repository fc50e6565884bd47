from dataclasses import replace
from datetime import date, timedelta
from uuid import UUID

import pytest
from tests.support.intake import NET_CENTS, NOW, Watched, heard, policy
from tests.support.intake_charges import CHARGE, cancelled_fact, requested_fact

from payment_intake.consumers import to_heard, to_told, to_wanted
from payment_intake.domain import Heard, MovementKind, MovementStatus
from payment_intake.usecases import movement_fact, pending_fact, primary_reference
from shared.contracts.notifications import (
    NotificationFailed,
    NotificationSent,
    NotificationSkipped,
)
from shared.contracts.portal import PaymentSubmitted
from shared.contracts.postings import (
    PostingDeferred,
    PostingPosted,
    PostingReturned,
    PostingReversed,
    PostingSuspended,
)
from shared.contracts.wire import Received

CAPTURED = heard(Heard.CAPTURED, bill_reference="B-1", method="card")


def watched(*observations) -> Watched:
    found = Watched(policy=policy())
    found.hears(*observations)
    return found


def facts(found: Watched):
    return [movement_fact(movement=each, payment=found.payment) for each in found.movements]


class TestAnnouncedFact:
    def test_of_a_payment_says_all_that_the_poster_needs(self):
        found = watched(CAPTURED)
        [fact] = facts(found)
        assert fact.TYPE == "payment.accepted"
        assert (fact.amount_cents, fact.fee_cents, fact.currency) == (NET_CENTS, 250, "USD")
        assert (fact.account_id, fact.reference, fact.processor) == ("1002003", "pi_1", "stripe")
        assert (fact.bill_reference, fact.method) == ("B-1", "card")
        assert fact.posting_key == fact.payment_id == found.payment.id
        assert fact.effective_date == date(2026, 3, 2)
        assert fact.accepted_at == found.now

    def test_of_each_kind_of_movement_has_its_own_type(self):
        found = watched(
            heard(Heard.FAILED, minute=-9, part="ch_0", code="insufficient_funds"),
            CAPTURED,
            heard(Heard.REFUNDED, minute=1, amount_cents=1000),
            heard(Heard.REFUND_FAILED, minute=2, amount_cents=1000, part="re_1"),
        )
        declined, accepted, reversed_, reinstated = facts(found)
        assert [each.TYPE for each in (declined, accepted, reversed_, reinstated)] == [
            "charge.declined",
            "payment.accepted",
            "payment.reversed",
            "payment.reinstated",
        ]
        assert (declined.attempt, declined.reason_code) == ("ch_0", "insufficient_funds")
        assert (reversed_.reason, reversed_.amount_cents) == ("refund", 1000)
        assert len({each.id() for each in facts(found)}) == 4

    @pytest.mark.parametrize(
        ("code", "category"), [("R01", "soft"), ("R02", "hard"), ("R10", "withdrawn")]
    )
    def test_of_what_the_bank_sent_back_says_what_that_means(self, code, category):
        found = Watched(policy=policy(post_pending=True))
        found.hears(
            heard(Heard.PENDING, minute=1),
            heard(Heard.FAILED, minute=2, part="ch_1", code=code),
        )
        assert facts(found)[-1].TYPE == "payment.reversed"
        assert facts(found)[-1].category == category

    def test_of_a_charge_of_autopay_names_it(self):
        names = ("pi_1", "ch_1", f"autopay:{CHARGE}")
        found = Watched(policy=policy())
        found.hears(
            heard(Heard.PENDING, minute=-9, references=names),
            heard(Heard.FAILED, minute=-8, references=names, part="ch_0", category="soft"),
            replace(CAPTURED, references=names),
            heard(Heard.REFUNDED, minute=1, references=("ch_1",)),
        )
        about = [*facts(found), pending_fact(found.payment)]
        assert [each.TYPE for each in about] == [
            "charge.declined",
            "payment.accepted",
            "payment.reversed",
            "payment.pending",
        ]
        assert {each.charge_id for each in about} == {CHARGE}
        assert about[0].category == "soft"

    def test_of_any_other_payment_names_none(self):
        [fact] = facts(watched(CAPTURED))
        assert fact.charge_id is None

    def test_keeps_its_id_when_it_is_stated_again(self):
        found = watched(CAPTURED)
        before = facts(found)
        found.hears(heard(Heard.REFUNDED, minute=9), heard(Heard.SUBMITTED, minute=10))
        assert facts(found)[0] == before[0]
        assert facts(found)[0].id() == before[0].id()

    def test_of_a_payment_without_an_account_is_stated_all_the_same(self):
        [fact] = facts(watched(replace(CAPTURED, account_id=None)))
        assert fact.account_id is None
        assert fact.partition_key() == str(fact.payment_id)

    def test_of_a_pending_payment_says_since_when(self):
        fact = pending_fact(watched(heard(Heard.PENDING, minute=3)).payment)
        assert (fact.TYPE, fact.pending_at) == ("payment.pending", NOW + timedelta(minutes=3))

    @pytest.mark.parametrize(
        ("names", "primary"),
        [
            ({"ch_1", "pi_9"}, "pi_9"),
            ({"ch_2", "ch_1"}, "ch_1"),
            ({"K-1"}, "K-1"),
            ({"autopay:x", "pi_9", "ch_1"}, "pi_9"),
            ({"autopay:x", "ch_1"}, "ch_1"),
            ({"autopay:x"}, "autopay:x"),
        ],
    )
    def test_names_the_payment_as_clerks_find_it(self, names, primary):
        payment = replace(watched(CAPTURED).payment, references=frozenset(names))
        assert primary_reference(payment) == primary


KEY, PAYMENT_ID = UUID(int=7), UUID(int=8)
POSTING = {
    "posting_key": KEY,
    "payment_id": PAYMENT_ID,
    "account_id": "1",
    "amount_cents": 1,
    "currency": "USD",
    "accepted_at": NOW,
}
ON_LEDGER = POSTING | {
    "effective_date": date(2026, 3, 2),
    "posted_at": NOW,
    "cis_reference": "C-1",
    "balance_after_cents": -3,
}
NOTIFICATION = {
    "notification_id": UUID(int=9),
    "payment_id": PAYMENT_ID,
    "posting_key": KEY,
    "account_id": "1",
}


def received(fact) -> Received:
    return Received(
        fact=fact, event_id="e", event_type=fact.TYPE, source="/x", time=None, traceparent=None
    )


class TestWhatIsHeardOfPostings:
    @pytest.mark.parametrize(
        ("fact", "status", "reason"),
        [
            (PostingPosted(**ON_LEDGER, kind="payment"), MovementStatus.POSTED, None),
            (PostingReversed(**ON_LEDGER, kind="reversal"), MovementStatus.POSTED, None),
            (
                PostingSuspended(
                    **POSTING, kind="payment", reason="unknown", suspension=1, suspended_at=NOW
                ),
                MovementStatus.SUSPENDED,
                "unknown",
            ),
            (
                PostingDeferred(
                    **POSTING, kind="payment", reason="cis_down", attempts=2, deferred_at=NOW
                ),
                MovementStatus.ANNOUNCED,
                "cis_down",
            ),
            (
                PostingReturned(**POSTING, kind="payment", reason="asked", returned_at=NOW),
                MovementStatus.RETURNED,
                "asked",
            ),
        ],
        ids=lambda value: getattr(value, "TYPE", None),
    )
    def test_is_a_movements_status_and_its_reason(self, fact, status, reason):
        found = to_heard(received(fact))
        assert (found.movement_id, found.at, found.status, found.reason) == (
            KEY,
            NOW,
            status,
            reason,
        )
        if status is MovementStatus.POSTED:
            assert (found.cis_reference, found.balance_after_cents) == ("C-1", -3)

    def test_is_nothing_where_it_is_of_no_posting(self):
        fact = PaymentSubmitted(
            account_id="1",
            processor="stripe",
            reference="r",
            amount_cents=1,
            currency="USD",
            submitted_at=NOW,
        )
        assert to_heard(received(fact)) is None
        assert to_told(received(fact)) is None


class TestWhatIsHeardOfNotifications:
    @pytest.mark.parametrize(
        ("kind", "movement"),
        [
            ("posted", MovementKind.PAYMENT),
            ("reversed", MovementKind.REVERSAL),
            ("reinstated", MovementKind.REINSTATEMENT),
            ("declined", MovementKind.DECLINE),
            ("charge_declined", MovementKind.DECLINE),
        ],
    )
    def test_ends_the_chain_of_its_kind(self, kind, movement):
        sent = NotificationSent(**NOTIFICATION, kind=kind, sent_at=NOW, message_id="<m>")
        failed = NotificationFailed(**NOTIFICATION, kind=kind, failed_at=NOW, reason="550")
        skipped = NotificationSkipped(
            **NOTIFICATION, kind=kind, skipped_at=NOW, reason="no_address"
        )
        found = [to_told(received(fact)) for fact in (sent, failed, skipped)]
        assert [each.outcome for each in found] == ["sent", "failed", "skipped"]
        for each in found:
            assert (each.kind, each.movement_id, each.payment_id, each.at) == (
                movement,
                KEY,
                PAYMENT_ID,
                NOW,
            )

    def test_of_a_delay_ends_nothing(self):
        fact = NotificationSent(**NOTIFICATION, kind="delayed", sent_at=NOW, message_id="<m>")
        assert to_told(received(fact)) is None

    @pytest.mark.parametrize("kind", ["charge_announced", "autopay_started", "declined"])
    def test_is_nothing_where_it_tells_of_no_payment(self, kind):
        about = NOTIFICATION | {"payment_id": None, "posting_key": None}
        sent = NotificationSent(**about, kind=kind, sent_at=NOW, message_id="<m>")
        assert to_told(received(sent)) is None


class TestWhatIsHeardOfAutopay:
    def test_asks_for_a_charge(self):
        fact = requested_fact(mandate_token="mandate_123", attempt=2)
        wanted = to_wanted(received(fact))
        assert (wanted.charge_id, wanted.attempt, wanted.amount_cents) == (
            fact.charge_id,
            2,
            fact.amount_cents,
        )
        assert (wanted.payment_method_token, wanted.customer_token, wanted.mandate_token) == (
            "pm_card_visa",
            fact.customer_token,
            "mandate_123",
        )
        assert (wanted.method_kind, wanted.valid_until) == ("card", fact.valid_until)

    def test_takes_one_back(self):
        fact = cancelled_fact(requested_fact())
        wanted = to_wanted(received(fact))
        assert (wanted.charge_id, wanted.cancelled_at) == (fact.charge_id, fact.cancelled_at)

    def test_is_nothing_where_it_is_of_no_charge(self):
        fact = NotificationSent(**NOTIFICATION, kind="posted", sent_at=NOW, message_id="<m>")
        assert to_wanted(received(fact)) is None

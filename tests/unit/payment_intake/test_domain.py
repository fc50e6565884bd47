from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import permutations, product
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.intake import (
    FEE_CENTS,
    GROSS_CENTS,
    NET_CENTS,
    NOW,
    Watched,
    heard,
    observed,
    policy,
    stripe_train,
)
from tests.support.ledger_by_hand import ledger_by_hand

from payment_intake.domain import (
    ANNOUNCED_BY,
    ENDING_NOTIFICATIONS,
    MOVEMENT_TRANSITIONS,
    PAYMENT_TRANSITIONS,
    Heard,
    MovementKind,
    MovementStatus,
    PaymentStatus,
    merged,
)

API_VERSIONS = ["2020-08-27", "2024-06-20"]
CAPTURED = heard(Heard.CAPTURED, minute=2)
PENDING = heard(Heard.PENDING)
FAILED = heard(Heard.FAILED, minute=5, code="R01", part="ch_1")


def watched(*observations, post_pending=False) -> Watched:
    found = Watched(policy=policy(post_pending=post_pending))
    if observations:
        found.hears(*observations)
    return found


class TestCardPayment:
    @pytest.mark.parametrize("api_version", API_VERSIONS)
    def test_moves_once_in_whichever_order_its_four_events_arrive(self, api_version):
        train = stripe_train("card", api_version=api_version)
        assert len(train) == 4
        for order in permutations(train):
            found = watched(*observed(order))
            assert found.moved() == [("payment", NET_CENTS)]
            assert found.payment.status is PaymentStatus.CAPTURED
            assert found.conflicts == []

    def test_keeps_the_fee_from_the_ledger(self):
        found = watched(CAPTURED)
        assert found.ledger_cents == NET_CENTS
        assert found.payment.fee_cents == FEE_CENTS

    def test_is_posted_under_the_payments_own_id(self):
        found = watched(CAPTURED)
        assert found.movements[0].id == found.payment.id

    def test_is_the_same_for_both_versions_of_the_api(self):
        old, new = (observed(stripe_train("card", api_version=each)) for each in API_VERSIONS)
        for one, other in zip(old, new, strict=True):
            assert (one.heard, one.amount_cents, one.fee_cents, one.account_id) == (
                other.heard,
                other.amount_cents,
                other.fee_cents,
                other.account_id,
            )
            assert set(one.references) == set(other.references)

    def test_changes_nothing_when_it_is_said_again(self):
        found = watched(CAPTURED)
        before = found.payment
        change = found.hears(CAPTURED)
        assert (change.payment, change.movements, change.conflicts) == (before, [], [])

    def test_is_recorded_as_a_conflict_when_its_amount_is_said_differently(self):
        found = watched(CAPTURED, replace(CAPTURED, amount_cents=GROSS_CENTS + 1))
        assert found.moved() == [("payment", NET_CENTS)]
        (conflict,) = found.conflicts
        assert conflict.kind == "payment_amount"
        assert conflict.detail["held_cents"] == NET_CENTS
        assert conflict.detail["heard_cents"] == NET_CENTS + 1

    def test_is_recorded_as_a_conflict_when_its_currency_is_said_differently(self):
        found = watched(CAPTURED, replace(CAPTURED, currency="CAD"))
        assert [conflict.kind for conflict in found.conflicts] == ["payment_amount"]
        assert found.payment.currency == "USD"

    def test_is_accepted_without_an_account(self):
        found = watched(replace(CAPTURED, account_id=None))
        assert found.moved() == [("payment", NET_CENTS)]
        assert found.payment.account_id is None


class TestSubmittedPayment:
    def test_posts_nothing_by_itself(self):
        found = watched(heard(Heard.SUBMITTED))
        assert found.moved() == []
        assert found.payment.status is PaymentStatus.SUBMITTED
        assert found.payment.submitted_at == NOW

    def test_joins_the_processors_own_event(self):
        found = watched(heard(Heard.SUBMITTED), CAPTURED)
        assert found.moved() == [("payment", NET_CENTS)]

    def test_changes_nothing_when_it_comes_after_the_capture(self):
        found = watched(CAPTURED, heard(Heard.SUBMITTED))
        assert found.payment.status is PaymentStatus.CAPTURED
        assert found.payment.submitted_at == NOW
        assert found.moved() == [("payment", NET_CENTS)]


class TestAch:
    @pytest.mark.parametrize("api_version", API_VERSIONS)
    def test_is_pending_at_submission_and_posts_at_settlement(self, api_version):
        found = watched()
        train = observed(stripe_train("ach", api_version=api_version))
        assert train[0].heard is Heard.PENDING
        found.hears(train[0])
        assert found.moved() == []
        assert found.payment.status is PaymentStatus.PENDING
        found.hears(*train[1:])
        assert found.moved() == [("payment", NET_CENTS)]
        assert found.times_pending == 1

    def test_posts_at_submission_where_the_city_says_so(self):
        found = watched(*observed(stripe_train("ach")), post_pending=True)
        assert found.moved() == [("payment", NET_CENTS)]
        assert found.payment.status is PaymentStatus.CAPTURED

    def test_that_returns_is_declined_once_where_nothing_was_posted(self):
        found = watched(*observed(stripe_train("ach_return")))
        assert found.moved() == [("decline", NET_CENTS)]
        assert found.payment.status is PaymentStatus.FAILED

    def test_that_returns_is_reversed_where_it_was_posted(self):
        _, submission, _, bank_return = stripe_train("ach_return")
        found = watched(*observed([submission, bank_return]), post_pending=True)
        assert found.moved() == [("payment", NET_CENTS), ("reversal", NET_CENTS)]
        reversal = found.movements[1]
        assert (reversal.reason, reversal.reason_code) == ("ach_return", "R01")

    @pytest.mark.parametrize("post_pending", [False, True])
    def test_that_failed_is_not_pending_again_by_a_late_event(self, post_pending):
        found = watched(FAILED, PENDING, post_pending=post_pending)
        assert found.payment.status is PaymentStatus.FAILED
        assert found.ledger_cents == 0
        assert found.times_pending == 0

    def test_is_not_taken_back_by_the_failure_of_an_earlier_attempt(self):
        declined_card = heard(Heard.FAILED, minute=-5, part="ch_0")
        found = watched(PENDING, declined_card, post_pending=True)
        assert found.payment.status is PaymentStatus.PENDING
        assert found.moved() == [("payment", NET_CENTS)]

    def test_that_was_returned_and_is_paid_by_card_after_all_is_on_the_ledger(self):
        paid = heard(Heard.CAPTURED, minute=9)
        found = watched(PENDING, FAILED, paid, post_pending=True)
        assert found.moved() == [
            ("payment", NET_CENTS),
            ("reversal", NET_CENTS),
            ("reinstatement", NET_CENTS),
        ]
        assert found.payment.status is PaymentStatus.CAPTURED

    def test_that_was_returned_and_is_submitted_again_is_on_the_ledger_again(self):
        again = heard(Heard.PENDING, minute=9)
        found = watched(PENDING, FAILED, again, post_pending=True)
        assert found.ledger_cents == NET_CENTS
        found.hears(heard(Heard.FAILED, minute=11, code="R01", part="ch_2"))
        assert found.ledger_cents == 0

    def test_that_is_cancelled_tells_of_no_decline(self):
        found = watched(PENDING, heard(Heard.CANCELLED, minute=3))
        assert found.moved() == []
        assert found.payment.status is PaymentStatus.FAILED

    def test_that_is_cancelled_after_it_was_posted_is_reversed(self):
        found = watched(PENDING, heard(Heard.CANCELLED, minute=3), post_pending=True)
        assert found.ledger_cents == 0


class TestDecline:
    @pytest.mark.parametrize("api_version", API_VERSIONS)
    def test_is_told_once_though_two_events_speak_of_it(self, api_version):
        train = stripe_train("decline", api_version=api_version)
        for order in permutations(observed(train)):
            assert watched(*order).moved() == [("decline", NET_CENTS)]

    def test_is_told_for_each_attempt(self):
        first = heard(Heard.FAILED, part="ch_1")
        second = heard(Heard.FAILED, minute=1, part="ch_2")
        assert watched(first, second, first).moved() == [("decline", NET_CENTS)] * 2

    def test_is_followed_by_a_payment_when_the_next_card_is_taken(self):
        found = watched(heard(Heard.FAILED, part="ch_1"), CAPTURED)
        assert found.moved() == [("decline", NET_CENTS), ("payment", NET_CENTS)]
        assert found.payment.status is PaymentStatus.CAPTURED

    def test_is_not_told_when_the_payment_has_already_succeeded(self):
        assert watched(CAPTURED, heard(Heard.FAILED)).moved() == [("payment", NET_CENTS)]


class TestRefund:
    def test_is_the_difference_of_what_is_said_in_all(self):
        found = watched(CAPTURED, heard(Heard.REFUNDED, minute=3, amount_cents=3000))
        found.hears(heard(Heard.REFUNDED, minute=4, amount_cents=5000))
        assert found.moved() == [
            ("payment", NET_CENTS),
            ("reversal", 3000),
            ("reversal", 2000),
        ]
        assert {each.reason for each in found.movements[1:]} == {"refund"}

    def test_of_less_arriving_later_changes_nothing(self):
        found = watched(CAPTURED, heard(Heard.REFUNDED, minute=4, amount_cents=5000))
        found.hears(heard(Heard.REFUNDED, minute=3, amount_cents=3000))
        assert found.moved() == [("payment", NET_CENTS), ("reversal", 5000)]

    def test_before_its_payment_waits_for_it(self):
        found = watched(heard(Heard.REFUNDED, minute=3))
        assert found.moved() == []
        found.hears(CAPTURED)
        assert found.moved() == [("payment", NET_CENTS), ("reversal", NET_CENTS)]

    @pytest.mark.parametrize("scenario", ["refund", "refund_first"])
    @pytest.mark.parametrize("api_version", API_VERSIONS)
    def test_of_all_leaves_nothing_on_the_ledger(self, scenario, api_version):
        found = watched(*observed(stripe_train(scenario, api_version=api_version)))
        assert found.moved() == [("payment", NET_CENTS), ("reversal", NET_CENTS)]
        assert found.conflicts == []

    def test_of_the_fee_is_no_business_of_the_ledger(self):
        found = watched(CAPTURED, heard(Heard.REFUNDED, amount_cents=GROSS_CENTS))
        assert found.ledger_cents == 0
        assert found.conflicts == []

    def test_of_more_than_was_paid_is_capped_and_recorded(self):
        found = watched(CAPTURED, heard(Heard.REFUNDED, amount_cents=GROSS_CENTS + 1))
        assert found.ledger_cents == 0
        assert [conflict.kind for conflict in found.conflicts] == ["reversed_more_than_paid"]

    def test_that_fails_is_reinstated(self):
        found = watched(
            CAPTURED,
            heard(Heard.REFUNDED, minute=3, amount_cents=3000),
            heard(Heard.REFUND_FAILED, minute=4, amount_cents=3000, part="re_1"),
        )
        assert found.moved() == [
            ("payment", NET_CENTS),
            ("reversal", 3000),
            ("reinstatement", 3000),
        ]

    def test_that_fails_is_reinstated_once_though_several_events_say_so(self):
        failed = heard(Heard.REFUND_FAILED, minute=4, amount_cents=3000, part="re_1")
        refunded = heard(Heard.REFUNDED, minute=3, amount_cents=3000)
        again = replace(failed, at=failed.at + timedelta(minutes=3))
        found = watched(CAPTURED, refunded, failed, again, failed)
        assert found.ledger_cents == NET_CENTS
        assert len(found.movements) == 3

    @pytest.mark.parametrize("api_version", API_VERSIONS)
    def test_in_parts_of_which_the_last_fails(self, api_version):
        train = stripe_train("partial_refunds", api_version=api_version)
        # A third of 85.00 stays refunded; the rest came back.
        assert watched(*observed(train)).ledger_cents == NET_CENTS - 2833

    def test_of_nothing_heard_to_be_paid_moves_nothing(self):
        assert watched(heard(Heard.REFUNDED), FAILED).ledger_cents == 0


class TestDispute:
    WITHDRAWN = heard(Heard.FUNDS_WITHDRAWN, minute=3, part="dp_1", code="fraudulent")
    REINSTATED = heard(Heard.FUNDS_REINSTATED, minute=9, part="dp_1")

    def test_takes_the_payment_back_when_its_funds_are_withdrawn(self):
        found = watched(CAPTURED, self.WITHDRAWN)
        assert found.moved() == [("payment", NET_CENTS), ("reversal", NET_CENTS)]
        assert found.movements[1].reason == "dispute"
        assert found.movements[1].reason_code == "fraudulent"

    def test_gives_it_back_when_its_funds_are_reinstated(self):
        found = watched(CAPTURED, self.WITHDRAWN, self.REINSTATED)
        assert found.ledger_cents == NET_CENTS
        assert found.movements[-1].kind is MovementKind.REINSTATEMENT

    def test_ends_in_the_same_sum_when_the_reinstatement_is_heard_first(self):
        found = watched(CAPTURED, self.REINSTATED, self.WITHDRAWN)
        assert found.ledger_cents == NET_CENTS

    def test_moves_nothing_when_both_came_before_the_payment(self):
        found = watched(self.WITHDRAWN, self.REINSTATED, CAPTURED)
        assert found.moved() == [("payment", NET_CENTS)]

    @pytest.mark.parametrize("api_version", API_VERSIONS)
    def test_moves_money_only_with_its_funds(self, api_version):
        lost = watched(*observed(stripe_train("dispute", api_version=api_version)))
        won = watched(*observed(stripe_train("dispute_won", api_version=api_version)))
        assert lost.ledger_cents == 0
        assert won.ledger_cents == NET_CENTS

    def test_and_refund_together_take_no_more_than_was_paid(self):
        found = watched(CAPTURED, heard(Heard.REFUNDED, amount_cents=5000), self.WITHDRAWN)
        assert found.ledger_cents == 0
        assert [conflict.kind for conflict in found.conflicts] == ["reversed_more_than_paid"]


class TestMergedPayment:
    def test_keeps_what_each_of_the_two_knew(self):
        named = watched(heard(Heard.SUBMITTED, references=("pi_1",)))
        refunded = watched(
            heard(Heard.REFUNDED, references=("ch_1",), amount_cents=2000, account_id=None)
        )
        one = merged(into=named.payment, other=refunded.payment)
        named.payment = one
        named.hears(CAPTURED)
        assert one.references == {"pi_1", "ch_1"}
        assert named.moved() == [("payment", NET_CENTS), ("reversal", 2000)]

    def test_knows_a_dispute_that_each_had_heard_half_of(self):
        into = watched(heard(Heard.FUNDS_WITHDRAWN, minute=3, references=("pi_1",), part="dp_1"))
        other = watched(heard(Heard.FUNDS_REINSTATED, minute=9, references=("ch_1",), part="dp_1"))
        into.payment = merged(into=into.payment, other=other.payment)
        into.hears(CAPTURED)
        assert into.ledger_cents == NET_CENTS


class TestEffectiveDate:
    @pytest.mark.parametrize(
        ("at", "cutoff", "day"),
        [
            # Noon in Chicago is 18:00 UTC in winter, 17:00 UTC in summer.
            ("2026-03-02T18:00:00Z", None, date(2026, 3, 2)),
            ("2026-03-03T05:59:59Z", None, date(2026, 3, 2)),
            ("2026-03-03T06:00:00Z", None, date(2026, 3, 3)),
            ("2026-07-02T04:59:59Z", None, date(2026, 7, 1)),
            ("2026-07-02T05:00:00Z", None, date(2026, 7, 2)),
            ("2026-03-02T23:00:00Z", time(17), date(2026, 3, 2)),
            ("2026-03-02T23:00:01Z", time(17), date(2026, 3, 3)),
            ("2026-07-01T22:00:00Z", time(17), date(2026, 7, 1)),
            ("2026-07-01T22:00:01Z", time(17), date(2026, 7, 2)),
            ("2026-12-31T23:30:00Z", time(17), date(2027, 1, 1)),
            # 8 March 2026: 01:59:59 CST is followed by 03:00:00 CDT.
            ("2026-03-08T07:59:59Z", time(2), date(2026, 3, 8)),
            ("2026-03-08T08:00:00Z", time(2), date(2026, 3, 9)),
            # 1 November 2026: 01:30 comes twice, both times before a cutoff at 01:45.
            ("2026-11-01T06:30:00Z", time(1, 45), date(2026, 11, 1)),
            ("2026-11-01T07:30:00Z", time(1, 45), date(2026, 11, 1)),
        ],
    )
    def test_is_the_citys_day_under_its_cutoff(self, at, cutoff, day):
        found = policy(cutoff=cutoff).effective_date(at=datetime.fromisoformat(at))
        assert found == day

    def test_follows_the_zone(self):
        at = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
        assert policy(time_zone=ZoneInfo("Pacific/Auckland")).effective_date(at=at) == date(
            2026, 3, 3
        )

    def test_is_of_the_payments_time_and_not_of_its_arrival(self):
        found = watched(heard(Heard.CAPTURED))
        assert found.movements[0].effective_date == date(2026, 3, 2)
        assert found.movements[0].accepted_at == NOW + timedelta(days=1)

    def test_is_never_in_the_future(self):
        found = watched(heard(Heard.CAPTURED, minute=60 * 24 * 400))
        assert found.movements[0].effective_date == date(2026, 3, 3)


REACHED_BY = {
    PaymentStatus.SEEN: [heard(Heard.REFUNDED)],
    PaymentStatus.SUBMITTED: [heard(Heard.SUBMITTED)],
    PaymentStatus.PENDING: [heard(Heard.PENDING)],
    PaymentStatus.CAPTURED: [heard(Heard.CAPTURED)],
    PaymentStatus.FAILED: [heard(Heard.FAILED, part="ch_0")],
}
LEADS_TO = {
    PaymentStatus.SUBMITTED: heard(Heard.SUBMITTED, minute=7),
    PaymentStatus.PENDING: heard(Heard.PENDING, minute=7),
    PaymentStatus.CAPTURED: heard(Heard.CAPTURED, minute=7),
    PaymentStatus.FAILED: heard(Heard.FAILED, minute=7, part="ch_9"),
}


class TestPaymentTransitions:
    @pytest.mark.parametrize("status", list(PaymentStatus))
    def test_reach_every_status(self, status):
        assert watched(*REACHED_BY[status]).payment.status is status
        assert (None, status) in PAYMENT_TRANSITIONS

    @pytest.mark.parametrize(("held", "told"), list(product(PaymentStatus, LEADS_TO)))
    def test_are_allowed_or_change_nothing(self, held, told):
        found = watched(*REACHED_BY[held])
        change = found.hears(LEADS_TO[told])
        if (held, told) in PAYMENT_TRANSITIONS:
            assert found.payment.status is told
            fact = PAYMENT_TRANSITIONS[held, told]
            stated = [ANNOUNCED_BY[each.kind].TYPE for each in change.movements]
            stated += ["payment.pending"] if change.became_pending else []
            # What was refunded before the payment was known follows it at once.
            stated = [each for each in stated if each != "payment.reversed"]
            assert stated == ([fact] if fact else [])
        else:
            assert found.payment.status is held

    def test_never_lead_back_to_merely_seen(self):
        assert all(to is not PaymentStatus.SEEN for held, to in PAYMENT_TRANSITIONS if held)


class TestMovementTransitions:
    def test_reach_every_status_from_the_first(self):
        reached = {None}
        while more := {to for (held, to) in MOVEMENT_TRANSITIONS if held in reached} - reached:
            reached |= more
        assert reached == {None, *MovementStatus}

    def test_have_two_ends(self):
        held = {status for status, _ in MOVEMENT_TRANSITIONS}
        assert set(MovementStatus) - held == {MovementStatus.CONFIRMED, MovementStatus.RETURNED}

    def test_are_ended_by_one_notification_each(self):
        assert set(ENDING_NOTIFICATIONS) == set(MovementKind) == set(ANNOUNCED_BY)
        ending = [kind for kinds in ENDING_NOTIFICATIONS.values() for kind in kinds]
        assert len(ending) == len(set(ending))
        assert "delayed" not in ending


class TestPresentedAgain:
    """A debit that the bank has returned is made once more: the same payment, another attempt."""

    FIRST = ("pi_1", "py_1")
    SECOND = ("pi_1", "py_2")

    def presented(self, **rules):
        found = Watched(policy=policy(**rules))
        found.hears(
            heard(Heard.PENDING, minute=0, references=self.FIRST),
            heard(Heard.FAILED, minute=5, references=self.FIRST, part="py_1", code="R01"),
        )
        return found

    def test_within_the_second_of_its_return_is_another_attempt(self):
        found = self.presented()
        found.hears(heard(Heard.PENDING, minute=5, references=self.SECOND))
        assert found.payment.status is PaymentStatus.PENDING
        assert found.times_pending == 2

    def test_is_not_what_the_same_attempt_said_before_it_failed(self):
        found = self.presented()
        found.hears(heard(Heard.PENDING, minute=5, references=self.FIRST))
        assert found.payment.status is PaymentStatus.FAILED
        assert found.times_pending == 1

    @pytest.mark.parametrize("post_pending", [True, False])
    def test_is_not_ended_by_what_is_said_again_of_the_attempt_before(self, post_pending):
        found = self.presented(post_pending=post_pending)
        found.hears(
            heard(Heard.PENDING, minute=5, references=self.SECOND),
            heard(Heard.FAILED, minute=5, references=self.FIRST, part="py_1", code="R01"),
        )
        assert found.payment.status is PaymentStatus.PENDING
        assert found.ledger_cents == (NET_CENTS if post_pending else 0)

    def test_for_less_leaves_the_rest_returned(self):
        less = {"amount_cents": 5000, "fee_cents": 0, "references": self.SECOND}
        found = self.presented(post_pending=True)
        found.hears(heard(Heard.PENDING, minute=9, **less))
        assert found.moved() == [
            ("payment", NET_CENTS),
            ("reversal", NET_CENTS),
            ("reinstatement", 5000),
        ]
        found.hears(heard(Heard.FAILED, minute=12, **less, part="py_2", code="R01"))
        assert found.ledger_cents == 0
        found.hears(heard(Heard.PENDING, minute=15, **less | {"references": ("pi_1", "py_3")}))
        found.hears(heard(Heard.CAPTURED, minute=19, **less))
        found.hears(heard(Heard.CAPTURED, minute=19, **less))
        assert found.ledger_cents == 5000
        assert found.conflicts == []

    def test_for_less_is_refunded_no_further_than_that(self):
        less = {"amount_cents": 5000, "fee_cents": 0, "references": self.SECOND}
        found = self.presented(post_pending=True)
        found.hears(
            heard(Heard.CAPTURED, minute=9, **less),
            heard(Heard.REFUNDED, minute=10, amount_cents=5000, references=self.SECOND),
        )
        assert found.ledger_cents == 0
        assert found.conflicts == []


MINUTES = st.integers(0, 4)
PARTS = st.sampled_from(["1", "2"])
OBSERVATIONS = st.one_of(
    st.builds(lambda m: heard(Heard.SUBMITTED, minute=m), MINUTES),
    st.builds(lambda m: heard(Heard.PENDING, minute=m), MINUTES),
    st.builds(lambda m: heard(Heard.CAPTURED, minute=m), MINUTES),
    # One attempt fails once: at one time, however often it is said.
    st.builds(lambda m, p: heard(Heard.FAILED, minute=m, part=f"ch_{m}{p}"), MINUTES, PARTS),
    st.builds(lambda m: heard(Heard.CANCELLED, minute=m), MINUTES),
    st.builds(
        lambda m, c: heard(Heard.REFUNDED, minute=m, amount_cents=c),
        MINUTES,
        st.sampled_from([1000, 4000, GROSS_CENTS]),
    ),
    st.builds(
        lambda m, p: heard(Heard.REFUND_FAILED, minute=m, part=f"re_{p}", amount_cents=1000),
        MINUTES,
        PARTS,
    ),
    st.builds(
        lambda m, p: heard(Heard.FUNDS_WITHDRAWN, minute=m, part=f"dp_{p}", amount_cents=6000),
        MINUTES,
        PARTS,
    ),
    st.builds(
        lambda m, p: heard(Heard.FUNDS_REINSTATED, minute=m, part=f"dp_{p}", amount_cents=6000),
        MINUTES,
        PARTS,
    ),
)


@settings(max_examples=400, deadline=None)
@given(
    observations=st.lists(OBSERVATIONS, min_size=1, max_size=8),
    post_pending=st.booleans(),
    data=st.data(),
)
def test_any_order_and_any_repetition_end_in_the_same_sum(observations, post_pending, data):
    again = data.draw(st.lists(st.sampled_from(observations), max_size=4))
    order = data.draw(st.permutations([*observations, *again]))
    found = watched(*order, post_pending=post_pending)
    expected = ledger_by_hand(observations, net_cents=NET_CENTS, post_pending=post_pending)
    assert found.ledger_cents == expected
    assert all(each.amount_cents > 0 for each in found.movements)
    assert len({each.id for each in found.movements}) == len(found.movements)


@settings(max_examples=100, deadline=None)
@given(observations=st.lists(OBSERVATIONS, min_size=1, max_size=8), post_pending=st.booleans())
def test_saying_the_last_thing_again_changes_nothing(observations, post_pending):
    found = watched(*observations, post_pending=post_pending)
    before = found.payment
    change = found.hears(observations[-1])
    assert change.movements == []
    assert change.payment == before

from itertools import product
from uuid import UUID

import pytest
from tests.unit.notifier.fakes import NOON, a_contact, a_notification, an_attempt

from notifier.domain import (
    TRANSITIONS,
    UNSETTLED,
    Answer,
    Kind,
    Outcome,
    Status,
    decide,
    latest_contacts,
    notification_id,
    skip_reason,
)
from shared.contracts.streams import NOTIFICATIONS


class TestTransitions:
    def test_name_every_status_as_an_end_and_only_unsettled_ones_as_a_beginning(self):
        assert {after for _, after in TRANSITIONS} == set(Status)
        assert {before for before, _ in TRANSITIONS} == {None, *UNSETTLED}

    def test_state_a_fact_exactly_where_something_is_settled(self):
        for (_, after), fact in TRANSITIONS.items():
            if after in UNSETTLED:
                assert fact is None
            else:
                assert fact in NOTIFICATIONS.by_type

    def test_allow_whatever_an_answer_makes_of_a_notification(self):
        for outcome, attempts in product(Outcome, (0, 4)):
            decision = decide(
                attempt=an_attempt(attempts=attempts),
                answer=Answer(outcome=outcome),
                attempts_max=5,
            )
            assert (Status.SENDING, decision.status) in TRANSITIONS


class TestDecide:
    @pytest.mark.parametrize(
        ("outcome", "attempts", "status", "attempts_after", "repeats_after"),
        [
            (Outcome.SENT, 0, Status.SENT, 1, 0),
            (Outcome.REFUSED, 0, Status.FAILED, 1, 0),
            (Outcome.DEFERRED, 0, Status.DUE, 1, 0),
            (Outcome.DEFERRED, 4, Status.FAILED, 5, 0),
            (Outcome.LOST, 0, Status.DUE, 1, 1),
            (Outcome.LOST, 4, Status.FAILED, 5, 1),
            (Outcome.UNAVAILABLE, 4, Status.DUE, 4, 0),
        ],
    )
    def test_is(self, outcome, attempts, status, attempts_after, repeats_after):
        decision = decide(
            attempt=an_attempt(attempts=attempts),
            answer=Answer(outcome=outcome, reason="smtp_451"),
            attempts_max=5,
        )
        assert (decision.status, decision.attempts, decision.repeats) == (
            status,
            attempts_after,
            repeats_after,
        )

    def test_gives_a_reason_to_all_that_is_not_sent(self):
        for outcome in set(Outcome) - {Outcome.SENT}:
            decision = decide(attempt=an_attempt(), answer=Answer(outcome=outcome), attempts_max=5)
            assert decision.reason


class TestSkipReason:
    @pytest.mark.parametrize(
        ("account_id", "contact", "reason"),
        [
            (None, None, "no_account"),
            ("1", None, "no_address"),
            ("1", a_contact(email=None), "no_address"),
            ("1", a_contact(opted_out=True), "opted_out"),
            ("1", a_contact(opted_out=None), None),
            ("1", a_contact(), None),
        ],
    )
    def test_is(self, account_id, contact, reason):
        notification = a_notification(account_id=account_id)
        assert skip_reason(notification=notification, contact=contact) == reason


class TestNotificationId:
    def test_is_the_same_for_ever(self):
        key = UUID("0198c5b1-0000-7000-8000-000000000001")
        assert notification_id(kind=Kind.POSTED, key=key) == UUID(
            "ddb7005c-0ef7-5dbf-9d58-6931ea4d5eb4"
        )

    def test_differs_by_kind(self):
        key = UUID("0198c5b1-0000-7000-8000-000000000001")
        assert len({notification_id(kind=kind, key=key) for kind in Kind}) == len(Kind)


class TestLatestContacts:
    def test_keeps_the_last_word_of_each_account_whatever_the_order(self):
        older = a_contact(email="old@example.org", changed_at=NOON)
        newer = a_contact(email="new@example.org", changed_at=NOON.replace(hour=19))
        other = a_contact(account_id="2", email="other@example.org")
        assert {c.account_id: c.email for c in latest_contacts([newer, other, older])} == {
            "4711-0815": "new@example.org",
            "2": "other@example.org",
        }

    def test_keeps_an_opt_out_that_a_later_fact_says_nothing_of(self):
        opted_out = a_contact(opted_out=True, changed_at=NOON)
        registered = a_contact(opted_out=None, changed_at=NOON.replace(hour=19))
        [contact] = latest_contacts([opted_out, registered])
        assert contact.email_opted_out is True

from datetime import date, timedelta
from itertools import product
from typing import get_args
from uuid import UUID

import pytest
from tests.unit.notifier import autopay_facts as facts
from tests.unit.notifier.fakes import NOON, a_contact, a_notification, an_attempt

from notifier.consumers import to_notification
from notifier.domain import (
    FACT_TOLD,
    OWED,
    TRANSITIONS,
    UNSETTLED,
    Answer,
    Kind,
    Outcome,
    Status,
    addressee,
    decide,
    is_past,
    kind_told,
    latest_contacts,
    skip_reason,
    superseding_ids,
)
from shared.contracts.autopay import ChargeCancelled, ChargeOutcome, ChargeRequested
from shared.contracts.notifications import NotificationKind, notification_id
from shared.contracts.streams import AUTOPAY, NOTIFICATIONS


def told(fact):
    notification = to_notification(facts.received(fact))
    assert notification is not None
    return notification


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

    @pytest.mark.parametrize(
        ("fact", "reason"),
        [
            (facts.activated(), None),
            (facts.refused(), None),
            (facts.stopped(), None),
            (facts.announced(), None),
            (facts.held(), None),
            (facts.failed(), None),
            (facts.closed(), None),
            (facts.refunded(), None),
            (facts.invited(), "opted_out"),
            (facts.invited(invitation=2), "opted_out"),
            (facts.expiring(), "opted_out"),
        ],
    )
    def test_tells_those_who_want_no_mail_what_they_are_owed_and_nothing_else(self, fact, reason):
        contact = a_contact(opted_out=True)
        notification = told(fact)
        assert skip_reason(notification=notification, contact=contact) == reason
        assert (notification.kind in OWED) is (reason is None)

    def test_needs_an_address_for_what_is_owed_too(self):
        contact = a_contact(email=None, opted_out=True)
        assert skip_reason(notification=told(facts.announced()), contact=contact) == "no_address"


class TestKinds:
    def test_are_those_of_the_contract(self):
        assert set(Kind) == set(get_args(NotificationKind))

    def test_tell_every_fact_of_autopay_that_is_not_between_services(self):
        assert {*FACT_TOLD.values(), ChargeRequested, ChargeCancelled} == set(AUTOPAY.facts)

    @pytest.mark.parametrize(
        ("outcome", "kind"),
        [
            ("paid", None),
            ("skipped", None),
            ("cancelled", None),
            ("missed", Kind.CHARGE_MISSED),
            ("refunded", Kind.CHARGE_REFUNDED),
        ],
    )
    def test_tell_only_the_ends_of_a_charge_that_nobody_else_tells(self, outcome, kind):
        assert kind_told(facts.closed(outcome=outcome)) == kind

    def test_judge_every_end_of_a_charge(self):
        assert set(get_args(ChargeOutcome)) == {
            "paid",
            "skipped",
            "cancelled",
            "missed",
            "refunded",
        }


class TestAddressee:
    def test_of_an_invitation_is_in_the_fact(self):
        contact = addressee(notification=told(facts.invited()), contact=None)
        assert contact is not None
        assert (contact.account_id, contact.name, contact.email, contact.locale) == (
            "4711-0815",
            "Ana Pérez",
            "ana@example.org",
            "es",
        )

    def test_of_an_invitation_may_have_opted_out_here(self):
        on_file = a_contact(email="other@example.org", opted_out=True)
        contact = addressee(notification=told(facts.invited()), contact=on_file)
        assert contact is not None
        assert (contact.email, contact.email_opted_out) == ("ana@example.org", True)

    def test_of_anything_else_is_the_contact_on_file(self):
        assert addressee(notification=told(facts.announced()), contact=a_contact()) == a_contact()
        assert addressee(notification=told(facts.announced()), contact=None) is None


class TestSuperseding:
    def test_is_a_later_announcement_of_the_same_charge(self):
        first = told(facts.announced(version=1))
        later = [told(facts.announced(version=version)).id for version in (2, 3, 4)]
        assert superseding_ids(first) == later

    def test_is_no_earlier_one_nor_one_of_another_charge(self):
        second = told(facts.announced(version=2))
        assert told(facts.announced(version=1)).id not in superseding_ids(second)
        other = told(facts.announced(version=3, charge_id=facts.ENROLMENT))
        assert other.id not in superseding_ids(second)

    def test_does_not_exist_for_what_happened(self):
        for fact in (facts.failed(), facts.stopped(), facts.held(), facts.closed()):
            assert superseding_ids(told(fact)) == []


class TestIsPast:
    @pytest.mark.parametrize(
        ("waited", "past"),
        [
            (timedelta(hours=1), False),
            # From the 5th to the 18th are 13 days; the 18th ends in the westernmost zone at noon.
            (timedelta(days=14, hours=11), False),
            (timedelta(days=14, hours=13), True),
        ],
    )
    def test_is_an_announcement_that_has_waited_here_until_its_day_was_over(self, waited, past):
        notification = told(facts.announced(charge_on=date(2026, 3, 18)))
        # Another clock than the scheduler's: only the time that has gone by counts.
        taken_at = NOON + timedelta(days=400)
        assert is_past(notification=notification, taken_at=taken_at, now=taken_at + waited) is past

    def test_is_nothing_else(self):
        notification = told(facts.failed())
        now = NOON + timedelta(days=90)
        assert not is_past(notification=notification, taken_at=NOON, now=now)


class TestNotificationId:
    def test_is_the_same_for_ever(self):
        key = UUID("0198c5b1-0000-7000-8000-000000000001")
        assert notification_id(kind=Kind.POSTED, key=key) == UUID(
            "0198c5b1-0000-8dbf-9d58-6931ea4d5eb4"
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

from dataclasses import replace
from datetime import UTC, date, datetime
from uuid import UUID

from paypost.traffic.autopay import subscriber_of
from paypost.traffic.bills import bill_of
from shared.contracts.enrolments import AutopayRule
from shared.contracts.streams import BILLS, PORTAL
from shared.contracts.wire import encode

NOW = datetime(2025, 3, 14, 18, 0, tzinfo=UTC)


class TestSubscriber:
    def test_says_all_that_autopay_scheduler_takes_of_customers(self):
        who = subscriber_of(account="A-1")
        words = [
            who.enrolled(at=NOW),
            who.changed(at=NOW),
            who.paused(at=NOW, resume_on=date(2025, 4, 1)),
            who.resumed(at=NOW),
            who.cancelled(at=NOW),
            who.declined_invitation(at=NOW),
        ]
        assert [word.TYPE for word in words] == [
            "autopay.enrolled",
            "autopay.changed",
            "autopay.paused",
            "autopay.resumed",
            "autopay.cancelled",
            "autopay.invitation_declined",
        ]
        assert {encode(word, stream=PORTAL).key for word in words} == {b"A-1"}

    def test_has_the_ids_that_paypost_gives(self):
        who = subscriber_of(account="A-1", reference="enr_1")
        # Written down from shared.ids: uuid5 of "enrolment:enr_1", and of its charge.
        assert who.enrolment_id == UUID("8f6b7af8-182f-5c4b-bdd8-b4095c2b1785")
        assert who.charge_id(due_date=date(2025, 3, 20)) == UUID(
            "b62c3f98-8176-5950-9681-a407a67eb1c6"
        )

    def test_has_the_method_that_its_token_is(self):
        card = subscriber_of(account="A-1", token="pm_card_mastercard")
        bank = subscriber_of(account="A-1", token="pm_usBankAccount_success")
        assert (card.method.kind, card.method.last4) == ("card", "4444")
        assert (bank.method.kind, bank.method.last4, bank.method.expires) == (
            "us_bank_account",
            "6789",
            None,
        )

    def test_states_the_rule_that_was_chosen(self):
        rule = AutopayRule(charge_on="day_of_month", day_of_month=31, maximum_cents=20_000)
        assert subscriber_of(account="A-1", rule=rule).enrolled(at=NOW).rule == rule


class TestStatedBill:
    def test_is_issued_at_first_and_changed_later(self):
        bill = bill_of(account="A-1", amount_cents=8_450, due_date=date(2025, 3, 20))
        assert bill.reference == "B-A-1-20250320"
        assert bill.stated(at=NOW).TYPE == "bill.issued"
        assert replace(bill, version=2).stated(at=NOW).TYPE == "bill.changed"
        assert replace(bill, version=3).cancelled(at=NOW).TYPE == "bill.cancelled"

    def test_goes_out_keyed_by_account_with_its_balance(self):
        bill = bill_of(account="A-1", amount_cents=-500, due_date=date(2025, 3, 20))
        fact = bill.issued(at=NOW)
        assert (fact.amount_cents, fact.balance_cents) == (-500, -500)
        assert encode(fact, stream=BILLS).key == b"A-1"

"""What the demo's expectations take for granted of its scenario."""

from datetime import date, timedelta

from paypost.demo.autopay import CLOCK_AHEAD, OLD_ENROLMENTS, bills, subscribers
from paypost.demo.expectations import AT_LEAST, EXPECTED
from paypost.demo.scenario import UNKNOWN_ACCOUNT, WITHOUT_ADDRESS, card_order, customers


class TestCustomers:
    def test_are_fifty_of_whom_nine_are_told_in_spanish_and_one_has_no_address(self):
        people = customers()
        assert len({each.account for each in people}) == 50
        assert [each.account for each in people if each.locale == "es"] == [
            "D-005", "D-010", "D-015", "D-020", "D-025", "D-030", "D-035", "D-040", "D-045",
        ]  # fmt: skip
        assert [each.account for each in people if each.email is None] == [WITHOUT_ADDRESS]

    def test_do_not_include_the_unknown_one(self):
        assert UNKNOWN_ACCOUNT not in {each.account for each in customers()}


class TestCardOrder:
    def test_is_two_payments_for_each_customer(self):
        order = card_order(amount_cents=4_500)
        assert (order.count, len(order.accounts), order.fee_cents) == (100, 50, 250)


class TestAutopay:
    def test_bills_each_customer_once_on_any_day(self):
        for today in (date(2026, 3, 8), date(2026, 12, 31), date(2028, 2, 29)):
            owed = bills(today)
            assert [each.account for each in owed] == list(subscribers())
            assert sum(each.amount_cents for each in owed if each.due_date == today) == 26_835

    def test_imports_three_old_enrolments_and_one_of_an_account_that_nobody_knows(self):
        header, *lines = OLD_ENROLMENTS.splitlines()
        accounts = [line.split(",")[1] for line in lines]
        known = {each.account for each in customers()}
        assert [each in known for each in accounts] == [True, True, True, False]
        assert all(len(line.split(",")) == len(header.split(",")) for line in lines)

    def test_moves_the_clock_past_the_first_retry_also_where_clocks_go_back(self):
        assert timedelta(days=3, hours=1) < CLOCK_AHEAD


class TestExpected:
    def test_names_everything_once(self):
        assert not set(EXPECTED) & set(AT_LEAST)

import pytest
from tests.support.autopay.amounts import BOUNDS, LATER_BILLS, WHAT_IS_OWED
from tests.support.autopay.tables import check, example_id, examples

from autopay_scheduler.domain.amounts import AmountRule, Charge, Hold, Limits, Owed, judge


class TestWorkedExamples:
    @pytest.mark.parametrize(
        ("table", "cells"), examples(WHAT_IS_OWED, LATER_BILLS, BOUNDS), ids=example_id
    )
    def test_are_what_the_rules_say(self, table, cells):
        check(table, cells)


class TestLimits:
    def test_of_a_fixed_amount_name_it(self):
        with pytest.raises(ValueError, match="fixed_cents belongs to a fixed amount"):
            Limits(amount=AmountRule.FIXED)

    @pytest.mark.parametrize("rule", [AmountRule.FULL_BALANCE, AmountRule.STATEMENT_BALANCE])
    def test_of_another_rule_name_no_fixed_amount(self, rule):
        with pytest.raises(ValueError, match="and to nothing else"):
            Limits(amount=rule, fixed_cents=5000)


class TestTheCitysLimit:
    def test_holds_whatever_a_customer_without_a_maximum_owes(self):
        owed = Owed(statement_cents=100_001, paid_since_cents=0, balance_cents=None, open_cents=0)
        limits = Limits(amount=AmountRule.FULL_BALANCE)
        assert judge(limits=limits, owed=owed, least_cents=50, limit_cents=100_000) == Hold(
            100_001, 100_000
        )
        assert judge(limits=limits, owed=owed, least_cents=50, limit_cents=100_001) == Charge(
            100_001
        )

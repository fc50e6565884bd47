"""The plan of a load, the catalogue, and what the campaign says."""

import pytest
from tests.faults.__main__ import numbers_of
from tests.faults.campaign import Outcome
from tests.faults.journals import cents_of
from tests.faults.load import SCENARIO_WEIGHTS, Shape, movements_of, plan_of
from tests.faults.registry import Fault, fault, load_catalogue
from tests.faults.report import Report, render
from tests.faults.violations import Violation

from paypost.simulators.processor.scenarios import SCENARIOS


class TestPlan:
    def test_is_the_same_for_the_same_seed(self) -> None:
        assert plan_of(seed=3, shape=Shape()) == plan_of(seed=3, shape=Shape())

    def test_is_another_for_another_seed(self) -> None:
        assert plan_of(seed=3, shape=Shape()) != plan_of(seed=4, shape=Shape())

    def test_names_each_payment_by_its_amount(self) -> None:
        plan = plan_of(seed=3, shape=Shape())
        cents = [each.amount_cents for each in (*plan.payments, *plan.tail)] + [*plan.charges]
        assert len(cents) == len(set(cents)) == 176

    def test_has_every_scenario_in_it(self) -> None:
        drawn = {each.scenario for each in plan_of(seed=3, shape=Shape()).payments}
        assert drawn == set(SCENARIO_WEIGHTS) == set(SCENARIOS)


class TestMovements:
    def test_of_a_partly_refunded_payment_are_worked_out_by_hand(self) -> None:
        assert movements_of(scenario="partial_refunds", amount_cents=1_000) == (
            ("payment", 1_000),
            ("reversal", 333),
            ("reversal", 667),
            ("reinstatement", 667),
        )

    def test_of_a_decline_are_none(self) -> None:
        assert movements_of(scenario="decline", amount_cents=1_000) == ()


class TestCatalogue:
    def test_has_a_title_a_way_and_oracles_for_each(self) -> None:
        for number, kind in load_catalogue().items():
            assert kind.declaration.number == number
            assert kind.declaration.title
            assert kind.declaration.how
            assert set(kind.declaration.oracles) <= set("LDANOQHMT"), kind

    def test_has_the_short_set(self) -> None:
        short = {number for number, kind in load_catalogue().items() if kind.declaration.short}
        assert short == {1, 2, 10, 13, 17, 19, 21, 22, 25}

    def test_has_no_number_twice(self) -> None:
        load_catalogue()
        with pytest.raises(ValueError, match="two faults of number 1"):

            @fault(1, title="again", how="", oracles="L")
            class Again(Fault):
                pass


class TestCommandLine:
    def test_takes_lists_and_ranges_of_numbers(self) -> None:
        assert numbers_of("1,3,5-7") == (1, 3, 5, 6, 7)

    def test_takes_nothing_else(self) -> None:
        with pytest.raises(ValueError, match="invalid literal"):
            numbers_of("all")


class TestAmountsInMails:
    def test_are_read_as_they_are_written(self) -> None:
        assert cents_of("$1,234.50") == 123_450


class TestReport:
    def report(self) -> str:
        held = Outcome(
            name="fault 1",
            numbers=(1,),
            seed=7,
            oracles="LDAN",
            counts={"payments": 10, "charges": 2, "posted": 12, "lost": 0, "doubled": 0},
        )
        failed = Outcome(
            name="fault 6",
            numbers=(6,),
            seed=7,
            oracles="LDAN",
            violations=(Violation(oracle="L", what="pi_x is not on the ledger"),),
            counts={"payments": 10, "charges": 2, "posted": 11, "lost": 1, "doubled": 0},
        )
        skipped = Outcome(name="fault 9", numbers=(9,), seed=7, not_run="no such tool here")
        return render(
            Report(seed=7, outcomes=(held, failed, skipped), seconds=60),
            surroundings=[("machine", "two cores")],
        )

    def test_counts_what_was_run_and_what_held(self) -> None:
        assert "**2 of 32 faults run, 1 held; 0 of 0 mixes held; 1 lost, 0 doubled.**" in (
            self.report()
        )

    def test_never_shows_what_was_not_run_as_passed(self) -> None:
        (line,) = [each for each in self.report().splitlines() if each.startswith("| 9 |")]
        assert "*not run*: no such tool here" in line
        assert "held" not in line

    def test_says_what_did_not_hold(self) -> None:
        assert "L: pi_x is not on the ledger" in self.report()

"""Small worlds of autopay written by hand, each with one thing wrong: it is found, and named."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from paypost.verify.autopay import AutopayTally, Terms, compare_autopay
from paypost.verify.compare import Difference, Fault
from paypost.verify.rows import (
    Announced,
    AskedCharge,
    ChargePayment,
    DueBill,
    MadeCharge,
    PlannedDay,
    Switches,
    Taking,
)

C1, C2 = UUID(int=1), UUID(int=2)
E1 = UUID(int=101)
P1 = UUID(int=201)
DUE = date(2025, 3, 20)
ASKED_AT = datetime(2025, 3, 20, 11, 0, tzinfo=UTC)
CHARGED_AT = ASKED_AT + timedelta(seconds=1)
NOW = datetime(2025, 3, 20, 18, 0, tzinfo=UTC)

ASKED = AskedCharge(
    id=C1,
    enrolment_id=E1,
    account_id="A-1",
    due_date=DUE,
    charge_on=DUE,
    status="paid",
    currency="USD",
    attempt=1,
    requested_cents=8_450,
    requested_at=ASKED_AT,
    first_attempt_on=DUE,
    paid_cents=8_450,
    owes_notice=True,
)
ANNOUNCED = Announced(
    charge_id=C1,
    version=1,
    amount_cents=8_450,
    announced_at=datetime(2025, 3, 1, 15, 0, tzinfo=UTC),
    noticed_on=date(2025, 3, 1),
)
MADE = MadeCharge(
    id=C1,
    account_id="A-1",
    attempt=1,
    amount_cents=8_450,
    currency="USD",
    status="charged",
    answered_at=CHARGED_AT,
)
PAYMENT = ChargePayment(
    charge_id=C1, payment_id=P1, status="captured", amount_cents=8_450, credited=True
)
TAKING = Taking(
    charge_id=C1,
    name="ch_1",
    amount_cents=8_450,
    currency="usd",
    status="succeeded",
    account="A-1",
)
FAILED = replace(TAKING, name="ch_0", status="failed")
BILL = DueBill(
    enrolment_id=E1, due_date=DUE, account_id="A-1", bill_reference="B-1", amount_cents=8_450
)
PLANNED = PlannedDay(enrolment_id=E1, due_date=DUE, charge_id=C1)


@dataclass(kw_only=True)
class World:
    """The books as lists; one due date of 84.50 that was announced, charged and paid."""

    asked: list[AskedCharge] = field(default_factory=lambda: [ASKED])
    announced: list[Announced] = field(default_factory=lambda: [ANNOUNCED])
    made: list[MadeCharge] = field(default_factory=lambda: [MADE])
    payments: list[ChargePayment] = field(default_factory=lambda: [PAYMENT])
    taken: list[Taking] = field(default_factory=lambda: [TAKING])
    bills: list[DueBill] = field(default_factory=list)
    planned: list[PlannedDay] = field(default_factory=lambda: [PLANNED])
    paused: Switches = field(default_factory=Switches)
    at: datetime = NOW
    today: date = DUE
    asked_before: list[date] = field(default_factory=list)

    async def switches(self) -> Switches:
        return self.paused

    def asked_charges(self):
        return _stream(self.asked, lambda row: row.id)

    def announcements(self):
        return _stream(self.announced, lambda row: (row.charge_id, row.version))

    def made_charges(self):
        return _stream(self.made, lambda row: row.id)

    def charge_payments(self):
        return _stream(self.payments, lambda row: row.charge_id)

    def takings(self):
        return _stream(self.taken, lambda row: row.charge_id)

    def due_bills(self, *, before: date):
        self.asked_before.append(before)
        wanted = [row for row in self.bills if row.due_date < before]
        return _stream(wanted, lambda row: (row.enrolment_id, row.due_date))

    def planned_days(self):
        return _stream(self.planned, lambda row: (row.enrolment_id, row.due_date))


async def _stream(rows: Iterable[Any], key: Any) -> AsyncIterator[Any]:
    for row in sorted(rows, key=key):
        yield row


async def differences(
    world: World, *, tally: AutopayTally | None = None, terms: Terms | None = None
) -> list[Difference]:
    found = compare_autopay(books=world, tally=tally or AutopayTally(), terms=terms or Terms())
    return [each async for each in found]


async def faults(world: World, **options: Any) -> list[Fault]:
    return [each.fault for each in await differences(world, **options)]


def uncharged(status: str, reason: str | None = None, **changes: Any) -> World:
    """A due date that came to nothing: never asked for, made or taken."""
    asked = replace(
        ASKED,
        status=status,
        reason=reason,
        attempt=0,
        requested_cents=None,
        requested_at=None,
        first_attempt_on=None,
        paid_cents=None,
    )
    return World(asked=[replace(asked, **changes)], made=[], payments=[], taken=[])


def given_back() -> World:
    """Charged, cancelled in time, and given back."""
    return World(
        asked=[
            replace(
                ASKED,
                status="refunded",
                reason="cancelled",
                cancelled_said_at=CHARGED_AT - timedelta(milliseconds=5),
                stopped_at=CHARGED_AT + timedelta(seconds=1),
            )
        ],
        made=[
            replace(
                MADE,
                status="refunded",
                reason="cancelled",
                cancelled_at=CHARGED_AT - timedelta(milliseconds=5),
            )
        ],
        taken=[replace(TAKING, refunded_cents=8_450)],
    )


def asked_for(**changes: Any) -> World:
    """Asked for a second ago, and nothing heard."""
    asked = replace(ASKED, status="requested", paid_cents=None)
    return World(
        asked=[replace(asked, **changes)],
        made=[replace(MADE, status="due", answered_at=None)],
        payments=[],
        taken=[],
    )


class TestAWorldInOrder:
    async def test_has_no_differences(self):
        assert await differences(World()) == []

    async def test_may_be_without_autopay(self):
        tally = AutopayTally()
        world = World(asked=[], announced=[], made=[], payments=[], taken=[], planned=[])
        assert await differences(world, tally=tally) == []
        assert not tally.has_traffic

    async def test_is_counted_to_the_cent(self):
        tally = AutopayTally()
        assert await differences(given_back(), tally=tally) == []
        found = {key: (each.count, each.cents) for key, each in tally.sums.items()}
        assert found == {
            ("asked", "USD"): (1, 8_450),
            ("made", "USD"): (1, 8_450),
            ("taken", "USD"): (1, 8_450),
            ("given back", "USD"): (1, 8_450),
            ("credited", "USD"): (1, 8_450),
        }
        assert dict(tally.outcomes) == {"refunded: cancelled": 1}

    async def test_may_have_charged_less_than_was_announced(self):
        world = World(announced=[replace(ANNOUNCED, amount_cents=10_000)])
        assert await differences(world) == []

    async def test_may_have_charged_at_the_second_attempt(self):
        world = World(
            asked=[replace(ASKED, attempt=2)],
            made=[replace(MADE, attempt=2)],
            taken=[FAILED, TAKING],
        )
        assert await differences(world) == []

    async def test_may_have_told_two_days_before_where_a_maximum_was_agreed(self):
        world = World(
            asked=[replace(ASKED, owes_notice=False)],
            announced=[replace(ANNOUNCED, noticed_on=date(2025, 3, 18))],
        )
        assert await differences(world) == []

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            ("skipped", "paid"),
            ("missed", "notice_not_kept"),
            ("cancelled", "cancelled"),
            ("held", "above_maximum:5000"),
            ("announced", None),
            ("planned", None),
        ],
    )
    async def test_may_have_due_dates_that_are_not_charged(self, status, reason):
        assert await differences(uncharged(status, reason)) == []

    async def test_may_have_debits_that_the_bank_has_returned(self):
        world = World(
            asked=[replace(ASKED, status="failed", reason="R02", paid_cents=None)],
            taken=[replace(TAKING, is_returned=True)],
        )
        assert await differences(world) == []

    async def test_may_have_debits_that_the_bank_has(self):
        tally = AutopayTally()
        world = World(
            asked=[replace(ASKED, status="pending", paid_cents=None)],
            made=[replace(MADE, status="pending")],
            payments=[replace(PAYMENT, status="pending", credited=False)],
            taken=[replace(TAKING, status="pending")],
        )
        assert await differences(world, tally=tally) == []
        assert dict(tally.held) == {"pending at the bank": 1}

    async def test_may_have_debits_to_be_given_back_once_they_have_settled(self):
        said_at = CHARGED_AT + timedelta(seconds=1)
        world = World(
            asked=[
                replace(
                    ASKED,
                    status="pending",
                    paid_cents=None,
                    cancelled_said_at=CHARGED_AT - timedelta(seconds=1),
                )
            ],
            made=[replace(MADE, status="pending", cancelled_at=said_at)],
            payments=[replace(PAYMENT, status="pending", credited=False)],
            taken=[replace(TAKING, status="pending")],
        )
        assert await differences(world) == []

    async def test_lets_a_charge_stand_that_was_cancelled_afterwards(self):
        late = CHARGED_AT + timedelta(hours=3)
        world = World(asked=[replace(ASKED, cancelled_said_at=late, stopped_at=late)])
        assert await differences(world) == []


class TestChargedTwice:
    async def test_two_attempts_that_both_took_the_money(self):
        world = World(taken=[TAKING, replace(TAKING, name="ch_2")])
        found = await differences(world)
        assert [(each.fault, each.key) for each in found] == [(Fault.CHARGED_TWICE, str(C1))]
        assert "ch_1" in found[0].detail
        assert "ch_2" in found[0].detail

    async def test_one_of_them_given_back_is_still_two(self):
        world = World(taken=[TAKING, replace(TAKING, name="ch_2", refunded_cents=8_450)])
        assert await faults(world) == [Fault.CHARGED_TWICE]

    async def test_a_debit_under_way_beside_one_that_has_settled(self):
        world = World(taken=[TAKING, replace(TAKING, name="ch_2", status="pending")])
        assert await faults(world) == [Fault.CHARGED_TWICE]

    async def test_two_charges_of_one_enrolment_and_due_date(self):
        other = replace(PLANNED, charge_id=C2)
        found = await differences(World(planned=[PLANNED, other]))
        assert [each.fault for each in found] == [Fault.CHARGED_TWICE]
        assert str(C2) in found[0].detail


class TestInvented:
    async def test_a_taking_of_which_the_scheduler_knows_nothing(self):
        world = World(taken=[TAKING, replace(TAKING, charge_id=C2, name="ch_9", account="A-9")])
        found = await differences(world)
        assert [(each.fault, each.key) for each in found] == [(Fault.INVENTED, str(C2))]
        assert "ch_9" in found[0].detail
        assert "A-9" in found[0].detail

    async def test_a_charge_that_intake_was_never_asked_for(self):
        world = World(made=[MADE, replace(MADE, id=C2, status="withdrawn")])
        assert await faults(world) == [Fault.INVENTED]


class TestAnnounced:
    async def test_more_was_charged_than_announced(self):
        world = World(announced=[replace(ANNOUNCED, amount_cents=8_449)])
        found = await differences(world)
        assert [each.fault for each in found] == [Fault.ABOVE_ANNOUNCEMENT]
        assert "8450" in found[0].detail
        assert "8449" in found[0].detail

    async def test_it_was_never_announced(self):
        assert await faults(World(announced=[])) == [Fault.ABOVE_ANNOUNCEMENT]

    async def test_its_announcement_was_void(self):
        world = World(announced=[replace(ANNOUNCED, is_void=True)])
        assert await faults(world) == [Fault.ABOVE_ANNOUNCEMENT]

    async def test_it_was_announced_afterwards(self):
        after = replace(ANNOUNCED, announced_at=ASKED_AT + timedelta(minutes=1))
        assert await faults(World(announced=[after])) == [Fault.ABOVE_ANNOUNCEMENT]

    async def test_above_even_though_given_back(self):
        world = given_back()
        world.announced = [replace(ANNOUNCED, amount_cents=100)]
        assert await faults(world) == [Fault.ABOVE_ANNOUNCEMENT]

    async def test_on_the_tenth_day_after_the_notice_is_in_order(self):
        world = World(announced=[replace(ANNOUNCED, noticed_on=date(2025, 3, 10))])
        assert await faults(world) == []

    async def test_on_the_ninth_day_after_the_notice_is_too_short(self):
        world = World(announced=[replace(ANNOUNCED, noticed_on=date(2025, 3, 11))])
        found = await differences(world)
        assert [each.fault for each in found] == [Fault.NOTICE_TOO_SHORT]
        assert "2025-03-11" in found[0].detail

    async def test_by_a_notice_that_nobody_got(self):
        world = World(announced=[replace(ANNOUNCED, noticed_on=None)])
        assert await faults(world) == [Fault.NOTICE_TOO_SHORT]

    async def test_by_a_notice_that_nobody_got_where_the_bill_on_paper_is_one(self):
        world = World(announced=[replace(ANNOUNCED, noticed_on=None)])
        assert await faults(world, terms=Terms(charges_unnotified=True)) == []

    async def test_a_rise_whose_notice_is_too_short_is_not_helped_by_the_first_one(self):
        world = World(
            announced=[
                replace(ANNOUNCED, amount_cents=5_000),
                replace(ANNOUNCED, version=2, noticed_on=date(2025, 3, 15)),
            ]
        )
        assert await faults(world) == [Fault.NOTICE_TOO_SHORT]


class TestChargedAnyway:
    @pytest.mark.parametrize(
        "status", ["skipped", "missed", "cancelled", "failed", "held", "retrying", "announced"]
    )
    async def test_a_due_date_that_is_said_not_to_be(self, status):
        world = World(asked=[replace(ASKED, status=status, reason="why", paid_cents=None)])
        found = await differences(world)
        assert [each.fault for each in found] == [Fault.CHARGED_ANYWAY]
        assert f"{status} (why)" in found[0].detail
        assert found[0].payment_id == str(P1)

    async def test_but_given_back_is_in_order(self):
        world = given_back()
        world.asked = [replace(ASKED, status="cancelled", reason="cancelled")]
        assert await faults(world) == []


class TestNotCharged:
    @pytest.mark.parametrize("taken", [[], [FAILED]])
    async def test_a_due_date_that_is_said_to_be(self, taken):
        found = await differences(World(taken=taken))
        assert [each.fault for each in found] == [Fault.NOT_CHARGED]
        assert "said to be paid" in found[0].detail

    async def test_a_charge_that_intake_says_it_made(self):
        world = World(
            asked=[replace(ASKED, status="cancelled", reason="cancelled")], payments=[], taken=[]
        )
        assert await faults(world) == [Fault.NOT_CHARGED]

    async def test_a_payment_that_was_credited(self):
        world = uncharged("skipped", "paid")
        world.payments = [PAYMENT]
        assert await faults(world) == [Fault.NOT_CHARGED]


class TestAfterCancellation:
    async def test_charged_after_the_customer_s_word(self):
        said_at = CHARGED_AT - timedelta(milliseconds=5)
        world = World(asked=[replace(ASKED, cancelled_said_at=said_at)])
        found = await differences(world)
        assert [each.fault for each in found] == [Fault.CHARGED_AFTER_CANCELLATION]
        assert "not given back" in found[0].detail

    async def test_asked_for_after_the_enrolment_was_stopped(self):
        world = World(asked=[replace(ASKED, stopped_at=ASKED_AT - timedelta(seconds=1))])
        assert await faults(world) == [Fault.CHARGED_AFTER_CANCELLATION]

    async def test_given_back_in_part_is_not_given_back(self):
        world = given_back()
        world.taken = [replace(TAKING, refunded_cents=8_449)]
        assert Fault.CHARGED_AFTER_CANCELLATION in await faults(world)


class TestNotRefunded:
    async def test_said_to_be_given_back(self):
        world = World(asked=[replace(ASKED, status="refunded", reason="cancelled")])
        assert await faults(world) == [Fault.NOT_REFUNDED]

    async def test_given_back_by_intake_and_the_money_came_back(self):
        world = World(made=[replace(MADE, status="refunded")])
        assert await faults(world) == [Fault.NOT_REFUNDED]

    async def test_to_be_given_back_for_longer_than_it_takes(self):
        world = given_back()
        world.made = [replace(world.made[0], status="refund_due")]
        world.taken = [TAKING]
        assert Fault.NOT_REFUNDED in await faults(world)

    async def test_being_given_back_now_is_unfinished(self):
        world = given_back()
        world.at = CHARGED_AT + timedelta(seconds=30)
        world.asked = [replace(ASKED, status="requested", paid_cents=None)]
        world.made = [replace(world.made[0], status="refunding")]
        world.taken = [TAKING]
        assert await faults(world) == [Fault.UNFINISHED]

    async def test_given_back_of_which_the_scheduler_has_not_heard(self):
        world = given_back()
        world.asked = [ASKED]
        assert await faults(world) == [Fault.UNFINISHED]


class TestOtherThanAsked:
    async def test_another_amount_at_intake(self):
        world = World(asked=[replace(ASKED, requested_cents=8_451)])
        assert await faults(world) == [Fault.AMOUNT]

    async def test_another_amount_at_the_processor(self):
        world = World(taken=[replace(TAKING, amount_cents=8_440)])
        found = await differences(world)
        assert {each.fault for each in found} == {Fault.AMOUNT}
        assert any("at intake 8450, ch_1 8440" in each.detail for each in found)

    async def test_another_amount_of_the_payment(self):
        world = World(payments=[replace(PAYMENT, amount_cents=1)])
        assert await faults(world) == [Fault.AMOUNT]

    async def test_another_amount_said_to_be_paid(self):
        world = World(asked=[replace(ASKED, paid_cents=84)])
        assert await faults(world) == [Fault.AMOUNT]

    @pytest.mark.parametrize(
        "change",
        [
            {"made": [replace(MADE, account_id="A-2")]},
            {"taken": [replace(TAKING, account="A-2")]},
        ],
    )
    async def test_another_account(self, change):
        assert await faults(World(**change)) == [Fault.ACCOUNT]


class TestLost:
    @pytest.mark.parametrize("payments", [[], [replace(PAYMENT, status="failed", credited=False)]])
    async def test_a_charge_that_is_no_payment(self, payments):
        found = await differences(World(payments=payments))
        assert [each.fault for each in found] == [Fault.LOST]
        assert "8450" in found[0].detail

    async def test_a_charge_of_unknown_outcome_is_only_unfinished(self):
        world = asked_for()
        world.made = [replace(MADE, status="unknown", answered_at=None)]
        world.taken = [TAKING]
        assert await faults(world) == [Fault.UNFINISHED]


class TestUnfinished:
    async def test_a_request_that_intake_never_had(self):
        world = asked_for()
        world.made = []
        found = await differences(world)
        assert [each.fault for each in found] == [Fault.UNFINISHED]
        assert "intake has not had attempt 1" in found[0].detail

    async def test_a_second_attempt_of_which_intake_has_the_first(self):
        world = asked_for(attempt=2)
        world.made = [replace(MADE, status="declined")]
        assert await faults(world) == [Fault.UNFINISHED]

    @pytest.mark.parametrize("status", ["charging", "unknown", "declined", "withdrawn", "pending"])
    async def test_what_intake_knows_and_the_scheduler_has_not_heard(self, status):
        world = asked_for()
        world.made = [replace(MADE, status=status)]
        found = await differences(world)
        assert [each.fault for each in found] == [Fault.UNFINISHED]
        assert f"intake {status}" in found[0].detail

    async def test_but_a_paused_request_is_held_for_a_reason(self):
        tally = AutopayTally()
        world = asked_for()
        world.paused = Switches(is_charging_paused=True)
        assert await faults(world, tally=tally) == []
        assert dict(tally.held) == {"requested: all charges are paused by an operator": 1}

    async def test_and_a_request_that_waits_for_the_processor_says_so(self):
        tally = AutopayTally()
        world = asked_for()
        world.made = [replace(world.made[0], reason="processor_unavailable")]
        assert await faults(world, tally=tally) == []
        assert dict(tally.held) == {"requested: processor_unavailable": 1}

    async def test_until_it_is_past_its_time(self):
        world = asked_for()
        world.made = [
            replace(world.made[0], reason="rate_limited", valid_until=NOW - timedelta(seconds=1))
        ]
        assert await faults(world) == [Fault.UNFINISHED]


class TestUnexplained:
    async def test_a_bill_past_its_day_and_grace_with_neither_charge_nor_reason(self):
        world = World(
            asked=[], announced=[], made=[], payments=[], taken=[], planned=[], bills=[BILL]
        )
        world.today = date(2025, 3, 24)
        found = await differences(world)
        assert [(each.fault, each.key) for each in found] == [(Fault.UNEXPLAINED, str(E1))]
        assert "A-1" in found[0].detail
        assert "B-1" in found[0].detail

    async def test_not_before_day_and_grace_are_past(self):
        world = World(planned=[], bills=[BILL], today=date(2025, 3, 23))
        assert await faults(world) == []
        assert world.asked_before == [date(2025, 3, 20)]

    async def test_not_where_it_is_about_to_be_planned(self):
        tally = AutopayTally()
        waiting = replace(BILL, waits_to_be_planned=True)
        world = World(planned=[], bills=[waiting], today=date(2025, 3, 24))
        assert await faults(world, tally=tally) == []
        assert dict(tally.held) == {"to be planned": 1}

    async def test_not_where_there_is_a_charge(self):
        tally = AutopayTally()
        world = World(bills=[BILL], today=date(2025, 3, 24))
        assert await faults(world, tally=tally) == []
        assert tally.due_dates == 1

    @pytest.mark.parametrize(
        ("status", "days"), [("planned", 4), ("announced", 4), ("held", 4), ("retrying", 4)]
    )
    async def test_a_charge_that_nobody_has_decided_when_its_grace_is_over(self, status, days):
        world = uncharged(status)
        world.today = DUE + timedelta(days=days)
        assert await faults(world) == []
        world.today = DUE + timedelta(days=days + 1)
        found = await differences(world)
        assert [each.fault for each in found] == [Fault.UNEXPLAINED]
        assert f"still {status}" in found[0].detail

    async def test_a_retry_counts_from_its_own_day(self):
        world = uncharged("retrying", "insufficient_funds", act_on=DUE + timedelta(days=7))
        world.today = DUE + timedelta(days=8)
        assert await faults(world) == []

    async def test_but_what_an_operator_paused_has_its_reason(self):
        tally = AutopayTally()
        world = uncharged("announced")
        world.today = DUE + timedelta(days=30)
        world.paused = Switches(is_asking_paused=True)
        assert await faults(world, tally=tally) == []
        assert dict(tally.held) == {"announced: all charges are paused by an operator": 1}

    async def test_an_end_without_a_reason(self):
        assert await faults(uncharged("skipped")) == [Fault.UNEXPLAINED]

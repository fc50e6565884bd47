"""The payments of a run, and their events: the simulator's bytes, filled in anew."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from bench.pipeline.load import (
    AMOUNTS,
    Events,
    Payment,
    Payments,
    TooManyPaymentsError,
    account_names,
    third_to_the_first,
    train_types,
)

from paypost.simulators.processor.events import EventBuilder, Ids, PaymentIds, Purchase

AT = datetime(2025, 3, 14, 18, 22, 5, tzinfo=UTC)
PAYMENT = Payment(7, "B-00008", 8450)


class GivenIds(Ids):
    """Gives out the ids that are already in an event."""

    def __init__(self, event: dict[str, Any]) -> None:
        self._event = event

    def new(self, prefix: str) -> str:
        charge = self._event["data"]["object"]
        given = {
            "evt": self._event["id"],
            "req": self._event["request"]["id"],
            "txn": charge.get("balance_transaction"),
        }
        return str(given[prefix])


def as_the_simulator_makes_it(event: dict[str, Any]) -> dict[str, Any]:
    """The simulator's own event of the same kind with the same ids."""
    subject = event["data"]["object"]
    if subject["object"] == "payment_intent":
        # One that was only created names its charge in its secret alone.
        charge = f"ch_{subject['client_secret'].rpartition('_')[2]}"
        ids = PaymentIds(subject["id"], charge, subject["payment_method"] or "pm_none")
    else:
        ids = PaymentIds(subject["payment_intent"], subject["id"], subject["payment_method"])
    builder = EventBuilder(ids=GivenIds(event))
    build = builder.payment_intent if subject["object"] == "payment_intent" else builder.charge
    purchase = Purchase(account=PAYMENT.account, amount_cents=PAYMENT.amount_cents)
    made: dict[str, Any] = orjson.loads(
        build(event["type"], ids=ids, purchase=purchase, at=AT).body
    )
    return made


class TestEvents:
    @pytest.mark.parametrize("event_type", train_types())
    def test_are_what_the_simulator_makes(self, event_type: str) -> None:
        [body] = Events(event_types=[event_type], seed=1).bodies(PAYMENT, at=AT)
        event = orjson.loads(body)
        assert event == as_the_simulator_makes_it(event)
        assert b"sample" not in body

    def test_of_one_payment_tell_of_the_same_charge(self) -> None:
        bodies = Events(event_types=train_types(), seed=1).bodies(PAYMENT, at=AT)
        events = [orjson.loads(body) for body in bodies]
        named = {
            event["data"]["object"].get("payment_intent", event["data"]["object"]["id"])
            for event in events
        }
        assert len(named) == 1
        assert len({event["id"] for event in events}) == 4

    def test_have_ids_that_never_come_again(self) -> None:
        events = Events(seed=1)
        bodies = [orjson.loads(events.bodies(PAYMENT, at=AT)[0]) for _ in range(100)]
        assert len({body["id"] for body in bodies}) == 100
        assert len({body["data"]["object"]["id"] for body in bodies}) == 100

    def test_say_with_which_of_them_the_money_is_taken(self) -> None:
        events = Events(event_types=train_types(), seed=1)
        assert events.per_payment == 4
        assert train_types()[events.accepting] == "payment_intent.succeeded"


class TestPayments:
    def test_are_each_of_another_account_or_amount(self) -> None:
        payments = Payments(accounts=account_names(count=3))
        dealt = payments.take(count=10_000) + payments.take(count=10_000)
        assert len({(each.account, each.amount_cents) for each in dealt}) == 20_000
        assert [each.number for each in dealt] == list(range(20_000))

    def test_stay_different_for_one_account_until_there_is_no_other_amount(self) -> None:
        payments = Payments(accounts=["B-1"])
        assert len({each.amount_cents for each in payments.take(count=AMOUNTS)}) == AMOUNTS
        with pytest.raises(TooManyPaymentsError):
            payments.take(count=1)

    def test_go_to_the_hot_account_every_third_time(self) -> None:
        payments = Payments(
            accounts=account_names(count=100), spread=third_to_the_first(accounts=100)
        )
        dealt = payments.take(count=3_000)
        of_first = sum(each.account == "B-00001" for each in dealt)
        assert of_first == 1_000
        assert {each.account for each in dealt} == set(account_names(count=100))

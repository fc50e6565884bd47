import random
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
import stripe

from paypost.simulators.processor.events import (
    API_VERSION_NEW,
    API_VERSION_OLD,
    EventBuilder,
    Ids,
    Purchase,
)
from paypost.simulators.processor.processor import expand_accounts
from paypost.simulators.processor.scenarios import SCENARIOS, SINGLE_EVENTS, Scenarios

NOW = datetime(2025, 3, 14, 12, tzinfo=UTC)
BILL = Purchase(account="ACC-7", amount_cents=8_450, fee_cents=195, bill_reference="B-1")
VERSIONS = pytest.mark.parametrize("api_version", [API_VERSION_OLD, API_VERSION_NEW])


def events(name: str, *, api_version: str = API_VERSION_OLD) -> list[dict[str, Any]]:
    ids = Ids(chance=random.Random(1))
    scenarios = Scenarios(ids=ids, builder=EventBuilder(ids=ids, api_version=api_version))
    train = (
        scenarios.make(name, purchase=BILL) if name in SCENARIOS else scenarios.single(name, BILL)
    )
    return [orjson.loads(step.build(NOW).body) for step in train.steps]


def types(name: str) -> list[str]:
    return [event["type"] for event in events(name)]


class TestScenarios:
    def test_send_the_usual_trains(self) -> None:
        card = [
            "payment_intent.created",
            "charge.succeeded",
            "payment_intent.succeeded",
            "charge.updated",
        ]
        ach = ["payment_intent.created", "payment_intent.processing"]
        dispute = "charge.dispute."
        assert types("card") == card
        assert types("ach") == [*ach, "charge.succeeded", "payment_intent.succeeded"]
        assert types("ach_return") == [*ach, "charge.failed", "payment_intent.payment_failed"]
        assert types("refund") == [*card, "charge.refunded"]
        assert types("refund_first") == ["charge.refunded", *card]
        assert types("decline") == [
            "payment_intent.created",
            "charge.failed",
            "payment_intent.payment_failed",
        ]
        assert types("dispute") == [
            *card,
            *(dispute + step for step in ("created", "funds_withdrawn", "closed")),
        ]

    @pytest.mark.parametrize("name", [*SCENARIOS, *SINGLE_EVENTS])
    @VERSIONS
    def test_leave_no_zeroed_id_and_none_of_the_fixtures_own(
        self, name: str, api_version: str
    ) -> None:
        sent = events(name, api_version=api_version)
        assert len({event["id"] for event in sent}) == len(sent)
        for event in sent:
            text = orjson.dumps(event).decode()
            for prefix in ("evt", "pi", "ch", "re", "dp", "cus", "pm", "card", "in", "txn"):
                assert f'"{prefix}_000' not in text
            assert "@" not in text
            assert "1Bl3m" not in text
            assert event["api_version"] == api_version
            assert event["created"] == int(NOW.timestamp())
            assert event["livemode"] is False
            stripe.Event.construct_from(event, "sk_test")

    @VERSIONS
    def test_say_the_same_ids_amount_and_metadata_throughout(self, api_version: str) -> None:
        created, charged, succeeded, updated = (
            event["data"]["object"] for event in events("card", api_version=api_version)
        )
        for one in (created, charged, succeeded, updated):
            assert one["amount"] == 8_645
            assert one["currency"] == "usd"
            assert one["metadata"] == {
                "account_number": "ACC-7",
                "convenience_fee_cents": "195",
                "bill_reference": "B-1",
            }
        assert charged["payment_intent"] == updated["payment_intent"] == succeeded["id"]
        assert succeeded["id"] == created["id"]
        assert charged["id"] == updated["id"]
        assert charged["paid"] is True
        assert succeeded["amount_received"] == 8_645

    def test_have_charges_in_the_old_version_and_latest_charge_in_the_new(self) -> None:
        _, charge, old, _ = (event["data"]["object"] for event in events("card"))
        _, _, new, _ = (
            event["data"]["object"] for event in events("card", api_version=API_VERSION_NEW)
        )
        assert [one["id"] for one in old["charges"]["data"]] == [charge["id"]]
        assert "latest_charge" not in old
        assert new["latest_charge"].startswith("ch_")
        assert "charges" not in new

    def test_name_the_payment_of_a_dispute_in_the_new_version_only(self) -> None:
        old = events("dispute")[-1]["data"]["object"]
        new = events("dispute", api_version=API_VERSION_NEW)[-1]["data"]["object"]
        assert old["charge"].startswith("ch_")
        assert "payment_intent" not in old
        assert new["payment_intent"].startswith("pi_")

    def test_move_money_in_a_dispute_only_when_withdrawn_and_reinstated(self) -> None:
        moved = {
            event["type"].removeprefix("charge.dispute."): [
                line["amount"] for line in event["data"]["object"]["balance_transactions"]
            ]
            for event in events("dispute_won")[4:]
        }
        assert moved["created"] == []
        assert moved["funds_withdrawn"] == [-8_645]
        assert moved["funds_reinstated"] == [8_645]

    def test_state_refunds_cumulatively(self) -> None:
        first, second, failed = (event["data"]["object"] for event in events("partial_refunds")[4:])
        assert (first["amount_refunded"], first["refunded"]) == (2_881, False)
        assert (second["amount_refunded"], second["refunded"]) == (8_645, True)
        assert [refund["amount"] for refund in second["refunds"]["data"]] == [5_764, 2_881]
        assert failed["id"] == second["refunds"]["data"][0]["id"]
        assert failed["status"] == "failed"

    def test_return_ach_after_days_with_the_banks_code(self) -> None:
        processing, _, failed = (event["data"]["object"] for event in events("ach_return")[1:])
        assert processing["status"] == "processing"
        assert processing["payment_method_types"] == ["us_bank_account"]
        error = failed["last_payment_error"]
        assert error["network_decline_code"] == "R01"
        assert error["payment_method"]["type"] == "us_bank_account"


class TestExpandAccounts:
    def test_counts_in_place_of_the_signs(self) -> None:
        assert expand_accounts("ACC-###-X", count=2) == ["ACC-001-X", "ACC-002-X"]
        assert expand_accounts("ACC-7", count=2) == ["ACC-7"]

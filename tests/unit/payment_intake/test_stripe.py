import random
from copy import deepcopy
from datetime import UTC, datetime
from importlib import resources

import orjson
import pytest
from tests.support.intake import FEE_CENTS, GROSS_CENTS, stripe_reader, stripe_train

from payment_intake.adapters.readings import InvalidEventError
from payment_intake.domain import Heard

FOLDER = resources.files("paypost.simulators") / "fixtures" / "stripe"
FIXTURES = {
    each.name.removesuffix(".json"): orjson.loads(each.read_bytes())
    for each in FOLDER.iterdir()
    if each.name.endswith(".json")
}


def read(event):
    return stripe_reader().read(orjson.dumps(event))


def train(name: str, event_type: str, **options) -> dict:
    events = stripe_train(name, **options)
    return orjson.loads(next(each.body for each in events if each.type == event_type))


def changed(event: dict, path: str, value: object) -> dict:
    """A copy with the value at a dotted path replaced, or taken out when it is ...."""
    copy = deepcopy(event)
    *parents, last = path.split(".")
    target = copy
    for name in parents:
        target = target[name]
    if value is ...:
        target.pop(last, None)
    else:
        target[last] = value
    return copy


SUCCEEDED = train("card", "payment_intent.succeeded")
CHARGED = train("card", "charge.succeeded")
REFUNDED = train("refund", "charge.refunded")
WITHDRAWN = train("dispute", "charge.dispute.funds_withdrawn")


SAYS_OF_MONEY = {
    "charge.dispute.funds_reinstated": (Heard.FUNDS_REINSTATED, 25_000),
    "charge.dispute.funds_withdrawn": (Heard.FUNDS_WITHDRAWN, 25_000),
    "charge.failed": (Heard.FAILED, 2000),
    "charge.refunded": (Heard.REFUNDED, 100),
    "charge.succeeded": (Heard.CAPTURED, 2000),
    "payment_intent.payment_failed": (Heard.FAILED, 2000),
    "payment_intent.succeeded": (Heard.CAPTURED, 2000),
}


class TestEveryRealFixture:
    @pytest.mark.parametrize("name", sorted(FIXTURES))
    def test_is_read_for_what_it_is(self, name):
        event = FIXTURES[name]
        if name == "payment_intent.processing":
            # It is in euros, which the city of these tests does not take.
            with pytest.raises(InvalidEventError, match="currency"):
                read(event)
            event = changed(event, "data.object.currency", "usd")
            expected = (Heard.PENDING, 900)
        elif name == "payment_intent.canceled":
            expected = (Heard.CANCELLED, event["data"]["object"]["amount"])
        else:
            expected = SAYS_OF_MONEY.get(name)
        reading = read(event)
        assert reading.event_type == event["type"]
        found = reading.observation
        assert (found and (found.heard, found.amount_cents)) == expected


class TestStripeReader:
    def test_reads_a_captured_payment(self):
        found = read(SUCCEEDED).observation
        assert found.processor == "stripe"
        assert found.heard is Heard.CAPTURED
        assert found.amount_cents == GROSS_CENTS
        assert found.fee_cents == FEE_CENTS
        assert found.account_id == "1002003"
        assert found.bill_reference == "B-2026-03"
        assert found.currency == "USD"
        assert found.method == "card"
        assert found.at == datetime.fromtimestamp(SUCCEEDED["created"], UTC)

    @pytest.mark.parametrize("api_version", ["2020-08-27", "2024-06-20"])
    def test_joins_a_charge_to_its_intent_by_both_names(self, api_version):
        intent = read(train("card", "payment_intent.succeeded", api_version=api_version))
        charge = read(train("card", "charge.succeeded", api_version=api_version))
        assert set(intent.observation.references) == set(charge.observation.references)
        assert len(intent.observation.references) == 2

    def test_reads_the_oldest_form_which_says_only_what_was_asked_for(self):
        found = read(changed(SUCCEEDED, "data.object.amount_received", ...)).observation
        assert found.amount_cents == GROSS_CENTS

    def test_says_nothing_of_an_authorisation(self):
        assert read(changed(CHARGED, "data.object.captured", False)).observation is None

    def test_says_nothing_of_a_type_that_it_does_not_know(self):
        reading = read(changed(SUCCEEDED, "type", "radar.early_fraud_warning.created"))
        assert reading.observation is None
        assert reading.event_id == SUCCEEDED["id"]

    def test_reads_a_refund_as_the_total_so_far(self):
        found = read(REFUNDED).observation
        assert (found.heard, found.amount_cents, found.fee_cents) == (
            Heard.REFUNDED,
            GROSS_CENTS,
            0,
        )

    @pytest.mark.parametrize("event_type", ["charge.refund.updated", "refund.updated"])
    @pytest.mark.parametrize("status", ["pending", "succeeded", "requires_action"])
    def test_says_nothing_of_a_refund_that_is_on_its_way(self, event_type, status):
        event = changed(FIXTURES["charge.refund.updated"], "data.object.status", status)
        assert read(changed(event, "type", event_type)).observation is None

    @pytest.mark.parametrize("status", ["failed", "canceled"])
    def test_reads_a_refund_that_did_not_arrive(self, status):
        event = changed(FIXTURES["charge.refund.updated"], "data.object.status", status)
        found = read(event).observation
        assert (found.heard, found.amount_cents) == (Heard.REFUND_FAILED, 100)
        assert found.part == "re_000000000000000000000000"

    def test_reads_the_banks_own_code_of_a_return(self):
        found = read(train("ach_return", "payment_intent.payment_failed")).observation
        assert (found.heard, found.code) == (Heard.FAILED, "R01")

    def test_calls_both_events_of_one_decline_the_same_attempt(self):
        of_intent = read(train("decline", "payment_intent.payment_failed")).observation
        of_charge = read(train("decline", "charge.failed")).observation
        assert of_intent.part == of_charge.part

    @pytest.mark.parametrize(
        "account", [None, 7, "", "   ", "with space", "tab\there", "é", "x" * 65, ...]
    )
    def test_accepts_a_payment_whose_account_is_none(self, account):
        event = changed(SUCCEEDED, "data.object.metadata.account_number", account)
        assert read(event).observation.account_id is None

    def test_strips_an_account(self):
        event = changed(SUCCEEDED, "data.object.metadata.account_number", " 1002003 ")
        assert read(event).observation.account_id == "1002003"

    @pytest.mark.parametrize("fee", ["", None, ..., "0", "000000"])
    def test_takes_a_missing_fee_as_none(self, fee):
        event = changed(SUCCEEDED, "data.object.metadata.convenience_fee_cents", fee)
        assert read(event).observation.fee_cents == 0

    @pytest.mark.parametrize(
        "fee",
        ["2.50", "-1", "1e2", "²", 250, True, str(GROSS_CENTS), "9" * 30, "0" * 14 + "250"],
    )
    def test_refuses_a_fee_that_is_none(self, fee):
        event = changed(SUCCEEDED, "data.object.metadata.convenience_fee_cents", fee)
        with pytest.raises(InvalidEventError) as caught:
            read(event)
        assert caught.value.field == "data.object.metadata.convenience_fee_cents"

    @pytest.mark.parametrize(
        "amount",
        [0, -1, 12.5, 12.0, "12", True, None, [], {}, 100_000_001, 10**18],
    )
    def test_refuses_an_amount_that_is_none_and_names_the_field(self, amount):
        with pytest.raises(InvalidEventError) as caught:
            read(changed(SUCCEEDED, "data.object.amount_received", amount))
        assert caught.value.field == "data.object.amount_received"

    @pytest.mark.parametrize("currency", ["eur", "us", "", None, 840, "dollars", ...])
    def test_refuses_a_currency_that_is_not_taken(self, currency):
        with pytest.raises(InvalidEventError) as caught:
            read(changed(SUCCEEDED, "data.object.currency", currency))
        assert caught.value.field == "data.object.currency"

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("id", None),
            ("id", ""),
            ("id", "x" * 256),
            ("id", "evt\x00"),
            ("id", ...),
            ("type", 7),
            ("type", ...),
            ("created", "now"),
            ("created", 0),
            ("created", -1),
            ("created", 1.5),
            ("created", 10**14),
            ("created", ...),
            ("data", None),
            ("data", []),
            ("data.object", "pi_1"),
            ("data.object", ...),
        ],
    )
    def test_names_what_is_wrong_with_an_event(self, path, value):
        with pytest.raises(InvalidEventError) as caught:
            read(changed(SUCCEEDED, path, value))
        assert caught.value.field == path

    def test_refuses_a_payment_without_a_name(self):
        event = changed(changed(WITHDRAWN, "data.object.charge", None), "data.object.id", "dp_1")
        with pytest.raises(InvalidEventError):
            read(changed(event, "data.object.payment_intent", None))

    @pytest.mark.parametrize(
        "body",
        [b"", b"null", b"[]", b"7", b'"text"', b"{", b"\xff", b'{"amount": NaN}', b"[" * 2000],
    )
    def test_refuses_what_is_no_event(self, body):
        with pytest.raises(InvalidEventError) as caught:
            stripe_reader().read(body)
        assert caught.value.field in {"body", "id"}

    def test_never_repeats_what_it_refuses(self):
        with pytest.raises(InvalidEventError) as caught:
            read(changed(SUCCEEDED, "data.object.amount_received", "4242424242424242"))
        assert "4242" not in str(caught.value)


ODD = (
    *(None, True, False, 0, 1, -1, 2**63, -(2**63), 0.5, 1e300, -0.0),
    *("", "x", "x" * 300, "\x00", "usd", "failed", [], [1], ["x"], {}, {"id": 1}, {"data": []}),
)
REAL = [*FIXTURES.values(), SUCCEEDED, CHARGED, REFUNDED, WITHDRAWN]


def places(value, path=()):
    """Every place in a document where something can be put or taken out."""
    entries = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in entries:
        yield (*path, key)
        yield from places(inner, (*path, key))


@pytest.mark.parametrize("event", REAL, ids=lambda event: event["type"])
def test_a_mutated_real_event_is_read_or_refused_and_nothing_worse(event):
    chance = random.Random(event["type"])
    for _ in range(150):
        copy = deepcopy(event)
        for _ in range(chance.randint(1, 4)):
            *parents, last = chance.choice(list(places(copy)) or [("id",)])
            target = copy
            for key in parents:
                target = target[key]
            if chance.random() < 0.7:
                target[last] = chance.choice(ODD)
            else:
                target.pop(last, None) if isinstance(target, dict) else target.pop(last)
        try:
            observation = read(copy).observation
        except InvalidEventError:
            continue
        if observation is not None:
            assert 0 <= observation.fee_cents < observation.amount_cents <= 100_000_000
            assert observation.currency == "USD"
            assert all(0 < len(name) <= 255 for name in observation.references)


class TestEventsThatMoveNoMoney:
    def test_an_intent_is_still_known_by_its_name(self) -> None:
        created = train("card", "payment_intent.created")

        reading = read(created)

        assert reading.observation is None
        assert reading.about == ("stripe", created["data"]["object"]["id"])

    def test_a_changed_charge_belongs_to_its_intent(self) -> None:
        updated = train("card", "charge.updated")

        assert read(updated).about == ("stripe", updated["data"]["object"]["payment_intent"])

    def test_what_speaks_of_no_payment_is_about_none(self) -> None:
        assert read(FIXTURES["payout.paid"]).about is None


CHARGE_ID = "11111111-2222-5333-8444-555555555555"


class TestAutopaysName:
    @pytest.mark.parametrize(
        ("name", "event_type"),
        [
            ("card", "payment_intent.succeeded"),
            ("card", "charge.succeeded"),
            ("refund", "charge.refunded"),
        ],
    )
    def test_is_one_of_the_payments_names(self, name, event_type):
        event = train(name, event_type)
        event["data"]["object"].setdefault("metadata", {})["paypost_charge_id"] = CHARGE_ID
        observation = read(event).observation
        assert f"autopay:{CHARGE_ID}" in observation.references
        # Evidence and timeline go by the processor's own name.
        assert observation.references[0].startswith("pi_")

    @pytest.mark.parametrize("value", ["", "B-2026-03", CHARGE_ID.replace("-", ""), 7, None])
    def test_is_left_out_where_it_is_none(self, value):
        event = changed(SUCCEEDED, "data.object.metadata.paypost_charge_id", value)
        references = read(event).observation.references
        assert not [each for each in references if each.startswith("autopay:")]


class TestDeclinesMeaning:
    @pytest.mark.parametrize(
        ("error", "kind", "code", "category"),
        [
            ({"code": "card_declined", "decline_code": "lost_card"}, "card", "lost_card", "hard"),
            (
                {"code": "card_declined", "decline_code": "generic_decline"},
                "card",
                "generic_decline",
                "soft",
            ),
            (
                {
                    "code": "card_declined",
                    "decline_code": "generic_decline",
                    "advice_code": "do_not_try_again",
                },
                "card",
                "generic_decline",
                "hard",
            ),
            (
                {
                    "code": "card_declined",
                    "decline_code": "insufficient_funds",
                    "network_decline_code": "51",
                },
                "card",
                "insufficient_funds",
                "soft",
            ),
            (
                {"code": "insufficient_funds", "network_decline_code": "R01"},
                "us_bank_account",
                "R01",
                "soft",
            ),
            (
                {"code": "debit_not_authorized", "network_decline_code": "R10"},
                "us_bank_account",
                "R10",
                "withdrawn",
            ),
        ],
    )
    def test_is_read_off_the_failed_payment(self, error, kind, code, category):
        event = deepcopy(FIXTURES["payment_intent.payment_failed"])
        event["data"]["object"]["last_payment_error"] = error
        event["data"]["object"]["payment_method_types"] = [kind]
        observation = read(changed(event, "data.object.currency", "usd")).observation
        assert (observation.code, observation.category) == (code, category)

    def test_is_read_off_the_failed_charge(self):
        event = changed(FIXTURES["charge.failed"], "data.object.currency", "usd")
        event["data"]["object"]["outcome"] = {"reason": "stolen_card"}
        observation = read(event).observation
        assert (observation.code, observation.category) == ("stolen_card", "hard")


def method_event(event_type, **changes):
    event = deepcopy(FIXTURES["payment_method.attached"])
    event["type"] = event_type
    event["data"]["object"] |= {"id": "pm_123"} | changes
    return event


def mandate_event(**changes):
    event = deepcopy(FIXTURES["mandate.updated"])
    event["data"]["object"] |= changes
    return event


def stated(event):
    """Type and content of what a reading states on payments.v1."""
    relay = read(event).relay
    if relay is None:
        return None
    assert relay.topic == "payments.v1"
    return dict(relay.headers)["ce_type"].decode(), orjson.loads(relay.value)


class TestMethods:
    @pytest.mark.parametrize(
        "event_type", ["payment_method.automatically_updated", "payment_method.updated"]
    )
    def test_of_a_card_are_stated_with_what_it_looks_like(self, event_type):
        fact_type, fact = stated(method_event(event_type))
        assert fact_type == "method.updated"
        assert fact == {
            "processor": "stripe",
            "payment_method_token": "pm_123",
            "method": {"kind": "card", "label": "Visa", "last4": "4242", "expires": "2023-03"},
            "updated_at": "2022-03-26T18:41:47Z",
        }

    def test_of_a_bank_account_are_stated_too(self):
        account = {"bank_name": "STRIPE TEST BANK", "last4": "6789", "routing_number": "110000000"}
        event = method_event(
            "payment_method.updated", type="us_bank_account", us_bank_account=account
        )
        _, fact = stated(event)
        assert fact["method"] == {
            "kind": "us_bank_account",
            "label": "STRIPE TEST BANK",
            "last4": "6789",
            "expires": None,
        }

    @pytest.mark.parametrize(
        "changes", [{"type": "link", "link": {}}, {"type": "card", "card": None}, {"type": None}]
    )
    def test_of_other_kinds_are_kept_and_say_nothing(self, changes):
        assert stated(method_event("payment_method.updated", **changes)) is None

    def test_that_are_attached_say_nothing(self):
        assert stated(FIXTURES["payment_method.attached"]) is None

    @pytest.mark.parametrize(
        ("path", "value", "field"),
        [
            ("data.object.card.last4", "42424242", "last4"),
            ("data.object.card.exp_month", 13, "expires"),
            ("data.object.id", "4242424242424242", "payment_method_token"),
        ],
    )
    def test_that_look_like_none_are_refused_by_their_field(self, path, value, field):
        event = changed(method_event("payment_method.updated"), path, value)
        with pytest.raises(InvalidEventError) as refused:
            read(event)
        assert refused.value.field == "data.object"
        assert field in refused.value.message
        assert str(value) not in refused.value.message


class TestMandates:
    def test_that_are_inactive_are_withdrawn(self):
        fact_type, fact = stated(mandate_event(status="inactive"))
        assert fact_type == "mandate.withdrawn"
        assert fact == {
            "processor": "stripe",
            "payment_method_token": "pm_000000000000000000000000",
            "mandate_token": "mandate_000000000000000000000000",
            "withdrawn_at": "2012-01-18T02:24:38Z",
        }

    @pytest.mark.parametrize("status", ["active", "pending", None])
    def test_that_are_good_say_nothing(self, status):
        assert stated(mandate_event(status=status)) is None

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.intake import stripe_train

from payment_intake.adapters.card_numbers import masked

# The numbers that the issuers and processors publish for tests.
CARDS = {
    "Visa": "4242424242424242",
    "Visa debit": "4000056655665556",
    "Visa of 13 digits": "4222222222222",
    "Visa of 19 digits": "4000160000000000002",
    "Mastercard": "5555555555554444",
    "Mastercard 2-series": "2223003122003222",
    "Mastercard prepaid": "5105105105105100",
    "American Express": "378282246310005",
    "American Express 34": "343434343434343",
    "Discover": "6011111111111117",
    "Discover 65": "6510000000000000",
    "Diners Club 30": "3056930009020004",
    "Diners Club 36": "36227206271667",
    "Diners Club 38": "38520000023237",
    "Diners Club 39": "39300000000009",
    "BCcard and DinaCard": "6555900000604105",
    "JCB": "3566002020360505",
    "UnionPay": "6200000000000005",
    "UnionPay of 19 digits": "6205500000000000004",
    "Maestro 50": "5018000000000009",
    "Maestro 67": "6759649826438453",
}
VISA = CARDS["Visa"]
GONE = "************4242"


def in_json(document) -> tuple[object, int]:
    body, count = masked(orjson.dumps(document))
    return orjson.loads(body), count


def by_hand(digits: str) -> bool:
    """The Luhn check as ISO/IEC 7812-1 annex B puts it in words."""
    total = 0
    for position, digit in enumerate(digits[::-1], start=1):
        value = int(digit)
        if position % 2 == 0:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


class TestCardNumber:
    @pytest.mark.parametrize("number", CARDS.values(), ids=CARDS.keys())
    def test_of_every_issuer_is_masked_but_for_its_last_four(self, number):
        assert by_hand(number)
        found, count = in_json({"note": f"paid with {number}."})
        stars = "*" * (len(number) - 4)
        assert found == {"note": f"paid with {stars}{number[-4:]}."}
        assert count == 1

    @pytest.mark.parametrize("number", CARDS.values(), ids=CARDS.keys())
    def test_is_masked_where_it_stands_as_a_number(self, number):
        found, count = in_json({"card": int(number)})
        assert found == {"card": "*" * (len(number) - 4) + number[-4:]}
        assert count == 1

    def test_is_masked_where_it_stands_as_a_fraction(self):
        body, count = masked(b'{"card": 4242424242424242.0}')
        assert b"424242424242" not in body
        assert count == 1

    @pytest.mark.parametrize(
        "text",
        [
            "4242 4242 4242 4242",
            "4242-4242-4242-4242",
            "4242 4242-4242 4242",
            "42424242 42424242",
            "3782 822463 10005",
        ],
    )
    def test_is_masked_with_spaces_and_dashes_between(self, text):
        found, count = in_json({"note": text})
        assert found["note"].startswith("***")
        assert count == 1

    @pytest.mark.parametrize(
        ("text", "left"),
        [
            (f"{VISA} 12/30", f"{GONE} 12/30"),
            (f"{VISA} 123", f"{GONE} 123"),
            ("4242 4242 4242 4242 12 30", f"{GONE} 12 30"),
            (f"7 {VISA}", f"7 {GONE}"),
            (f"account 1002003 {VISA}", f"account 1002003 {GONE}"),
            (f"2026-03-02 {VISA}", f"2026-03-02 {GONE}"),
            (f"{VISA} {VISA}", f"{GONE} {GONE}"),
            (f"{VISA}-4000056655665556", f"{GONE}-************5556"),
        ],
    )
    def test_is_masked_beside_other_digits(self, text, left):
        assert in_json({"note": text})[0] == {"note": left}

    def test_is_masked_wherever_it_is_nested(self):
        found, count = in_json({"a": [{"b": [VISA, int(VISA)]}, VISA], VISA: {"c": VISA}})
        assert found == {"a": [{"b": [GONE, GONE]}, GONE], GONE: {"c": GONE}}
        assert count == 5

    def test_is_masked_where_json_writes_it_in_escapes(self):
        body, count = masked(b'{"account_number": "\\u00342424242 4242\\u0034242"}')
        assert orjson.loads(body) == {"account_number": GONE}
        assert count == 1

    def test_is_masked_in_what_is_not_json(self):
        assert masked(f"card={VISA}&x=1".encode()) == (f"card={GONE}&x=1".encode(), 1)
        assert masked(f"\xff {VISA}".encode("latin-1"))[1] == 1

    def test_is_masked_in_what_is_nested_too_deep_to_walk(self):
        body = b"[" * 900 + b'"4242424242424242"' + b"]" * 900
        kept, count = masked(body)
        assert b"4242424242" not in kept
        assert count == 1


class TestWhatIsNoCardNumber:
    @pytest.mark.parametrize(
        "text",
        [
            "4242424242424241",
            "1234567812345670",
            "9999999999999995",
            "424242424242",
            "42424242424242424242424",
            "0" * 16,
            "ch_4242424242424242",
            "4242424242424242abc",
            "4242  4242  4242  4242",
            "+1 (555) 010-9999",
            "2026-03-02T17:04:05",
        ],
    )
    def test_stays(self, text):
        body = orjson.dumps({"note": text})
        assert masked(body) == (body, 0)

    @pytest.mark.parametrize(
        "field",
        [
            "id",
            "reference",
            "payment_intent",
            "charge",
            "latest_charge",
            "balance_transaction",
            "event_id",
            "enrolment_reference",
        ],
    )
    def test_is_the_senders_own_reference(self, field):
        body = orjson.dumps({field: VISA, "also": {field: int(VISA)}, "list": [{field: VISA}]})
        assert masked(body) == (body, 0)

    def test_stays_beside_one_that_is_masked(self):
        found, count = in_json({"reference": VISA, "note": VISA})
        assert found == {"reference": VISA, "note": GONE}
        assert count == 1

    def test_leaves_the_bytes_as_they_were(self):
        body = b'{ "b" : 1.50,\n "a":"\\u00e9\\/" }'
        assert masked(body)[0] is body

    @pytest.mark.parametrize("scenario", ["card", "ach", "ach_return", "refund", "dispute_won"])
    def test_is_in_no_real_event(self, scenario):
        for event in stripe_train(scenario):
            assert masked(event.body) == (event.body, 0)


APART = st.text('abc .,:/#\n"\\é', max_size=6)


@settings(max_examples=200, deadline=None)
@given(
    number=st.sampled_from(sorted(CARDS.values())),
    before=st.text('abc .,:/#\n"\\é', max_size=6).filter(lambda text: text[-1:] not in set("abcé")),
    after=st.text('abc .,:/#\n"\\é', max_size=6).filter(lambda text: text[:1] not in set("abcé")),
)
def test_no_card_number_survives_in_any_text(number, before, after):
    body, count = masked(orjson.dumps({"note": before + number + after}))
    assert number.encode() not in body
    assert count == 1


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_can_be_masked(body):
    kept, count = masked(body)
    assert count or kept == body

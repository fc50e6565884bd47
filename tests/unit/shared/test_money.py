"""Money is whole minor units of one currency: nothing is rounded, guessed or mixed."""

from typing import Any
from uuid import uuid4

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from tests.support.examples import examples
from tests.support.intake import GROSS_CENTS, NET_CENTS, Watched, heard

from payment_intake.domain import Heard
from shared.contracts.payments import PaymentAccepted
from shared.contracts.streams import PAYMENTS
from shared.contracts.wire import decode, encode
from shared.money import AMOUNT_CENTS_MAX, AmountCents, Currency, format_amount

AMOUNT: TypeAdapter[int] = TypeAdapter(AmountCents)
CURRENCY: TypeAdapter[str] = TypeAdapter(Currency)
ANY_CENTS = st.integers(-(10**15), 10**15)
CENTS = st.integers(1, AMOUNT_CENTS_MAX)


def read_back(text: str) -> tuple[str, int]:
    """A formatted amount, read digit by digit."""
    currency, _, number = text.partition(" ")
    return currency, int(number.replace(",", "").replace(".", ""))


class TestAmountCents:
    @given(cents=CENTS)
    def test_takes_every_whole_amount_up_to_the_most_and_keeps_it(self, cents):
        assert AMOUNT.validate_python(cents) == cents
        assert AMOUNT.validate_json(orjson.dumps(cents)) == cents

    @given(cents=st.one_of(st.integers(max_value=0), st.integers(AMOUNT_CENTS_MAX + 1)))
    def test_refuses_nothing_less_than_nothing_and_the_absurd(self, cents):
        with pytest.raises(ValidationError):
            AMOUNT.validate_python(cents)

    @given(
        value=st.one_of(
            st.floats(allow_nan=True, allow_infinity=True),
            CENTS.map(float),
            CENTS.map(str),
            st.decimals(),
            st.booleans(),
            st.none(),
        )
    )
    def test_refuses_all_that_is_no_integer_even_where_it_is_whole(self, value):
        with pytest.raises(ValidationError):
            AMOUNT.validate_python(value)

    @given(text=st.sampled_from(["12.0", "1e3", '"12"', "true", "null", "12.5", "NaN", "[12]"]))
    def test_refuses_in_json_what_it_refuses_in_python(self, text):
        with pytest.raises(ValidationError):
            AMOUNT.validate_json(text)


class TestCurrency:
    @given(text=st.from_regex(r"\A[A-Z]{3}\Z"))
    def test_takes_codes(self, text):
        assert CURRENCY.validate_python(text) == text

    @given(
        text=st.text(max_size=5).filter(
            lambda t: not (len(t) == 3 and t.isascii() and t.isupper() and t.isalpha())
        )
    )
    def test_refuses_all_else(self, text):
        with pytest.raises(ValidationError):
            CURRENCY.validate_python(text)


class TestFormatAmount:
    @given(cents=ANY_CENTS, currency=st.sampled_from(["USD", "EUR", "CAD"]))
    def test_can_be_read_back_to_the_cent(self, cents, currency):
        assert read_back(format_amount(amount_cents=cents, currency=currency)) == (currency, cents)

    @given(parts=st.lists(ANY_CENTS, max_size=20))
    def test_of_parts_adds_up_to_that_of_their_sum(self, parts):
        texts = [format_amount(amount_cents=each, currency="USD") for each in parts]
        assert sum(read_back(text)[1] for text in texts) == sum(parts)


def accepted(**changes: Any) -> PaymentAccepted:
    fields = {
        "payment_id": uuid4(),
        "account_id": "1002003",
        "processor": "stripe",
        "reference": "pi_1",
        "amount_cents": NET_CENTS,
        "currency": "USD",
        "posting_key": uuid4(),
        "effective_date": "2026-03-02",
        "accepted_at": "2026-03-02T18:00:00Z",
    }
    return PaymentAccepted.model_validate(fields | changes)


class TestFactsOfMoney:
    @given(cents=CENTS, currency=st.from_regex(r"\A[A-Z]{3}\Z"))
    def test_come_off_the_stream_as_they_were_stated(self, cents, currency):
        stated = accepted(amount_cents=cents, currency=currency)
        record = encode(stated, stream=PAYMENTS)
        assert type(orjson.loads(record.value)["amount_cents"]) is int
        received = decode(record)
        assert received is not None
        assert received.fact == stated


CAPTURED = heard(Heard.CAPTURED)
CURRENCIES = st.sampled_from(["EUR", "CAD", "USD"])


class TestMixedCurrencies:
    @settings(max_examples=examples(200), deadline=None)
    @given(
        later=st.lists(
            st.builds(
                lambda what, minute, cents, currency: heard(
                    what, minute=minute, amount_cents=cents, currency=currency, part="x_1"
                ),
                st.sampled_from([Heard.REFUNDED, Heard.FUNDS_WITHDRAWN, Heard.CAPTURED]),
                st.integers(1, 5),
                st.integers(1, GROSS_CENTS),
                CURRENCIES,
            ),
            max_size=5,
        )
    )
    def test_never_meet_on_one_payment(self, later):
        payment = Watched()
        payment.hears(CAPTURED)
        for observation in later:
            before = payment.ledger_cents, len(payment.conflicts)
            payment.hears(observation)
            if observation.currency != "USD":
                assert payment.ledger_cents == before[0]
                assert len(payment.conflicts) > before[1]
        assert payment.payment.currency == "USD"
        assert 0 <= payment.ledger_cents <= NET_CENTS

    @pytest.mark.parametrize("what", [Heard.REFUNDED, Heard.REFUND_FAILED, Heard.FUNDS_WITHDRAWN])
    def test_move_nothing_though_they_came_before_the_payment(self, what):
        payment = Watched()
        payment.hears(heard(what, minute=1, currency="EUR", part="x_1"), CAPTURED)
        assert payment.moved() == [("payment", NET_CENTS)]
        assert [each.kind for each in payment.conflicts] == ["payment_currency"]
        payment.hears(CAPTURED)
        assert len(payment.conflicts) == 1

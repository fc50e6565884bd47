import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopay_scheduler.domain.payment_data import (
    NumberShape,
    holds_payment_data,
    names_payment_data,
    numbers_are_payment_data,
    shape_of,
)

# The numbers that issuers, processors and ISO publish for tests and examples.
CARDS = (
    *("4242424242424242", "4222222222222", "4000160000000000002", "5555555555554444"),
    *("2223003122003222", "378282246310005", "6011111111111117", "3056930009020004"),
    *("3566002020360505", "6200000000000005", "6759649826438453"),
)
ROUTING = "021000021"
IBANS = ("GB82 WEST 1234 5698 7654 32", "DE89370400440532013000", "NO9386011117947")


class TestPaymentData:
    @pytest.mark.parametrize("number", CARDS)
    def test_is_a_card_number(self, number: str) -> None:
        assert holds_payment_data(number)
        assert holds_payment_data(f"Ada Byron {number} visa")
        assert holds_payment_data(f"Visa{number}")

    @pytest.mark.parametrize(
        "text",
        [
            "4242 4242 4242 4242",
            "4242-4242-4242-4242",
            "4242.4242.4242.4242",
            "12 4242 4242 4242 4242",
            "\u0664\u0662" * 8,
            "4242\u00a04242\u00a04242\u00a04242",
            "\uff14\uff12\uff14\uff12\uff14\uff12\uff14\uff12\uff14\uff12\uff14\uff12\uff14\uff12\uff14\uff12",
        ],
    )
    def test_is_a_card_number_in_any_writing(self, text: str) -> None:
        assert holds_payment_data(text)

    @pytest.mark.parametrize("iban", IBANS)
    def test_is_an_iban(self, iban: str) -> None:
        assert holds_payment_data(iban)
        assert holds_payment_data(f"{iban} ADA BYRON")
        assert holds_payment_data(iban.lower())

    @pytest.mark.parametrize(
        "text",
        [
            f"{ROUTING} 12345678",
            f"{ROUTING}/0001234567",
            f"checking 1234567, routing {ROUTING}",
            f"{ROUTING}:123456789",
        ],
    )
    def test_is_a_routing_number_with_an_account_number(self, text: str) -> None:
        assert holds_payment_data(text)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "Ada Byron",
            "ada.byron2024@example.org",
            "4242424242424241",
            "9999999999999995",
            ROUTING,
            "021000022 12345678",
            "2026-03-05",
            "123456",
            "GB82 WEST 1234 5698 7654 33",
            "Unit 4, 12th floor",
        ],
    )
    def test_is_nothing_else(self, text: str) -> None:
        assert not holds_payment_data(text)

    @pytest.mark.parametrize(
        ("text", "shape"),
        [
            ("7001", NumberShape.NONE),
            ("4242424242424241", NumberShape.POSSIBLE),
            ("4242424242424242", NumberShape.FITTING),
            ("021000022-12345678", NumberShape.POSSIBLE),
            ("021000021-12345678", NumberShape.FITTING),
        ],
    )
    def test_has_a_shape(self, text: str, shape: NumberShape) -> None:
        assert shape_of(text) is shape

    @pytest.mark.parametrize(
        ("fitting", "shaped", "are"),
        [(0, 0, False), (1, 1, True), (1, 2, False), (2, 3, True), (100, 1000, False)],
    )
    def test_of_accounts_is_judged_by_all_of_them(
        self, fitting: int, shaped: int, are: bool
    ) -> None:
        assert numbers_are_payment_data(fitting=fitting, shaped=shaped) is are

    @given(st.text(max_size=300))
    def test_can_be_asked_of_any_text(self, text: str) -> None:
        assert holds_payment_data(text) in (True, False)


class TestColumn:
    @pytest.mark.parametrize(
        "name",
        [
            *("card", "Card Number", "card_no", "CC", "cc_number", "PAN", "cvv", "CVV2", "cvc"),
            *("iban", "IBAN ", "routing", "routing_number", "ABA", "bic", "swift-code"),
            *("token", "payment_method", "Payment Token", "exp", "exp_date", "expiry", "Expires"),
            *("bank_account", "Bank Account Number", "checking_account", "savings", "ach_account"),
            *("sort code", "mandate", "credit_card", "debitcard", "cardholder"),
        ],
    )
    def test_is_named_like_payment_data(self, name: str) -> None:
        assert names_payment_data(name)

    @pytest.mark.parametrize(
        "name", ["account", "old_account", "company", "expanse", "phone", "address", "amount", ""]
    )
    def test_is_not(self, name: str) -> None:
        assert not names_payment_data(name)

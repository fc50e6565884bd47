"""What an enrolment may say: never a number that could be charged, never half a rule."""

from datetime import UTC, datetime

import pytest
from pydantic import TypeAdapter, ValidationError

from shared.contracts.autopay import ChargeRequested
from shared.contracts.enrolments import (
    AutopayRule,
    PaymentMethod,
    ProcessorName,
    Reference,
    Token,
)
from shared.contracts.portal import AutopayChanged, AutopayEnrolled

TOKEN = TypeAdapter(Token)
REFERENCE = TypeAdapter(Reference)
PROCESSOR = TypeAdapter(ProcessorName)

CARD_NUMBERS = [
    "4242424242424242",
    "4242 4242 4242 4242",
    "4242-4242-4242-4242",
    "4242_4242_4242_4242",
    "378282246310005",
]
MASKED_NUMBERS = ["************4242", "XXXXXXXXXXXX4242", "xxxx-xxxx-xxxx-4242", "****4242"]
BANK_NUMBERS = ["110000000", "000123456789", "110000000:000123456789", "110000000_000123456789"]


def fields_of(error: ValidationError) -> list[str]:
    return [".".join(str(part) for part in entry["loc"]) for entry in error.errors()]


def enrolled(**changes: object) -> dict[str, object]:
    return {
        "account_id": "1002003",
        "enrolment_reference": "enr_1",
        "processor": "stripe",
        "payment_method_token": "pm_1OaExample",
        "authorisation_version": "2026-01",
        "authorised_at": "2026-03-01T09:30:00Z",
        "enrolled_at": "2026-03-02T17:04:05Z",
        **changes,
    }


class TestToken:
    @pytest.mark.parametrize(
        "token",
        [
            "pm_1OaExample",
            "pm_card_visa",
            "card_1OaExample",
            "ba_1OaExample",
            "src_1OaExample",
            "cus_OaExample",
            "mandate_1OaExample",
            "pm_123",
            "p_" + "a" * 253,
        ],
    )
    def test_is_letters_an_underscore_and_a_name(self, token):
        assert TOKEN.validate_python(token) == token

    @pytest.mark.parametrize("number", CARD_NUMBERS + BANK_NUMBERS)
    def test_is_never_a_card_or_bank_number(self, number):
        with pytest.raises(ValidationError):
            TOKEN.validate_python(number)

    @pytest.mark.parametrize("masked", MASKED_NUMBERS)
    def test_is_never_a_masked_number(self, masked):
        with pytest.raises(ValidationError):
            TOKEN.validate_python(masked)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "pm_",
            "pm_12",
            "_1OaExample",
            "pm",
            "pm1OaExample",
            "1pm_OaExample",
            " pm_1OaExample",
            "pm_1OaExample ",
            "pm_1Oa Example",
            "pm_1OaExample\n",
            "pm_1OaExample\x00",
            "pm_1Oa-Example",
            "pm_1Oa*Example",
            "pm_1OaExamplé",
            "p_" + "a" * 254,
        ],
    )
    def test_is_nothing_else(self, text):
        with pytest.raises(ValidationError):
            TOKEN.validate_python(text)

    @pytest.mark.parametrize("value", [None, 4242424242424242, True, ["pm_1OaExample"], b"\xff"])
    def test_is_a_text(self, value):
        with pytest.raises(ValidationError):
            TOKEN.validate_python(value)

    @pytest.mark.parametrize("name", ["payment_method_token", "customer_token", "mandate_token"])
    @pytest.mark.parametrize("fact", [AutopayEnrolled, AutopayChanged])
    def test_is_what_each_token_of_an_authorisation_has_to_be(self, fact, name):
        body = enrolled(changed_at="2026-03-02T17:04:05Z", **{name: "4242424242424242"})
        with pytest.raises(ValidationError) as refused:
            fact.model_validate(body)
        assert fields_of(refused.value) == [name]

    @pytest.mark.parametrize("name", ["payment_method_token", "customer_token", "mandate_token"])
    def test_is_what_each_token_of_a_request_has_to_be(self, name):
        at = datetime(2026, 3, 2, tzinfo=UTC)
        body = {
            "account_id": "1002003",
            "enrolment_id": "0197a5d0-0000-7000-8000-000000000004",
            "charge_id": "0197a5d0-0000-7000-8000-000000000005",
            "due_date": "2026-03-20",
            "currency": "USD",
            "bill_reference": "B-2026-03",
            "method": {},
            "attempt": 1,
            "amount_cents": 8250,
            "processor": "stripe",
            "payment_method_token": "pm_1OaExample",
            "customer_token": None,
            "mandate_token": None,
            "requested_at": at,
            "valid_until": at,
        }
        assert ChargeRequested.model_validate(body).amount_cents == 8250
        with pytest.raises(ValidationError) as refused:
            ChargeRequested.model_validate({**body, name: "************4242"})
        assert fields_of(refused.value) == [name]


class TestReference:
    @pytest.mark.parametrize("text", ["", " ", "enr 1", "enr_1\n", "enr\t1", "é", "a" * 256])
    def test_is_visible_ascii_of_bounded_length(self, text):
        with pytest.raises(ValidationError):
            REFERENCE.validate_python(text)


class TestProcessorName:
    @pytest.mark.parametrize("text", ["", "Stripe", "1stripe", "stripe ", "str ipe", "s" * 33])
    def test_is_lower_case_and_short(self, text):
        with pytest.raises(ValidationError):
            PROCESSOR.validate_python(text)


class TestPaymentMethod:
    def test_says_nothing_by_default(self):
        method = PaymentMethod()
        assert (method.kind, method.label, method.last4, method.expires) == ("card", "", None, None)

    @pytest.mark.parametrize(
        "last4", ["", "424", "42424", "4242424242424242", "*242", "....", "42 2", "٤٢٤٢", "4242\n"]
    )
    def test_keeps_four_digits_and_no_more(self, last4):
        with pytest.raises(ValidationError):
            PaymentMethod(last4=last4)

    @pytest.mark.parametrize(
        "expires",
        ["2027-00", "2027-13", "2027-8", "2027-08-31", "08/27", "27-08", "1999-12", "2100-01", ""],
    )
    def test_expires_in_a_month_that_there_is(self, expires):
        with pytest.raises(ValidationError):
            PaymentMethod(expires=expires)

    @pytest.mark.parametrize("expires", ["2027-01", "2027-12", "2000-10", "2099-09"])
    def test_takes_every_month(self, expires):
        assert PaymentMethod(expires=expires).expires == expires

    @pytest.mark.parametrize("label", ["Visa\r\nBcc: x@example.org", "Visa\x00", "V" * 41])
    def test_has_a_label_that_no_header_or_database_stumbles_over(self, label):
        with pytest.raises(ValidationError):
            PaymentMethod(label=label)

    @pytest.mark.parametrize("kind", ["", "cash", "CARD", "sepa_debit"])
    def test_is_a_card_or_a_bank_account(self, kind):
        with pytest.raises(ValidationError):
            PaymentMethod(kind=kind)

    def test_forgets_what_it_does_not_know(self):
        method = PaymentMethod.model_validate({"number": "4242424242424242", "last4": "4242"})
        assert "4242424242424242" not in method.model_dump_json()


class TestAutopayRule:
    @pytest.mark.parametrize(
        "rule",
        [
            {},
            {"charge_on": "days_before_due", "days_before": 1},
            {"charge_on": "days_before_due", "days_before": 28},
            {"charge_on": "day_of_month", "day_of_month": 1},
            {"charge_on": "day_of_month", "day_of_month": 31},
            {"amount": "statement_balance"},
            {"amount": "fixed", "fixed_cents": 1},
            {"amount": "fixed", "fixed_cents": 5000, "maximum_cents": 5000},
            {"minimum_cents": 500, "maximum_cents": 500},
            {"minimum_cents": 500},
            {"maximum_cents": 100_000_000},
        ],
    )
    def test_is_taken_where_it_is_whole(self, rule):
        assert AutopayRule.model_validate(rule).model_dump(exclude_unset=True) == rule

    @pytest.mark.parametrize(
        ("rule", "problem"),
        [
            ({"charge_on": "days_before_due"}, "days_before is missing"),
            ({"charge_on": "day_of_month"}, "day_of_month is missing"),
            ({"amount": "fixed"}, "fixed_cents is missing"),
            ({"days_before": 3}, "days_before is of another rule"),
            ({"day_of_month": 3}, "day_of_month is of another rule"),
            ({"fixed_cents": 500}, "fixed_cents is of another rule"),
            (
                {"charge_on": "day_of_month", "day_of_month": 3, "days_before": 3},
                "days_before is of another rule",
            ),
            ({"minimum_cents": 501, "maximum_cents": 500}, "minimum_cents is above maximum_cents"),
            (
                {"amount": "fixed", "fixed_cents": 501, "maximum_cents": 500},
                "fixed_cents is above maximum_cents",
            ),
        ],
    )
    def test_is_refused_where_it_is_half_a_rule(self, rule, problem):
        with pytest.raises(ValidationError, match=problem):
            AutopayRule.model_validate(rule)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("charge_on", "whenever"),
            ("charge_on", ""),
            ("charge_on", "DUE_DATE"),
            ("days_before", 0),
            ("days_before", 29),
            ("days_before", -3),
            ("days_before", 3.0),
            ("days_before", "3"),
            ("days_before", True),
            ("day_of_month", 0),
            ("day_of_month", 32),
            ("day_of_month", 31.0),
            ("amount", "everything"),
            ("fixed_cents", 0),
            ("fixed_cents", -1),
            ("fixed_cents", 50.0),
            ("fixed_cents", "5000"),
            ("fixed_cents", True),
            ("fixed_cents", 100_000_001),
            ("minimum_cents", 0),
            ("maximum_cents", 0),
            ("maximum_cents", -500),
            ("maximum_cents", 100_000_001),
        ],
    )
    def test_names_the_field_whose_value_cannot_be(self, field, value):
        with pytest.raises(ValidationError) as refused:
            AutopayRule.model_validate({field: value})
        assert fields_of(refused.value) == [field]

    def test_names_the_rule_within_an_enrolment(self):
        with pytest.raises(ValidationError) as refused:
            AutopayEnrolled.model_validate(enrolled(rule={"amount": "fixed", "fixed_cents": 0}))
        assert fields_of(refused.value) == ["rule.fixed_cents"]


class TestAuthorisation:
    @pytest.mark.parametrize(
        "name", ["authorisation_version", "authorised_at", "processor", "payment_method_token"]
    )
    def test_is_no_evidence_without_its_version_time_and_method(self, name):
        body = enrolled()
        del body[name]
        with pytest.raises(ValidationError) as refused:
            AutopayEnrolled.model_validate(body)
        assert fields_of(refused.value) == [name]

    @pytest.mark.parametrize("at", ["2026-03-01T09:30:00", "yesterday", ""])
    def test_has_a_time_with_its_offset(self, at):
        with pytest.raises(ValidationError) as refused:
            AutopayEnrolled.model_validate(enrolled(authorised_at=at))
        assert fields_of(refused.value) == ["authorised_at"]

import pytest

from payment_intake.domain.declines import (
    NACHA_CODES,
    NETWORK_CODES,
    STRIPE_CODES,
    decline_category,
)
from paypost.simulators.processor.tokens import DECLINES, ach_return

WORKED = [
    # kind, codes (the most telling first), advice, what it means
    ("card", ["51", "insufficient_funds", "card_declined"], [], "soft"),
    ("card", ["91", "issuer_not_available", "card_declined"], [], "soft"),
    ("card", ["05", "do_not_honor", "card_declined"], [], "soft"),
    ("card", ["41", "lost_card", "card_declined"], [], "hard"),
    ("card", ["lost_card", "card_declined"], [], "hard"),
    ("card", ["expired_card"], [], "hard"),
    ("card", ["R0", "stop_payment_order"], [], "withdrawn"),
    ("card", ["R1"], [], "withdrawn"),
    ("card", ["revocation_of_all_authorizations"], [], "withdrawn"),
    ("card", ["authentication_required"], [], "action_required"),
    ("card", ["never_heard_of"], [], "soft"),
    ("card", [], [], "soft"),
    ("card", [None], [None], "soft"),
    ("card", ["never_heard_of"], ["do_not_try_again"], "hard"),
    ("card", ["51", "insufficient_funds"], ["do_not_try_again"], "hard"),
    ("card", ["generic_decline"], ["03"], "hard"),
    ("card", ["generic_decline"], ["21"], "withdrawn"),
    ("card", ["generic_decline"], ["try_again_later"], "soft"),
    ("card", ["authentication_required"], ["do_not_try_again"], "action_required"),
    ("us_bank_account", ["R01", "insufficient_funds"], [], "soft"),
    ("us_bank_account", ["R09", "insufficient_funds"], [], "soft"),
    ("us_bank_account", ["insufficient_funds"], [], "soft"),
    ("us_bank_account", ["R02", "account_closed"], [], "hard"),
    ("us_bank_account", ["R16", "debit_not_authorized"], [], "hard"),
    ("us_bank_account", ["R20", "debit_not_authorized"], [], "hard"),
    ("us_bank_account", ["R08", "debit_not_authorized"], [], "withdrawn"),
    ("us_bank_account", ["R10"], [], "withdrawn"),
    ("us_bank_account", ["debit_not_authorized"], [], "withdrawn"),
    ("us_bank_account", ["R99"], [], "hard"),
    ("us_bank_account", ["processing_error"], [], "hard"),
    ("us_bank_account", ["generic_could_not_process"], [], "hard"),
    ("us_bank_account", [], [], "hard"),
    ("us_bank_account", ["canceled"], [], "soft"),
    # An event that does not say what was debited says it by its code.
    (None, ["R01", "insufficient_funds"], [], "soft"),
    (None, ["R02"], [], "hard"),
    (None, ["insufficient_funds"], [], "soft"),
]


class TestDeclineCategory:
    @pytest.mark.parametrize(("kind", "codes", "advice", "category"), WORKED)
    def test_is_what_the_codes_mean(self, kind, codes, advice, category):
        assert decline_category(kind=kind, codes=codes, advice=advice) == category

    @pytest.mark.parametrize("number", range(1, 86))
    def test_lets_no_return_but_r01_and_r09_be_presented_again(self, number):
        code = f"R{number:02d}"
        failure = ach_return(code)
        codes = [code, failure.decline_code, failure.code]
        category = decline_category(kind="us_bank_account", codes=codes)
        assert (category == "soft") == (code in ("R01", "R09"))

    @pytest.mark.parametrize("code", sorted(DECLINES))
    def test_knows_every_decline_of_the_processor(self, code):
        assert code in STRIPE_CODES

    def test_names_each_code_in_one_table_only(self):
        tables = [set(NACHA_CODES), set(STRIPE_CODES), set(NETWORK_CODES)]
        assert sum(map(len, tables)) == len(set.union(*tables))

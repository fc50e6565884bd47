"""What a decline means for the next attempt, by its code; pure.

Three tables, one for each authority that names codes, since no authority knows the others' codes.
What none of them names is decided by the means of payment: a card's unknown code may pass later,
unless the network forbids another try; of ACH returns only R01 and R09 may ever be presented
again (Nacha Operating Rules, subsection 2.12.4, "Reinitiation").
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

from shared.contracts.payments import DeclineCategory


class MethodKind(StrEnum):
    """What is charged: Stripe's names of its payment method types."""

    CARD = "card"
    BANK = "us_bank_account"


def _table(**codes: str) -> Mapping[str, DeclineCategory]:
    categories: dict[str, DeclineCategory] = {}
    for category, named in codes.items():
        for code in named.split():
            categories[code] = category  # type: ignore[assignment]
    return MappingProxyType(categories)


STRIPE_CODES = _table(
    soft="""
        approve_with_id call_issuer card_velocity_exceeded do_not_honor duplicate_transaction
        generic_decline insufficient_funds issuer_not_available no_action_taken processing_error
        reenter_transaction try_again_later withdrawal_count_limit_exceeded canceled
        charge_exceeds_transaction_limit charge_exceeds_weekly_limit
    """,
    hard="""
        card_not_supported currency_not_supported do_not_try_again expired_card fraudulent
        highest_risk_level incorrect_address incorrect_cvc incorrect_number incorrect_pin
        incorrect_zip invalid_account invalid_amount invalid_cvc invalid_expiry_month
        invalid_expiry_year invalid_number invalid_pin lost_card merchant_blacklist
        new_account_information_available not_permitted offline_pin_required
        online_or_offline_pin_required pickup_card pin_try_exceeded restricted_card
        security_violation service_not_allowed stolen_card testmode_decline
        transaction_not_allowed resource_missing unknown_processor
        account_closed bank_account_closed bank_account_invalid_details bank_account_restricted
        bank_account_unusable bank_ownership_changed incorrect_account_holder_name
        invalid_account_number no_account recipient_deceased bank_account_frozen
        payment_method_bank_account_blocked payment_method_bank_account_already_verified
    """,
    withdrawn="""
        revocation_of_all_authorizations revocation_of_authorization stop_payment_order
        debit_not_authorized debit_authorization_not_match payment_intent_mandate_invalid
    """,
    action_required="""
        authentication_required authentication_not_handled mobile_device_authentication_required
        payment_intent_action_required requires_action
    """,
)
"""Stripe: "Decline codes", "ACH Direct Debit: failed payments", "Error codes". `canceled`: somebody
has cancelled the payment at the processor, which says nothing of the customer."""

NETWORK_CODES = _table(
    hard="04 07 12 14 15 41 43 46 54 57",
    withdrawn="R0 R1 R3",
    action_required="1A",
)
"""Visa Core Rules, "Decline response codes", category 1: the issuer will never approve; R0 is a
stop payment order, R1 and R3 revoke the authorisation. 1A asks for the customer."""

NACHA_CODES = _table(
    soft="R01 R09",
    hard="""
        R02 R03 R04 R06 R12 R13 R14 R15 R16 R17 R18 R19 R20 R21 R22 R23 R24 R25 R26 R27 R28 R30 R31
        R32 R33 R34 R35 R36 R37 R38 R39 R50 R51 R52 R53
    """,
    withdrawn="R05 R07 R08 R10 R11 R29",
)
"""Nacha Operating Rules, appendix 4, "Return entries". R01 insufficient and R09 uncollected funds;
R05, R07, R10, R11 and R29 say that the debit was not authorised, R08 that it was stopped."""

NO_FURTHER_TRY = frozenset({"do_not_try_again", "03"})
"""Stripe's `advice_code` and Mastercard's merchant advice code 03: do not try again."""
STOP_RECURRING = frozenset({"21"})
"""Mastercard's merchant advice code 21: the cardholder has cancelled the recurring payment."""


def decline_category(
    *, kind: str | None, codes: Sequence[str | None], advice: Sequence[str | None] = ()
) -> DeclineCategory:
    """Return what a decline means, from its codes, the most telling first.

    `kind` is the means of payment as far as it is known; anything but a bank account counts as a
    card. `advice` is what the network says of another try.
    """
    if kind == MethodKind.BANK or not NACHA_CODES.keys().isdisjoint(codes):
        return _of_bank(codes)
    if not STOP_RECURRING.isdisjoint(advice):
        return "withdrawn"
    named = (table[c] for c in codes if c for table in (NETWORK_CODES, STRIPE_CODES) if c in table)
    category: DeclineCategory = next(named, "soft")
    return "hard" if category == "soft" and not NO_FURTHER_TRY.isdisjoint(advice) else category


def _of_bank(codes: Sequence[str | None]) -> DeclineCategory:
    returned = next((code for code in codes if code in NACHA_CODES), None)
    if returned is not None:
        return NACHA_CODES[returned]
    named = next((code for code in codes if code in STRIPE_CODES), None)
    if named is None:
        return "hard"
    category = STRIPE_CODES[named]
    # What is soft for a card is not for a bank account: nothing but R01 and R09, which Stripe
    # calls by one name, is ever presented again.
    is_hard = category == "soft" and named not in ("insufficient_funds", "canceled")
    return "hard" if is_hard else category

"""What a payment method does when it is charged: read off its token, never configured.

Stripe's own test tokens do what Stripe's "Testing" page says (STRIPE_TOKENS). Beside them are
make-believe ones, for what takes more than one attempt; `…` is any suffix that makes them unique:

| token | what it does |
|---|---|
| `pm_script_declined_<code>` | a card, always declined with this code of DECLINES |
| `pm_script_declined_<code>_<n>[_…]` | the same on the first n attempts of a PaymentIntent only |
| `pm_script_ach_<Rnn>` | a bank account: processing, then returned with this NACHA code |
| `pm_script_ach_<Rnn>_<n>[_…]` | the same on the first n attempts only; n = 0 always settles |
| `pm_script_ach_cancellable[_…]` | a bank account whose debit can be cancelled while processing |
| `pm_script_missing[_…]`, other `pm_script_…` | does not exist: `resource_missing` |
| any other `pm_…` | a card that is charged at once; its last four digits come from the token |

Attempts are counted for each PaymentIntent, so that many customers can have the same token.
Sources: Stripe's "Testing", "Decline codes", "Network decline codes"; ISO 8583 field 39.
"""

import re
import zlib
from dataclasses import dataclass
from types import MappingProxyType

from paypost.simulators.processor.errors import CARD, INVALID_REQUEST

CARD_METHOD = "card"
BANK_METHOD = "us_bank_account"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt failed, in Stripe's words and in the network's."""

    type: str
    code: str
    decline_code: str | None
    message: str
    network_decline_code: str | None = None
    advice_code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What a payment method does."""

    method_type: str = CARD_METHOD
    failure: Failure | None = None
    failures_max: int | None = None
    """How many attempts of one PaymentIntent fail; None is all of them."""
    needs_action: bool = False
    """Whether the customer has to authenticate: impossible off session."""
    cancellable: bool = False
    """Whether a debit can be cancelled while it is processing."""
    refund_fails: bool = False
    """Whether a refund comes back days later."""
    last4: str = ""

    def failure_of(self, *, attempt: int) -> Failure | None:
        """Return how the attempt of this number, counted from 1, fails; None when it does not."""
        if self.failures_max is not None and attempt > self.failures_max:
            return None
        return self.failure


def _declined(
    decline_code: str,
    message: str,
    *,
    network: str | None,
    code: str = "card_declined",
    advice: str | None = None,
) -> Failure:
    return Failure(
        type=CARD,
        code=code,
        decline_code=decline_code,
        message=message,
        network_decline_code=network,
        advice_code=advice,
    )


_AGAIN = "try_again_later"
_NEVER = "do_not_try_again"
_DECLINED = "Your card was declined."

DECLINES = MappingProxyType(
    {
        failure.decline_code or failure.code: failure
        for failure in (
            _declined("generic_decline", _DECLINED, network="05", advice=_AGAIN),
            _declined("do_not_honor", _DECLINED, network="05", advice=_AGAIN),
            _declined(
                "insufficient_funds",
                "Your card has insufficient funds.",
                network="51",
                advice=_AGAIN,
            ),
            _declined("lost_card", _DECLINED, network="41", advice=_NEVER),
            _declined("stolen_card", _DECLINED, network="43", advice=_NEVER),
            _declined("pickup_card", _DECLINED, network="04", advice=_NEVER),
            _declined("fraudulent", _DECLINED, network="59", advice=_NEVER),
            _declined("invalid_account", _DECLINED, network="14", advice=_NEVER),
            _declined("transaction_not_allowed", _DECLINED, network="57", advice=_NEVER),
            _declined("card_not_supported", _DECLINED, network="57", advice=_NEVER),
            _declined("revocation_of_authorization", _DECLINED, network="R1", advice=_NEVER),
            _declined("revocation_of_all_authorizations", _DECLINED, network="R3", advice=_NEVER),
            _declined("stop_payment_order", _DECLINED, network="R0", advice=_NEVER),
            _declined("card_velocity_exceeded", _DECLINED, network="65", advice=_AGAIN),
            _declined("withdrawal_count_limit_exceeded", _DECLINED, network="65", advice=_AGAIN),
            _declined("try_again_later", _DECLINED, network="19", advice=_AGAIN),
            _declined("reenter_transaction", _DECLINED, network="19", advice=_AGAIN),
            _declined("issuer_not_available", _DECLINED, network="91", advice=_AGAIN),
            _declined(
                "processing_error",
                "An error occurred while processing your card. Try again in a little bit.",
                network="96",
                code="processing_error",
                advice=_AGAIN,
            ),
            _declined(
                "expired_card",
                "Your card has expired.",
                network="54",
                code="expired_card",
                advice="confirm_card_data",
            ),
            _declined(
                "incorrect_cvc",
                "Your card's security code is incorrect.",
                network="N7",
                code="incorrect_cvc",
                advice="confirm_card_data",
            ),
            _declined(
                "incorrect_number",
                "Your card number is incorrect.",
                network="14",
                code="incorrect_number",
                advice="confirm_card_data",
            ),
            _declined(
                "authentication_required",
                "Your card was declined. This transaction requires authentication.",
                network="1A",
                code="authentication_required",
            ),
        )
    }
)
"""Declines of cards by their decline code."""

_RETURNS = (
    ("insufficient_funds", "insufficient_funds", "has insufficient funds", ("R01", "R09")),
    ("account_closed", "bank_account_closed", "has been closed", ("R02",)),
    (
        "no_account",
        "bank_account_invalid_details",
        "could not be located",
        ("R03", "R04", "R13", "R28"),
    ),
    (
        "debit_not_authorized",
        "debit_not_authorized",
        "is not authorized to be debited",
        ("R05", "R07", "R08", "R10", "R11", "R29", "R31"),
    ),
    (
        "payment_method_provider_decline",
        "recipient_deceased",
        "is of a person who has died",
        ("R14", "R15"),
    ),
    ("bank_account_restricted", "bank_account_frozen", "is frozen", ("R16",)),
    ("bank_account_restricted", "bank_account_unusable", "cannot be debited", ("R20",)),
)
_UNNAMED_RETURN = (
    "payment_method_provider_decline",
    "generic_could_not_process",
    "could not be debited",
)
_RETURN_OF = {
    return_code: (code, reason, text)
    for code, reason, text, return_codes in _RETURNS
    for return_code in return_codes
}


def ach_return(return_code: str) -> Failure:
    """Return the failure of an ACH debit that the bank has returned under this code, as `R01`."""
    code, reason, text = _RETURN_OF.get(return_code, _UNNAMED_RETURN)
    return Failure(
        type=INVALID_REQUEST,
        code=code,
        decline_code=reason,
        message=f"The payment failed: the customer's bank account {text}.",
        network_decline_code=return_code,
    )


_AUTHENTICATE = Behaviour(
    failure=DECLINES["authentication_required"], needs_action=True, last4="3155"
)


def _card(decline_code: str, last4: str) -> Behaviour:
    return Behaviour(failure=DECLINES[decline_code], last4=last4)


def _bank(return_code: str | None, last4: str) -> Behaviour:
    failure = ach_return(return_code) if return_code else None
    return Behaviour(method_type=BANK_METHOD, failure=failure, last4=last4)


_TESTING = {
    "chargeDeclined": _card("generic_decline", "0002"),
    "chargeDeclinedInsufficientFunds": _card("insufficient_funds", "9995"),
    "chargeDeclinedLostCard": _card("lost_card", "9987"),
    "chargeDeclinedStolenCard": _card("stolen_card", "9979"),
    "chargeDeclinedExpiredCard": _card("expired_card", "0069"),
    "chargeDeclinedIncorrectCvc": _card("incorrect_cvc", "0127"),
    "chargeDeclinedProcessingError": _card("processing_error", "0119"),
    "chargeDeclinedVelocityLimitExceeded": _card("card_velocity_exceeded", "6975"),
    "chargeDeclinedFraudulent": _card("fraudulent", "0019"),
    "chargeCustomerFail": _card("generic_decline", "0341"),
    "authenticationRequired": _AUTHENTICATE,
    "authenticationRequiredOnSetup": Behaviour(last4="3155"),
}

STRIPE_TOKENS = MappingProxyType(
    {
        "pm_card_visa": Behaviour(last4="4242"),
        "pm_card_visa_debit": Behaviour(last4="5556"),
        "pm_card_mastercard": Behaviour(last4="4444"),
        "pm_card_amex": Behaviour(last4="8431"),
        "pm_card_discover": Behaviour(last4="1117"),
        "pm_card_refundFail": Behaviour(refund_fails=True, last4="5126"),
        # Stripe has named these with and without the brand.
        **{f"pm_card_{name}": behaviour for name, behaviour in _TESTING.items()},
        **{f"pm_card_visa_{name}": behaviour for name, behaviour in _TESTING.items()},
        "pm_usBankAccount_success": _bank(None, "6789"),
        "pm_usBankAccount_accountClosed": _bank("R02", "1113"),
        "pm_usBankAccount_noAccount": _bank("R03", "1116"),
        "pm_usBankAccount_insufficientFunds": _bank("R01", "2227"),
        "pm_usBankAccount_debitNotAuthorized": _bank("R10", "3335"),
    }
)
"""Stripe's own test tokens, and what they do."""

_SHAPE = re.compile(r"pm_[A-Za-z0-9_]{1,240}")
_SCRIPT = re.compile(
    r"pm_script_(?:declined_(?P<decline>[a-z_]+?)|ach_(?P<returned>R[0-9]{2}))"
    r"(?:_(?P<times>[0-9]{1,6}))?(?:(?<=[0-9])_[A-Za-z0-9_]+)?"
)
_CANCELLABLE = re.compile(r"pm_script_ach_cancellable(?:_[A-Za-z0-9_]+)?")
_MISSING = re.compile(r"pm_script_missing(?:_[A-Za-z0-9_]+)?")


def behaviour_of(token: str) -> Behaviour | None:
    """Return what the payment method of this token does; None when there is none such."""
    known = STRIPE_TOKENS.get(token)
    if known is not None:
        return known
    if not _SHAPE.fullmatch(token) or _MISSING.fullmatch(token):
        return None
    last4 = f"{zlib.crc32(token.encode()) % 10_000:04d}"
    if _CANCELLABLE.fullmatch(token):
        return Behaviour(method_type=BANK_METHOD, cancellable=True, last4=last4)
    script = _SCRIPT.fullmatch(token)
    if script is None:
        # A misspelt script would else be a card that always pays.
        return None if token.startswith("pm_script_") else Behaviour(last4=last4)
    failures_max = None if script["times"] is None else int(script["times"])
    if script["returned"]:
        return Behaviour(
            method_type=BANK_METHOD,
            failure=ach_return(script["returned"]),
            failures_max=failures_max,
            last4=last4,
        )
    failure = DECLINES.get(script["decline"])
    if failure is None:
        return None
    return Behaviour(
        failure=failure,
        failures_max=failures_max,
        needs_action=failure.code == "authentication_required",
        last4=last4,
    )

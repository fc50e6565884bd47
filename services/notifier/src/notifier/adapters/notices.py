"""What fills the gaps of each kind of message, and what its template may ask.

Every value is one line of text: what others named (a customer, a bill, a card's label) goes
through `one_line`, and the composer escapes all of it for HTML.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from types import MappingProxyType

from notifier.adapters.words import Words, one_line
from notifier.domain import AutopayFact, Contact, Kind, Notification
from shared.contracts.autopay import (
    ChargeAnnounced,
    ChargeClosed,
    ChargeFailed,
    ChargeHeld,
    EnrolmentActivated,
    EnrolmentInvited,
    EnrolmentRefused,
    EnrolmentStopped,
    MethodExpiring,
)
from shared.contracts.enrolments import AutopayRule, PaymentMethod

Filling = tuple[dict[str, str], tuple[object, ...]]
"""The values of a message's gaps, and the answers to what its template asks, in their order."""

_BOTH = (False, True)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the templates of a kind may name; anything else fails when the composer is built."""

    gaps: tuple[str, ...]
    choices: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """What a template may ask, each with every answer there is."""

    @property
    def gaps_without_name(self) -> tuple[str, ...]:
        return tuple(gap for gap in self.gaps if gap != "name")


_PAYMENT = ("name", "account", "amount", "payment_id", "happened_at")
_LEDGER = Shape(
    gaps=(*_PAYMENT, "effective_date", "balance", "paid_at", "elapsed"),
    choices={"is_credit": _BOTH},
)
_AUTOPAY = ("name", "account", "happened_at")
_CHARGE = (*_AUTOPAY, "amount", "method", "bill", "due_date")
_INVITED = Shape(
    gaps=(*_AUTOPAY, "link", "due_date", "amount"),
    choices={"has_due_date": _BOTH, "has_amount": _BOTH},
)

SHAPES: Mapping[Kind, Shape] = MappingProxyType(
    {
        Kind.POSTED: _LEDGER,
        Kind.REVERSED: _LEDGER,
        Kind.REINSTATED: _LEDGER,
        Kind.DELAYED: Shape(gaps=(*_PAYMENT, "paid_at")),
        Kind.DECLINED: Shape(gaps=_PAYMENT),
        Kind.AUTOPAY_STARTED: Shape(
            gaps=(
                *_AUTOPAY,
                *("method", "rule_amount", "rule_day", "minimum", "maximum"),
                *("authorised_at", "authorisation", "reference"),
            ),
            choices={"has_minimum": _BOTH, "has_maximum": _BOTH},
        ),
        Kind.AUTOPAY_REFUSED: Shape(gaps=(*_AUTOPAY, "why", "reference")),
        Kind.AUTOPAY_STOPPED: Shape(gaps=(*_AUTOPAY, "why", "method")),
        Kind.AUTOPAY_INVITED: _INVITED,
        Kind.AUTOPAY_REMINDED: _INVITED,
        Kind.CHARGE_ANNOUNCED: Shape(
            gaps=(*_CHARGE, "charge_on", "left"),
            choices={"is_replacement": _BOTH, "has_left": _BOTH},
        ),
        Kind.CHARGE_HELD: Shape(gaps=(*_CHARGE, "maximum")),
        Kind.CHARGE_DECLINED: Shape(
            gaps=(*_CHARGE, "why", "next_attempt_on", "payment_id"),
            choices={
                "next_step": ("retry", "retry_some_day", "give_up", "stop", "ask"),
                "is_late": _BOTH,
            },
        ),
        Kind.CHARGE_MISSED: Shape(gaps=(*_CHARGE, "why"), choices={"is_late": _BOTH}),
        Kind.CHARGE_REFUNDED: Shape(gaps=_CHARGE, choices={"is_late": _BOTH}),
        Kind.METHOD_EXPIRING: Shape(gaps=(*_AUTOPAY, "method", "expires_on")),
    }
)

DECLINE_CODES: Mapping[str, str] = MappingProxyType(
    {
        code: phrase
        for phrase, codes in {
            "no_funds": ("insufficient_funds", "R01", "R09"),
            "limit_reached": ("card_velocity_exceeded", "withdrawal_count_limit_exceeded"),
            "temporary": (
                *("processing_error", "issuer_not_available", "try_again_later"),
                *("reenter_transaction", "could_not_process"),
            ),
            "expired": ("expired_card", "invalid_expiry_month", "invalid_expiry_year"),
            # Who finds a card is told as little as a till would say: never "lost" or "stolen".
            "unusable": (
                *("lost_card", "stolen_card", "pickup_card", "restricted_card"),
                *("card_not_supported", "transaction_not_allowed", "resource_missing"),
            ),
            "account_unusable": (
                *("incorrect_number", "invalid_number", "invalid_account", "account_closed"),
                *("no_account", "invalid_account_number", "bank_account_restricted"),
                *("R02", "R03", "R04", "R16", "R20"),
            ),
            "unauthorised": (
                *("debit_not_authorized", "revocation_of_authorization"),
                *("revocation_of_all_authorizations", "R05", "R07", "R10", "R11", "R29"),
            ),
            "stopped": ("stop_payment_order", "R08"),
            "action_required": ("authentication_required", "requires_action"),
            "other": ("generic_decline", "do_not_honor", "fraudulent"),
        }.items()
        for code in codes
    }
)
"""Which phrase says a code in words; one that is not here is said by its category.

Sources: Stripe's decline codes and ACH failure codes; Nacha's return reason codes.
"""


def filling(*, words: Words, notification: Notification, contact: Contact) -> Filling:
    """Return what fills the gaps of the notification's kind."""
    fact = notification.fact
    if fact is None:
        values, answers = _of_payment(words, notification)
    else:
        values, answers = _of_autopay(words, fact, notification.kind)
    values["name"] = one_line(contact.name)
    values["account"] = notification.account_id or ""
    values["happened_at"] = words.minute(notification.happened_at)
    return values, answers


def _of_payment(words: Words, notification: Notification) -> Filling:
    currency = notification.currency
    values = {
        "amount": words.amount(notification.amount_cents or 0, currency),
        "payment_id": str(notification.payment_id),
    }
    if notification.effective_date is not None:
        values["effective_date"] = words.date(notification.effective_date)
    if (paid_at := notification.accepted_at) is not None:
        values["paid_at"] = words.minute(paid_at)
        elapsed = notification.happened_at - paid_at
        values["elapsed"] = words.span(int(elapsed.total_seconds()))
    if (balance_cents := notification.balance_after_cents) is None:
        return values, ()
    values["balance"] = words.amount(abs(balance_cents), currency)
    return values, (balance_cents < 0,)


def _of_autopay(words: Words, fact: AutopayFact, kind: Kind) -> Filling:
    match fact:
        case EnrolmentActivated():
            return _started(words, fact)
        case EnrolmentRefused():
            why = words.phrase("refused", fact.reason)
            return {"why": why, "reference": one_line(fact.enrolment_reference)}, ()
        case EnrolmentStopped():
            why = words.phrase("stopped", fact.reason)
            return {"why": why, "method": _method(words, fact.method)}, ()
        case EnrolmentInvited():
            return _invited(words, fact)
        case MethodExpiring():
            method = _method(words, fact.method)
            return {"method": method, "expires_on": words.date(fact.expires_on)}, ()
        case ChargeAnnounced():
            values = _charge(words, fact)
            values["charge_on"] = words.date(fact.charge_on)
            values["left"] = words.amount(fact.left_cents, fact.currency)
            return values, (fact.version > 1, fact.left_cents > 0)
        case ChargeHeld():
            values = _charge(words, fact)
            values["maximum"] = words.amount(fact.maximum_cents, fact.currency)
            return values, ()
        case ChargeFailed():
            return _declined(words, fact)
        case ChargeClosed():
            values = _charge(words, fact)
            if kind is Kind.CHARGE_MISSED:
                values["why"] = words.phrase("missed", fact.reason)
            return values, (_is_late(words, fact.due_date, fact.closed_at),)


def _started(words: Words, fact: EnrolmentActivated) -> Filling:
    rule = fact.rule
    values = {
        "method": _method(words, fact.method),
        "rule_amount": words.phrase(
            "rule_amount", rule.amount, amount=words.amount(rule.fixed_cents or 0, None)
        ),
        "rule_day": _rule_day(words, rule),
        "minimum": words.amount(rule.minimum_cents or 0, None),
        "maximum": words.amount(rule.maximum_cents or 0, None),
        "authorised_at": words.minute(fact.authorised_at),
        "authorisation": one_line(fact.authorisation_version),
        "reference": one_line(fact.enrolment_reference),
    }
    return values, (rule.minimum_cents is not None, rule.maximum_cents is not None)


def _rule_day(words: Words, rule: AutopayRule) -> str:
    key: str = rule.charge_on
    if rule.days_before == 1:
        key = "day_before_due"
    elif rule.day_of_month is not None and rule.day_of_month > _DAYS_OF_EVERY_MONTH:
        key = "late_day_of_month"
    return words.phrase("rule_day", key, days=rule.days_before, day=rule.day_of_month)


def _invited(words: Words, fact: EnrolmentInvited) -> Filling:
    has_due_date = fact.due_date is not None
    has_amount = has_due_date and fact.amount_cents is not None and fact.amount_cents > 0
    values = {
        "link": _web_address(fact.link),
        "due_date": words.date(fact.due_date) if fact.due_date is not None else "",
        "amount": words.amount(fact.amount_cents or 0, fact.currency),
    }
    return values, (has_due_date, has_amount)


def _declined(words: Words, fact: ChargeFailed) -> Filling:
    values = _charge(words, fact)
    values["why"] = words.phrase(
        "declined", DECLINE_CODES.get(fact.reason_code or "", fact.category)
    )
    values["payment_id"] = str(fact.payment_id)
    values["next_attempt_on"] = ""
    is_late = _is_late(words, fact.due_date, fact.failed_at)
    if fact.next_step != "retry":
        return values, (fact.next_step, is_late)
    if (next_on := fact.next_attempt_on) is None:
        return values, ("retry_some_day", is_late)
    values["next_attempt_on"] = words.date(next_on)
    return values, ("retry", next_on > fact.due_date)


def _charge(
    words: Words, fact: ChargeAnnounced | ChargeHeld | ChargeFailed | ChargeClosed
) -> dict[str, str]:
    return {
        "amount": words.amount(fact.amount_cents, fact.currency),
        "method": _method(words, fact.method),
        "bill": one_line(fact.bill_reference),
        "due_date": words.date(fact.due_date),
    }


def _method(words: Words, method: PaymentMethod) -> str:
    """Return how a sentence calls it, such as `Visa ending in 4242`."""
    label = one_line(method.label).strip()
    key = f"{method.kind}{'_label' if label else ''}{'_last4' if method.last4 else ''}"
    return words.phrase("method", key, label=label, last4=method.last4)


def _is_late(words: Words, due_date: date, at: datetime) -> bool:
    return due_date < words.day(at)


def _web_address(link: str) -> str:
    """Return a link as it is.

    Raises:
        ValueError: it is no address of the web, so that nobody must be sent there.
    """
    if re.fullmatch(r"https?://[\x21-\x7e]+", link) is None:
        raise ValueError("the invitation's link is no address of the web")
    return link


_DAYS_OF_EVERY_MONTH = 28

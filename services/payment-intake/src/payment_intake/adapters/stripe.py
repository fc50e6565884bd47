"""Stripe's events, read into observations.

One card payment arrives as `payment_intent.created`, `charge.succeeded`,
`payment_intent.succeeded` and `charge.updated`; the PaymentIntent's id joins them, the charge's id
is another name for the same payment. Sources: Stripe's API reference, "Types of events";
"ACH Direct Debit"; "Disputes". The shapes are those of the events that Stripe publishes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import orjson
from pydantic import ValidationError

from payment_intake.adapters.readings import InvalidEventError, Reading
from payment_intake.domain import Heard, Observation
from payment_intake.domain.charges import REFERENCE_PREFIX, charge_id_of
from payment_intake.domain.declines import MethodKind, decline_category
from shared.contracts.enrolments import PaymentMethod
from shared.contracts.fact import AccountId, Fact
from shared.contracts.payments import DeclineCategory, MandateWithdrawn, MethodUpdated
from shared.contracts.streams import PAYMENTS
from shared.contracts.wire import describe, encode
from shared.money import AMOUNT_CENTS_MAX

PROCESSOR = "stripe"

_ACCOUNT_LENGTH_MAX = 64
_FEE = re.compile(r"[0-9]{1,12}")
BRANDS: Mapping[str, str] = MappingProxyType(
    {
        "amex": "American Express",
        "diners": "Diners Club",
        "discover": "Discover",
        "jcb": "JCB",
        "mastercard": "Mastercard",
        "unionpay": "UnionPay",
        "visa": "Visa",
    }
)
"""Brands as customers know them; Stripe's names of others are shown as they are."""
_FAILED_REFUND_STATUSES = frozenset({"failed", "canceled"})


@dataclass(frozen=True, kw_only=True)
class MetadataFields:
    """Where the portal has put, on the PaymentIntent, what Stripe does not know of."""

    account: str
    fee: str
    bill: str
    charge: str = "paypost_charge_id"
    """Names the charge of autopay that a payment is: Paypost itself puts it there."""


class StripeReader:
    """Reads the body of a verified Stripe webhook."""

    def __init__(self, *, fields: MetadataFields, currencies: Sequence[str]) -> None:
        self._fields = fields
        self._currencies = frozenset(currencies)

    def read(self, body: bytes, *, traceparent: str | None = None) -> Reading:
        """Return what an event says; an unknown type says nothing.

        What it says of a payment method is to be relayed: other services keep those.

        Raises:
            InvalidEventError: not JSON, or not of its type's shape; names the field.
        """
        try:
            event = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise InvalidEventError(field="body", message="is not JSON") from None
        root = _object(event, "body")
        event_id = _text(root, "id", "id")
        event_type = _text(root, "type", "type")
        observe, relay = _READERS.get(event_type), _RELAYED.get(event_type)
        if observe is None and relay is None:
            return Reading(event_id=event_id, event_type=event_type, about=_about(root))
        data = _object(root.get("data"), "data")
        subject = _Subject(
            value=_object(data.get("object"), "data.object"),
            at=_instant(root.get("created"), "created"),
            fields=self._fields,
            currencies=self._currencies,
        )
        if relay is not None:
            fact = _stated(relay, subject)
            record = encode(fact, stream=PAYMENTS, traceparent=traceparent) if fact else None
            return Reading(event_id=event_id, event_type=event_type, relay=record)
        observation = observe(subject) if observe is not None else None
        about = None if observation else _about(root)
        return Reading(
            event_id=event_id, event_type=event_type, observation=observation, about=about
        )


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """`data.object` of an event, with what is needed to read it."""

    value: Mapping[str, Any]
    at: datetime
    fields: MetadataFields
    currencies: frozenset[str]

    def text(self, name: str) -> str | None:
        value = self.value.get(name)
        # An expanded object carries its id.
        if isinstance(value, dict):
            value = value.get("id")
        return plain(value, 255)

    def amount(self, name: str) -> int:
        value = self.value.get(name)
        field = f"data.object.{name}"
        # `True` is an int to Python; 12.0 and "12" are no integers to us.
        if type(value) is not int:
            raise InvalidEventError(field=field, message="is not a whole number of minor units")
        if not 0 < value <= AMOUNT_CENTS_MAX:
            raise InvalidEventError(field=field, message=f"is not in 1..{AMOUNT_CENTS_MAX}")
        return value

    def currency(self) -> str:
        value = self.value.get("currency")
        currency = value.upper() if isinstance(value, str) else ""
        if currency not in self.currencies:
            raise InvalidEventError(field="data.object.currency", message="is not taken here")
        return currency

    def references(self, *names: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(name for each in names if (name := self.text(each))))
        if not found:
            raise InvalidEventError(
                field="data.object.id", message="names neither a payment nor a charge"
            )
        return found

    def metadata(self) -> Mapping[str, Any]:
        value = self.value.get("metadata")
        return value if isinstance(value, dict) else {}

    def account_id(self) -> AccountId | None:
        value = self.metadata().get(self.fields.account)
        text = value.strip() if isinstance(value, str) else ""
        # An account number that cannot be one is no account: the money was taken all the same,
        # and waits in suspense.
        is_plain = text.isascii() and text.isprintable() and " " not in text
        return text if text and is_plain and len(text) <= _ACCOUNT_LENGTH_MAX else None

    def fee_cents(self, *, amount_cents: int) -> int:
        value = self.metadata().get(self.fields.fee)
        if value in (None, ""):
            return 0
        field = f"data.object.metadata.{self.fields.fee}"
        if not isinstance(value, str) or not _FEE.fullmatch(value):
            raise InvalidEventError(field=field, message="is not a whole number of minor units")
        fee_cents = int(value)
        if fee_cents >= amount_cents:
            raise InvalidEventError(field=field, message="is not less than the charge")
        return fee_cents

    def autopay_names(self) -> tuple[str, ...]:
        """Return the name that joins a payment with the charge of autopay that it is."""
        value = self.metadata().get(self.fields.charge)
        charge_id = charge_id_of(value) if isinstance(value, str) else None
        return (f"{REFERENCE_PREFIX}{charge_id}",) if charge_id else ()

    def bill_reference(self) -> str | None:
        value = self.metadata().get(self.fields.bill)
        return plain(value, 64)


def _charge(
    subject: _Subject, heard: Heard, *, amount: str, references: tuple[str, ...], **more: Any
) -> Observation:
    """Return an observation about a charge: its amount, fee, account and bill."""
    amount_cents = subject.amount(amount)
    return Observation(
        processor=PROCESSOR,
        references=(*references, *subject.autopay_names()),
        heard=heard,
        at=subject.at,
        amount_cents=amount_cents,
        currency=subject.currency(),
        account_id=subject.account_id(),
        fee_cents=subject.fee_cents(amount_cents=amount_cents),
        bill_reference=subject.bill_reference(),
        method=_method(subject),
        **more,
    )


def _about(root: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return which payment an event speaks of that says nothing about money, if it says so."""
    data = root.get("data")
    value = data.get("object") if isinstance(data, dict) else None
    if not isinstance(value, dict):
        return None
    is_payment = value.get("object") in ("payment_intent", "charge")
    names = ("payment_intent", "id") if is_payment else ("payment_intent", "charge")
    found = (plain(value.get(name), 255) for name in names)
    return next(((PROCESSOR, name) for name in found if name), None)


def _intent_processing(subject: _Subject) -> Observation:
    references = _intent_references(subject)
    return _charge(subject, Heard.PENDING, amount="amount", references=references)


def _intent_succeeded(subject: _Subject) -> Observation:
    # The oldest forms say what was received only on the charge; a succeeded intent got it all.
    amount = "amount_received" if "amount_received" in subject.value else "amount"
    references = _intent_references(subject)
    return _charge(subject, Heard.CAPTURED, amount=amount, references=references)


def _intent_failed(subject: _Subject) -> Observation:
    error = subject.value.get("last_payment_error")
    details = error if isinstance(error, dict) else {}
    attempt = details.get("charge") or subject.text("latest_charge") or subject.text("id")
    return _charge(
        subject,
        Heard.FAILED,
        amount="amount",
        references=_intent_references(subject),
        code=failure_code(details),
        category=_category(subject, failure_codes(details), details),
        part=plain(attempt, 255),
    )


def _intent_cancelled(subject: _Subject) -> Observation:
    return _charge(
        subject,
        Heard.CANCELLED,
        amount="amount",
        references=_intent_references(subject),
        code=subject.text("cancellation_reason") or "canceled",
    )


def _charge_pending(subject: _Subject) -> Observation:
    return _charge(subject, Heard.PENDING, amount="amount", references=_charge_references(subject))


def _charge_succeeded(subject: _Subject) -> Observation | None:
    if subject.value.get("captured") is False:
        # Authorised only: no money has moved; `charge.captured` says when it does.
        return None
    # Before 2020-08-27 a charge had no `amount_captured`.
    amount = "amount_captured" if "amount_captured" in subject.value else "amount"
    return _charge(subject, Heard.CAPTURED, amount=amount, references=_charge_references(subject))


def _charge_failed(subject: _Subject) -> Observation:
    outcome = subject.value.get("outcome")
    details = outcome if isinstance(outcome, dict) else {}
    general = subject.text("failure_code")
    codes = (*failure_codes(details), *((general,) if general else ()))
    return _charge(
        subject,
        Heard.FAILED,
        amount="amount",
        references=_charge_references(subject),
        code=next(iter(codes), None),
        category=_category(subject, codes, details),
        part=subject.text("id"),
    )


def _category(
    subject: _Subject, codes: Sequence[str], details: Mapping[str, Any]
) -> DeclineCategory:
    return decline_category(kind=_method(subject), codes=codes, advice=advice_codes(details))


def _charge_refunded(subject: _Subject) -> Observation:
    """Read the total refunded so far: `amount_refunded` is cumulative."""
    return Observation(
        processor=PROCESSOR,
        references=(*_charge_references(subject), *subject.autopay_names()),
        heard=Heard.REFUNDED,
        at=subject.at,
        amount_cents=subject.amount("amount_refunded"),
        currency=subject.currency(),
        account_id=subject.account_id(),
        fee_cents=0,
        bill_reference=subject.bill_reference(),
        method=_method(subject),
    )


def _refund_updated(subject: _Subject) -> Observation | None:
    """Read a refund that did not reach the customer; its other changes move no money."""
    if subject.text("status") not in _FAILED_REFUND_STATUSES:
        return None
    return Observation(
        processor=PROCESSOR,
        references=subject.references("payment_intent", "charge"),
        heard=Heard.REFUND_FAILED,
        at=subject.at,
        amount_cents=subject.amount("amount"),
        currency=subject.currency(),
        code=subject.text("failure_reason"),
        part=subject.text("id"),
    )


def _dispute(heard: Heard) -> Callable[[_Subject], Observation]:
    def read(subject: _Subject) -> Observation:
        return Observation(
            processor=PROCESSOR,
            references=subject.references("payment_intent", "charge"),
            heard=heard,
            at=subject.at,
            amount_cents=subject.amount("amount"),
            currency=subject.currency(),
            code=subject.text("reason"),
            part=subject.text("id"),
        )

    return read


def _method_updated(subject: _Subject) -> Fact | None:
    """Read a card or a bank account with new particulars; other means of payment are not kept."""
    kind = subject.text("type")
    details = subject.value.get(kind) if kind in tuple(MethodKind) else None
    if not isinstance(details, dict):
        return None
    month, year = details.get("exp_month"), details.get("exp_year")
    brand = plain(details.get("brand"), 40)
    label = BRANDS.get(brand or "", brand) if kind == MethodKind.CARD else details.get("bank_name")
    method = PaymentMethod(
        kind="card" if kind == MethodKind.CARD else "us_bank_account",
        label=plain(label, 40) or "",
        last4=details.get("last4"),
        expires=f"{year:04d}-{month:02d}" if type(month) is type(year) is int else None,
    )
    return MethodUpdated(
        processor=PROCESSOR,
        payment_method_token=subject.text("id") or "",
        method=method,
        updated_at=subject.at,
    )


def _mandate_updated(subject: _Subject) -> Fact | None:
    """Read a mandate that is no longer good; its other changes stop nothing."""
    if subject.text("status") != "inactive":
        return None
    return MandateWithdrawn(
        processor=PROCESSOR,
        payment_method_token=subject.text("payment_method") or "",
        mandate_token=subject.text("id") or "",
        withdrawn_at=subject.at,
    )


def _stated(relay: Callable[[_Subject], Fact | None], subject: _Subject) -> Fact | None:
    try:
        return relay(subject)
    except ValidationError as error:
        message = f"is not understood: {describe(error)}"
        raise InvalidEventError(field="data.object", message=message) from None


def _intent_references(subject: _Subject) -> tuple[str, ...]:
    """Return the intent's id and its charge's, under the name of either API version."""
    references = subject.references("id", "latest_charge")
    charges = subject.value.get("charges")
    data = charges.get("data") if isinstance(charges, dict) else None
    latest = data[0] if isinstance(data, list) and data else None
    charge = plain(latest.get("id"), 255) if isinstance(latest, dict) else None
    return tuple(dict.fromkeys((*references, charge))) if charge else references


def _charge_references(subject: _Subject) -> tuple[str, ...]:
    return subject.references("payment_intent", "id")


def _method(subject: _Subject) -> str | None:
    details = subject.value.get("payment_method_details")
    if isinstance(details, dict) and (method := plain(details.get("type"), 32)):
        return method
    types = subject.value.get("payment_method_types")
    return plain(types[0], 32) if isinstance(types, list) and len(types) == 1 else None


def failure_codes(details: Mapping[str, Any]) -> tuple[str, ...]:
    """Return every code of a failure, the most telling first: the bank's own (`R01`), Stripe's."""
    names = ("network_decline_code", "decline_code", "code", "reason")
    return tuple(code for name in names if (code := plain(details.get(name), 64)))


def failure_code(details: Mapping[str, Any]) -> str | None:
    """Return the code of a failure that people read: a bank's (`R01`), else Stripe's own word.

    A card network's number (`51`) says less than Stripe's name of it (`insufficient_funds`).
    """
    codes = failure_codes(details)
    return next((code for code in codes if not code.isdecimal()), next(iter(codes), None))


def advice_codes(details: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what Stripe and the network say of another try."""
    names = ("advice_code", "network_advice_code")
    return tuple(code for name in names if (code := plain(details.get(name), 64)))


def plain(value: Any, length_max: int) -> str | None:
    """Return a short printable text, or None: what a database and a log can hold."""
    if not isinstance(value, str) or not value or not value.isprintable():
        return None
    return value[:length_max]


def _object(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidEventError(field=field, message="is not an object")
    return value


def _text(value: Mapping[str, Any], name: str, field: str) -> str:
    found = value.get(name)
    if not isinstance(found, str) or len(found) > 255 or (text := plain(found, 255)) is None:
        raise InvalidEventError(
            field=field, message="is not a printable text of 1 to 255 characters"
        )
    return text


def _instant(value: Any, field: str) -> datetime:
    if type(value) is not int or not 0 < value < 32_503_680_000:
        raise InvalidEventError(field=field, message="is not a Unix time")
    return datetime.fromtimestamp(value, UTC)


_READERS: Mapping[str, Callable[[_Subject], Observation | None]] = MappingProxyType(
    {
        "payment_intent.processing": _intent_processing,
        "payment_intent.succeeded": _intent_succeeded,
        "payment_intent.payment_failed": _intent_failed,
        "payment_intent.canceled": _intent_cancelled,
        "charge.pending": _charge_pending,
        "charge.succeeded": _charge_succeeded,
        "charge.captured": _charge_succeeded,
        "charge.failed": _charge_failed,
        "charge.refunded": _charge_refunded,
        "charge.refund.updated": _refund_updated,
        "refund.updated": _refund_updated,
        "refund.failed": _refund_updated,
        "charge.dispute.funds_withdrawn": _dispute(Heard.FUNDS_WITHDRAWN),
        "charge.dispute.funds_reinstated": _dispute(Heard.FUNDS_REINSTATED),
    }
)
"""The events that say something about money; every other type is kept and counted."""

_RELAYED: Mapping[str, Callable[[_Subject], Fact | None]] = MappingProxyType(
    {
        "payment_method.automatically_updated": _method_updated,
        "payment_method.updated": _method_updated,
        "mandate.updated": _mandate_updated,
    }
)
"""The events that say something about a means of payment: stated on payments.v1."""

"""Records as Stripe's JSON objects: one rendering for the API's answers and for the events.

Each is one of the real fixtures with what the record says written over it. Up to API version
`2022-11-15` an intent carries its `charges` and a charge its `refunds`; later there is only
`latest_charge`.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import orjson

from paypost.simulators.processor.errors import CARD
from paypost.simulators.processor.records import (
    Charge,
    Customer,
    Intent,
    Mandate,
    Method,
    PaymentError,
    Refund,
)
from paypost.simulators.processor.tokens import BANK_METHOD, Failure

API_VERSION_OF_LATEST_CHARGE = "2022-11-15"

Json = dict[str, Any]


def read_fixture(event_type: str) -> Json:
    """Return the event of this type as Stripe has sent it; the caller may change it."""
    # Parsing the text again is the cheapest deep copy of it.
    value: Json = orjson.loads(_fixture_bytes(event_type))
    return value


@functools.cache
def _fixture_bytes(event_type: str) -> bytes:
    # Stripe's own `charge.pending` is a succeeded charge with another status.
    name = "charge.succeeded" if event_type == "charge.pending" else event_type
    folder = resources.files("paypost.simulators") / "fixtures" / "stripe"
    return (folder / f"{name}.json").read_bytes()


@functools.cache
def _object_bytes(event_type: str) -> bytes:
    return orjson.dumps(read_fixture(event_type)["data"]["object"])


def _template(event_type: str) -> Json:
    value: Json = orjson.loads(_object_bytes(event_type))
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Renderer:
    """Renders for one API version."""

    api_version: str

    @property
    def _latest_charge(self) -> bool:
        return self.api_version >= API_VERSION_OF_LATEST_CHARGE

    def intent(
        self, intent: Intent, *, charge: Charge | None, refunds: Sequence[Refund] = ()
    ) -> Json:
        """Return a PaymentIntent; `charge` is its latest, with its refunds."""
        rendered = _template("payment_intent.succeeded")
        rendered |= {
            "id": intent.id,
            "amount": intent.amount_cents,
            "amount_received": intent.amount_cents if intent.status == "succeeded" else 0,
            "automatic_payment_methods": (
                {"allow_redirects": "always", "enabled": True} if intent.automatic else None
            ),
            "canceled_at": intent.cancelled_at,
            "cancellation_reason": intent.cancellation_reason,
            "client_secret": f"{intent.id}_secret_{intent.id[3:]}",
            "created": intent.created,
            "currency": intent.currency,
            "customer": intent.customer,
            "description": intent.description,
            "last_payment_error": payment_error(intent.error) if intent.error else None,
            "livemode": False,
            "metadata": intent.metadata,
            "next_action": _next_action() if intent.status == "requires_action" else None,
            "payment_method": intent.method,
            "payment_method_options": {method: {} for method in intent.method_types},
            "payment_method_types": intent.method_types,
            "receipt_email": intent.receipt_email,
            "setup_future_usage": intent.setup_future_usage,
            "shipping": None,
            "statement_descriptor": intent.statement_descriptor,
            "statement_descriptor_suffix": intent.statement_descriptor_suffix,
            "status": intent.status,
        }
        if self._latest_charge:
            rendered.pop("charges")
            rendered["latest_charge"] = intent.latest_charge
        else:
            charges = [self.charge(charge, refunds=refunds)] if charge else []
            rendered["charges"] |= {
                "data": charges,
                "total_count": len(charges),
                "url": f"/v1/charges?payment_intent={intent.id}",
            }
        return rendered

    def charge(self, charge: Charge, *, refunds: Sequence[Refund] = ()) -> Json:
        """Return a charge."""
        failed = charge.status == "failed"
        paid = charge.status == "succeeded"
        rendered = _template("charge.failed" if failed else "charge.succeeded")
        rendered |= {
            "id": charge.id,
            "amount": charge.amount_cents,
            "amount_captured": charge.amount_cents if paid else 0,
            "amount_refunded": charge.refunded_cents,
            "balance_transaction": charge.balance_transaction,
            "captured": not failed,
            "created": charge.created,
            "currency": charge.currency,
            "customer": charge.customer,
            "description": charge.description,
            "livemode": False,
            "metadata": charge.metadata,
            "paid": paid,
            "payment_intent": charge.intent,
            "payment_method": charge.method,
            "payment_method_details": _method_details(charge),
            "receipt_url": None,
            "refunded": charge.refunded_cents == charge.amount_cents,
            "shipping": None,
            "status": charge.status,
        }
        if charge.failure is not None:
            rendered |= {
                "failure_code": charge.failure.code,
                "failure_message": charge.failure.message,
                "outcome": failed_outcome(charge.failure),
            }
        if self._latest_charge:
            rendered.pop("refunds", None)
        else:
            rendered["refunds"] |= {
                "data": [self.refund(refund) for refund in reversed(refunds)],
                "total_count": len(refunds),
                "url": f"/v1/charges/{charge.id}/refunds",
            }
        return rendered

    def refund(self, refund: Refund) -> Json:
        """Return a refund."""
        rendered = _template("charge.refund.updated") | {
            "id": refund.id,
            "amount": refund.amount_cents,
            "balance_transaction": refund.balance_transaction,
            "charge": refund.charge,
            "created": refund.created,
            "currency": refund.currency,
            "metadata": refund.metadata,
            "payment_intent": refund.intent,
            "reason": refund.reason,
            "status": refund.status,
        }
        if refund.failure_reason is not None:
            rendered["failure_reason"] = refund.failure_reason
        return rendered

    def method(self, method: Method) -> Json:
        """Return a payment method."""
        return payment_method(method)

    def mandate(self, mandate: Mandate) -> Json:
        """Return a mandate that is no longer good."""
        return _template("mandate.updated") | {
            "id": mandate.id,
            "payment_method": mandate.method,
            "payment_method_details": {"type": BANK_METHOD, BANK_METHOD: {}},
            "status": "inactive",
        }

    def customer(self, customer: Customer) -> Json:
        """Return a customer."""
        return {
            "id": customer.id,
            "object": "customer",
            "balance": 0,
            "created": customer.created,
            "currency": None,
            "default_source": None,
            "delinquent": False,
            "description": customer.description,
            "email": customer.email,
            "invoice_settings": {"default_payment_method": None},
            "livemode": False,
            "metadata": customer.metadata,
            "name": customer.name,
            "phone": None,
            "shipping": None,
        }


def payment_method(method: Method) -> Json:
    """Return a payment method."""
    rendered = _template("payment_method.attached") | {
        "id": method.id,
        "created": method.created,
        "customer": method.customer,
        "livemode": False,
        "metadata": method.metadata,
        "type": method.type,
    }
    if method.type == BANK_METHOD:
        del rendered["card"]
        rendered[BANK_METHOD] = bank_account(method.last4) | {
            "networks": {"preferred": "ach", "supported": ["ach"]},
            "status_details": {},
        }
    else:
        rendered["card"] |= {
            "exp_month": method.expires_month,
            "exp_year": method.expires_year,
            "last4": method.last4,
        }
    return rendered


def payment_error(error: PaymentError) -> Json:
    """Return what `last_payment_error`, and the answer to the attempt itself, say of a failure."""
    rendered = failure_members(error.failure)
    if error.charge is not None:
        rendered["charge"] = error.charge
    return rendered | {"payment_method": payment_method(error.method)}


def failure_members(failure: Failure) -> Json:
    """Return a failure without what it is about."""
    rendered: Json = {
        "code": failure.code,
        "doc_url": f"https://stripe.com/docs/error-codes/{failure.code.replace('_', '-')}",
        "message": failure.message,
        "type": failure.type,
    }
    for name in ("decline_code", "network_decline_code", "advice_code"):
        value = getattr(failure, name)
        if value is not None:
            rendered[name] = value
    return rendered


def failed_outcome(failure: Failure) -> Json:
    """Return the `outcome` of a failed charge: the network's own code, as R01, is in it."""
    return {
        "advice_code": failure.advice_code,
        "network_advice_code": None,
        "network_decline_code": failure.network_decline_code,
        "network_status": "declined_by_network",
        "reason": failure.decline_code,
        "risk_level": "normal" if failure.type == CARD else "not_assessed",
        "seller_message": "The bank did not return any further details with this decline.",
        "type": "issuer_declined",
    }


def bank_account(last4: str) -> Json:
    """Return what is shown of a bank account."""
    return {
        "account_holder_type": "individual",
        "account_type": "checking",
        "bank_name": "STRIPE TEST BANK",
        "fingerprint": "FFDMA0xfhBjWSZLu",
        "last4": last4,
        "routing_number": "110000000",
    }


def _method_details(charge: Charge) -> Json:
    if charge.method_type == BANK_METHOD:
        account = bank_account(charge.last4) | {"mandate": charge.mandate}
        return {"type": BANK_METHOD, BANK_METHOD: account}
    details: Json = _template("charge.succeeded")["payment_method_details"]
    details["card"] |= {
        "exp_month": 12,
        "exp_year": 2034,
        "last4": charge.last4,
        "mandate": charge.mandate,
    }
    return details


def _next_action() -> Json:
    return {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}

"""Single Stripe events, made from the real fixtures with their ids, amounts and times rewritten.

The fixtures are what Stripe sent, of several API versions; each event here is shaped for the one
asked for. `2020-08-27` has `charges` on a PaymentIntent and disputes that name only their charge;
from `2022-11-15` on it is `latest_charge`, and disputes name the PaymentIntent as well.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson

from paypost.simulators.processor.objects import (
    API_VERSION_OF_LATEST_CHARGE,
    Json,
    Renderer,
    bank_account,
    failed_outcome,
    failure_members,
)
from paypost.simulators.processor.objects import read_fixture as _fixture
from paypost.simulators.processor.records import ACCOUNT_FIELD, FEE_FIELD, Announcement, Charge
from paypost.simulators.processor.tokens import Failure

API_VERSION_OLD = "2020-08-27"
API_VERSION_NEW = "2024-06-20"
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True, slots=True)
class Purchase:
    """What the customer pays: the bill, and on top of it the convenience fee, in cents."""

    account: str
    amount_cents: int
    fee_cents: int = 0
    bill_reference: str | None = None
    currency: str = "usd"
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def gross_cents(self) -> int:
        """Return what the processor takes from the customer."""
        return self.amount_cents + self.fee_cents

    def as_metadata(self) -> dict[str, str]:
        """Return the metadata that the portal gives to Stripe; all its values are texts."""
        named = {ACCOUNT_FIELD: self.account, FEE_FIELD: str(self.fee_cents)}
        if self.bill_reference is not None:
            named["bill_reference"] = self.bill_reference
        return named | dict(self.metadata)


@dataclass(frozen=True, slots=True)
class PaymentIds:
    """The ids under which Stripe knows one payment."""

    payment_intent: str
    charge: str
    payment_method: str


@dataclass(frozen=True, slots=True)
class Event:
    """One event ready to be signed: its bytes stay the same across attempts and duplicates."""

    id: str
    type: str
    body: bytes
    reference: str
    """The PaymentIntent that it is about."""
    account: str
    amount_cents: int
    """What is to be posted for the payment: without the fee."""
    fee_cents: int


class Ids:
    """A source of ids in Stripe's shape, repeatable from its random source."""

    def __init__(self, *, chance: random.Random) -> None:
        self._chance = chance

    def new(self, prefix: str) -> str:
        """Return a new id: the prefix, an underscore and 24 characters."""
        return f"{prefix}_{''.join(self._chance.choices(_ALPHABET, k=24))}"

    def payment(self, *, method_prefix: str = "pm") -> PaymentIds:
        """Return the ids of a new payment."""
        return PaymentIds(self.new("pi"), self.new("ch"), self.new(method_prefix))


class EventBuilder:
    """Builds events of one API version for one payment after the other."""

    def __init__(self, *, ids: Ids, api_version: str = API_VERSION_OLD) -> None:
        self._ids = ids
        self._api_version = api_version
        self._latest_charge = api_version >= API_VERSION_OF_LATEST_CHARGE
        self._renderer = Renderer(api_version=api_version)

    def payment_intent(
        self,
        event_type: str,
        *,
        ids: PaymentIds,
        purchase: Purchase,
        at: datetime,
        method: str = "card",
        failure: Failure | None = None,
    ) -> Event:
        """Return a `payment_intent.*` event; `method` is `card` or `us_bank_account`.

        `failure` is why a failed one failed.
        """
        event = _fixture(event_type)
        intent: Json = event["data"]["object"]
        created = event_type == "payment_intent.created"
        intent |= {
            "id": ids.payment_intent,
            "amount": purchase.gross_cents,
            "amount_received": (
                purchase.gross_cents if event_type == "payment_intent.succeeded" else 0
            ),
            "created": int(at.timestamp()),
            "currency": purchase.currency,
            "metadata": purchase.as_metadata(),
            "livemode": False,
            "client_secret": f"{ids.payment_intent}_secret_{ids.charge[3:]}",
            "payment_method": None if created else ids.payment_method,
            "payment_method_types": [method],
            "payment_method_options": {method: {}},
            "customer": None,
            "shipping": None,
        }
        # Only the eldest of the fixtures has these; Stripe dropped them long before both versions.
        for outdated in ("allowed_source_types", "next_source_action"):
            intent.pop(outdated, None)
        charges = (
            []
            if created
            else [self._charge_in_intent(event_type, ids, purchase, at, method, failure)]
        )
        self._hang_on_charges(intent, charges, ids)
        if event_type == "payment_intent.payment_failed":
            error = failure_members(failure) if failure else _decline()
            intent["last_payment_error"] = error | {
                "charge": ids.charge,
                "payment_method": _payment_method(ids, method),
            }
            intent["payment_method"] = None
        return self._finish(event, event_type, ids, purchase, at)

    def charge(
        self,
        event_type: str,
        *,
        ids: PaymentIds,
        purchase: Purchase,
        at: datetime,
        method: str = "card",
        failure: Failure | None = None,
    ) -> Event:
        """Return a `charge.succeeded`, `charge.updated`, `charge.failed` or `charge.pending`.

        `failure` is why a failed one failed; an ACH return's code is in its `outcome`.
        """
        event = _fixture(event_type)
        event["data"]["object"] = self._charge(event_type, ids, purchase, at, method, failure)
        if event_type == "charge.updated":
            event["data"]["previous_attributes"] = {"balance_transaction": None}
        return self._finish(event, event_type, ids, purchase, at)

    def charge_refunded(
        self,
        *,
        ids: PaymentIds,
        purchase: Purchase,
        at: datetime,
        refunds: list[tuple[str, int]],
    ) -> Event:
        """Return a `charge.refunded` after these refunds (id, cents), of which the last is new.

        As with Stripe, `amount_refunded` is the sum of all of them. Newer API versions leave the
        list of refunds out.
        """
        event = _fixture("charge.refunded")
        charge = self._charge("charge.refunded", ids, purchase, at, "card")
        total_cents = sum(amount_cents for _, amount_cents in refunds)
        before_cents = total_cents - refunds[-1][1]
        charge["amount_refunded"] = total_cents
        charge["refunded"] = total_cents == purchase.gross_cents
        previous: Json = {"amount_refunded": before_cents}
        if charge["refunded"]:
            previous["refunded"] = False
        if self._latest_charge:
            charge.pop("refunds", None)
        else:
            newest_first = [
                self._refund(refund_id, amount_cents, ids, purchase, at)
                for refund_id, amount_cents in reversed(refunds)
            ]
            charge["refunds"] |= {"data": newest_first, "total_count": len(refunds)}
            previous["refunds"] = {"data": newest_first[1:], "total_count": len(refunds) - 1}
        event["data"] = {"object": charge, "previous_attributes": previous}
        return self._finish(event, "charge.refunded", ids, purchase, at)

    def refund_updated(
        self,
        *,
        ids: PaymentIds,
        purchase: Purchase,
        at: datetime,
        refund_id: str,
        amount_cents: int,
        status: str,
    ) -> Event:
        """Return a `charge.refund.updated`; status `failed` means that the money came back."""
        event = _fixture("charge.refund.updated")
        refund = self._refund(refund_id, amount_cents, ids, purchase, at)
        refund["status"] = status
        previous: Json = {"status": "pending"}
        if status == "failed":
            refund |= {
                "failure_reason": "expired_or_canceled_card",
                "failure_balance_transaction": self._ids.new("txn"),
            }
            previous = {"status": "succeeded"}
        event["data"] = {"object": refund, "previous_attributes": previous}
        return self._finish(event, "charge.refund.updated", ids, purchase, at)

    def dispute(
        self,
        event_type: str,
        *,
        ids: PaymentIds,
        purchase: Purchase,
        at: datetime,
        dispute_id: str,
        status: str,
        amount_cents: int,
    ) -> Event:
        """Return a `charge.dispute.*` event of one dispute over `amount_cents`."""
        event = _fixture(event_type)
        dispute = self._dispute(
            event_type,
            ids=ids,
            currency=purchase.currency,
            at=at,
            dispute_id=dispute_id,
            status=status,
            amount_cents=amount_cents,
        )
        event["data"] = {"object": dispute}
        return self._finish(event, event_type, ids, purchase, at)

    def _dispute(
        self,
        event_type: str,
        *,
        ids: PaymentIds,
        currency: str,
        at: datetime,
        dispute_id: str,
        status: str,
        amount_cents: int,
    ) -> Json:
        # The fixture of `closed` is of an API before disputes had ids; the newer shape fits it.
        dispute: Json = _fixture("charge.dispute.funds_withdrawn")["data"]["object"]
        moved = event_type not in {"charge.dispute.created", "charge.dispute.updated"}
        dispute |= {
            "id": dispute_id,
            "amount": amount_cents,
            "charge": ids.charge,
            "created": int(at.timestamp()),
            "currency": currency,
            "status": status,
            "livemode": False,
            "metadata": {},
            "balance_transaction": None,
        }
        dispute["evidence"] |= {
            "customer_email_address": None,
            "customer_name": None,
            "customer_purchase_ip": None,
        }
        if self._latest_charge:
            dispute["payment_intent"] = ids.payment_intent
        else:
            dispute.pop("payment_intent", None)
        dispute["balance_transactions"] = (
            [self._dispute_transaction(event_type, dispute_id, currency, at, amount_cents)]
            if moved
            else []
        )
        return dispute

    def announcement(self, announcement: Announcement) -> Event:
        """Return the event of what the API has done, its subject rendered as the API renders it."""
        subject, previous = self._subject(announcement)
        event = self._envelope(announcement.id, announcement.type, announcement.created)
        event["data"] = {"object": subject}
        if previous:
            event["data"]["previous_attributes"] = previous
        about = announcement.intent or announcement.charge
        metadata = about.metadata if about else {}
        fee = metadata.get(FEE_FIELD, "")
        fee_cents = int(fee) if fee.isdecimal() else 0
        return Event(
            id=announcement.id,
            type=announcement.type,
            body=orjson.dumps(event),
            reference=_intent_of(announcement),
            account=metadata.get(ACCOUNT_FIELD, ""),
            # A mandate or a payment method has none.
            amount_cents=subject.get("amount", 0) - fee_cents,
            fee_cents=fee_cents,
        )

    def _subject(self, announcement: Announcement) -> tuple[Json, Json]:
        """Return what an event is about, and what of it was otherwise before."""
        intent, charge, refunds = announcement.intent, announcement.charge, announcement.refunds
        if intent is not None:
            return self._renderer.intent(intent, charge=charge), {}
        if announcement.method is not None:
            return self._renderer.method(announcement.method), {}
        if announcement.mandate is not None:
            return self._renderer.mandate(announcement.mandate), {"status": "active"}
        if charge is None:
            newest = refunds[-1]
            before = "succeeded" if newest.status == "failed" else "pending"
            previous = {} if announcement.type == "refund.created" else {"status": before}
            return self._renderer.refund(newest), previous
        if announcement.type.startswith("charge.dispute."):
            return self._dispute_of(announcement, charge), {}
        rendered = self._renderer.charge(charge, refunds=refunds)
        if announcement.type == "charge.refunded":
            before_cents = charge.refunded_cents - refunds[-1].amount_cents
            return rendered, {"amount_refunded": before_cents}
        booked = announcement.type == "charge.updated"
        return rendered, {"balance_transaction": None} if booked else {}

    def _dispute_of(self, announcement: Announcement, charge: Charge) -> Json:
        dispute = self._dispute(
            announcement.type,
            ids=PaymentIds(charge.intent, charge.id, charge.method),
            currency=charge.currency,
            at=datetime.fromtimestamp(announcement.created, UTC),
            dispute_id=charge.dispute or "",
            # A debit's dispute is lost from the first moment: the bank has the money back.
            status="lost",
            amount_cents=charge.amount_cents,
        )
        return dispute | {"reason": charge.dispute_reason}

    def _dispute_transaction(
        self,
        event_type: str,
        dispute_id: str,
        currency: str,
        at: datetime,
        amount_cents: int,
    ) -> Json:
        sign = 1 if event_type == "charge.dispute.funds_reinstated" else -1
        return {
            "id": self._ids.new("txn"),
            "object": "balance_transaction",
            "amount": sign * amount_cents,
            "created": int(at.timestamp()),
            "currency": currency,
            "fee": 1500 if sign < 0 else -1500,
            "net": sign * (amount_cents + 1500),
            "source": dispute_id,
            "status": "pending",
            "type": "adjustment",
        }

    def _charge_in_intent(
        self,
        event_type: str,
        ids: PaymentIds,
        purchase: Purchase,
        at: datetime,
        method: str,
        failure: Failure | None,
    ) -> Json:
        of_charge = {
            "payment_intent.succeeded": "charge.succeeded",
            "payment_intent.payment_failed": "charge.failed",
        }
        charge_type = of_charge.get(event_type, "charge.pending")
        return self._charge(charge_type, ids, purchase, at, method, failure)

    def _charge(
        self,
        event_type: str,
        ids: PaymentIds,
        purchase: Purchase,
        at: datetime,
        method: str,
        failure: Failure | None = None,
    ) -> Json:
        status = {"charge.failed": "failed", "charge.pending": "pending"}.get(
            event_type, "succeeded"
        )
        # The fixture of `updated` is ten years older than the others, from before PaymentIntents.
        source = "charge.failed" if status == "failed" else "charge.succeeded"
        charge: Json = _fixture(source)["data"]["object"]
        paid = status == "succeeded"
        charge |= {
            "id": ids.charge,
            "amount": purchase.gross_cents,
            "amount_captured": purchase.gross_cents if paid else 0,
            "amount_refunded": 0,
            "balance_transaction": None if event_type != "charge.updated" else self._ids.new("txn"),
            "captured": status != "failed",
            "created": int(at.timestamp()),
            "currency": purchase.currency,
            "metadata": purchase.as_metadata(),
            "livemode": False,
            "paid": paid,
            "payment_intent": ids.payment_intent,
            "payment_method": ids.payment_method,
            "receipt_url": None,
            "shipping": None,
            "status": status,
        }
        if self._latest_charge:
            charge.pop("refunds", None)
        else:
            charge["refunds"]["url"] = f"/v1/charges/{ids.charge}/refunds"
        if method == "us_bank_account":
            charge["payment_method_details"] = {
                "type": "us_bank_account",
                "us_bank_account": bank_account(_BANK_LAST4),
            }
        if failure is not None and status == "failed":
            charge |= {
                "failure_code": failure.code,
                "failure_message": failure.message,
                "outcome": failed_outcome(failure),
            }
        return charge

    def _hang_on_charges(self, intent: Json, charges: list[Json], ids: PaymentIds) -> None:
        if self._latest_charge:
            intent.pop("charges", None)
            intent["latest_charge"] = ids.charge if charges else None
        else:
            intent["charges"] = {
                "object": "list",
                "data": charges,
                "has_more": False,
                "total_count": len(charges),
                "url": f"/v1/charges?payment_intent={ids.payment_intent}",
            }

    def _refund(
        self,
        refund_id: str,
        amount_cents: int,
        ids: PaymentIds,
        purchase: Purchase,
        at: datetime,
    ) -> Json:
        refund: Json = _fixture("charge.refund.updated")["data"]["object"]
        return refund | {
            "id": refund_id,
            "amount": amount_cents,
            "balance_transaction": self._ids.new("txn"),
            "charge": ids.charge,
            "created": int(at.timestamp()),
            "currency": purchase.currency,
            "metadata": {},
            "payment_intent": ids.payment_intent,
            "status": "succeeded",
        }

    def _envelope(self, event_id: str, event_type: str, created: int) -> Json:
        return {
            "id": event_id,
            "object": "event",
            "type": event_type,
            "api_version": self._api_version,
            "created": created,
            "livemode": False,
            "pending_webhooks": 1,
            "request": {"id": self._ids.new("req"), "idempotency_key": None},
        }

    def _finish(
        self, event: Json, event_type: str, ids: PaymentIds, purchase: Purchase, at: datetime
    ) -> Event:
        event |= self._envelope(self._ids.new("evt"), event_type, int(at.timestamp()))
        return Event(
            id=event["id"],
            type=event_type,
            body=orjson.dumps(event),
            reference=ids.payment_intent,
            account=purchase.account,
            amount_cents=purchase.amount_cents,
            fee_cents=purchase.fee_cents,
        )


_BANK_LAST4 = "6789"


def _intent_of(announcement: Announcement) -> str:
    """Return the PaymentIntent of an event, or what else it is about."""
    for subject in (announcement.intent, announcement.method, announcement.mandate):
        if subject is not None:
            return subject.id
    return announcement.charge.intent if announcement.charge else announcement.refunds[-1].intent


def _decline() -> Json:
    return {
        "code": "card_declined",
        "decline_code": "insufficient_funds",
        "doc_url": "https://stripe.com/docs/error-codes/card-declined",
        "message": "Your card has insufficient funds.",
        "type": "card_error",
    }


def _payment_method(ids: PaymentIds, method: str) -> Json:
    details = (
        bank_account(_BANK_LAST4)
        if method == "us_bank_account"
        else {"brand": "visa", "last4": "0341"}
    )
    return {
        "id": ids.payment_method,
        "object": "payment_method",
        "type": method,
        method: details,
        "customer": None,
        "livemode": False,
        "metadata": {},
    }

"""What the peers (tutorial, dbos, celery) do alike, so that only their frameworks differ.

The steps themselves as plain values: what a webhook says, what goes to the CIS, what its answer
means, what the customer reads. Each peer brings these to the database, the CIS and the mail server
in its own way.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any, Self
from zoneinfo import ZoneInfo

import orjson

SIGNATURE_TOLERANCE_SECONDS = 300
SETTINGS_VARIABLE = "PEER_SETTINGS"
RETRY_SECONDS = 0.5
"""The first wait after a failed CIS call or mail; it doubles up to `RETRY_SECONDS_MAX`."""
RETRY_SECONDS_MAX = 5.0

_NAMESPACE = uuid.UUID("5b8f3a52-6a0e-5c38-9f6c-0d8f6f4b7a11")
_ACCEPTED_TYPE = "payment_intent.succeeded"
_SENDER = "payments@utility.example"

SCHEMA = """
CREATE TABLE customers (
    account text PRIMARY KEY,
    name text NOT NULL,
    email text
);
CREATE TABLE events (
    event_id text PRIMARY KEY,
    event_type text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE payments (
    payment_id uuid PRIMARY KEY,
    reference text NOT NULL,
    account text NOT NULL,
    amount_cents bigint NOT NULL,
    currency text NOT NULL,
    effective_date date NOT NULL,
    accepted_at timestamptz NOT NULL,
    status text NOT NULL DEFAULT 'accepted'
        CHECK (status IN ('accepted', 'posted', 'refused', 'mailed')),
    cis_reference text
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """What every process of a peer is told; `tuning` is the peer's own, all of it text."""

    database_dsn: str
    kafka_bootstrap: str
    cis_url: str
    cis_api_key: str
    cis_connections_max: int
    cis_timeout_seconds: float
    smtp_host: str
    smtp_port: int
    stripe_webhook_secret: str
    city_time_zone: str
    http_port: int
    tuning: Mapping[str, str]

    def as_environment(self) -> dict[str, str]:
        """For a child process; `from_environment` reads it there."""
        return {SETTINGS_VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> Self:
        """What the parent has said.

        Raises:
            KeyError: it has said nothing.
        """
        return cls(**json.loads(os.environ[SETTINGS_VARIABLE]))


class WebhookRefusedError(Exception):
    """A webhook that is not Stripe's, too old, or not an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """A payment as its event tells of it; every member is a plain JSON value."""

    payment_id: str
    reference: str
    account: str
    amount_cents: int
    currency: str
    effective_date: str
    accepted_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeEvent:
    """A verified event; `paid` is None where it does not say that money was taken."""

    event_id: str
    event_type: str
    paid: Paid | None


def payment_id_of(*, reference: str) -> str:
    """The id of a payment by its processor's reference: the same each time, for ever."""
    return str(uuid.uuid5(_NAMESPACE, reference))


def verify_signature(*, body: bytes, header: str, secret: str, now_seconds: float) -> None:
    """Check Stripe's signature on the raw bytes.

    Raises:
        WebhookRefusedError: it does not fit, or is too old.
    """
    parts = [part.partition("=")[::2] for part in header.split(",")]
    timestamp = next((value for name, value in parts if name == "t"), "")
    if not timestamp.isdecimal() or abs(now_seconds - int(timestamp)) > SIGNATURE_TOLERANCE_SECONDS:
        raise WebhookRefusedError("the signature's time is missing or too far away")
    signed = timestamp.encode() + b"." + body
    expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    if not any(name == "v1" and hmac.compare_digest(value, expected) for name, value in parts):
        raise WebhookRefusedError("no signature fits")


def read_event(*, body: bytes, now: datetime, city_time_zone: str) -> StripeEvent:
    """What a verified event says.

    Raises:
        WebhookRefusedError: it is no event, or one of a payment without account or amount.
    """
    try:
        event = orjson.loads(body)
        return event_of(event=event, now=now, city_time_zone=city_time_zone)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise WebhookRefusedError(f"not an event as Stripe sends it: {error!r}") from error


def verified_event(*, body: bytes, header: str, settings: PeerSettings) -> StripeEvent:
    """What a webhook says that has come just now, its signature checked.

    Raises:
        WebhookRefusedError: see `verify_signature` and `read_event`.
    """
    now = datetime.now(UTC)
    verify_signature(
        body=body,
        header=header,
        secret=settings.stripe_webhook_secret,
        now_seconds=now.timestamp(),
    )
    return read_event(body=body, now=now, city_time_zone=settings.city_time_zone)


def event_of(*, event: Mapping[str, Any], now: datetime, city_time_zone: str) -> StripeEvent:
    """The same of an event that is parsed already.

    Raises:
        KeyError, TypeError, ValueError: it lacks something.
    """
    event_id, event_type = str(event["id"]), str(event["type"])
    if event_type != _ACCEPTED_TYPE:
        return StripeEvent(event_id=event_id, event_type=event_type, paid=None)
    intent = event["data"]["object"]
    metadata = intent["metadata"]
    amount_cents = intent["amount_received"] - int(metadata.get("convenience_fee_cents") or 0)
    if amount_cents <= 0:
        raise ValueError("nothing was paid")
    paid = Paid(
        payment_id=payment_id_of(reference=intent["id"]),
        reference=intent["id"],
        account=metadata["account_number"],
        amount_cents=amount_cents,
        currency=intent["currency"].upper(),
        effective_date=now.astimezone(ZoneInfo(city_time_zone)).date().isoformat(),
        accepted_at=now.astimezone(UTC).isoformat(),
    )
    return StripeEvent(event_id=event_id, event_type=event_type, paid=paid)


def posting_of(paid: Paid) -> dict[str, Any]:
    """The body of `POST /v1/postings` (docs/cis-protocol.md)."""
    return {
        "key": paid.payment_id,
        "kind": "payment",
        "account": paid.account,
        "amount_cents": paid.amount_cents,
        "currency": paid.currency,
        "effective_date": paid.effective_date,
        "accepted_at": paid.accepted_at,
        "reference": paid.reference,
        "memo": None,
    }


class CisUnavailableError(Exception):
    """The CIS has not decided, or nobody knows whether it has: to be posted again, same key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """What the CIS decided; `cis_reference` is None where it refused, with the reason."""

    cis_reference: str | None
    balance_cents: int | None
    reason: str | None = None


def posted_of(*, status: int, body: bytes, paid: Paid) -> Posted:
    """What an answer of the CIS means.

    Posting again under the same key is how an unknown outcome is asked about here: the protocol
    promises that a key has one effect, for ever.

    Raises:
        CisUnavailableError: nothing was decided, as far as this answer says.
    """
    try:
        answer = orjson.loads(body)
        outcome = answer["outcome"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise CisUnavailableError(f"status {status} without an outcome") from error
    if outcome in ("applied", "exists") and answer["amount_cents"] == paid.amount_cents:
        return Posted(cis_reference=answer["cis_reference"], balance_cents=answer["balance_cents"])
    if outcome in ("applied", "exists", "conflict", "refused"):
        return Posted(
            cis_reference=None, balance_cents=None, reason=answer["reason"] or str(outcome)
        )
    raise CisUnavailableError(f"status {status}, outcome {outcome}")


def dollars(cents: int) -> str:
    """As customers read it: `$1,234.56`."""
    return f"${cents // 100:,}.{cents % 100:02d}"


def mail_of(*, paid: Paid, posted: Posted, name: str, email: str) -> EmailMessage:
    """The mail that tells of a posting; its Message-ID is the payment's own."""
    amount = dollars(paid.amount_cents)
    message = EmailMessage()
    message["From"] = _SENDER
    message["To"] = email
    message["Subject"] = f"Your payment of {amount} is posted"
    message["Message-ID"] = f"<{paid.payment_id}@utility.example>"
    lines = [
        f"Hello {name},",
        "",
        f"Your payment was posted to account {paid.account}.",
        "",
        f"Amount: {amount}",
        f"Effective date: {paid.effective_date}",
    ]
    if posted.balance_cents is not None:
        owed = posted.balance_cents
        lines.append(
            f"Balance now: {dollars(owed)}" if owed >= 0 else f"Credit now: {dollars(-owed)}"
        )
    lines += [f"Paid: {paid.accepted_at}", f"Reference: {paid.reference}", "", "Your utility", ""]
    message.set_content("\n".join(lines))
    return message

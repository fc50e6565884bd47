"""Charges at Stripe, by its official SDK.

What the SDK raises, and what the network does beneath it, is mapped here, once, to an answer:
never connected means that nothing took effect; anything after the request was written, without an
answer that can be understood, means that nobody knows. The SDK neither tries again by itself, nor
logs, nor sends telemetry: when to try again is decided elsewhere, and its log lines hold tokens.

Sources: Stripe, "Low-level error handling" (5xx and lost connections are indeterminate), "Error
codes", "Idempotent requests", "ACH Direct Debit"; the parameters are the API reference's.
"""

import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, cast

import aiohttp

from payment_intake.adapters.stripe import (
    PROCESSOR,
    MetadataFields,
    advice_codes,
    failure_code,
    failure_codes,
    plain,
)
from payment_intake.domain.charges import Answer, AnswerKind, Charge
from payment_intake.domain.declines import decline_category
from shared.imports import absent

with absent("requests"):
    import stripe

CONNECT_SECONDS_MAX = 3.0
POOL_WAIT_SECONDS_MAX = 5.0
PAGES_MAX = 20
"""Looked through at most when an attempt is asked for: 2,000 PaymentIntents of one customer."""
CLOCK_SKEW = timedelta(hours=1)
"""How much earlier than by our clock a PaymentIntent may have been made by Stripe's."""

_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_CUSTOMERS_PARAMETERS = frozenset({"payment_method", "customer", "mandate"})
_CUSTOMERS_CODES = frozenset(
    {
        "amount_too_large",
        "amount_too_small",
        "payment_intent_incompatible_payment_method",
        "payment_intent_mandate_invalid",
        "payment_method_bank_account_blocked",
        "payment_method_customer_decline",
        "payment_method_invalid_parameter",
        "payment_method_microdeposit_failed",
        "payment_method_not_available",
        "payment_method_provider_decline",
        "payment_method_unactivated",
        "payment_method_unexpected_state",
    }
)
"""Requests that are refused for this customer's method or mandate: a decline. Any other refusal of
a request is our own mistake, and must not cost a customer the enrolment."""
_STATE_MOVED_ON = "payment_intent_unexpected_state"
_OPEN = frozenset({"requires_payment_method", "requires_confirmation"})


class GatewayMetrics(Protocol):
    """What the gateway counts."""

    def gateway_called(self, *, operation: str, outcome: str, seconds: float) -> None: ...


class StripeGateway:
    """See `payment_intake.ports.ChargeGateway`."""

    def __init__(
        self,
        *,
        api_key: str,
        api_base: str,
        fields: MetadataFields,
        timeout_seconds: float,
        connections_max: int,
        metrics: GatewayMetrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api_key = api_key
        self._api_base = api_base.rstrip("/")
        self._fields = fields
        self._timeout = aiohttp.ClientTimeout(
            total=timeout_seconds, sock_connect=min(timeout_seconds, CONNECT_SECONDS_MAX)
        )
        self._connections_max = connections_max
        self._metrics = metrics
        self._monotonic = monotonic
        self._session: aiohttp.ClientSession | None = None
        self._opened: stripe.StripeClient | None = None
        # Process-wide, as the SDK has it.
        stripe.enable_telemetry = False
        logging.getLogger("stripe").setLevel(logging.CRITICAL)

    @property
    def processor(self) -> str:
        return PROCESSOR

    async def charge(self, charge: Charge) -> Answer:
        if charge.reference is None:
            return await self._called("charge", lambda: self._create(charge))
        reference = charge.reference
        return await self._called("charge", lambda: self._confirm(charge, reference))

    async def find(self, charge: Charge) -> Answer:
        if charge.reference is None:
            return await self._called("find", lambda: self._look_for(charge))
        reference = charge.reference
        return await self._called("find", lambda: self._retrieve(charge, reference))

    async def refund(self, charge: Charge) -> Answer:
        return await self._called("refund", lambda: self._refund(charge))

    async def cancel(self, charge: Charge) -> Answer:
        return await self._called("cancel", lambda: self._cancel(charge))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _create(self, charge: Charge) -> Answer:
        metadata = {
            self._fields.account: charge.account_id,
            self._fields.bill: charge.bill_reference,
            self._fields.charge: str(charge.id),
        }
        parameters: dict[str, Any] = {
            "amount": charge.amount_cents,
            "currency": charge.currency.lower(),
            "payment_method": charge.payment_method_token,
            "allowed_payment_method_types": [charge.method_kind],
            "confirm": True,
            "off_session": True,
            "description": f"Autopay, due {charge.due_date.isoformat()}",
            "metadata": metadata,
            "expand": ["latest_charge"],
        }
        if charge.customer_token:
            parameters["customer"] = charge.customer_token
        if charge.mandate_token:
            parameters["mandate"] = charge.mandate_token
        intent = await self._client().v1.payment_intents.create_async(
            cast(Any, parameters), {"idempotency_key": _key(charge)}
        )
        return _of_intent(charge, intent)

    async def _confirm(self, charge: Charge, reference: str) -> Answer:
        """Present the same PaymentIntent again, for less where less is owed by now."""
        intents = self._client().v1.payment_intents
        held = await intents.retrieve_async(reference, {"expand": ["latest_charge"]})
        if held.status not in _OPEN:
            return _of_intent(charge, held)
        if held.amount != charge.amount_cents:
            await intents.update_async(
                reference,
                {"amount": charge.amount_cents},
                {"idempotency_key": f"{_key(charge)}-amount-{charge.amount_cents}"},
            )
        parameters: dict[str, Any] = {
            "payment_method": charge.payment_method_token,
            "off_session": True,
            "expand": ["latest_charge"],
        }
        if charge.mandate_token:
            parameters["mandate"] = charge.mandate_token
        intent = await intents.confirm_async(
            reference, cast(Any, parameters), {"idempotency_key": _key(charge)}
        )
        return _of_intent(charge, intent)

    async def _retrieve(self, charge: Charge, reference: str) -> Answer:
        intent = await self._client().v1.payment_intents.retrieve_async(
            reference, {"expand": ["latest_charge"]}
        )
        return _of_attempt(charge, intent)

    async def _look_for(self, charge: Charge) -> Answer:
        """Look through what was made for the customer since: lists are strongly consistent,
        Stripe's search is not."""
        since = (charge.requested_at or charge.created_at) - CLOCK_SKEW
        parameters: dict[str, Any] = {
            "created": {"gte": int(min(since, charge.created_at - CLOCK_SKEW).timestamp())},
            "limit": 100,
            "expand": ["data.latest_charge"],
        }
        if charge.customer_token:
            parameters["customer"] = charge.customer_token
        page = await self._client().v1.payment_intents.list_async(cast(Any, parameters))
        for _ in range(PAGES_MAX):
            for intent in page.data:
                metadata = _object(_raw(intent).get("metadata"))
                if metadata.get(self._fields.charge) == str(charge.id):
                    return _of_attempt(charge, intent)
            if not page.has_more:
                return Answer(kind=AnswerKind.NOT_FOUND)
            page = await page.next_page_async()
        return Answer(kind=AnswerKind.UNKNOWN, reason="too_many_to_look_through")

    async def _refund(self, charge: Charge) -> Answer:
        parameters: dict[str, Any] = {
            "payment_intent": charge.reference,
            "reason": "requested_by_customer",
            "metadata": {self._fields.charge: str(charge.id)},
        }
        try:
            refund = await self._client().v1.refunds.create_async(
                cast(Any, parameters), {"idempotency_key": f"{charge.id}-refund"}
            )
        except stripe.InvalidRequestError as error:
            if error.code != "charge_already_refunded":
                raise
            return Answer(
                kind=AnswerKind.REFUNDED,
                reference=charge.reference,
                amount_cents=charge.amount_cents,
                at=_answered_at(error.headers),
            )
        if refund.status in ("failed", "canceled"):
            return Answer(kind=AnswerKind.REFUSED, reason=refund.failure_reason or refund.status)
        return Answer(
            kind=AnswerKind.REFUNDED,
            reference=charge.reference,
            amount_cents=refund.amount,
            currency=refund.currency.upper(),
            at=datetime.fromtimestamp(refund.created, UTC),
            request_id=_request_id(refund),
        )

    async def _cancel(self, charge: Charge) -> Answer:
        reference = charge.reference or ""
        try:
            intent = await self._client().v1.payment_intents.cancel_async(
                reference,
                {"cancellation_reason": "requested_by_customer"},
                {"idempotency_key": f"{charge.id}-cancel"},
            )
        except stripe.InvalidRequestError as error:
            if error.code != _STATE_MOVED_ON:
                raise
            # Under way to the bank, or settled this moment: looked at again when it has settled.
            return Answer(kind=AnswerKind.PROCESSING, reason=error.code, reference=reference)
        return Answer(
            kind=AnswerKind.CANCELLED,
            reason="canceled",
            reference=intent.id,
            at=_answered_at(_headers(intent)),
            request_id=_request_id(intent),
        )

    async def _called(self, operation: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        started = self._monotonic()
        try:
            answer = await call()
        except stripe.StripeError as error:
            answer = _of_error(error)
        except (aiohttp.ClientError, TimeoutError) as error:
            # The SDK reads the body outside of its own error handling.
            answer = _of_network(error)
        self._metrics.gateway_called(
            operation=operation, outcome=answer.kind, seconds=self._monotonic() - started
        )
        return answer

    def _client(self) -> stripe.StripeClient:
        """Return the SDK's client on a session of our own; the first call opens it, in its loop."""
        if self._opened is None:
            tls = ssl.create_default_context(cafile=stripe.ca_bundle_path)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections_max, keepalive_timeout=60, ssl=tls
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            transport: Any = stripe.AIOHTTPClient(
                session=self._session, timeout=cast(Any, self._timeout)
            )
            self._opened = stripe.StripeClient(
                self._api_key,
                base_addresses={"api": self._api_base},
                max_network_retries=0,
                http_client=transport,
            )
        return self._opened


def _key(charge: Charge) -> str:
    """Return the Idempotency-Key of an attempt: the same for ever, but for what Stripe has spoilt.

    A 500 that the endpoint itself gave is kept under its key and repeated for a day. Where it was
    asked since, and no such attempt is known there, the next call goes under a key of its own.
    """
    attempt = "" if charge.attempt == 1 else f"-{charge.attempt}"
    spent = f"-after-{charge.keys_spent}" if charge.keys_spent else ""
    return f"{charge.id}{attempt}{spent}"


def _of_intent(charge: Charge, intent: stripe.PaymentIntent) -> Answer:
    """Return what a PaymentIntent says of the attempt that has just been made."""
    raw = _raw(intent)
    about = _about(intent, raw)
    status = raw.get("status")
    match status:
        case "succeeded":
            received = raw.get("amount_received") or raw.get("amount")
            return Answer(kind=AnswerKind.SUCCEEDED, **about | {"amount_cents": received})
        case "processing":
            return Answer(kind=AnswerKind.PROCESSING, **about)
        case "requires_action":
            return Answer(
                kind=AnswerKind.ACTION_REQUIRED,
                reason="requires_action",
                category="action_required",
                **about,
            )
        case "requires_payment_method":
            return _declined(charge.method_kind, _object(raw.get("last_payment_error")), **about)
        case "canceled":
            return Answer(kind=AnswerKind.DECLINED, reason="canceled", category="soft", **about)
        case _:
            return Answer(kind=AnswerKind.UNKNOWN, reason=f"status_{status}", **about)


def _of_attempt(charge: Charge, intent: stripe.PaymentIntent) -> Answer:
    """Return what a PaymentIntent says of the attempt asked about, made or not.

    A failure that an earlier attempt has is not this one's: this one was never made.
    """
    answer = _of_intent(charge, intent)
    is_earlier = charge.attempt > 1 and (answer.part is None or answer.part in charge.earlier)
    was_never_tried = intent.status == "requires_confirmation"
    if intent.status in _OPEN and (is_earlier or was_never_tried):
        return Answer(kind=AnswerKind.NOT_FOUND, reference=intent.id)
    return answer


def _about(intent: stripe.PaymentIntent, raw: Mapping[str, Any]) -> dict[str, Any]:
    details = _object(raw.get("last_payment_error"))
    latest = raw.get("latest_charge")
    expanded = _object(latest)
    created = expanded.get("created")
    by_name = plain(details.get("charge"), 255) if raw.get("status") in _OPEN else None
    return {
        "reference": intent.id,
        "part": by_name or plain(expanded.get("id") or latest, 255),
        "amount_cents": raw.get("amount"),
        "currency": str(raw.get("currency", "")).upper() or None,
        # A charge's own time is its webhooks' time, however long the answer was under way.
        "at": datetime.fromtimestamp(created, UTC)
        if type(created) is int
        else _answered_at(_headers(intent)),
        "request_id": _request_id(intent),
    }


def _declined(kind: str, details: Mapping[str, Any], **about: Any) -> Answer:
    codes = failure_codes(details)
    category = decline_category(kind=kind, codes=codes, advice=advice_codes(details))
    needs_customer = category == "action_required"
    return Answer(
        kind=AnswerKind.ACTION_REQUIRED if needs_customer else AnswerKind.DECLINED,
        reason=failure_code(details),
        category=category,
        **about,
    )


def _of_error(error: stripe.StripeError) -> Answer:
    """Return what an error of the SDK means for the charge."""
    told: dict[str, Any] = {"request_id": error.request_id}
    match error:
        case stripe.CardError():
            return _of_decline(error)
        case stripe.RateLimitError():
            return Answer(kind=AnswerKind.UNAVAILABLE, reason="rate_limited", **told)
        case stripe.AuthenticationError():
            return _our_trouble("authentication", **told)
        case stripe.PermissionError():
            return _our_trouble("permission", **told)
        case stripe.IdempotencyError():
            # The key was used with other parameters: what it did is to be asked about.
            return Answer(kind=AnswerKind.UNKNOWN, reason="idempotency", **told)
        case stripe.InvalidRequestError():
            return _of_refusal(error)
        case stripe.APIConnectionError():
            return _of_network(error.__cause__ or error)
        case _:
            status = error.http_status or 0
            return Answer(
                kind=AnswerKind.UNKNOWN,
                reason=f"processor_http_{status}" if status else "processor_not_understood",
                is_key_spent=status >= 500,
                **told,
            )


def _of_decline(error: stripe.StripeError) -> Answer:
    details = _error_object(error)
    intent = _object(details.get("payment_intent"))
    latest = intent.get("latest_charge")
    latest = latest.get("id") if isinstance(latest, dict) else latest
    kinds = intent.get("payment_method_types")
    kind = kinds[0] if isinstance(kinds, list) and len(kinds) == 1 else None
    amount = intent.get("amount")
    return _declined(
        kind or "card",
        details,
        reference=plain(intent.get("id"), 255),
        part=plain(details.get("charge"), 255) or plain(latest, 255),
        amount_cents=amount if type(amount) is int else None,
        at=_answered_at(error.headers),
        request_id=error.request_id,
    )


def _of_refusal(error: stripe.InvalidRequestError) -> Answer:
    details = _error_object(error)
    if error.code == _STATE_MOVED_ON:
        # It has been paid, or is under way: asked about before anything else.
        return Answer(kind=AnswerKind.UNKNOWN, reason=error.code, request_id=error.request_id)
    is_customers = error.code in _CUSTOMERS_CODES or (
        error.param in _CUSTOMERS_PARAMETERS and error.code not in (None, "parameter_unknown")
    )
    if _object(details.get("payment_intent")).get("status") == "requires_payment_method":
        # An ACH debit that is refused at once is told as an invalid request.
        return _of_decline(error)
    if not is_customers:
        return _our_trouble(error.code or "invalid_request", request_id=error.request_id)
    return Answer(
        kind=AnswerKind.REFUSED,
        reason=error.code,
        category=decline_category(kind="us_bank_account", codes=[error.code]),
        at=_answered_at(error.headers),
        request_id=error.request_id,
    )


def _our_trouble(reason: str, **told: Any) -> Answer:
    return Answer(kind=AnswerKind.UNAVAILABLE, reason=f"our_{reason}", is_our_trouble=True, **told)


def _of_network(error: BaseException) -> Answer:
    if isinstance(error, _NEVER_SENT):
        return Answer(kind=AnswerKind.UNAVAILABLE, reason="processor_unreachable")
    reason = "processor_timeout" if isinstance(error, TimeoutError) else "processor_lost"
    return Answer(kind=AnswerKind.UNKNOWN, reason=reason)


def _error_object(error: stripe.StripeError) -> Mapping[str, Any]:
    body = error.json_body
    return _object(body.get("error")) if isinstance(body, dict) else {}


def _raw(found: stripe.StripeObject) -> Mapping[str, Any]:
    """Return what came over the wire: the SDK's attributes fail where an API version had none."""
    raw: dict[str, Any] = found.to_dict()
    return raw


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _headers(found: stripe.StripeObject) -> Mapping[str, str]:
    response: Any = getattr(found, "last_response", None)
    return response.headers if response is not None else {}


def _request_id(found: stripe.StripeObject) -> str | None:
    return _headers(found).get("request-id")


def _answered_at(headers: Mapping[str, str] | None) -> datetime | None:
    """Return when Stripe answered, by its own clock: its webhooks' times are by the same one."""
    date = (headers or {}).get("date")
    if date is None:
        return None
    try:
        return parsedate_to_datetime(date).astimezone(UTC)
    except ValueError:
        return None

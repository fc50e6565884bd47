"""Stripe's API over HTTP: keys, idempotency, faults, and the book; `operations` does the rest.

The path of a POST: the edge (secret key, faults that happen there) → the idempotency key → the
endpoint → the book → the answer (or the fault in its place) → the webhooks. A GET waits for the
book, too: nothing is shown that a crash could take back.

GET /_charges shows every attempt to take money, and every refund: the ground truth of tests.

Measured on two cores that the caller and the endpoint share: 1,500 charges a second, each with a
synced line and four webhooks; 600 while the machine is busy otherwise.
"""

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson

from paypost.simulators.asgi import (
    ASGIScope,
    HttpProblemError,
    Receive,
    Send,
    hold_open,
    read_body,
    read_header,
    send_body,
    wait_for_disconnect,
)
from paypost.simulators.processor.book import Book, Entry
from paypost.simulators.processor.errors import API, ApiError
from paypost.simulators.processor.events import Ids
from paypost.simulators.processor.forms import parse_form
from paypost.simulators.processor.idempotency import IdempotencyKeys, KeptAnswer, fingerprint_of
from paypost.simulators.processor.ledger import Ledger
from paypost.simulators.processor.objects import Renderer
from paypost.simulators.processor.operations import ApiOutcome, ApiRequest, Endpoint, Operations
from paypost.simulators.processor.records import (
    ACCOUNT_FIELD,
    CHARGE_FIELD,
    Announcement,
    Change,
    Charge,
)
from paypost.simulators.processor.switches import SETTLE, Switches

BODY_BYTES_MAX = 256 * 1024
WEBHOOKS_FIRST_SECONDS = 5.0
"""How long an answer waits for its webhooks where they are to come first."""

_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:\.[a-z]+)?")

CHARGES_SHOWN_MAX = 10_000

Headers = tuple[tuple[bytes, bytes], ...]
Announce = Callable[[Sequence[Announcement]], "asyncio.Task[None]"]

RESET = "paypost.reset"
"""The extension of the ASGI scope that resets the request's connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a caller is to be told."""

    status: int
    body: bytes
    request_id: str
    key: str | None = None
    original_request_id: str | None = None
    replayed: bool = False

    def headers(self) -> Headers:
        """Return Stripe's own headers."""
        headers = [(b"request-id", self.request_id.encode())]
        if self.key is not None:
            original = self.original_request_id or self.request_id
            headers.append((b"idempotency-key", self.key.encode("latin-1")))
            headers.append((b"original-request", original.encode()))
        if self.replayed:
            headers.append((b"idempotent-replayed", b"true"))
        if self.status in {429, 503}:
            headers.append((b"retry-after", b"1"))
        return tuple(headers)


@dataclass(slots=True, kw_only=True)
class _Exchange:
    """One request on its way."""

    request: ApiRequest
    operation: str
    endpoint: Endpoint
    request_id: str
    subjects: set[str]
    fingerprint: str
    announcements: tuple[Announcement, ...] = field(default=())


CLOCK = "clock"


class StripeApi:
    """Everything under /v1, on one ledger."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        book: Book,
        switches: Switches,
        ids: Ids,
        clock: Callable[[], datetime],
        moved: Callable[[], timedelta],
        announce: Announce,
        api_version: str,
        secret_key: str | None,
    ) -> None:
        self._ledger = ledger
        self._operations = Operations(ledger=ledger)
        self._book = book
        self.switches = switches
        self._ids = ids
        self._clock = clock
        self._moved = moved
        self._announce = announce
        self._api_version = api_version
        self._secret_key = secret_key
        self._keys = IdempotencyKeys()

    def restore(self, entry: Entry) -> None:
        """Take over a line of the book."""
        self._ledger.apply(entry.change)
        if entry.key is not None and entry.answer is not None:
            self._keys.keep(
                entry.key,
                path=entry.path,
                fingerprint=entry.fingerprint,
                status=entry.status,
                body=orjson.dumps(entry.answer),
                request_id=entry.request_id or "",
                now=entry.at,
            )

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request_id = self._ids.new("req")
        try:
            exchange = await self._read(scope, receive, request_id)
            await self._handle(exchange, scope, receive, send)
        except ApiError as error:
            body = orjson.dumps(error.envelope())
            await _send(send, Answer(status=error.status, body=body, request_id=request_id))

    async def settle_due(self) -> list[Announcement]:
        """End the debits and refunds whose day has come; return what is to be announced."""
        return await self.record_at_bank(self._ledger.settle_due())

    async def record_at_bank(self, changes: Sequence[Change]) -> list[Announcement]:
        """Write down what has happened without a request; return what is to be announced."""
        entries = [
            self._entry(operation=SETTLE, change=change, silent=self._is_silent(change))
            for change in changes
        ]
        await self._book.append(*entries)
        return [
            announcement
            for entry in entries
            if not entry.silent
            for announcement in entry.change.announcements
        ]

    async def record_clock(self) -> None:
        """Write down that the clock was moved."""
        await self._book.append(self._entry(operation=CLOCK, change=Change()))

    async def describe_charges(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return what was charged and refunded, oldest first; the sums are over all of it.

        `charge_id` is Paypost's, `account` the account number in the metadata; `payment_intent`
        and `outcome` narrow it further. At most the newest CHARGES_SHOWN_MAX are shown.
        """
        await self._book.append()
        wanted = {
            "paypost_charge_id": query.get("charge_id"),
            "account": query.get("account"),
            "payment_intent": query.get("payment_intent"),
            "outcome": query.get("outcome"),
        }
        described = [
            one
            for one in map(self._describe, self._ledger.charges.values())
            if all(value is None or one[name] == value for name, value in wanted.items())
        ]
        taken = [one for one in described if one["outcome"] == "succeeded"]
        return {
            "charges": described[-CHARGES_SHOWN_MAX:],
            "count": len(described),
            "succeeded": len(taken),
            "succeeded_cents": sum(one["amount_cents"] for one in taken),
            "refunded_cents": sum(one["refunded_cents"] for one in described),
        }

    def _describe(self, charge: Charge) -> dict[str, Any]:
        failure = charge.failure
        return {
            "charge": charge.id,
            "payment_intent": charge.intent,
            "paypost_charge_id": charge.metadata.get(CHARGE_FIELD),
            "account": charge.metadata.get(ACCOUNT_FIELD),
            "customer": charge.customer,
            "payment_method": charge.method,
            "method_type": charge.method_type,
            "amount_cents": charge.amount_cents,
            "currency": charge.currency,
            "attempt": charge.attempt,
            "outcome": charge.status,
            "code": failure.decline_code or failure.code if failure else None,
            "network_decline_code": failure.network_decline_code if failure else None,
            "idempotency_key": charge.key,
            "created": charge.created,
            "ended_at": charge.ended_at,
            "trace": charge.trace,
            "dispute": charge.dispute,
            "dispute_reason": charge.dispute_reason,
            "metadata": charge.metadata,
            "refunded_cents": charge.refunded_cents,
            "refunds": [
                {
                    "refund": refund.id,
                    "amount_cents": refund.amount_cents,
                    "status": refund.status,
                    "created": refund.created,
                    "idempotency_key": refund.key,
                    "metadata": refund.metadata,
                }
                for refund in self._ledger.refunds_of(charge.id)
            ],
        }

    async def _read(self, scope: ASGIScope, receive: Receive, request_id: str) -> _Exchange:
        try:
            body = await read_body(receive, limit_bytes=BODY_BYTES_MAX)
        except HttpProblemError as problem:
            raise ApiError(status=problem.status, message=problem.title) from None
        self._authorize(scope)
        form = parse_form(scope["query_string"] if scope["method"] == "GET" else body)
        key = read_header(scope, b"idempotency-key")
        request = ApiRequest(
            method=scope["method"],
            path=scope["path"],
            form=form,
            renderer=Renderer(api_version=self._version(read_header(scope, b"stripe-version"))),
            # Stripe: a key has no effect on anything but a POST.
            key=key.decode("latin-1") if key and scope["method"] == "POST" else None,
        )
        operation, endpoint = self._operations.endpoint(request)
        return _Exchange(
            request=request,
            operation=operation,
            endpoint=endpoint,
            request_id=request_id,
            subjects=self._operations.subjects(request),
            fingerprint=fingerprint_of(form) if request.key else "",
        )

    def _version(self, given: bytes | None) -> str:
        version = given.decode("latin-1") if given else self._api_version
        if not _VERSION.fullmatch(version):
            raise ApiError(status=400, message=f"Invalid Stripe API version: {version}")
        return version

    def _authorize(self, scope: ASGIScope) -> None:
        given = read_header(scope, b"authorization")
        if given is None or not given.startswith(b"Bearer "):
            raise ApiError(status=401, message="You did not provide an API key.")
        key = given.removeprefix(b"Bearer ").decode("latin-1")
        if self._secret_key is not None and not secrets.compare_digest(
            key.encode("latin-1"), self._secret_key.encode()
        ):
            shown = f"{key[:7]}****{key[-4:]}" if len(key) > 11 else "****"
            raise ApiError(status=401, message=f"Invalid API Key provided: {shown}")

    async def _handle(
        self, exchange: _Exchange, scope: ASGIScope, receive: Receive, send: Send
    ) -> None:
        if self._hits("connection_reset", exchange):
            await _reset(scope, receive)
            return
        self._fail_at_edge(exchange)
        request = exchange.request
        kept: KeptAnswer | None = None
        if request.key is not None:
            kept = self._keys.begin(
                request.key,
                path=request.path,
                fingerprint=exchange.fingerprint,
                now=self._clock(),
            )
        if kept is None:
            answer = await self._execute(exchange, receive)
        else:
            answer = Answer(
                status=kept.status,
                body=kept.read_body(),
                request_id=exchange.request_id,
                key=request.key,
                original_request_id=kept.request_id,
                replayed=True,
            )
        await self._tell(answer, exchange, scope, receive, send)

    async def _execute(self, exchange: _Exchange, receive: Receive) -> Answer:
        """Do what is asked, once. Raises ApiError when it was not even begun."""
        request = exchange.request
        begun = False
        try:
            delay_seconds = self.switches.delay_seconds()
            if delay_seconds:
                await asyncio.sleep(delay_seconds)
            if self._hits("timeout_before_effect", exchange):
                return await self._hang(exchange, receive)
            outcome = self._perform(exchange)
            begun = True
        finally:
            # Whatever has ended it: a request that was not begun leaves its key free.
            if request.key is not None and not begun:
                self._keys.release(request.key)
        body = orjson.dumps(outcome.body)
        if request.method == "POST":
            await self._write_down(exchange, outcome, body)
        else:
            await self._book.append()
        return Answer(
            status=outcome.status, body=body, request_id=exchange.request_id, key=request.key
        )

    def _perform(self, exchange: _Exchange) -> ApiOutcome:
        if self._hits("error_instead_of_effect", exchange):
            return _failed(Change())
        try:
            outcome = self._operations.perform(exchange.endpoint, exchange.request)
        except ApiError as error:
            if not error.executed:
                raise
            return ApiOutcome(body=error.envelope(), status=error.status)
        if self._hits("error_after_effect", exchange):
            return _failed(outcome.change)
        return outcome

    async def _write_down(self, exchange: _Exchange, outcome: ApiOutcome, body: bytes) -> None:
        request = exchange.request
        silent = self._hits("webhooks_off", exchange)
        entry = self._entry(
            operation=exchange.operation,
            request_id=exchange.request_id,
            path=request.path,
            key=request.key,
            fingerprint=exchange.fingerprint,
            status=outcome.status,
            answer=orjson.Fragment(body) if request.key is not None else None,
            silent=silent,
            change=outcome.change,
        )
        try:
            await self._book.append(entry)
        finally:
            if request.key is not None:
                self._keys.keep(
                    request.key,
                    path=request.path,
                    fingerprint=exchange.fingerprint,
                    status=outcome.status,
                    body=body,
                    request_id=exchange.request_id,
                    now=self._clock(),
                )
        if not silent:
            exchange.announcements = outcome.change.announcements

    async def _tell(
        self, answer: Answer, exchange: _Exchange, scope: ASGIScope, receive: Receive, send: Send
    ) -> None:
        announcements = exchange.announcements
        if announcements and self._hits("webhooks_first", exchange):
            await asyncio.wait([self._announce(announcements)], timeout=WEBHOOKS_FIRST_SECONDS)
            announcements = ()
        try:
            if self.switches.answer_delay_seconds:
                await asyncio.sleep(self.switches.answer_delay_seconds)
            if self._hits("connection_reset_after_effect", exchange):
                await _reset(scope, receive)
            elif not self._hits("timeout_after_effect", exchange):
                await _send(send, answer)
            else:
                if announcements:
                    self._announce(announcements)
                announcements = ()
                await _send(send, await self._hang(exchange, receive))
        finally:
            if announcements:
                self._announce(announcements)

    async def _hang(self, exchange: _Exchange, receive: Receive) -> Answer:
        """Keep silent until the caller has gone or the switch was turned; return what is left."""
        await hold_open(receive, seconds=self.switches.hang_seconds, released=self.switches.let_go)
        error = ApiError(status=504, type=API, message="The request took too long.")
        return Answer(
            status=error.status,
            body=orjson.dumps(error.envelope()),
            request_id=exchange.request_id,
        )

    def _fail_at_edge(self, exchange: _Exchange) -> None:
        if self._hits("down", exchange):
            raise ApiError(status=503, type=API, message="Stripe is unavailable.")
        if self._hits("rate_limited", exchange):
            raise ApiError(
                status=429,
                code="rate_limit",
                message="Request rate limit exceeded. Learn more about rate limits here"
                " https://stripe.com/docs/rate-limits.",
            )
        if self._hits("error_before_effect", exchange):
            raise ApiError(status=500, type=API, message=_SORRY)

    def _hits(self, name: str, exchange: _Exchange) -> bool:
        return self.switches.meets(name, operation=exchange.operation, subjects=exchange.subjects)

    def _is_silent(self, change: Change) -> bool:
        subjects = {
            value
            for charge in change.charges
            for value in (charge.intent, charge.customer, charge.method, *charge.metadata.values())
            if value is not None
        }
        return self.switches.meets("webhooks_off", operation=SETTLE, subjects=subjects)

    def _entry(self, *, operation: str, change: Change, **members: Any) -> Entry:
        return Entry(
            at=self._clock(),
            moved_seconds=self._moved().total_seconds(),
            operation=operation,
            change=change,
            **members,
        )


_SORRY = "An unknown error occurred. Sorry about that; we have been notified of the problem."


def _failed(change: Change) -> ApiOutcome:
    error = ApiError(status=500, type=API, message=_SORRY)
    return ApiOutcome(body=error.envelope(), status=error.status, change=change)


async def _reset(scope: ASGIScope, receive: Receive) -> None:
    scope["extensions"][RESET]()
    # The server takes a request that ends with no answer for a defect, unless the caller has gone.
    await wait_for_disconnect(receive)


async def _send(send: Send, answer: Answer) -> None:
    await send_body(send, status=answer.status, body=answer.body, headers=answer.headers())

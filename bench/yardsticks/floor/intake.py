"""Stage 1: webhooks in, payments stored and announced; then followed until the customer was told.

Durable before 2xx: one statement, hence one transaction, stores the events, the payments and the
rows of the outbox of all requests that gathered while the statement before ran.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, UUID
from zoneinfo import ZoneInfo

import asyncpg
import orjson
import uvicorn
from aiokafka import TopicPartition
from asyncpg.pgproto import pgproto

from bench.yardsticks.floor.stage import (
    Gathering,
    Outbox,
    Settings,
    alone,
    commit_offsets,
    connect,
    consumer,
    next_records,
    pace,
    producer,
    read_watermark,
    ready,
    run,
    vital,
    write_watermark,
)

STAGE = "intake"
PATH = "/webhooks/stripe"
BODY_BYTES_MAX = 256 * 1024
TOLERANCE_SECONDS = 300
BATCH_MAX = 256
QUEUE_MAX = 8_192
AMOUNT_CENTS_MAX = 100_000_000
FOLLOWED_MAX = 1_000
CAPTURING = frozenset({"payment_intent.succeeded", "charge.succeeded", "charge.captured"})

STORE = """
WITH events AS (
    INSERT INTO events (event_id, received_at, body)
    SELECT e.id, now(), e.body FROM unnest($1::text[], $2::bytea[]) e (id, body)
    ON CONFLICT DO NOTHING
), gone AS (
    DELETE FROM payments_outbox WHERE seq = ANY($3::bigint[])
), stored AS (
    INSERT INTO payments
        (id, accepted_at, amount_cents, effective_date, account, currency, reference)
    SELECT * FROM unnest(
        $4::uuid[], $5::timestamptz[], $6::bigint[], $7::date[], $8::text[], $9::text[],
        $10::text[]
    )
    ON CONFLICT DO NOTHING
    RETURNING id
)
INSERT INTO payments_outbox (id) SELECT id FROM stored RETURNING seq, id
"""
FOLLOW = """
UPDATE payments p
SET posted_at = coalesce(p.posted_at, u.posted_at), outcome = coalesce(p.outcome, u.outcome),
    cis_reference = coalesce(p.cis_reference, u.cis_reference),
    confirmed_at = coalesce(p.confirmed_at, u.confirmed_at)
FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::timestamptz[])
    u (id, posted_at, outcome, cis_reference, confirmed_at)
WHERE p.id = u.id
"""
PAYMENT = "p.* FROM payments_outbox o JOIN payments p USING (id)"
ANNOUNCE_AGAIN = """
INSERT INTO payments_outbox (id) SELECT unnest($1::uuid[])
"""
UNCONFIRMED = """
SELECT id, accepted_at FROM payments
WHERE confirmed_at IS NULL AND coalesce(outcome, 'posted') = 'posted'
    AND accepted_at >= $1 AND accepted_at < $2
ORDER BY accepted_at
"""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Refused(Exception):  # noqa: N818 - an answer, no error of this process
    """A request that is not taken."""

    def __init__(self, status: int, title: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title


@dataclass(slots=True)
class Payment:
    """What an event says was captured."""

    id: pgproto.UUID
    amount_cents: int
    effective_date: date
    account: str
    currency: str
    reference: str
    accepted_at: datetime


Waiting = tuple[str, bytes, Payment | None, "asyncio.Future[None]"]


class Intake:
    """Takes webhooks (ASGI), and follows what became of them."""

    def __init__(self, settings: Settings) -> None:
        # Its copies are keyed already, which is cheaper than `hmac.digest`.
        self._hmac = hmac.new(settings.stripe_webhook_secret.encode(), None, hashlib.sha256)
        self._zone = ZoneInfo(settings.city_time_zone)
        self._currency = settings.currency
        self._waiting: Gathering[Waiting] = Gathering(batch_max=BATCH_MAX)
        self._loop = asyncio.get_running_loop()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, once what it says is durable."""
        if scope["type"] != "http":
            return
        try:
            event_id, body, payment = self._read(scope, await _body(receive))
            if len(self._waiting) >= QUEUE_MAX:
                raise Refused(503, "Too much at once")
        except Refused as refused:
            await _answer(send, refused.status, refused.title.encode())
            return
        stored = self._loop.create_future()
        self._waiting.put((event_id, body, payment, stored))
        await stored
        await send(_TAKEN)
        await send(_TAKEN_BODY)

    def _read(self, scope: Message, body: bytes) -> tuple[str, bytes, Payment | None]:
        if scope["path"] != PATH:
            raise Refused(404, "Nothing is here")
        if scope["method"] != "POST":
            raise Refused(405, "Only POST")
        signature = b""
        for name, value in scope["headers"]:
            if name == b"stripe-signature":
                signature = value
            elif name == b"content-type" and not value.startswith(b"application/json"):
                raise Refused(415, "Only JSON")
        now = time.time()
        self._verify(signature, body, now)
        try:
            event = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise Refused(400, "Not JSON") from None
        try:
            event_id, payment = event["id"], None
            if type(event_id) is not str or not 0 < len(event_id) <= 255 or "\0" in event_id:
                raise Refused(422, "id")
            if event["type"] in CAPTURING:
                payment = self._payment(event, now)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
            raise Refused(422, "Not an event that can be read") from None
        return event_id, masked(body), payment

    def _verify(self, header: bytes, body: bytes, now: float) -> None:
        """Hold the header against HMAC-SHA256 of `t.body`, in constant time."""
        parts = [part.strip().partition(b"=") for part in header.split(b",")]
        stamps = [value for name, _, value in parts if name == b"t"]
        if len(stamps) != 1 or not stamps[0].isdigit() or len(stamps[0]) > 12:
            raise Refused(401, "Stripe-Signature")
        if abs(now - int(stamps[0])) > TOLERANCE_SECONDS:
            raise Refused(401, "Stripe-Signature is too old")
        signature = self._hmac.copy()
        signature.update(stamps[0] + b"." + body)
        expected = signature.hexdigest().encode()
        given = [value for name, _, value in parts if name == b"v1"]
        if not any(hmac.compare_digest(value, expected) for value in given):
            raise Refused(401, "Stripe-Signature")

    def _payment(self, event: dict[str, Any], now: float) -> Payment | None:
        subject = event["data"]["object"]
        if event["type"] == "payment_intent.succeeded":
            reference = subject["id"]
            gross_cents = subject.get("amount_received", subject["amount"])
        else:
            if subject.get("captured") is False:
                return None
            reference = subject.get("payment_intent") or subject["id"]
            if type(reference) is dict:
                reference = reference["id"]
            gross_cents = subject.get("amount_captured", subject["amount"])
        metadata = subject.get("metadata") or {}
        fee = metadata.get("convenience_fee_cents") or "0"
        account = str(metadata.get("account_number") or "").strip()
        if not fee.isascii() or not fee.isdecimal() or type(gross_cents) is not int:
            raise Refused(422, "Not an amount")
        amount_cents = gross_cents - int(fee)
        if not 0 < amount_cents <= AMOUNT_CENTS_MAX:
            raise Refused(422, "Not an amount")
        if subject["currency"].upper() != self._currency:
            raise Refused(422, "currency")
        if not reference.isascii() or not reference.isprintable() or not 0 < len(reference) <= 255:
            raise Refused(422, "Not a reference")
        if not account.isascii() or not account.isprintable() or len(account) > 64:
            # The money was taken all the same: it waits in suspense.
            account = ""
        happened = datetime.fromtimestamp(min(event["created"], now), self._zone)
        return Payment(
            payment_id(reference),
            amount_cents,
            happened.date(),
            account,
            self._currency,
            reference,
            datetime.fromtimestamp(now, UTC),
        )

    async def store(self, connection: asyncpg.Connection[Any], outbox: Outbox) -> None:
        """Write what waits, answer it, announce it, for ever."""
        statement = await connection.prepare(STORE)
        while True:
            batch = await self._waiting.take()
            payments = {each.id: each for _, _, each, _ in batch if each is not None}
            new = payments.values()
            gone = outbox.take_gone()
            rows = await statement.fetch(
                [each[0] for each in batch],
                [each[1] for each in batch],
                gone,
                [each.id for each in new],
                [each.accepted_at for each in new],
                [each.amount_cents for each in new],
                [each.effective_date for each in new],
                [each.account for each in new],
                [each.currency for each in new],
                [each.reference for each in new],
            )
            for each in batch:
                if not each[3].done():
                    each[3].set_result(None)
            outbox.deleted(gone)
            outbox.offer([(seq, *fact(payments[id_])) for seq, id_ in rows])


_TAKEN = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"17")],
}
_TAKEN_BODY = {"type": "http.response.body", "body": b'{"received":true}'}


async def _body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
        if len(body) > BODY_BYTES_MAX:
            break
    if len(body) > BODY_BYTES_MAX:
        raise Refused(413, "The body is too large")
    return body


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def payment_id(reference: str) -> pgproto.UUID:
    """The payment's id for ever: the UUIDv5 of its name at the processor."""
    name = b"%bstripe:%b" % (NAMESPACE_URL.bytes, reference.encode())
    made = bytearray(hashlib.sha1(name, usedforsecurity=False).digest()[:16])
    made[6] = made[6] & 0x0F | 0x50
    made[8] = made[8] & 0x3F | 0x80
    return pgproto.UUID(bytes(made))


def fact(payment: Payment | asyncpg.Record) -> tuple[bytes, bytes]:
    """The account as key, and what the CIS is to be told, in its own words."""
    get = payment.__getitem__ if isinstance(payment, asyncpg.Record) else payment.__getattribute__
    account = get("account")
    value = {
        "key": str(get("id")),
        "kind": "payment",
        "account": account,
        "amount_cents": get("amount_cents"),
        "currency": get("currency"),
        "effective_date": get("effective_date"),
        "accepted_at": get("accepted_at"),
        "reference": get("reference"),
    }
    return account.encode(), orjson.dumps(value)


_DIGITS = bytes(ord("0") if each in b"0123456789 -" else each for each in range(256))
_MANY_DIGITS = re.compile(rb"[0-9](?:[ -]?[0-9]){12}")
_CARD = re.compile(rb"(?<![0-9A-Za-z_])[2-6][0-9]?(?:[ -]?[0-9]){11,17}(?![0-9A-Za-z_])")


def masked(body: bytes) -> bytes:
    """The body without card numbers, as evidence and not as JSON; the same where there is none."""
    # Two passes in C ask first: the regular expression alone takes 26 us for a usual body.
    may_hold_one = b"0" * 13 in body.translate(_DIGITS) and _MANY_DIGITS.search(body)
    if not may_hold_one and b"\\u" not in body:
        return body
    return _CARD.sub(_mask, orjson.dumps(orjson.loads(body)))


def _mask(found: re.Match[bytes]) -> bytes:
    digits = re.sub(rb"[^0-9]", b"", found[0])
    doubled = (sum(divmod(2 * (each - 48), 10)) for each in digits[-2::-2])
    if (sum(doubled) + sum(each - 48 for each in digits[-1::-2])) % 10:
        return found[0]
    return b"*" * (len(found[0]) - 4) + digits[-4:]


async def follow(settings: Settings, connection: asyncpg.Connection[Any]) -> None:
    """Note what became of payments, for ever."""
    statement = await connection.prepare(FOLLOW)
    topics = ("floor.postings", "floor.notifications")
    source = await consumer(settings, group="floor-intake", topics=topics)
    offsets: dict[TopicPartition, int] = {}
    vital(commit_offsets(source, offsets))
    while True:
        heard: dict[str, list[Any]] = {}
        found = await next_records(source, records_max=FOLLOWED_MAX)
        for partition, records in found.items():
            for record in records:
                said = orjson.loads(record.value)
                row = heard.setdefault(said["id"], [None, None, None, None])
                at = datetime.fromisoformat(said["at"])
                if partition.topic == "floor.notifications":
                    row[3] = at
                else:
                    row[:3] = at, said["status"], said["cis_reference"]
        if not heard:
            continue
        # By key, so that no two statements can ever lock rows in opposite orders.
        rows = sorted(heard.items())
        await statement.fetch(
            [id_ for id_, _ in rows], *([row[n] for _, row in rows] for n in range(4))
        )
        offsets.update({each: records[-1].offset + 1 for each, records in found.items()})
        await pace(len(rows))


async def announce_again(connection: asyncpg.Connection[Any], *, after_seconds: float) -> None:
    """Announce what nobody has confirmed, at doubling ages, for ever: no hop loses a payment."""
    since = await read_watermark(connection, STAGE)
    last = datetime.now(UTC)
    while True:
        await asyncio.sleep(after_seconds / 6)
        now = datetime.now(UTC)
        due: list[UUID] = []
        old = now - timedelta(seconds=after_seconds)
        rows = await connection.fetch(UNCONFIRMED, since, old)
        for id_, accepted_at in rows:
            before, age = (
                int((at - accepted_at).total_seconds() / after_seconds) for at in (last, now)
            )
            if before.bit_length() != age.bit_length():
                due.append(id_)
        if due:
            await connection.execute(ANNOUNCE_AGAIN, due)
        since = rows[0]["accepted_at"] if rows else old
        await write_watermark(connection, STAGE, since)
        last = now


async def main(settings: Settings) -> None:
    """Open the stage's connections, start its loops, serve."""
    lock = await connect(settings)
    await alone(lock, STAGE)
    outbox = Outbox(
        producer=await producer(settings),
        topic="floor.payments",
        table="payments_outbox",
        rows=PAYMENT,
        fact=fact,
    )
    intake = Intake(settings)
    vital(intake.store(await connect(settings), outbox))
    vital(outbox.publish())
    vital(outbox.sweep(await connect(settings)))
    vital(follow(settings, await connect(settings, nested_loops=True)))
    vital(announce_again(lock, after_seconds=settings.announce_again_seconds))
    server = uvicorn.Server(
        uvicorn.Config(
            intake,
            host="127.0.0.1",
            port=settings.http_port,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=2048,
            timeout_keep_alive=300,
        )
    )
    config = server.config
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    ready(settings, STAGE)
    await server.main_loop()


if __name__ == "__main__":
    run(main)

"""Stage 3: each posting told to the customer once; then announced.

A mail is durable before it leaves and settled after the server's yes. What a crash left is sent
again under the same Message-ID, which is the payment's id.
"""

from __future__ import annotations

import asyncio
import binascii
import html
import re
import sys
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import Any

import asyncpg
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.yardsticks.floor.stage import (
    Gathering,
    Outbox,
    Settings,
    alone,
    commit_offsets,
    connect,
    consumer,
    keep_watermark,
    next_records,
    pace,
    producer,
    read_watermark,
    ready,
    run,
    vital,
)

STAGE = "notifier"
TAKEN_MAX = 500
SETTLED_MAX = 500
HELD_MAX = 4_000
CONNECTIONS = 24
"""Kept sessions; the mails of one account always take the same, and so keep their order."""
REPLY_SECONDS_MAX = 20.0
AGAIN_SECONDS = 2.0
SENDER = "billing@city.example"

TAKE = """
WITH gone AS (
    DELETE FROM notifications_outbox WHERE seq = ANY($5::bigint[])
), taken AS (
    INSERT INTO notifications (id, taken_at, account, posting)
    SELECT u.id, $4::timestamptz + u.n * interval '1 microsecond', u.account, u.posting
    FROM unnest($1::uuid[], $2::text[], $3::bytea[]) WITH ORDINALITY u (id, account, posting, n)
    ON CONFLICT DO NOTHING RETURNING id, account
)
SELECT t.id, c.name, c.email FROM taken t LEFT JOIN contacts c USING (account)
"""
RESTATE = """
INSERT INTO notifications_outbox (id)
SELECT id FROM notifications WHERE id = ANY($1::uuid[]) AND status IS NOT NULL
"""
SETTLE = """
WITH gone AS (
    DELETE FROM notifications_outbox WHERE seq = ANY($4::bigint[])
), settled AS (
    UPDATE notifications n SET status = u.status, settled_at = $3
    FROM unnest($1::uuid[], $2::text[]) u (id, status)
    WHERE n.id = u.id AND n.status IS NULL
    RETURNING n.id
)
INSERT INTO notifications_outbox (id) SELECT id FROM settled RETURNING seq, id
"""
OPEN = """
SELECT n.id, n.taken_at, n.account, n.posting, c.name, c.email
FROM notifications n LEFT JOIN contacts c USING (account)
WHERE n.status IS NULL AND n.taken_at >= $1 ORDER BY n.taken_at
"""


@dataclass(slots=True, eq=False)
class Mail:
    """One mail on its way; `status` once it is known what became of it."""

    id: str
    account: str
    posting: bytes
    taken_at: datetime
    name: str = ""
    email: str | None = None
    status: str = ""
    refusal: int = 0
    refusals: int = 0


def _is_mailbox(email: str | None) -> bool:
    return email is not None and _MAILBOX.fullmatch(email) is not None


_MAILBOX = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,255}")


def compose(mail: Mail) -> bytes:
    """The message: what differs is put into what was made once."""
    posting = orjson.loads(mail.posting)
    amount = dollars(posting["amount_cents"])
    owed_cents = posting["balance_cents"]
    name = mail.name if mail.name.isprintable() else ""
    # Quoted-printable is worth its call for other texts only: these are the body's only unknowns.
    is_plain = name.isascii() and len(name) <= 60 and "=" not in name + mail.account
    values = {
        b"name": name.encode() if is_plain else _quoted(name),
        b"html": html.escape(name).encode() if is_plain else _quoted(html.escape(name)),
        b"account": mail.account.encode() if is_plain else _quoted(mail.account),
        b"account_html": _quoted(html.escape(mail.account)),
        b"amount": amount,
        b"owed": dollars(abs(owed_cents)),
        b"balance": b"Balance now" if owed_cents >= 0 else b"Credit now",
        b"posted": posting["at"][:16].replace("T", " ").encode(),
        b"reference": posting["cis_reference"].encode(),
        b"to": (mail.email or "").encode(),
        b"id": mail.id.encode(),
        b"date": _date(int(datetime.now(UTC).timestamp())),
    }
    return _FORM % values


def _quoted(text: str) -> bytes:
    return binascii.b2a_qp(text.encode(), istext=False)


def dollars(cents: int) -> bytes:
    """`$1,234.56`."""
    return b"$%b.%02d" % (f"{cents // 100:,}".encode(), cents % 100)


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return format_datetime(datetime.fromtimestamp(second, UTC)).encode()


_FORM = b"""\
From: "City of Example Utilities" <billing@city.example>
To: %(to)b
Subject: Your payment of %(amount)b is posted
Date: %(date)b
Message-ID: <%(id)b@city.example>
Auto-Submitted: auto-generated
Content-Language: en
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="=_floor"

--=_floor
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Hello %(name)b,

Your payment was posted to account
%(account)b

Amount: %(amount)b
%(balance)b: %(owed)b
Posted: %(posted)b UTC
Reference: %(reference)b

City of Example Utilities
https://portal.city.example
Questions: 555-0100
--=_floor
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: quoted-printable

<!DOCTYPE html>
<html lang=3D"en"><head><meta charset=3D"utf-8">
<title>Your payment of %(amount)b is posted</title></head>
<body style=3D"font-family:sans-serif">
<p>Hello %(html)b,</p>
<p>Your payment was posted to account
<strong>%(account_html)b</strong>.</p>
<table>
<tr><th align=3D"left">Amount</th><td>%(amount)b</td></tr>
<tr><th align=3D"left">%(balance)b</th><td>%(owed)b</td></tr>
<tr><th align=3D"left">Posted</th><td>%(posted)b UTC</td></tr>
<tr><th align=3D"left">Reference</th><td>%(reference)b</td></tr>
</table>
<p>City of Example Utilities<br>
<a href=3D"https://portal.city.example">portal.city.example</a><br>
Questions: 555-0100</p>
</body></html>
--=_floor--
""".replace(b"\n", b"\r\n")
_FROM = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<".encode()


class Session(asyncio.Protocol):
    """One kept SMTP session: a mail's content and the next one's envelope leave in one write.

    That is as far as pipelining goes: DATA is answered before the content is sent (RFC 2920).
    """

    def __init__(self, settings: Settings, settled: Callable[[Mail], None]) -> None:
        self._settings = settings
        self._settled = settled
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Mail] = deque()
        self._awaited: deque[tuple[str, Mail | None]] = deque()
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._is_ready = False
        self._heard_at = 0.0

    async def keep(self) -> None:
        """Keep the session open and alive, for ever."""
        while True:
            if self._transport is None:
                try:
                    async with asyncio.timeout(REPLY_SECONDS_MAX):
                        await self._loop.create_connection(
                            lambda: self, self._settings.smtp_host, self._settings.smtp_port
                        )
                except OSError as error:
                    print(f"no mail server: {error!r}", file=sys.stderr)
            elif self._awaited and self._loop.time() - self._heard_at > REPLY_SECONDS_MAX:
                self._transport.abort()
            await asyncio.sleep(0.25)

    def put(self, mail: Mail) -> None:
        """Send a mail behind the others of this session."""
        self._queue.append(mail)
        if self._is_ready and not self._awaited:
            self._write(self._envelope())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._awaited.append(("greeting", None))
        self._heard_at = self._loop.time()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        # What was not answered may have been taken: the same Message-ID goes out once more.
        unanswered = list(dict.fromkeys(mail for _, mail in self._awaited if mail is not None))
        self._queue.extendleft(reversed(unanswered))
        self._awaited.clear()
        self._transport, self._is_ready, self._data = None, False, b""

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        *lines, self._data = (self._data + data).split(b"\r\n")
        for line in lines:
            if line[3:4] != b"-":
                self._reply(int(line[:3]) if line[:3].isdigit() else 0, line)
            elif line[4:].upper() == b"PIPELINING":
                self._is_ready = True

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None:
            self._heard_at = self._loop.time()
            self._transport.write(data)

    def _envelope(self) -> bytes:
        """The next mail's, and the replies that it will have."""
        if not self._queue:
            return b""
        mail = self._queue.popleft()
        mail.refusal = 0
        self._awaited.extend((("envelope", mail), ("envelope", mail), ("data", mail)))
        return b"%b%b>\r\nDATA\r\n" % (_FROM, (mail.email or "").encode())

    def _reply(self, code: int, line: bytes) -> None:
        if not self._awaited or code in (0, 421):
            self._abort(line)
            return
        what, mail = self._awaited.popleft()
        if what == "greeting":
            self._awaited.append(("hello", None))
            self._write(b"EHLO localhost\r\n")
        elif what == "hello":
            if not self._is_ready:
                self._abort(line)
        elif mail is None:
            pass  # RSET, or the end of an empty DATA
        elif what == "envelope":
            mail.refusal = mail.refusal or (code if code >= 400 else 0)
        elif what == "data":
            self._go(mail, code)
        elif what == "content":
            self._settle(mail, code)
        if self._is_ready and not self._awaited:
            self._write(self._envelope())

    def _go(self, mail: Mail, code: int) -> None:
        if code == 354 and not mail.refusal:
            self._awaited.append(("content", mail))
            # The content has no line that begins with a dot.
            self._write(b"%b.\r\n%b" % (compose(mail), self._envelope()))
            return
        # A refused envelope: end the empty DATA if it was let in, and start over.
        end = b".\r\n" if code == 354 else b""
        self._awaited.extend([("reset", None)] * (2 if end else 1))
        self._settle(mail, mail.refusal or code)
        self._write(end + b"RSET\r\n" + self._envelope())

    def _settle(self, mail: Mail, code: int) -> None:
        if code < 300:
            mail.status = "sent"
        elif code >= 500:
            mail.status = "failed"
        else:
            # For now: an outage of somebody's mailbox delays his mails and nobody else's.
            mail.refusals += 1
            delay_seconds = min(60.0, AGAIN_SECONDS * 2 ** min(mail.refusals, 10))
            self._loop.call_later(delay_seconds, self.put, mail)
            return
        self._settled(mail)

    def _abort(self, line: bytes) -> None:
        print(f"mail session ended at {line[:3]!r}", file=sys.stderr)
        if self._transport is not None:
            self._transport.abort()


class Notifier:
    """Takes postings off the stream, and settles what became of their mails."""

    def __init__(self, settings: Settings, outbox: Outbox) -> None:
        self._outbox = outbox
        self._outcomes: Gathering[Mail] = Gathering(batch_max=SETTLED_MAX)
        self._open: dict[str, Mail] = {}
        self._room = asyncio.Event()
        self.sessions = [Session(settings, self._outcomes.put) for _ in range(CONNECTIONS)]

    def hold(self, mail: Mail) -> None:
        self._open[mail.id] = mail
        if _is_mailbox(mail.email):
            self.sessions[zlib.crc32(mail.account.encode()) % CONNECTIONS].put(mail)
        else:
            mail.status = "skipped"
            self._outcomes.put(mail)

    def open_since(self) -> datetime:
        """Before this, nothing is open."""
        return next(iter(self._open.values())).taken_at if self._open else self._taken_until

    async def restart(self, connection: asyncpg.Connection[Any]) -> None:
        """Send again what was under way when the process before this one ended."""
        self._taken_until = await read_watermark(connection, STAGE)
        for row in await connection.fetch(OPEN, self._taken_until):
            self.hold(
                Mail(
                    str(row["id"]),
                    row["account"],
                    row["posting"],
                    row["taken_at"],
                    row["name"] or "",
                    row["email"],
                )
            )

    async def take(self, connection: asyncpg.Connection[Any], source: AIOKafkaConsumer) -> None:
        """Make what arrives durable, send it, and only then let Kafka forget it; for ever."""
        take, restate = await connection.prepare(TAKE), await connection.prepare(RESTATE)
        offsets: dict[TopicPartition, int] = {}
        vital(commit_offsets(source, offsets))
        while True:
            while len(self._open) > HELD_MAX:
                self._room.clear()
                await self._room.wait()
            found = await next_records(source, records_max=TAKEN_MAX)
            now = datetime.now(UTC)
            came: dict[str, Mail] = {}
            for records in found.values():
                for record in records:
                    said = orjson.loads(record.value)
                    if said["status"] == "posted":
                        mail = Mail(said["id"], said["account"], record.value, now)
                        came.setdefault(mail.id, mail)
            if came:
                gone = self._outbox.take_gone()
                rows = await take.fetch(
                    list(came),
                    [each.account for each in came.values()],
                    [each.posting for each in came.values()],
                    now,
                    gone,
                )
                self._outbox.deleted(gone)
                self._taken_until = now
                contacts = {str(id_): (name, email) for id_, name, email in rows}
                if len(contacts) < len(came):
                    await restate.fetch(list(came.keys() - contacts))
                for mail in came.values():
                    if mail.id in contacts:
                        name, mail.email = contacts[mail.id]
                        mail.name = name or ""
                        self.hold(mail)
            offsets.update({each: records[-1].offset + 1 for each, records in found.items()})
            await pace(len(came))

    async def settle(self, connection: asyncpg.Connection[Any]) -> None:
        """Write what became of mails and announce it, for ever."""
        statement = await connection.prepare(SETTLE)
        while True:
            batch = {each.id: each for each in await self._outcomes.take()}
            gone = self._outbox.take_gone()
            now = datetime.now(UTC)
            rows = await statement.fetch(
                list(batch), [each.status for each in batch.values()], now, gone
            )
            self._outbox.deleted(gone)
            facts = []
            for seq, id_ in rows:
                mail = batch[str(id_)]
                facts.append((seq, *fact(mail.id, mail.account, mail.status, now)))
            self._outbox.offer(facts)
            for key in batch:
                del self._open[key]
            if len(self._open) <= HELD_MAX:
                self._room.set()
            await pace(len(batch))


def fact(id_: str, account: str, status: str, at: datetime) -> tuple[bytes, bytes]:
    """The account as key, and what became of the notification."""
    value = {"id": id_, "account": account, "status": status, "at": at}
    return account.encode(), orjson.dumps(value)


async def main(settings: Settings) -> None:
    """Open the stage's connections, take up what is open, start its loops."""
    lock = await connect(settings)
    await alone(lock, STAGE)
    outbox = Outbox(
        producer=await producer(settings),
        topic="floor.notifications",
        table="notifications_outbox",
        rows="n.* FROM notifications_outbox o JOIN notifications n USING (id)",
        fact=lambda row: fact(str(row["id"]), row["account"], row["status"], row["settled_at"]),
    )
    notifier = Notifier(settings, outbox)
    await notifier.restart(lock)
    source = await consumer(settings, group="floor-notifier", topics=("floor.postings",))
    for session in notifier.sessions:
        vital(session.keep())
    vital(outbox.publish())
    vital(outbox.sweep(await connect(settings)))
    vital(notifier.settle(await connect(settings, nested_loops=True)))
    vital(keep_watermark(lock, STAGE, notifier.open_since))
    ready(settings, STAGE)
    await notifier.take(await connect(settings, nested_loops=True), source)


if __name__ == "__main__":
    run(main)

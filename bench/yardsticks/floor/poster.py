"""Stage 2: each payment on the CIS's ledger once, in order for each account; then announced.

A payment is durable under its id before the CIS hears of it. Of one account one call is in flight.
A call without an understood answer is a question first: `GET` by key, and only what is `not_found`
is sent again, under the same key. What a crash left is found from the watermark on, and is a
question too.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

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

STAGE = "poster"
TAKEN_MAX = 500
HELD_MAX = 4_000
IN_CALL_MAX = 200
"""Postings in one of the CIS's many-in-one calls; it takes 500."""
CALLS_OF_MANY_MAX = 4
"""More calls at once would only make each of them smaller."""
SETTLED_MAX = 500
FAILURES_MAX = 5
"""After so many calls in a row that decided nothing, everybody waits."""
PAUSE_SECONDS_MAX = 5.0
CONNECT_SECONDS = 2.0

TAKE = """
WITH gone AS (DELETE FROM postings_outbox WHERE seq = ANY($5::bigint[]))
INSERT INTO postings (id, taken_at, account, payment)
SELECT u.id, $4::timestamptz + u.n * interval '1 microsecond', u.account, u.payment
FROM unnest($1::uuid[], $2::text[], $3::bytea[]) WITH ORDINALITY u (id, account, payment, n)
ON CONFLICT DO NOTHING RETURNING id
"""
RESTATE = """
INSERT INTO postings_outbox (id)
SELECT id FROM postings WHERE id = ANY($1::uuid[]) AND status IS NOT NULL
"""
SETTLE = """
WITH gone AS (
    DELETE FROM postings_outbox WHERE seq = ANY($4::bigint[])
), settled AS (
    UPDATE postings p SET status = u.status, fact = u.fact
    FROM unnest($1::uuid[], $2::text[], $3::bytea[]) u (id, status, fact)
    WHERE p.id = u.id AND p.status IS NULL
    RETURNING p.id
)
INSERT INTO postings_outbox (id) SELECT id FROM settled RETURNING seq, id
"""
OPEN = """
SELECT id, taken_at, account, payment FROM postings
WHERE status IS NULL AND taken_at >= $1 ORDER BY taken_at
"""


@dataclass(slots=True, eq=False)
class Posting:
    """One payment on its way to the ledger; `payment` is what the CIS is told, as it came."""

    id: str
    account: str
    payment: bytes
    taken_at: datetime
    is_question: bool = False
    attempts: int = 0
    fact: bytes = b""
    status: str = ""


class Call(asyncio.Protocol):
    """One kept connection to the CIS, with at most one request on it.

    aiohttp's client costs 75 to 200 µs a call; the little of HTTP/1.1 that a JSON API answers with
    is read here in 10. An answer without Content-Length is not understood, and so unknown.
    """

    def __init__(self, cis: Cis) -> None:
        self._cis = cis
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self.postings: list[Posting] = []
        self.begun_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def send(self, request: bytes, postings: list[Posting], now: float) -> None:
        self.postings, self.begun_at = postings, now
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data = data = self._data + data if self._data else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = data[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        try:
            length = int(head[at + 17 :].partition(b"\r\n")[0])
            status = int(head[9:12])
        except ValueError:
            self.abort()
            return
        body = data[end + 4 :]
        if len(body) < length:
            return
        self._data = b""
        postings, self.postings = self.postings, []
        if at < 0 or len(body) > length or not postings or b"\r\nconnection: close" in head:
            self.abort()
        self._cis.answered(self, postings, status, body)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._transport = None
        postings, self.postings = self.postings, []
        self._cis.lost(self, postings)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Cis:
    """Lanes by account, and the calls that work them off."""

    def __init__(self, settings: Settings, settled: Callable[[Posting], None]) -> None:
        url = urlsplit(settings.cis_url)
        self._host, self._port = url.hostname or "", url.port or 80
        self._many = settings.cis_calls == "many"
        self._calls_max = settings.cis_connections_max
        if self._many:
            self._calls_max = min(self._calls_max, CALLS_OF_MANY_MAX)
        self._timeout_seconds = settings.cis_timeout_seconds
        self._settled = settled
        self._head = (
            f" HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {settings.cis_api_key}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._lanes: dict[str, deque[Posting]] = {}
        self._ready: deque[str] = deque()
        self._idle: list[Call] = []
        self._busy: set[Call] = set()
        self._connecting = 0
        self._failures = 0
        self._paused = False
        self._loop = asyncio.get_running_loop()
        self.held = 0

    def put(self, posting: Posting) -> None:
        """Line a posting up behind its account's others; `pump` starts what can start."""
        self.held += 1
        lane = self._lanes.get(posting.account)
        if lane is None:
            self._lanes[posting.account] = deque((posting,))
            self._ready.append(posting.account)
        else:
            lane.append(posting)

    def pump(self) -> None:
        """Begin as many calls as there is work and room for."""
        while self._ready and not self._paused:
            if not self._idle:
                if len(self._busy) + self._connecting < self._calls_max:
                    self._connecting += 1
                    self._loop.create_task(self._open())
                return
            call = self._idle.pop()
            if call.is_open:
                self._busy.add(call)
                self._begin(call)

    def _begin(self, call: Call) -> None:
        lane = self._lanes[self._ready.popleft()]
        first = lane[0]
        now = self._loop.time()
        if first.is_question:
            path = b"GET /v1/postings/" + first.id.encode()
            call.send(path + self._head + b"0\r\n\r\n", [first], now)
            return
        if not self._many:
            body = first.payment
            call.send(
                b"POST /v1/postings%b%d\r\n\r\n%b" % (self._head, len(body), body), [first], now
            )
            return
        # A lane goes as far as its first question, and is whole in this call or in no other.
        postings = self._of(lane, IN_CALL_MAX)
        while self._ready and len(postings) < IN_CALL_MAX:
            lane = self._lanes[self._ready[0]]
            if lane[0].is_question:
                break
            self._ready.popleft()
            postings += self._of(lane, IN_CALL_MAX - len(postings))
        body = b'{"postings":[%b]}' % b",".join([each.payment for each in postings])
        call.send(
            b"POST /v1/postings/batch%b%d\r\n\r\n%b" % (self._head, len(body), body), postings, now
        )

    @staticmethod
    def _of(lane: deque[Posting], most: int) -> list[Posting]:
        found: list[Posting] = []
        for posting in lane:
            if posting.is_question or len(found) == most:
                break
            found.append(posting)
        return found

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, call = await self._loop.create_connection(
                    lambda: Call(self), self._host, self._port
                )
        except OSError:  # TimeoutError is one
            self._connecting -= 1
            self._failed()
        else:
            self._connecting -= 1
            self._idle.append(call)
        self.pump()

    def answered(self, call: Call, postings: list[Posting], status: int, body: bytes) -> None:
        """Take an HTTP answer apart; what cannot be understood may have taken effect."""
        self._busy.discard(call)
        self._idle.append(call)
        if postings:
            answers = _understood(postings, status, body)
            if answers is None:
                self._unknown(postings)
            else:
                self._decide(postings, answers)
        self.pump()

    def lost(self, call: Call, postings: list[Posting]) -> None:
        """A connection has ended; so has the call on it, without an answer."""
        self._busy.discard(call)
        if postings:
            self._unknown(postings)
        self.pump()

    def _unknown(self, postings: list[Posting]) -> None:
        for posting in postings:
            posting.is_question = True
        self._failed()
        self._again({each.account: each for each in reversed(postings)}.values())

    def _decide(self, postings: list[Posting], answers: list[dict[str, Any]]) -> None:
        stopped: dict[str, Posting] = {}
        decided = 0
        for posting, answer in zip(postings, answers, strict=True):
            outcome = answer["outcome"]
            if outcome in ("unavailable", "not_attempted"):
                stopped.setdefault(posting.account, posting)
                continue
            decided += 1
            if outcome == "not_found":
                posting.is_question = False
                continue
            posting.status, reason = _status(posting, answer)
            posting.fact = _fact(posting, answer, reason)
            lane = self._lanes[posting.account]
            assert lane[0] is posting
            lane.popleft()
            self.held -= 1
            self._settled(posting)
        if decided:
            self._failures = 0
        else:
            self._failed()
        for account in {each.account for each in postings} - stopped.keys():
            if self._lanes[account]:
                self._ready.append(account)
            else:
                del self._lanes[account]
        self._again(stopped.values())

    def _again(self, firsts: Iterable[Posting]) -> None:
        """Bring lanes back after a while; until then nothing of them is sent."""
        for posting in firsts:
            posting.attempts += 1
            delay = min(PAUSE_SECONDS_MAX, 0.1 * 2 ** min(posting.attempts, 10))
            self._loop.call_later(delay * random.uniform(0.5, 1.0), self._resume, posting.account)

    def _resume(self, account: str) -> None:
        self._ready.append(account)
        self.pump()

    def _failed(self) -> None:
        self._failures += 1
        if self._failures >= FAILURES_MAX and not self._paused:
            self._paused = True
            delay = min(PAUSE_SECONDS_MAX, 0.25 * 2 ** min(self._failures - FAILURES_MAX, 10))
            self._loop.call_later(delay, self._unpause)

    def _unpause(self) -> None:
        self._paused = False
        self.pump()

    async def end_late_calls(self) -> None:
        """Break off calls that took too long: from then on their outcome is unknown; for ever."""
        while True:
            await asyncio.sleep(0.1)
            late = self._loop.time() - self._timeout_seconds
            for call in [each for each in self._busy if each.begun_at < late]:
                call.abort()


def _understood(postings: list[Posting], status: int, body: bytes) -> list[dict[str, Any]] | None:
    """One answer for each posting as the protocol has them, or None: nobody knows."""
    if status == 503 or status in (401, 403, 429):
        return [{"outcome": "unavailable"} for _ in postings]
    if status == 400 and len(postings) == 1:
        return [{"outcome": "refused", "reason": "malformed", **dict.fromkeys(_OF_ENTRY)}]
    if status >= 500:
        return None
    try:
        found = orjson.loads(body)
        answers: list[dict[str, Any]] = found.get("answers", [found])
        if [each["key"] for each in answers] != [each.id for each in postings]:
            return None
        if all(each["outcome"] in _OUTCOMES for each in answers):
            return answers
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    return None


_OUTCOMES = frozenset(
    {"applied", "exists", "conflict", "refused", "unavailable", "not_attempted", "not_found"}
)

_OF_ENTRY = ("amount_cents", "currency", "balance_cents", "cis_reference", "posted_at")


def _status(posting: Posting, answer: dict[str, Any]) -> tuple[str, str | None]:
    outcome = answer["outcome"]
    if outcome == "applied":
        return "posted", None
    if outcome == "exists":
        asked = orjson.loads(posting.payment)
        same = all(answer[name] == asked[name] for name in ("amount_cents", "account", "currency"))
        return ("posted", None) if same else ("conflicted", "exists_with_other_content")
    return ("conflicted" if outcome == "conflict" else "suspended"), answer["reason"]


def _fact(posting: Posting, answer: dict[str, Any], reason: str | None) -> bytes:
    return orjson.dumps(
        {
            "id": posting.id,
            "account": posting.account,
            "status": posting.status,
            "reason": reason,
            "amount_cents": answer["amount_cents"],
            "currency": answer["currency"],
            "balance_cents": answer["balance_cents"],
            "cis_reference": answer["cis_reference"],
            "at": answer["posted_at"] or datetime.now(UTC),
        }
    )


class Poster:
    """Takes payments off the stream, and settles what became of them."""

    def __init__(self, settings: Settings, outbox: Outbox) -> None:
        self._outbox = outbox
        self._outcomes: Gathering[Posting] = Gathering(batch_max=SETTLED_MAX)
        self._open: dict[str, Posting] = {}
        self._room = asyncio.Event()
        self.cis = Cis(settings, self._outcomes.put)

    def hold(self, posting: Posting) -> None:
        self._open[posting.id] = posting
        if posting.account:
            self.cis.put(posting)
        else:
            posting.status = "suspended"
            posting.fact = _fact(posting, dict.fromkeys(_OF_ENTRY), "account_unknown")
            self._outcomes.put(posting)

    def open_since(self) -> datetime:
        """Before this, nothing is open: postings are held in the order in which they were taken."""
        return next(iter(self._open.values())).taken_at if self._open else self._taken_until

    async def restart(self, connection: asyncpg.Connection[Any]) -> None:
        """Ask about everything that was under way when the process before this one ended."""
        self._taken_until = await read_watermark(connection, STAGE)
        for row in await connection.fetch(OPEN, self._taken_until):
            posting = Posting(str(row["id"]), row["account"], row["payment"], row["taken_at"])
            posting.is_question = True
            self.hold(posting)
        self.cis.pump()

    async def take(self, connection: asyncpg.Connection[Any], source: AIOKafkaConsumer) -> None:
        """Make what arrives durable, line it up, and only then let Kafka forget it; for ever."""
        take, restate = await connection.prepare(TAKE), await connection.prepare(RESTATE)
        offsets: dict[TopicPartition, int] = {}
        vital(commit_offsets(source, offsets))
        while True:
            while len(self._open) > HELD_MAX:
                self._room.clear()
                await self._room.wait()
            found = await next_records(source, records_max=TAKEN_MAX)
            now = datetime.now(UTC)
            came: dict[str, Posting] = {}
            for records in found.values():
                for record in records:
                    said = orjson.loads(record.value)
                    posting = Posting(said["key"], said["account"], record.value, now)
                    came.setdefault(posting.id, posting)
            if not came:
                continue
            gone = self._outbox.take_gone()
            rows = await take.fetch(
                list(came),
                [each.account for each in came.values()],
                [each.payment for each in came.values()],
                now,
                gone,
            )
            self._outbox.deleted(gone)
            self._taken_until = now
            new = {str(row[0]) for row in rows}
            if len(new) < len(came):
                # Seen before: what is settled is said again, what is open is under way.
                await restate.fetch(list(came.keys() - new))
            for posting in came.values():
                if posting.id in new:
                    self.hold(posting)
            self.cis.pump()
            offsets.update({each: records[-1].offset + 1 for each, records in found.items()})
            await pace(len(came))

    async def settle(self, connection: asyncpg.Connection[Any]) -> None:
        """Write what became of postings and announce it, for ever."""
        statement = await connection.prepare(SETTLE)
        while True:
            batch = {each.id: each for each in await self._outcomes.take()}
            gone = self._outbox.take_gone()
            rows = await statement.fetch(
                list(batch),
                [each.status for each in batch.values()],
                [each.fact for each in batch.values()],
                gone,
            )
            self._outbox.deleted(gone)
            facts = []
            for seq, id_ in rows:
                posting = batch[str(id_)]
                facts.append((seq, posting.account.encode(), posting.fact))
            self._outbox.offer(facts)
            for key in batch:
                del self._open[key]
            if len(self._open) <= HELD_MAX:
                self._room.set()
            await pace(len(batch))


async def main(settings: Settings) -> None:
    """Open the stage's connections, take up what is open, start its loops."""
    lock = await connect(settings)
    await alone(lock, STAGE)
    outbox = Outbox(
        producer=await producer(settings),
        topic="floor.postings",
        table="postings_outbox",
        rows="p.account, p.fact FROM postings_outbox o JOIN postings p USING (id)",
        fact=lambda row: (row["account"].encode(), row["fact"]),
    )
    poster = Poster(settings, outbox)
    await poster.restart(lock)
    source = await consumer(settings, group="floor-poster", topics=("floor.payments",))
    vital(outbox.publish())
    vital(outbox.sweep(await connect(settings)))
    vital(poster.settle(await connect(settings, nested_loops=True)))
    vital(poster.cis.end_late_calls())
    vital(keep_watermark(lock, STAGE, poster.open_since))
    ready(settings, STAGE)
    await poster.take(await connect(settings, nested_loops=True), source)


if __name__ == "__main__":
    run(main)

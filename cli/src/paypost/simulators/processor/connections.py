"""Kept HTTP/1.1 connections to one server, one request at a time on each, as cheap as it goes.

It is the load generator's client too: what it costs is taken from the system under test on the same
machine. A general client costs several times as much for each request.
"""

import asyncio
import collections
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

import httptools


class NoAnswerError(Exception):
    """No answer came: the connection failed or the time was over. The request may have arrived."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    body: bytes


class Connections:
    """Connections to the server of one URL; requests wait when all `connections_max` are busy."""

    def __init__(self, *, url: str, connections_max: int, timeout_seconds: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or parts.hostname is None:
            raise ValueError(f"not an HTTP address: {url}")
        self._host = parts.hostname
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._head = (
            f"POST {path} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
            "content-type: application/json; charset=utf-8\r\ncontent-length: "
        ).encode()
        self._timeout_seconds = timeout_seconds
        self._free = asyncio.Semaphore(connections_max)
        self._idle: collections.deque[_Connection] = collections.deque()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def post(self, *, body: bytes, headers: bytes) -> Answer:
        """Post a body; `headers` are whole lines, each ending in CRLF. Raises NoAnswerError."""
        request = b"%b%d\r\n%b\r\n%b" % (self._head, len(body), headers, body)
        async with self._free:
            connection: _Connection | None = None
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    connection = await self._connection()
                    answer = await connection.exchange(request)
            except (OSError, TimeoutError, httptools.HttpParserError) as error:
                if connection is not None:
                    connection.close()
                raise NoAnswerError(f"{type(error).__name__} {error}".strip()) from error
            except BaseException:
                if connection is not None:
                    connection.close()
                raise
            if connection.usable:
                self._idle.append(connection)
            return answer

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    async def _connection(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            _Connection, self._host, self._port, ssl=self._tls
        )
        return connection


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Answer] | None = None
        self._body: list[bytes] = []
        self.usable = False

    async def exchange(self, request: bytes) -> Answer:
        if self._transport is None or not self.usable:
            raise ConnectionResetError("closed while idle")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Cast and not asserted: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self.usable = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed without an answer"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.usable = False
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(error)

    # What follows is called by the parser.

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.usable = self.usable and self._parser.should_keep_alive()
        body = b"".join(self._body)
        self._body.clear()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self._parser.get_status_code(), body))

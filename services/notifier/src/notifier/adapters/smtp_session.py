"""One SMTP session: greeting, TLS, login, then mails, pipelined where the server offers it.

What the network does is mapped here, once. A message whose content was not written has not been
sent; one whose end was written and not answered may have been. Nothing that the server says is
kept but its codes: its texts can hold addresses.
"""

import asyncio
import base64
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from notifier.domain import Answer, Outcome
from notifier.ports import MailMessage

Security = Literal["plain", "starttls", "tls"]

_REPLY_OCTETS_MAX = 64 * 1024
_REPLY_LINES_MAX = 100
_GO_AHEAD = 354
_SHUTTING_DOWN = 421
_NOT_ABOUT_THE_MESSAGE = (_SHUTTING_DOWN, 454, 530, 534, 535, 538)
"""Shutting down, or authentication: the service's or the operator's trouble (RFC 4954)."""


@dataclass(frozen=True, kw_only=True)
class SmtpServer:
    """Where the mail server is and how it is spoken to."""

    host: str
    port: int
    security: Security
    sender: str
    """The envelope's sender: where bounces go."""
    username: str | None = None
    password: str | None = None
    client_name: str = "localhost"
    connect_timeout_seconds: float = 5.0
    reply_timeout_seconds: float = 20.0
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class _Reply:
    code: int
    lines: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The code and, where there is one, the enhanced code (RFC 3463); never the text."""
        enhanced = self.lines[-1].partition(" ")[0]
        is_enhanced = enhanced[:2] in ("4.", "5.") and enhanced.replace(".", "").isdecimal()
        return f"smtp_{self.code}_{enhanced}" if is_enhanced else f"smtp_{self.code}"


class ConnectionLostError(Exception):
    """The connection is of no use any more."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SmtpSession:
    """One session with the server, ready for messages."""

    def __init__(
        self, server: SmtpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()
        self._features: dict[str, str] = {}
        self.is_kept = False
        self.used_at = 0.0
        self.lost: str | None = None

    @classmethod
    async def open(cls, server: SmtpServer) -> "SmtpSession":
        """Connect, secure and log in.

        Raises:
            ConnectionLostError: it could not be done; nothing was sent.
        """
        session: SmtpSession | None = None
        try:
            async with asyncio.timeout(server.connect_timeout_seconds):
                streams = await asyncio.open_connection(
                    server.host, server.port, ssl=server.tls if server.security == "tls" else None
                )
                session = cls(server, *streams)
                await session._greet()
                return session
        except BaseException as error:
            if session is not None:
                session.abort()
            match error:
                case TimeoutError():
                    raise ConnectionLostError("connect_timeout") from error
                case ssl.SSLError():
                    raise ConnectionLostError("tls_failed") from error
                case OSError():
                    raise ConnectionLostError("unreachable") from error
            raise

    @property
    def is_open(self) -> bool:
        return not (self._reader.at_eof() or self._writer.is_closing() or self._buffer)

    def abort(self) -> None:
        self._writer.transport.abort()

    async def quit(self) -> None:
        with suppress(ConnectionLostError, OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self._command(b"QUIT\r\n")
        self.abort()

    async def transmit(
        self, messages: Sequence[MailMessage], *, begin_until: float, ends_at: float
    ) -> list[Answer]:
        """Send in order; the answers are short, and `lost` is set, where the connection broke."""
        clock = asyncio.get_running_loop().time
        pipelining = "PIPELINING" in self._features
        answers: list[Answer] = []
        is_ahead = content_written = False
        try:
            for index, message in enumerate(messages):
                if not is_ahead and clock() >= begin_until:
                    return answers + [unavailable("out_of_time")] * (len(messages) - index)
                patience = min(clock() + self._server.reply_timeout_seconds, ends_at)
                async with asyncio.timeout_at(patience):
                    envelope = self._envelope(message)
                    replies = await self._exchange(envelope, pipelining, is_ahead)
                    is_ahead = False
                    refusal = next((reply for reply in replies if reply.code >= 400), None)
                    if refusal is not None:
                        if refusal.code in _NOT_ABOUT_THE_MESSAGE:
                            raise ConnectionLostError(refusal.reason)
                        answers.append(_answer(refusal))
                        await self._reset(replies[-1])
                        continue
                    if replies[-1].code != _GO_AHEAD:
                        raise ConnectionLostError("no_smtp")
                    batch = [_stuffed(message.content)]
                    if pipelining and index + 1 < len(messages) and clock() < begin_until:
                        batch += self._envelope(messages[index + 1])
                        is_ahead = True
                    content_written = True
                    self._writer.writelines(batch)
                    await self._writer.drain()
                    reply = await self._reply()
                    content_written = False
                    answers.append(_answer(reply))
                    if reply.code == _SHUTTING_DOWN:
                        raise ConnectionLostError(reply.reason)
        except (ConnectionLostError, OSError, TimeoutError) as error:
            self.lost = _reason(error)
            if content_written:
                answers.append(Answer(outcome=Outcome.LOST, reason=self.lost))
        return answers

    async def _greet(self) -> None:
        self._expect(await self._reply())
        await self._hello()
        if self._server.security == "starttls":
            if "STARTTLS" not in self._features:
                raise ConnectionLostError("starttls_not_offered")
            self._expect(await self._command(b"STARTTLS\r\n"))
            if self._buffer or self._server.tls is None:
                # Whoever wrote it was not under TLS: it must not be read as if it were.
                raise ConnectionLostError("plain_text_after_starttls")
            await self._writer.start_tls(self._server.tls, server_hostname=self._server.host)
            await self._hello()
        if self._server.username is not None:
            await self._log_in(self._server.username, self._server.password or "")

    async def _hello(self) -> None:
        reply = await self._command(f"EHLO {self._server.client_name}\r\n".encode())
        self._expect(reply)
        features = (line.upper().partition(" ") for line in reply.lines[1:])
        self._features = {name: parameters for name, _, parameters in features}

    async def _log_in(self, username: str, password: str) -> None:
        mechanisms = self._features.get("AUTH", "").split()
        if "PLAIN" in mechanisms:
            token = _base64(f"\0{username}\0{password}")
            self._expect(await self._command(b"AUTH PLAIN " + token + b"\r\n"))
        elif "LOGIN" in mechanisms:
            for line in (b"AUTH LOGIN", _base64(username), _base64(password)):
                self._expect(await self._command(line + b"\r\n"))
        else:
            raise ConnectionLostError("auth_not_offered")

    def _envelope(self, message: MailMessage) -> list[bytes]:
        return [
            f"MAIL FROM:<{self._server.sender}>\r\n".encode(),
            f"RCPT TO:<{message.recipient}>\r\n".encode(),
            b"DATA\r\n",
        ]

    async def _exchange(
        self, commands: Sequence[bytes], pipelining: bool, is_written: bool
    ) -> list[_Reply]:
        """Return the replies to the commands; one by one, up to the first refusal, if need be."""
        if pipelining and not is_written:
            self._writer.writelines(commands)
        replies: list[_Reply] = []
        for command in commands:
            reply = await (self._reply() if pipelining else self._command(command))
            if reply.code == _SHUTTING_DOWN:
                # Nothing more will be said, not even to what is written already.
                raise ConnectionLostError(reply.reason)
            replies.append(reply)
            if reply.code >= 400 and not pipelining:
                break
        return replies

    async def _reset(self, last: _Reply) -> None:
        """Bring the session back to where the next envelope may come."""
        if last.code == _GO_AHEAD:
            # DATA was accepted without a recipient: it is ended empty, and refused (RFC 2920).
            await self._command(b".\r\n")
        self._expect(await self._command(b"RSET\r\n"))

    async def _command(self, line: bytes) -> _Reply:
        self._writer.write(line)
        return await self._reply()

    async def _reply(self) -> _Reply:
        lines: list[str] = []
        while True:
            end = self._buffer.find(b"\n")
            if end < 0:
                data = await self._reader.read(_REPLY_OCTETS_MAX)
                if not data or len(self._buffer) > _REPLY_OCTETS_MAX:
                    raise ConnectionLostError("connection_closed" if not data else "no_smtp")
                self._buffer += data
                continue
            line = self._buffer[:end].rstrip(b"\r").decode("ascii", "replace")
            del self._buffer[: end + 1]
            lines.append(line[4:])
            if not line[:3].isdecimal() or len(lines) > _REPLY_LINES_MAX:
                raise ConnectionLostError("no_smtp")
            if line[3:4] != "-":
                return _Reply(code=int(line[:3]), lines=tuple(lines))

    @staticmethod
    def _expect(reply: _Reply) -> None:
        if reply.code >= 400:
            raise ConnectionLostError(reply.reason)


def _answer(reply: _Reply) -> Answer:
    if reply.code < 300:
        return Answer(outcome=Outcome.SENT)
    outcome = Outcome.REFUSED if reply.code >= 500 else Outcome.DEFERRED
    return Answer(outcome=outcome, reason=reply.reason)


def unavailable(reason: str) -> Answer:
    """Return the answer for a message that has not been sent."""
    return Answer(outcome=Outcome.UNAVAILABLE, reason=reason)


def _reason(error: Exception) -> str:
    match error:
        case ConnectionLostError():
            return error.reason
        case TimeoutError():
            return "reply_timeout"
        case _:
            return "connection_lost"


def _stuffed(content: bytes) -> bytes:
    """Return the content as DATA carries it, with its end (RFC 5321, section 4.5.2)."""
    content = content.replace(b"\r\n.", b"\r\n..")
    stuffed = b"." + content if content.startswith(b".") else content
    return stuffed + (b".\r\n" if stuffed.endswith(b"\r\n") else b"\r\n.\r\n")


def _base64(value: str) -> bytes:
    return base64.b64encode(value.encode())

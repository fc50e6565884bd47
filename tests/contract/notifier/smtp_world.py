"""A real SMTP server, aiosmtpd, that does to the gateway what mail servers do."""

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from notifier.adapters.smtp import SmtpMailGateway
from notifier.adapters.smtp_session import Security, SmtpServer
from notifier.domain import Answer, Outcome

CERTIFICATE = Path(__file__).with_name("loopback.pem")


class NoMetrics:
    """Counts nothing but connections."""

    def __init__(self) -> None:
        self.connections: list[str] = []

    def mailed(self, *, seconds: float, size: int) -> None: ...

    def connected(self, *, outcome: str) -> None:
        self.connections.append(outcome)


class Handler:
    """aiosmtpd's hooks."""

    def __init__(self, *, pipelining: bool) -> None:
        self.pipelining = pipelining
        self.inbox: list[tuple[str, bytes]] = []
        self.at_recipient: dict[str, str] = {}
        self.at_sender: str | None = None
        self.at_end: dict[str, str] = {}
        self.dropped: set[str] = set()
        self.hung: set[str] = set()

    async def handle_EHLO(  # noqa: N802  aiosmtpd looks its hooks up by name
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, lines: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [lines[0], "250-PIPELINING", *lines[1:]] if self.pipelining else lines

    async def handle_MAIL(  # noqa: N802  aiosmtpd looks its hooks up by name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.at_sender is not None:
            return self.at_sender
        envelope.mail_from = address
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802  aiosmtpd looks its hooks up by name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.at_recipient:
            return self.at_recipient[address]
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        recipient = envelope.rcpt_tos[0]
        if recipient in self.hung:
            await asyncio.sleep(30)
        if recipient in self.at_end:
            return self.at_end[recipient]
        content = envelope.content
        assert isinstance(content, bytes)
        self.inbox.append((recipient, content))
        if recipient in self.dropped:
            cast(asyncio.WriteTransport, server.transport).abort()
        return "250 2.0.0 OK"


class SmtpWorld:
    """The server in a thread of its own, and a gateway that speaks to it."""

    def __init__(
        self,
        *,
        pipelining: bool,
        security: Security = "plain",
        username: str | None = None,
        password: str | None = None,
        call_seconds_max: float = 20.0,
        reply_timeout_seconds: float = 5.0,
    ) -> None:
        self.handler = Handler(pipelining=pipelining)
        self.metrics = NoMetrics()
        self._security = security
        self._needs_login = username is not None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._transports: set[asyncio.BaseTransport] = set()
        self._server: asyncio.Server | None = None
        # Held for as long as the world lasts: while the server is down, a client that tries to
        # reach it could else be given this very port as its own.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self.port = self._place.getsockname()[1]
        self.come_back()
        tls = ssl.create_default_context(cafile=str(CERTIFICATE))
        self.gateway = SmtpMailGateway(
            server=SmtpServer(
                host="127.0.0.1",
                port=self.port,
                security=security,
                sender="payments@springfield.example",
                username=username,
                password=password,
                connect_timeout_seconds=5.0,
                reply_timeout_seconds=reply_timeout_seconds,
                tls=None if security == "plain" else tls,
            ),
            metrics=self.metrics,
            call_seconds_max=call_seconds_max,
        )

    @property
    def inbox(self) -> list[tuple[str, bytes]]:
        return self.handler.inbox

    def answer_with(self, *, recipient: str, answer: Answer) -> None:
        code = re.fullmatch(r"smtp_(\d+)", answer.reason or "smtp_250")
        assert code is not None
        if answer.outcome is Outcome.SENT:
            self.handler.at_recipient.pop(recipient, None)
        else:
            self.handler.at_recipient[recipient] = f"{code[1]} not now, or never"

    def drop_answer_of(self, recipient: str) -> None:
        self.handler.dropped.add(recipient)

    def go_down(self) -> None:
        assert self._server is not None
        self._call(self._close())

    def come_back(self) -> None:
        self._call(self._open())

    def drop_connections(self) -> None:
        """Close what is open, as a server does with idle connections."""
        self._call(self._drop())

    async def close(self) -> None:
        await self.gateway.close()
        self.go_down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._place.close()

    async def _open(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        self._server = await self._loop.create_server(
            lambda: self._protocol(context),
            "127.0.0.1",
            self.port,
            ssl=context if self._security == "tls" else None,
            reuse_address=True,
        )

    def _protocol(self, context: ssl.SSLContext) -> SMTP:
        transports = self._transports

        class Protocol(SMTP):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                transports.add(transport)
                super().connection_made(transport)

        return Protocol(
            self.handler,
            loop=self._loop,
            hostname="mx.springfield.example",
            tls_context=context if self._security == "starttls" else None,
            require_starttls=self._security == "starttls",
            authenticator=_authenticate,
            auth_required=self._needs_login,
            auth_require_tls=False,
        )

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._drop()

    async def _drop(self) -> None:
        while self._transports:
            cast(asyncio.WriteTransport, self._transports.pop()).abort()
        await asyncio.sleep(0.01)

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(5)


def _authenticate(
    server: SMTP, session: Session, envelope: Envelope, mechanism: str, login: object
) -> AuthResult:
    right = LoginPassword(b"notifier", b"open sesame")
    return AuthResult(success=login == right, handled=login == right)

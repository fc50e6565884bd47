"""The SMTP side of the sink: aiosmtpd, with the faults and the store behind it."""

import asyncio
from collections.abc import Callable
from datetime import datetime

from aiosmtpd.smtp import SMTP, Envelope, Session

from paypost.simulators.mail.store import MessageStore
from paypost.simulators.mail.switches import Switches

MESSAGE_BYTES_MAX = 10 * 1024 * 1024
IDLE_SECONDS = 600


class SinkHandler:
    """What the sink does with each command; the method names are aiosmtpd's hooks."""

    def __init__(
        self, *, store: MessageStore, switches: Switches, clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._switches = switches
        self._clock = clock

    async def handle_EHLO(  # noqa: N802 — aiosmtpd looks its hooks up by this name
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, lines: list[str]
    ) -> list[str]:
        """Add PIPELINING: aiosmtpd reads command after command from a stream, so it holds."""
        del server, envelope
        session.host_name = hostname
        return [lines[0], "250-PIPELINING", *lines[1:]]

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a recipient unless it is to be refused."""
        del server, session, options
        if self._switches.meets("refuse_recipient", addresses=(address,)):
            return "550 5.1.1 No such mailbox here"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        """Keep a message, and acknowledge it once it is on disk."""
        del session
        switches, recipients = self._switches, envelope.rcpt_tos
        if switches.latency_ms:
            await asyncio.sleep(switches.latency_ms / 1000)
        if switches.meets("hang", addresses=recipients):
            await self._hang()
            return "451 4.3.0 Took too long"
        if switches.meets("temporary_failure", addresses=recipients):
            return "451 4.3.0 Try again later"
        if switches.meets("permanent_failure", addresses=recipients):
            return "554 5.7.1 Refused"
        number = await self._store.add(
            received_at=self._clock(),
            sender=envelope.mail_from or "",
            recipients=recipients,
            raw=envelope.content if isinstance(envelope.content, bytes) else b"",
        )
        if switches.meets("drop_answer", addresses=recipients):
            assert isinstance(server.transport, asyncio.WriteTransport)
            server.transport.abort()
        return f"250 2.0.0 Kept as {number}"

    async def _hang(self) -> None:
        try:
            async with asyncio.timeout(self._switches.hang_seconds):
                await self._switches.let_go.wait()
        except TimeoutError:
            pass


class SinkProtocol(SMTP):
    """One SMTP connection."""

    def __init__(
        self, handler: SinkHandler, *, loop: asyncio.AbstractEventLoop, switches: Switches
    ) -> None:
        super().__init__(
            handler,
            data_size_limit=MESSAGE_BYTES_MAX,
            enable_SMTPUTF8=True,
            hostname="mail-sink",
            ident="Paypost mail sink",
            timeout=IDLE_SECONDS,
            loop=loop,
        )
        self._switches = switches

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start a session, unless connections are refused now."""
        if self._switches.meets("refuse_connection", addresses=()):
            assert isinstance(transport, asyncio.WriteTransport)
            transport.abort()
            return
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """End the session, if there ever was one."""
        if self.session is not None:
            super().connection_lost(error)

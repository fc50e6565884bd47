"""The SMTP side of the sink: aiosmtpd, with the faults and the store behind it."""

import asyncio
import re
from collections.abc import Callable
from datetime import datetime
from typing import cast

from aiosmtpd.smtp import SMTP, Envelope, Session, syntax

from paypost.simulators.mail.store import MessageStore
from paypost.simulators.mail.switches import Switches

MESSAGE_BYTES_MAX = 10 * 1024 * 1024
IDLE_SECONDS = 600

PLAIN_ADDRESS = re.compile(r"<([A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+)>")


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
            # Cast and not asserted: uvloop's transports are no subclasses of asyncio's.
            cast(asyncio.WriteTransport, server.transport).abort()
        return f"250 2.0.0 Kept as {number}"

    async def _hang(self) -> None:
        try:
            async with asyncio.timeout(self._switches.hang_seconds):
                await self._switches.let_go.wait()
        except TimeoutError:
            pass


class SinkProtocol(SMTP):
    """One SMTP connection.

    Two of aiosmtpd's steps are replaced, because at a thousand mails a second they would take half
    a core from the system under test: it reads a message line by line, each an await, and parses
    every address with the full grammar of RFC 5322. What the client sees is the same, except that
    the length of a line is not limited.
    """

    # The reader's buffer, too, takes its limit from here; commands have a limit of their own.
    line_length_limit = MESSAGE_BYTES_MAX

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

    @syntax("DATA")
    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802 — aiosmtpd looks it up by this name
        """Read a message in as few reads as it has lines that end in a dot, and hand it over."""
        if await self.check_helo_needed():
            return
        assert self.envelope is not None
        if not self.envelope.rcpt_tos:
            await self.push("503 Error: need RCPT command")
            return
        if arg:
            await self.push("501 Syntax: DATA")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        data = await self._read_data()
        if data is None:
            # The rest of the message cannot be told from commands any more.
            await self.push("552 Error: Too much mail data")
            cast(asyncio.WriteTransport, self.transport).close()
            return
        self.envelope.content = self.envelope.original_content = data
        status = await self._call_handler_hook("DATA")
        self.envelope = self._create_envelope()
        await self.push(status)

    async def _read_data(self) -> bytes | None:
        data = b""
        while len(data) <= MESSAGE_BYTES_MAX:
            try:
                data += await self._reader.readuntil(b".\r\n")
            except asyncio.LimitOverrunError:
                return None
            if data == b".\r\n" or data.endswith(b"\r\n.\r\n"):
                data = data[:-3]
                if data.startswith(b"."):
                    data = data[1:]
                return data.replace(b"\r\n.", b"\r\n")
        return None

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        plain = PLAIN_ADDRESS.match(arg)
        if plain is not None:
            return plain[1], arg[plain.end() :]
        address: tuple[str | None, str | None] = super()._getaddr(arg)
        return address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start a session, unless connections are refused now."""
        if self._switches.meets("refuse_connection", addresses=()):
            cast(asyncio.WriteTransport, transport).abort()
            return
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """End the session, if there ever was one."""
        if self.session is not None:
            super().connection_lost(error)

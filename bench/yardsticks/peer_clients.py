"""The CIS and the mail server as code with threads meets them: over kept connections.

The cheapest usual clients, so that a peer is measured by its framework: urllib3, smtplib. One
object serves all threads (or greenlets) of a process.
"""

from __future__ import annotations

import queue
import smtplib
from email.message import EmailMessage

import orjson
import urllib3

from bench.yardsticks.peer_steps import (
    CisUnavailableError,
    Paid,
    PeerSettings,
    Posted,
    posted_of,
    posting_of,
)

SMTP_TIMEOUT_SECONDS = 10.0


class CisClient:
    """Posts to the CIS, at most `connections_max` at a time."""

    def __init__(self, *, settings: PeerSettings, connections_max: int) -> None:
        self._url = f"{settings.cis_url}/v1/postings"
        self._headers = {
            "Authorization": f"Bearer {settings.cis_api_key}",
            "Content-Type": "application/json",
        }
        self._pool = urllib3.PoolManager(
            maxsize=connections_max,
            block=True,
            retries=False,
            timeout=settings.cis_timeout_seconds,
        )

    def post(self, paid: Paid) -> Posted:
        """Post a payment.

        Raises:
            CisUnavailableError: nobody knows whether it was; the same call may be repeated.
        """
        try:
            answer = self._pool.request(
                "POST", self._url, body=orjson.dumps(posting_of(paid)), headers=self._headers
            )
        except urllib3.exceptions.HTTPError as error:
            raise CisUnavailableError(repr(error)) from error
        return posted_of(status=answer.status, body=answer.data, paid=paid)


class Mailer:
    """Sends mails over connections that are kept; a broken one is replaced once."""

    def __init__(self, *, settings: PeerSettings) -> None:
        self._host, self._port = settings.smtp_host, settings.smtp_port
        self._idle: queue.LifoQueue[smtplib.SMTP] = queue.LifoQueue()

    def send(self, message: EmailMessage) -> None:
        """Send one.

        Raises:
            smtplib.SMTPException, OSError: it was not taken, as far as is known.
        """
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = self._connect()
        try:
            try:
                connection.send_message(message)
            except smtplib.SMTPServerDisconnected:
                connection = self._connect()
                connection.send_message(message)
        except BaseException:
            connection.close()
            raise
        self._idle.put(connection)

    def _connect(self) -> smtplib.SMTP:
        return smtplib.SMTP(
            self._host, self._port, local_hostname="localhost", timeout=SMTP_TIMEOUT_SECONDS
        )

"""One durable workflow per payment: ledger write, CIS call, mail, each a step.

The module is imported by every process of the yardstick. Which kind of workflow it registers
(coroutines or threads) and where it runs is tuning: see README.md.
"""

from __future__ import annotations

import asyncio
import queue
from dataclasses import asdict
from datetime import date, datetime
from functools import cache
from typing import Any

import aiohttp
import aiosmtplib
import asyncpg
import orjson
from dbos import DBOS, DBOSConfig
from psycopg_pool import ConnectionPool

from bench.yardsticks.peer_clients import CisClient, Mailer
from bench.yardsticks.peer_steps import (
    RETRY_SECONDS,
    CisUnavailableError,
    Paid,
    PeerSettings,
    Posted,
    mail_of,
    posted_of,
    posting_of,
)

QUEUE = "payments"
APPLICATION_VERSION = "1"
ATTEMPTS_MAX = 1_000
"""As good as without end: with pauses that double, hours."""

settings = PeerSettings.from_environment()
tuning = settings.tuning
processes = int(tuning["worker_processes"]) or int(tuning["intake_processes"])
connections_max = max(1, settings.cis_connections_max // processes)

_RETRY = {
    "retries_allowed": True,
    "interval_seconds": RETRY_SECONDS,
    "max_attempts": ATTEMPTS_MAX,
    "backoff_rate": 1.5,
}
_INSERT = (
    "INSERT INTO payments (payment_id, reference, account, amount_cents, currency,"
    " effective_date, accepted_at) VALUES ({}) ON CONFLICT DO NOTHING"
)
_CUSTOMER = "SELECT name, email FROM customers WHERE account = {}"


def configuration(*, executor: str) -> DBOSConfig:
    """DBOS's own settings for one process."""
    return {
        "name": "payments",
        "system_database_url": settings.database_dsn,
        "dbos_system_schema": "dbos",
        "application_version": APPLICATION_VERSION,
        "executor_id": executor,
        "sys_db_pool_size": int(tuning["pool_size"]),
        "db_engine_kwargs": {"pool_pre_ping": tuning.get("pre_ping", "true") == "true"},
        "max_executor_threads": int(tuning["executor_threads"]),
        "use_listen_notify": tuning["listen_notify"] == "true",
        "enable_otlp": False,
        "log_level": "WARNING",
    }


def _values(paid: Paid) -> tuple[Any, ...]:
    return (
        paid.payment_id,
        paid.reference,
        paid.account,
        paid.amount_cents,
        paid.currency,
        date.fromisoformat(paid.effective_date),
        datetime.fromisoformat(paid.accepted_at),
    )


# As coroutines.


class _Connections:
    """The connections of an event loop, made when first needed."""

    def __init__(self) -> None:
        self._making = asyncio.Lock()
        self._database: asyncpg.Pool[asyncpg.Record] | None = None
        self._cis: aiohttp.ClientSession | None = None
        self._mailers: queue.LifoQueue[aiosmtplib.SMTP] = queue.LifoQueue()

    async def database(self) -> asyncpg.Pool[asyncpg.Record]:
        async with self._making:
            if self._database is None:
                self._database = await asyncpg.create_pool(
                    settings.database_dsn, min_size=1, max_size=int(tuning["ledger_pool_size"])
                )
        return self._database

    def cis(self) -> aiohttp.ClientSession:
        if self._cis is None:
            self._cis = aiohttp.ClientSession(
                base_url=settings.cis_url,
                headers={
                    "Authorization": f"Bearer {settings.cis_api_key}",
                    "Content-Type": "application/json",
                },
                timeout=aiohttp.ClientTimeout(settings.cis_timeout_seconds),
                connector=aiohttp.TCPConnector(limit=connections_max),
            )
        return self._cis

    async def mailer(self) -> aiosmtplib.SMTP:
        try:
            return self._mailers.get_nowait()
        except queue.Empty:
            mailer = aiosmtplib.SMTP(
                hostname=settings.smtp_host, port=settings.smtp_port, start_tls=False
            )
            await mailer.connect()
            return mailer

    def keep(self, mailer: aiosmtplib.SMTP) -> None:
        self._mailers.put(mailer)


@cache
def _connections() -> _Connections:
    return _Connections()


@DBOS.step(**_RETRY)  # type: ignore[arg-type]
async def write_ledger(paid: dict[str, Any]) -> dict[str, Any] | None:
    """Put a payment into the table; whom to tell of it."""
    payment = Paid(**paid)
    pool = await _connections().database()
    async with pool.acquire() as connection:
        await connection.execute(_INSERT.format("$1, $2, $3, $4, $5, $6, $7"), *_values(payment))
        row = await connection.fetchrow(_CUSTOMER.format("$1"), payment.account)
    return dict(row) if row else None


@DBOS.step(**_RETRY)  # type: ignore[arg-type]
async def post_to_cis(paid: dict[str, Any]) -> dict[str, Any]:
    """Post a payment; what the CIS decided."""
    payment = Paid(**paid)
    try:
        async with (
            _connections()
            .cis()
            .post("/v1/postings", data=orjson.dumps(posting_of(payment))) as answer
        ):
            body = await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CisUnavailableError(repr(error)) from error
    return asdict(posted_of(status=answer.status, body=body, paid=payment))


@DBOS.step(**_RETRY)  # type: ignore[arg-type]
async def tell_customer(
    paid: dict[str, Any], posted: dict[str, Any], customer: dict[str, Any]
) -> None:
    """Mail a customer."""
    message = mail_of(
        paid=Paid(**paid), posted=Posted(**posted), name=customer["name"], email=customer["email"]
    )
    mailer = await _connections().mailer()
    try:
        await mailer.send_message(message)
    except BaseException:
        mailer.close()
        raise
    _connections().keep(mailer)


@DBOS.workflow()
async def handle_payment(paid: dict[str, Any]) -> str:
    """All that becomes of a payment, as coroutines; its final status."""
    customer = await write_ledger(paid)
    posted = await post_to_cis(paid)
    if posted["cis_reference"] is None:
        return "refused"
    if customer is None or customer["email"] is None:
        return "posted"
    await tell_customer(paid, posted, customer)
    return "mailed"


# As threads.


@cache
def _pool() -> ConnectionPool:
    return ConnectionPool(
        settings.database_dsn,
        min_size=1,
        max_size=int(tuning["ledger_pool_size"]),
        kwargs={"autocommit": True},
    )


@cache
def _cis() -> CisClient:
    return CisClient(settings=settings, connections_max=connections_max)


@cache
def _mailer() -> Mailer:
    return Mailer(settings=settings)


@DBOS.step(**_RETRY)  # type: ignore[arg-type]
def write_ledger_in_thread(paid: dict[str, Any]) -> dict[str, Any] | None:
    """Put a payment into the table; whom to tell of it."""
    payment = Paid(**paid)
    with _pool().connection() as connection:
        connection.execute(_INSERT.format(", ".join(["%s"] * 7)), _values(payment))
        row = connection.execute(_CUSTOMER.format("%s"), (payment.account,)).fetchone()
    return {"name": row[0], "email": row[1]} if row else None


@DBOS.step(**_RETRY)  # type: ignore[arg-type]
def post_to_cis_in_thread(paid: dict[str, Any]) -> dict[str, Any]:
    """Post a payment; what the CIS decided."""
    return asdict(_cis().post(Paid(**paid)))


@DBOS.step(**_RETRY)  # type: ignore[arg-type]
def tell_customer_in_thread(
    paid: dict[str, Any], posted: dict[str, Any], customer: dict[str, Any]
) -> None:
    """Mail a customer."""
    _mailer().send(
        mail_of(
            paid=Paid(**paid),
            posted=Posted(**posted),
            name=customer["name"],
            email=customer["email"],
        )
    )


@DBOS.workflow()
def handle_payment_in_thread(paid: dict[str, Any]) -> str:
    """All that becomes of a payment, in a thread; its final status."""
    customer = write_ledger_in_thread(paid)
    posted = post_to_cis_in_thread(paid)
    if posted["cis_reference"] is None:
        return "refused"
    if customer is None or customer["email"] is None:
        return "posted"
    tell_customer_in_thread(paid, posted, customer)
    return "mailed"

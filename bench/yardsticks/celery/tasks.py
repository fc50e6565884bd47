"""The steps of a payment as Celery tasks: ledger write, CIS call, mail.

Messages are acknowledged after the work (`acks_late`), so a task may run again: how far a payment
has come stands in its row, and a step that is done is not done again.
"""

from __future__ import annotations

import smtplib
import uuid
from dataclasses import asdict
from datetime import date, datetime
from functools import cache
from typing import Any

from celery import Celery, Task
from celery.signals import worker_ready
from kombu import Exchange, Queue
from psycopg import OperationalError
from psycopg_pool import ConnectionPool, PoolTimeout

from bench.yardsticks.peer import say_ready
from bench.yardsticks.peer_clients import CisClient, Mailer
from bench.yardsticks.peer_steps import (
    RETRY_SECONDS_MAX,
    CisUnavailableError,
    Paid,
    PeerSettings,
    Posted,
    mail_of,
)

QUEUE = "payments"

settings = PeerSettings.from_environment()
tuning = settings.tuning
is_rabbitmq = tuning["broker_url"].startswith("amqp")

app = Celery("payments", broker=tuning["broker_url"])
app.conf.update(
    task_default_queue=QUEUE,
    task_queues=[
        Queue(
            QUEUE,
            Exchange(QUEUE, type="topic" if is_rabbitmq else "direct"),
            routing_key=QUEUE,
            queue_arguments={"x-queue-type": "quorum"} if is_rabbitmq else None,
        )
    ],
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=int(tuning["prefetch_multiplier"]),
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    broker_pool_limit=int(tuning["broker_pool_limit"]),
    broker_connection_retry_on_startup=True,
    broker_transport_options=(
        {"confirm_publish": True} if is_rabbitmq else {"visibility_timeout": 3_600}
    ),
    worker_proc_alive_timeout=30,
)

_TROUBLE = (
    CisUnavailableError,
    smtplib.SMTPException,
    OSError,
    OperationalError,
    PoolTimeout,
)
_RETRY: dict[str, Any] = {
    "autoretry_for": _TROUBLE,
    "retry_backoff": True,
    "retry_jitter": False,
    "retry_backoff_max": int(RETRY_SECONDS_MAX),
    "max_retries": None,
}


@worker_ready.connect
def _ready(**_kwargs: object) -> None:
    say_ready()


# Made when first needed: after the fork of a prefork worker.


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
    return CisClient(settings=settings, connections_max=int(tuning["cis_connections"]))


@cache
def _mailer() -> Mailer:
    return Mailer(settings=settings)


_INSERT = """
WITH taken AS (
    INSERT INTO payments
        (payment_id, reference, account, amount_cents, currency, effective_date, accepted_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
    RETURNING status, cis_reference
), kept AS (
    INSERT INTO events (event_id, event_type) VALUES (%s, %s) ON CONFLICT DO NOTHING
)
SELECT status, cis_reference FROM taken
UNION ALL
SELECT status, cis_reference FROM payments WHERE payment_id = %s
LIMIT 1
"""
_POSTED = "UPDATE payments SET status = %s, cis_reference = %s WHERE payment_id = %s"
_MAILED = "UPDATE payments SET status = 'mailed' WHERE payment_id = %s"
_STATUS = "SELECT status FROM payments WHERE payment_id = %s"
_CUSTOMER = "SELECT name, email FROM customers WHERE account = %s"


def write(*, event_id: str, event_type: str, paid: Paid) -> tuple[str, str | None]:
    """Keep event and payment, if they are new; the payment's status and CIS reference."""
    values = (
        *(uuid.UUID(paid.payment_id), paid.reference, paid.account, paid.amount_cents),
        *(paid.currency, date.fromisoformat(paid.effective_date)),
        datetime.fromisoformat(paid.accepted_at),
        *(event_id, event_type, uuid.UUID(paid.payment_id)),
    )
    with _pool().connection() as connection:
        row = connection.execute(_INSERT, values).fetchone()
    # Written by another at the same time, and not yet to be seen by this statement.
    return (row[0], row[1]) if row else ("accepted", None)


def post(*, paid: Paid) -> Posted:
    """Post at the CIS and keep what it decided."""
    posted = _cis().post(paid)
    status = "refused" if posted.cis_reference is None else "posted"
    with _pool().connection() as connection:
        connection.execute(_POSTED, (status, posted.cis_reference, uuid.UUID(paid.payment_id)))
    return posted


def tell(*, paid: Paid, posted: Posted) -> None:
    """Mail the customer and keep that it was done."""
    with _pool().connection() as connection:
        row = connection.execute(_CUSTOMER, (paid.account,)).fetchone()
    if row is None or row[1] is None:
        return
    _mailer().send(mail_of(paid=paid, posted=posted, name=row[0], email=row[1]))
    with _pool().connection() as connection:
        connection.execute(_MAILED, (uuid.UUID(paid.payment_id),))


def status_of(*, paid: Paid) -> str:
    """How far a payment has come."""
    with _pool().connection() as connection:
        row = connection.execute(_STATUS, (uuid.UUID(paid.payment_id),)).fetchone()
    return str(row[0]) if row else "accepted"


@app.task(bind=True, **_RETRY)  # type: ignore[untyped-decorator]
def handle_payment(
    self: Task[Any, Any], event_id: str, event_type: str, paid: dict[str, Any]
) -> None:
    """All three steps in one task."""
    del self
    payment = Paid(**paid)
    status, cis_reference = write(event_id=event_id, event_type=event_type, paid=payment)
    posted = Posted(cis_reference=cis_reference, balance_cents=None)
    if status == "accepted":
        posted = post(paid=payment)
        status = "refused" if posted.cis_reference is None else "posted"
    if status == "posted":
        tell(paid=payment, posted=posted)


@app.task(bind=True, **_RETRY)  # type: ignore[untyped-decorator]
def write_ledger(
    self: Task[Any, Any], event_id: str, event_type: str, paid: dict[str, Any]
) -> None:
    """The first step as a task of its own."""
    del self
    status, _ = write(event_id=event_id, event_type=event_type, paid=Paid(**paid))
    if status == "accepted":
        post_to_cis.delay(paid)


@app.task(bind=True, **_RETRY)  # type: ignore[untyped-decorator]
def post_to_cis(self: Task[Any, Any], paid: dict[str, Any]) -> None:
    """The second."""
    del self
    posted = post(paid=Paid(**paid))
    if posted.cis_reference is not None:
        tell_customer.delay(paid, asdict(posted))


@app.task(bind=True, **_RETRY)  # type: ignore[untyped-decorator]
def tell_customer(self: Task[Any, Any], paid: dict[str, Any], posted: dict[str, Any]) -> None:
    """The third."""
    del self
    if status_of(paid=Paid(**paid)) == "posted":
        tell(paid=Paid(**paid), posted=Posted(**posted))


first_task = write_ledger if tuning["tasks"] == "three" else handle_payment

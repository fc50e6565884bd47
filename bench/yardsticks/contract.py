"""What a run gives to a yardstick, and what a yardstick is: the product is one as well.

A yardstick takes real Stripe webhooks, posts each payment to the CIS once, and then mails the
customer once. Its README says what else it guarantees and what it does not. A run believes nothing
that a yardstick says of itself: a payment counts when the CIS's journal and the mail sink's store
both hold it exactly once, by account and amount, which are unique together for each payment. In a
mail the recipient is the account, and the amount stands in the plain text on a line of its own:
`Amount: $1,234.56`. All customers of a run read English.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from paypost.stack.local import CITY_TIME_ZONE
from paypost.traffic.customers import Customer

CisCalls = Literal["one", "many"]

POSTINGS_IN_CALL_MAX = 500
"""What the CIS's many-in-one call takes (docs/cis-protocol.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The servers and counterparts of one run: started fresh for it, and the same for everybody.

    Attributes:
        stack_name: the local stack that they make up; `StackState.load` reads the rest of it.
        kafka_bootstrap: `host:port` of a broker without topics.
        postgres_superuser_dsn: a server with fsync, full_page_writes and synchronous_commit on.
            A yardstick makes its own database in it, never other settings of the server.
        cis_url: where the reference CIS speaks docs/cis-protocol.md. The accounts are open there.
        cis_api_key: the bearer key for it.
        smtp_host, smtp_port: the mail sink; without TLS, with PIPELINING.
        stripe_webhook_secret: signs the webhooks (`Stripe-Signature`).
        work_dir: for whatever a yardstick writes: logs, data of further servers. Exists, is empty,
            and is deleted after the run unless the run failed.
        http_port: where a yardstick listens for webhooks, on 127.0.0.1; free at the start.
        spare_ports: further free ports for servers of its own (a message queue).
    """

    stack_name: str
    kafka_bootstrap: str
    postgres_superuser_dsn: str
    cis_url: str
    cis_api_key: str
    smtp_host: str
    smtp_port: int
    stripe_webhook_secret: str
    work_dir: Path
    http_port: int
    spare_ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a run is going to ask for, known before anything starts.

    Attributes:
        customers: by account; a yardstick stores them in its own way before it is ready.
        cis_calls: `one` forbids the CIS's many-in-one call; `many` allows it, with at most
            `POSTINGS_IN_CALL_MAX` postings in a call.
        cis_connections_max: calls to the CIS in flight at most.
        cis_timeout_seconds: after it a call's outcome is unknown, and is asked about.
        intake_only: start what answers webhooks, durably, and leave the rest out until
            `Yardstick.start_rest`.
        instances: processes of each stage. More than one is only asked of those that scale so.
        city_time_zone: the effective date of a payment is the city's date at its acceptance.
        currency: of every payment; upper case, as the CIS wants it.
    """

    customers: Mapping[str, Customer]
    cis_calls: CisCalls = "many"
    cis_connections_max: int = 64
    cis_timeout_seconds: float = 5.0
    intake_only: bool = False
    instances: int = 1
    city_time_zone: str = CITY_TIME_ZONE
    currency: str = "USD"


class YardstickUnavailableError(Exception):
    """This machine lacks something that a yardstick needs; the run is reported as not run.

    Attributes:
        yardstick: its name.
        missing: what is missing, and how it is brought, as one line.
    """

    def __init__(self, *, yardstick: str, missing: str) -> None:
        super().__init__(f"{yardstick}: {missing}")
        self.yardstick = yardstick
        self.missing = missing


class Yardstick(Protocol):
    """One way of doing the work.

    A new object is made for each run, without arguments. `start` is called once, `stop` always,
    also after a `start` that failed or was cancelled, and any number of times.
    """

    name: str
    """As in reports: `paypost`, `floor`, `celery-rabbitmq`."""

    versions: Mapping[str, str]
    """What decides its speed, by name: `{"celery": "5.6.1", "rabbitmq": "3.10.8"}`."""

    async def check(self) -> None:
        """Look whether everything is there, before anything is started. Cheap.

        Raises:
            YardstickUnavailableError: something is missing.
        """
        ...

    async def start(self, *, surroundings: Surroundings, workload: Workload) -> None:
        """Start every process and return when webhooks are taken and the stages are consuming.

        Processes must not outlive this one, whatever becomes of it: `ChildProcess` and `Watchdog`
        of `paypost.stack` see to that.

        Raises:
            YardstickUnavailableError: something is missing after all.
            Exception: it did not start; the run ends with that, and `stop` is called.
        """
        ...

    async def start_rest(self) -> None:
        """After `Workload.intake_only`: start the other stages, which work off what is stored."""
        ...

    @property
    def webhook_url(self) -> str:
        """Where Stripe's webhooks go."""
        ...

    def processes(self) -> Mapping[str, int]:
        """The process of each role by its pid, now; what it started counts with it.

        PostgreSQL, Kafka, the CIS and the mail sink are not among them.
        """
        ...

    async def stop(self) -> None:
        """Stop every process; nothing of it is left when this returns. Never raises for that
        something is gone already."""
        ...


def database_name(*, yardstick: str) -> str:
    """The database that a yardstick makes for itself, as a plain name: `bench_celery_redis`."""
    return "bench_" + "".join(each if each.isalnum() else "_" for each in yardstick.lower())

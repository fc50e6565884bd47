"""The real Kafka and the real PostgreSQL that tests run on.

Three backends, in this order: addresses from the environment (`PAYPOST_TEST_KAFKA` as
``host:port``, `PAYPOST_TEST_POSTGRES` as a superuser's ``postgresql://`` address), native
processes in a temporary folder, containers. When none works the test fails and says what was
tried: a suite that skips itself proves nothing.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from paypost.stack.kafka import KafkaBroker, prepare_runtime
from paypost.stack.ports import PortBlock
from paypost.stack.postgres import ROLES, PostgresServer, drop_database, provision
from paypost.stack.watchdog import Watchdog


@dataclass(frozen=True)
class KafkaBackend:
    """A broker: where it is, and what it runs on.

    `broker` is the native process, or None on the other backends. It is shared by the session:
    a test that stops or wipes a broker starts one of its own (`start_kafka`).
    """

    bootstrap: str
    backend: str
    broker: KafkaBroker | None = None


@dataclass(frozen=True)
class PostgresBackend:
    """A database server: a superuser's address on it, and what it runs on."""

    superuser_dsn: str
    backend: str
    server: PostgresServer | None = None


@dataclass(frozen=True)
class TestDatabase:
    """A database of its own, with a role and a schema for each service.

    `dsns` holds a ``postgresql://`` address for each role by its name.
    """

    __test__ = False

    name: str
    superuser_dsn: str
    dsns: dict[str, str]


_PASSWORDS = {role: secrets.token_urlsafe(12) for role in ROLES}


def start_kafka(*, directory: Path, ports: PortBlock, watchdog: Watchdog) -> KafkaBroker:
    """A native broker of the caller's own, started."""
    broker = KafkaBroker(
        runtime=prepare_runtime(watchdog=watchdog),
        data_dir=directory / "kafka",
        port=ports.port("kafka"),
        controller_port=ports.port("kafka controller"),
        log_path=directory / "kafka.log",
        watchdog=watchdog,
    )
    broker.start()
    return broker


def start_postgres(*, directory: Path, ports: PortBlock, watchdog: Watchdog) -> PostgresServer:
    """A native server of the caller's own, started."""
    server = PostgresServer(
        data_dir=directory / "postgres",
        port=ports.port("postgres"),
        log_path=directory / "postgres.log",
        superuser_password=secrets.token_urlsafe(12),
        watchdog=watchdog,
    )
    server.start()
    return server


def create_database(*, postgres: PostgresBackend, template: str | None = None) -> TestDatabase:
    """A new database, empty or a copy of `template` (to which nobody may be connected)."""
    name = f"test_{secrets.token_hex(6)}"
    provision(
        superuser_dsn=postgres.superuser_dsn,
        passwords=_PASSWORDS,
        database=name,
        template=template,
    )
    address = urlsplit(postgres.superuser_dsn)
    place = address.netloc.rpartition("@")[2]
    return TestDatabase(
        name=name,
        superuser_dsn=address._replace(path=f"/{name}").geturl(),
        dsns={
            role: f"postgresql://{role}:{quote(password, safe='')}@{place}/{name}"
            for role, password in _PASSWORDS.items()
        },
    )


@pytest.fixture(scope="session")
def watchdog() -> Iterator[Watchdog]:
    """Ends what this session started, however it ends."""
    watchdog = Watchdog()
    yield watchdog
    watchdog.close()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, watchdog: Watchdog) -> Iterator[KafkaBackend]:
    address = os.environ.get("PAYPOST_TEST_KAFKA")
    if address:
        yield KafkaBackend(bootstrap=address, backend="environment")
        return
    tried = ["PAYPOST_TEST_KAFKA is not set"]
    with ExitStack() as stack:
        try:
            ports = stack.enter_context(PortBlock.claim())
            broker = start_kafka(
                directory=tmp_path_factory.mktemp("kafka"), ports=ports, watchdog=watchdog
            )
            stack.callback(broker.stop)
            backend = KafkaBackend(bootstrap=broker.bootstrap, backend="native", broker=broker)
        except Exception as error:
            tried.append(f"native process: {error!r}")
            backend = _kafka_container(stack=stack, tried=tried)
        yield backend


@pytest.fixture(scope="session")
def postgres(
    tmp_path_factory: pytest.TempPathFactory, watchdog: Watchdog
) -> Iterator[PostgresBackend]:
    address = os.environ.get("PAYPOST_TEST_POSTGRES")
    if address:
        yield PostgresBackend(superuser_dsn=address, backend="environment")
        return
    tried = ["PAYPOST_TEST_POSTGRES is not set"]
    with ExitStack() as stack:
        try:
            ports = stack.enter_context(PortBlock.claim())
            server = start_postgres(
                directory=tmp_path_factory.mktemp("postgres"), ports=ports, watchdog=watchdog
            )
            stack.callback(server.stop)
            backend = PostgresBackend(
                superuser_dsn=server.dsn(database="postgres"), backend="native", server=server
            )
        except Exception as error:
            tried.append(f"native process: {error!r}")
            backend = _postgres_container(stack=stack, tried=tried)
        yield backend


@pytest.fixture(scope="module")
def database(postgres: PostgresBackend) -> Iterator[TestDatabase]:
    """A fresh database for each test module, dropped after it."""
    database = create_database(postgres=postgres)
    yield database
    drop_database(superuser_dsn=postgres.superuser_dsn, database=database.name)


def _kafka_container(*, stack: ExitStack, tried: list[str]) -> KafkaBackend:
    try:
        from testcontainers.kafka import KafkaContainer

        container = stack.enter_context(KafkaContainer().with_kraft())
        return KafkaBackend(bootstrap=container.get_bootstrap_server(), backend="testcontainers")
    except Exception as error:
        tried.append(f"testcontainers: {error!r}")
        pytest.fail(f"no Kafka to test on; tried: {'; '.join(tried)}", pytrace=False)


def _postgres_container(*, stack: ExitStack, tried: list[str]) -> PostgresBackend:
    try:
        from testcontainers.postgres import PostgresContainer

        container = stack.enter_context(
            PostgresContainer("postgres:18", username="postgres", dbname="postgres", driver=None)
        )
        return PostgresBackend(
            superuser_dsn=container.get_connection_url(), backend="testcontainers"
        )
    except Exception as error:
        tried.append(f"testcontainers: {error!r}")
        pytest.fail(f"no PostgreSQL to test on; tried: {'; '.join(tried)}", pytrace=False)

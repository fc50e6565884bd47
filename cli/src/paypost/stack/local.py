"""The whole system on one machine: the only module that sees everything.

`LocalStack` starts Kafka and PostgreSQL side by side, then what needs them as soon as what it
needs is there, and stops all of it in the opposite order. What each process is told, in its
environment and arguments, is in `service_environment`, `counterpart_arguments` and
`counterpart_environment`, and nowhere else.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal, Self, TypeVar
from urllib.parse import quote

from paypost.stack.kafka import ClientDoor, KafkaBroker, KafkaCluster, prepare_runtime
from paypost.stack.locks import FileLock
from paypost.stack.ports import PortBlock
from paypost.stack.postgres import (
    DATABASE,
    REFERENCE_CIS_ROLE,
    ROLES,
    SUPERUSER,
    PostgresServer,
)
from paypost.stack.state import StackDirectory, StackSecrets, StackState
from paypost.stack.supervisor import (
    ChildProcess,
    ProcessFailedError,
    ProcessIdentity,
    ProcessSpec,
    Supervisor,
)
from paypost.stack.watchdog import Watchdog
from shared import failpoints

HOST = "127.0.0.1"
SERVERS = ("kafka", "postgres")
COUNTERPARTS = ("cis", "mail", "processor")
SERVICES = ("payment-intake", "cis-poster", "autopay-scheduler", "notifier")
SERVICES_WITH_API = ("payment-intake", "cis-poster", "autopay-scheduler")
PARTS = frozenset({*SERVERS, *COUNTERPARTS, *SERVICES})
WEBHOOK_SOURCES = ("portal", "kiosk")
TRUSTED_CAPTURE_SOURCES = ("kiosk",)
CITY_NAME = "City of Example Utilities"
CITY_TIME_ZONE = "America/Chicago"
PORTAL_URL = "https://portal.city.example"
SENDER_ADDRESS = "billing@city.example"
READY_TIMEOUT_SECONDS = 60.0
# Longer than the services' own limit (20 s), so that they are never cut off while they keep it.
DRAIN_TIMEOUT_SECONDS = 25.0

BROKERS = frozenset({1, 3})

Environment = Mapping[str, str]
Adapt = Callable[[ProcessSpec, StackState], ProcessSpec]
"""What is run, given what would be run and the stack."""


class UnknownPartError(ValueError):
    """A stack cannot consist of this.

    Attributes:
        unknown: what was asked for and does not exist.
    """

    def __init__(self, *, unknown: frozenset[str]) -> None:
        super().__init__(f"no such parts: {', '.join(sorted(unknown))}; there are {sorted(PARTS)}")
        self.unknown = unknown


@dataclass(frozen=True)
class StackEvent:
    """One step of a stack's start or stop, for whoever draws it.

    Attributes:
        part: the process, or `migrations`, or `topics`.
        phase: where it stands.
        detail: a line for people; may be empty.
        elapsed_seconds: since the whole start or stop began.
    """

    part: str
    phase: Literal["starting", "progress", "ready", "failed", "stopping", "stopped"]
    detail: str
    elapsed_seconds: float


def describe(
    *,
    directory: StackDirectory,
    ports: PortBlock,
    secrets: StackSecrets,
    owner: ProcessIdentity,
    brokers: int = 1,
) -> StackState:
    """What a stack will look like in this folder and on these ports, before anything runs."""
    postgres_port = ports.port("postgres")

    def dsn(role: str, password: str) -> str:
        return f"postgresql://{role}:{quote(password, safe='')}@{HOST}:{postgres_port}/{DATABASE}"

    def url(name: str) -> str:
        return f"http://{HOST}:{ports.port(name)}"

    return StackState(
        name=directory.name,
        ready=False,
        started_at=datetime.now(UTC),
        owner=owner,
        kafka_bootstrap=",".join(
            f"{HOST}:{ports.port(_broker_name('kafka', number))}" for number in range(brokers)
        ),
        postgres_host=HOST,
        postgres_port=postgres_port,
        superuser_dsn=dsn(SUPERUSER, secrets.postgres_superuser_password),
        dsns={role: dsn(role, secrets.postgres_passwords[role]) for role in ROLES},
        http_urls={name: url(name) for name in (*SERVICES_WITH_API, *COUNTERPARTS)},
        ops_urls={name: url(f"{name} ops") for name in SERVICES},
        smtp_host=HOST,
        smtp_port=ports.port("smtp"),
        processes={},
        secrets=secrets,
        log_paths={
            name: directory.logs / f"{name}.log" for name in (*SERVERS, *COUNTERPARTS, *SERVICES)
        },
        cis_journal_path=directory.data / "cis-journal.jsonl",
        mail_store_path=directory.data / "mail",
        processor_journal_path=directory.data / "processor-journal.jsonl",
        charges_journal_path=directory.data / "charges-journal.jsonl",
    )


def service_environment(*, service: str, state: StackState) -> dict[str, str]:
    """The settings of one service in a local stack, as its environment variables."""
    prefix = service.replace("-", "_")
    settings: dict[str, object] = {
        "environment": "local",
        "database_url": state.dsns[prefix].replace("postgresql://", "postgresql+asyncpg://", 1),
        "kafka_bootstrap_servers": state.kafka_bootstrap,
        # One process of each service: a killed one takes its own partitions back at once.
        "kafka_group_instance_id": service,
        "ops_host": HOST,
        "ops_port": _port_of(state.ops_urls[service]),
    }
    if service in state.http_urls:
        settings |= {"http_host": HOST, "http_port": _port_of(state.http_urls[service])}
    secrets = state.secrets
    if service == "payment-intake":
        settings |= {
            "stripe_webhook_secrets": [secrets.stripe_webhook_secret],
            "standard_webhook_secrets": {
                source: [secret] for source, secret in secrets.standard_webhook_secrets.items()
            },
            "portal_api_key_sha256s": [_sha256(secrets.portal_api_key)],
            "operator_key_sha256s": [_sha256(secrets.operator_key)],
            "stripe_api_key": secrets.processor_api_key,
            "stripe_api_base": state.http_urls["processor"],
            "trusted_capture_sources": list(TRUSTED_CAPTURE_SOURCES),
            "city_time_zone": CITY_TIME_ZONE,
        }
    elif service == "cis-poster":
        settings |= {
            "cis_base_url": state.http_urls["cis"],
            "cis_api_key": secrets.cis_api_key,
            "operator_key_sha256s": [_sha256(secrets.operator_key)],
        }
    elif service == "autopay-scheduler":
        settings |= {
            "operator_key_sha256s": [_sha256(secrets.operator_key)],
            "portal_api_key_sha256s": [_sha256(secrets.portal_api_key)],
            "city_time_zone": CITY_TIME_ZONE,
            "portal_url": PORTAL_URL,
        }
    elif service == "notifier":
        settings |= {
            "smtp_host": state.smtp_host,
            "smtp_port": state.smtp_port,
            "smtp_security": "plain",
            "sender_address": SENDER_ADDRESS,
            "sender_name": CITY_NAME,
            "city_name": CITY_NAME,
            "city_time_zone": CITY_TIME_ZONE,
            "portal_url": PORTAL_URL,
            "support_phone": "555-0100",
        }
    return {
        f"{prefix}_{key}".upper(): value if isinstance(value, str) else json.dumps(value)
        for key, value in settings.items()
    }


def counterpart_arguments(*, counterpart: str, state: StackState) -> tuple[str, ...]:
    """The command line of one simulator in a local stack, without the program."""
    values: dict[str, dict[str, object]] = {
        "cis": {
            "--host": HOST,
            "--port": _port_of(state.http_urls["cis"]),
            "--journal": state.cis_journal_path,
        },
        "mail": {
            "--smtp-port": state.smtp_port,
            "--http-port": _port_of(state.http_urls["mail"]),
            "--store": state.mail_store_path,
        },
        "processor": {
            "--port": _port_of(state.http_urls["processor"]),
            "--target": f"{state.http_urls['payment-intake']}/webhooks/stripe",
            "--journal": state.processor_journal_path,
            "--book": state.charges_journal_path,
        },
    }
    return tuple(str(part) for pair in values[counterpart].items() for part in pair)


def counterpart_environment(*, counterpart: str, state: StackState) -> dict[str, str]:
    """What a simulator is told by its environment: secrets, which other users' `ps` would show."""
    values = {
        "cis": {
            "CIS_DATABASE_URL": state.dsns[REFERENCE_CIS_ROLE],
            "CIS_API_KEY": state.secrets.cis_api_key,
        },
        "processor": {
            "STRIPE_WEBHOOK_SECRET": state.secrets.stripe_webhook_secret,
            "PROCESSOR_API_KEY": state.secrets.processor_api_key,
        },
    }
    return values.get(counterpart, {})


def process_spec(
    *, name: str, state: StackState, environ: Environment, overrides: Environment
) -> ProcessSpec:
    """How to run a service or a counterpart of a stack.

    Args:
        name: one of `SERVICES` or `COUNTERPARTS`.
        state: the stack.
        environ: what the process inherits; settings of our own services are left out of it, so
            that nothing but this stack says what they are.
        overrides: set last.
    """
    env = inherited_environment(environ=environ)
    if name in SERVICES:
        module = name.replace("-", "_")
        return ProcessSpec(
            name=name,
            command=(sys.executable, "-m", module, "run"),
            env=env | service_environment(service=name, state=state) | dict(overrides),
            ready_url=f"{state.ops_urls[name]}/readyz",
            drain_timeout_seconds=DRAIN_TIMEOUT_SECONDS,
        )
    return ProcessSpec(
        name=name,
        command=(
            sys.executable,
            "-m",
            f"paypost.simulators.{name}",
            *counterpart_arguments(counterpart=name, state=state),
        ),
        env=env | counterpart_environment(counterpart=name, state=state) | dict(overrides),
        ready_port=_port_of(state.http_urls[name]),
    )


def inherited_environment(*, environ: Environment) -> dict[str, str]:
    """The environment without the settings of our services, and with unbuffered output."""
    prefixes = tuple(f"{service.replace('-', '_')}_".upper() for service in SERVICES)
    return {
        key: value
        for key, value in environ.items()
        if key != failpoints.VARIABLE and not key.startswith(prefixes)
    } | {"PYTHONUNBUFFERED": "1"}


class LocalStack:
    """One stack, started on `up` or on entering it, gone after `down` or on leaving it.

    Works as a context manager, plain and async. Whatever happens to this process, nothing that it
    started outlives it. While it is up, `kafka`, `postgres` and `supervisor` may be used to stop,
    kill and restart single parts.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        parts: frozenset[str] | set[str] | None = None,
        fresh: bool = False,
        environments: Mapping[str, Environment] | None = None,
        on_event: Callable[[StackEvent], None] | None = None,
        aot: bool = True,
        brokers: int = 1,
        kafka_door: ClientDoor | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            name: the stack's; by default one for each checkout.
            parts: which of `PARTS` to start; by default all.
            fresh: whether to delete what an earlier stack of this name kept.
            environments: by process name, variables that win over the stack's own.
            on_event: hears of each step, from several threads but one at a time.
            aot: whether Kafka's start-up cache is made and used.
            brokers: how many there are, one or three.
            kafka_door: a second way in to the broker, where there is one.
            adapt: has the last word on how a service or counterpart is run.

        Raises:
            UnknownPartError: of `parts`, or of the names in `environments`.
            ValueError: another number of brokers, or a second door to three of them.
        """
        if brokers not in BROKERS or (kafka_door is not None and brokers != 1):
            raise ValueError(f"{brokers} brokers, door {kafka_door}: one broker, or three as such")
        self._brokers = brokers
        self._kafka_door = kafka_door
        self._adapt = adapt or (lambda spec, _state: spec)
        self.parts = frozenset(PARTS if parts is None else parts)
        unknown = (self.parts | set(environments or {})) - PARTS
        if unknown:
            raise UnknownPartError(unknown=unknown)
        self.directory = StackDirectory.of(name=name)
        self._fresh = fresh
        self._aot = aot
        self._environments = dict(environments or {})
        self._on_event = on_event or (lambda _event: None)
        self._event_lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._began = time.monotonic()
        self._state: StackState | None = None
        self._lock: FileLock | None = None
        self._ports: PortBlock | None = None
        self._watchdog: Watchdog | None = None
        self._kafka: KafkaBroker | KafkaCluster | None = None
        self._postgres: PostgresServer | None = None
        self._supervisor: Supervisor | None = None

    @property
    def state(self) -> StackState:
        """What runs and how to reach it."""
        return _up(self._state)

    @property
    def kafka(self) -> KafkaBroker | KafkaCluster:
        """The broker, or all: may be stopped, killed, wiped and started while the stack is up."""
        if self._kafka is None:
            raise RuntimeError(_NOT_UP)
        return self._kafka

    @property
    def brokers(self) -> tuple[KafkaBroker, ...]:
        """Each broker by itself."""
        kafka = self.kafka
        return kafka.brokers if isinstance(kafka, KafkaCluster) else (kafka,)

    @property
    def postgres(self) -> PostgresServer:
        """The database server: may be stopped, killed and started while the stack is up."""
        return _up(self._postgres)

    @property
    def supervisor(self) -> Supervisor:
        """The services and counterparts: may be stopped, killed and resumed by name."""
        return _up(self._supervisor)

    def up(self) -> StackState:
        """Starts everything and returns when all of it is ready.

        When anything fails, or the wait is interrupted, what was started is stopped again.

        Raises:
            StackRunningError: a stack of this name is up.
            ProcessFailedError: a part did not start; names its log and the end of that.
            ArtifactUnavailableError, PostgresNotFoundError: a server cannot be had.
        """
        self._began = time.monotonic()
        self._lock = self.directory.acquire()
        try:
            self._prepare()
            self._start_parts()
            self._change_state({"ready": True})
        except BaseException:
            self.down()
            raise
        return self.state

    def down(self) -> None:
        """Stops everything, services first, and gives the name and the ports back."""
        self._began = time.monotonic()
        if self._supervisor is not None:
            self._emit("services", "stopping")
            self._supervisor.close()
        if self._postgres is not None:
            self._postgres.stop()
        if self._kafka is not None:
            self._kafka.stop()
        if self._watchdog is not None:
            self._watchdog.close()
        if self._lock is not None:
            self.directory.state_path.unlink(missing_ok=True)
            self._emit("stack", "stopped")
        if self._ports is not None:
            self._ports.release()
        if self._lock is not None:
            self._lock.release()
        self._state = self._kafka = self._postgres = self._supervisor = None
        self._watchdog = self._ports = self._lock = None

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.down()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.up)
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await asyncio.to_thread(self.down)

    def _prepare(self) -> None:
        left = self.directory.clean_up()
        if left:
            self._emit("stack", "progress", f"ended what a killed stack left: {', '.join(left)}")
        if self._fresh:
            self.directory.wipe()
        self.directory.data.mkdir(exist_ok=True)
        self.directory.turn_logs()
        self._ports = PortBlock.claim(seed=self.directory.name)
        self._watchdog = Watchdog()
        owner = ProcessIdentity.of(os.getpid())
        watchdog = ProcessIdentity.of(self._watchdog.pid)
        assert owner is not None
        assert watchdog is not None
        self._state = describe(
            directory=self.directory,
            ports=self._ports,
            secrets=self.directory.secrets(sources=WEBHOOK_SOURCES, roles=ROLES),
            owner=owner,
            brokers=self._brokers,
        )
        self._supervisor = Supervisor(
            log_dir=self.directory.logs, watchdog=self._watchdog, on_start=self._note_process
        )
        self._change_state({"processes": {"watchdog": watchdog}})

    def _start_parts(self) -> None:
        pool = ThreadPoolExecutor(max_workers=2 * len(PARTS), thread_name_prefix="stack")
        steps: dict[str, Future[None]] = {}

        def step(name: str, work: Callable[[], None], *, after: tuple[str, ...] = ()) -> None:
            # Only earlier steps can be waited for, so that no two ever wait for each other; what
            # was left out of this stack is not waited for.
            needed = [steps[one] for one in after if one in steps]
            steps[name] = pool.submit(self._step, name=name, work=work, needed=needed)

        try:
            if "kafka" in self.parts:
                step("kafka", self._start_kafka)
                if self.parts & set(SERVICES):
                    step("topics", self._create_topics, after=("kafka",))
            if "postgres" in self.parts:
                step("postgres", self._start_postgres)
            if self.parts & set(SERVICES):
                step("migrations", self._migrate, after=("postgres",))
            for name in sorted(self.parts & set(COUNTERPARTS)):
                own_schema = name == "cis"
                step(
                    name,
                    partial(self._start_process, name),
                    after=("postgres",) if own_schema else (),
                )
            for name in sorted(self.parts & set(SERVICES)):
                step(
                    name,
                    partial(self._start_process, name),
                    after=("topics", "migrations"),
                )
            done, _ = wait(steps.values(), return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _step(self, *, name: str, work: Callable[[], None], needed: list[Future[None]]) -> None:
        wait(needed, return_when=FIRST_EXCEPTION)
        for future in needed:
            future.result()
        self._emit(name, "starting")
        try:
            work()
        except Exception as error:
            self._emit(name, "failed", str(error))
            raise
        self._emit(name, "ready")

    def _start_kafka(self) -> None:
        assert self._ports is not None
        assert self._watchdog is not None
        runtime = prepare_runtime(
            watchdog=self._watchdog,
            aot=self._aot,
            progress=lambda text: self._emit("kafka", "progress", text),
        )
        controllers = [_broker_name("kafka controller", n) for n in range(self._brokers)]
        if self._brokers > 1:
            self._kafka = KafkaCluster(
                runtime=runtime,
                data_dir=self.directory.data / "kafka",
                ports=tuple(_port_of(each) for each in self.state.kafka_bootstrap.split(",")),
                controller_ports=tuple(self._ports.port(name) for name in controllers),
                log_dir=self.directory.logs,
                watchdog=self._watchdog,
                on_start=self._note_process,
            )
        else:
            self._kafka = KafkaBroker(
                runtime=runtime,
                data_dir=self.directory.data / "kafka",
                port=self._ports.port("kafka"),
                controller_port=self._ports.port(controllers[0]),
                log_path=self.state.log_paths["kafka"],
                watchdog=self._watchdog,
                on_start=lambda identity: self._note_process("kafka", identity),
                door=self._kafka_door,
            )
        self._kafka.start()

    def _start_postgres(self) -> None:
        assert self._watchdog is not None
        secrets = self.state.secrets
        self._postgres = PostgresServer(
            data_dir=self.directory.data / "postgres",
            port=self.state.postgres_port,
            log_path=self.state.log_paths["postgres"],
            superuser_password=secrets.postgres_superuser_password,
            watchdog=self._watchdog,
            on_start=lambda identity: self._note_process("postgres", identity),
        )
        self._postgres.start()
        self._postgres.ensure_roles(passwords=secrets.postgres_passwords)

    def _create_topics(self) -> None:
        bootstrap = self.state.kafka_bootstrap
        copies = ("--replication-factor", str(self._brokers))
        self._run("topics", "shared.contracts.topics", "--bootstrap", bootstrap, *copies, env={})

    def _migrate(self) -> None:
        services = sorted(self.parts & set(SERVICES))
        env: dict[str, str] = {}
        for service in services:
            env |= service_environment(service=service, state=self.state)
            env |= self._environments.get(service, {})
        packages = [service.replace("-", "_") for service in services]
        self._run("migrations", "paypost.stack.migrations", *packages, env=env)

    def _run(self, name: str, module: str, *arguments: str, env: Environment) -> None:
        """Runs a module of ours to its end, with its output in a log."""
        assert self._watchdog is not None
        child = ChildProcess(
            name=name,
            command=(sys.executable, "-m", module, *arguments),
            env=inherited_environment(environ=os.environ) | dict(env),
            log_path=self.directory.logs / f"{name}.log",
            watchdog=self._watchdog,
        )
        if child.wait(timeout_seconds=READY_TIMEOUT_SECONDS) != 0:
            returncode = child.returncode
            child.kill()
            reason = f"{module} {' '.join(arguments)} failed".rstrip()
            raise ProcessFailedError(
                name=name, reason=reason, returncode=returncode, log_path=child.log_path
            )

    def _start_process(self, name: str) -> None:
        spec = process_spec(
            name=name,
            state=self.state,
            environ=os.environ,
            overrides=self._environments.get(name, {}),
        )
        self.supervisor.start(self._adapt(spec, self.state))
        self.supervisor.wait_ready(name=name, timeout_seconds=READY_TIMEOUT_SECONDS)

    def _note_process(self, name: str, identity: ProcessIdentity) -> None:
        with self._state_lock:
            if self._state is not None:
                processes = self._state.processes | {name: identity}
                self._state = self._state.model_copy(update={"processes": processes})
                self._state.save(path=self.directory.state_path)

    def _change_state(self, update: Mapping[str, object]) -> None:
        with self._state_lock:
            self._state = self.state.model_copy(update=update)
            self._state.save(path=self.directory.state_path)

    def _emit(
        self,
        part: str,
        phase: Literal["starting", "progress", "ready", "failed", "stopping", "stopped"],
        detail: str = "",
    ) -> None:
        with self._event_lock:
            self._on_event(
                StackEvent(
                    part=part,
                    phase=phase,
                    detail=detail,
                    elapsed_seconds=time.monotonic() - self._began,
                )
            )


_T = TypeVar("_T")
_NOT_UP = "this part of the stack is not up"


def _up(part: _T | None) -> _T:
    if part is None:
        raise RuntimeError(_NOT_UP)
    return part


def _broker_name(name: str, number: int) -> str:
    return name if number == 0 else f"{name} {number + 1}"


def _port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

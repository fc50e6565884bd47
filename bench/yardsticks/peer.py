"""How a peer (tutorial, dbos, celery) is started as a yardstick: its database and its processes."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from bench.yardsticks.contract import (
    Surroundings,
    Workload,
    YardstickUnavailableError,
    database_name,
)
from bench.yardsticks.peer_steps import SCHEMA, PeerSettings
from paypost.stack.local import inherited_environment
from paypost.stack.supervisor import ProcessFailedError, ProcessSpec, RestartPolicy, Supervisor
from paypost.stack.watchdog import Watchdog

READY_SECONDS_MAX = 60.0
READY_FILE_VARIABLE = "PEER_READY_FILE"
CHECKOUT = Path(__file__).resolve().parents[2]


def say_ready() -> None:
    """Called by a process without a port of its own once it takes work."""
    Path(os.environ[READY_FILE_VARIABLE]).touch()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One process of a peer.

    Attributes:
        name: unique among them.
        command: program and arguments.
        port: it is ready when this accepts; without one, when it has called `say_ready`.
        takes_webhooks: started also where a run wants nothing but webhooks answered.
        environment: beside what all of them get.
    """

    name: str
    command: tuple[str, ...]
    port: int | None = None
    takes_webhooks: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def uvicorn_stage(*, name: str, application: str, port: int) -> Stage:
    """A web process as the documentations start it, without its access log."""
    return Stage(
        name=name,
        command=(
            *(sys.executable, "-m", "uvicorn", application, "--port", str(port)),
            *("--log-level", "warning", "--no-access-log"),
        ),
        port=port,
        takes_webhooks=True,
    )


class Peer:
    """What the peers' yardsticks have in common; see `bench.yardsticks.contract.Yardstick`.

    A subclass says its `name`, `libraries`, `defaults` and `schema`, and which `stages` it has.
    """

    name = ""
    libraries: Sequence[str] = ()
    """Their versions are stated, and without them it is not available."""
    defaults: Mapping[str, str] = {}
    """Its best setting, as found by trying; the README says what was tried."""
    schema = SCHEMA

    def __init__(self, *, tuning: Mapping[str, str] | None = None) -> None:
        """Args:
        tuning: wins over `defaults`.
        """
        self.tuning = {**self.defaults, **(tuning or {})}
        self.versions: Mapping[str, str] = {"python": sys.version.partition(" ")[0]}
        self._watchdog: Watchdog | None = None
        self._supervisor: Supervisor | None = None
        self._settings: PeerSettings | None = None
        self._surroundings: Surroundings | None = None

    @property
    def settings(self) -> PeerSettings:
        """What its processes are told."""
        assert self._settings is not None
        return self._settings

    @property
    def watchdog(self) -> Watchdog:
        """Keeps servers of its own from outliving it."""
        assert self._watchdog is not None
        return self._watchdog

    def stages(self) -> Sequence[Stage]:
        """Its processes in the order of their start."""
        raise NotImplementedError

    async def prepare(self, *, surroundings: Surroundings) -> None:
        """Before any process: servers and topics of its own."""

    async def dismantle(self) -> None:
        """After all processes: stops what `prepare` has started, wherever it stopped."""

    async def check(self) -> None:
        for library in self.libraries:
            try:
                self.versions = {**self.versions, library: version(library)}
            except PackageNotFoundError:
                raise YardstickUnavailableError(
                    yardstick=self.name,
                    missing=f"the package {library} is missing; `make bench-env` installs it",
                ) from None

    async def start(self, *, surroundings: Surroundings, workload: Workload) -> None:
        if workload.instances != 1:
            raise ValueError(f"{self.name} has its own best number of processes")
        await self.check()
        self._surroundings = surroundings
        self._watchdog = Watchdog()
        self._supervisor = Supervisor(log_dir=surroundings.work_dir, watchdog=self._watchdog)
        self._settings = PeerSettings(
            database_dsn=await self._make_database(surroundings=surroundings, workload=workload),
            kafka_bootstrap=surroundings.kafka_bootstrap,
            cis_url=surroundings.cis_url,
            cis_api_key=surroundings.cis_api_key,
            cis_connections_max=workload.cis_connections_max,
            cis_timeout_seconds=workload.cis_timeout_seconds,
            smtp_host=surroundings.smtp_host,
            smtp_port=surroundings.smtp_port,
            stripe_webhook_secret=surroundings.stripe_webhook_secret,
            city_time_zone=workload.city_time_zone,
            http_port=surroundings.http_port,
            tuning=self.tuning,
        )
        await self.prepare(surroundings=surroundings)
        await self._start(
            [s for s in self.stages() if s.takes_webhooks or not workload.intake_only]
        )

    async def start_rest(self) -> None:
        await self._start([stage for stage in self.stages() if not stage.takes_webhooks])

    @property
    def webhook_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.http_port}/webhooks/stripe"

    def processes(self) -> Mapping[str, int]:
        return self._supervisor.pids if self._supervisor is not None else {}

    async def stop(self) -> None:
        supervisor, self._supervisor = self._supervisor, None
        watchdog, self._watchdog = self._watchdog, None
        try:
            if supervisor is not None:
                await asyncio.to_thread(supervisor.close)
            await self.dismantle()
        finally:
            if watchdog is not None:
                watchdog.close()

    async def _start(self, stages: Sequence[Stage]) -> None:
        assert self._supervisor is not None
        assert self._surroundings is not None
        ready_files = {
            stage.name: self._surroundings.work_dir / f"{stage.name}.ready" for stage in stages
        }
        for stage in stages:
            ready_files[stage.name].unlink(missing_ok=True)
            self._supervisor.start(
                ProcessSpec(
                    name=stage.name,
                    command=stage.command,
                    env={
                        **inherited_environment(environ=os.environ),
                        **self.settings.as_environment(),
                        "PYTHONPATH": str(CHECKOUT),
                        READY_FILE_VARIABLE: str(ready_files[stage.name]),
                        **stage.environment,
                    },
                    ready_port=stage.port,
                    restart=RestartPolicy(),
                )
            )
        for stage in stages:
            await asyncio.to_thread(
                self._supervisor.wait_ready, name=stage.name, timeout_seconds=READY_SECONDS_MAX
            )
            if stage.port is None:
                await asyncio.to_thread(
                    self._await_file, name=stage.name, path=ready_files[stage.name]
                )

    def _await_file(self, *, name: str, path: Path) -> None:
        assert self._supervisor is not None
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not path.exists():
            if time.monotonic() > deadline:
                raise ProcessFailedError(
                    name=name,
                    reason=f"not ready after {READY_SECONDS_MAX:g} s",
                    returncode=None,
                    log_path=self._supervisor.log_path(name=name),
                )
            time.sleep(0.05)

    async def _make_database(self, *, surroundings: Surroundings, workload: Workload) -> str:
        """A database of a role of its own, with its tables and the run's customers."""
        database = database_name(yardstick=self.name)
        password = secrets.token_hex(16)
        server = await asyncpg.connect(surroundings.postgres_superuser_dsn)
        try:
            await server.execute(f"CREATE ROLE {database} LOGIN PASSWORD '{password}'")
            await server.execute(f"CREATE DATABASE {database} OWNER {database}")
        finally:
            await server.close()
        address = urlsplit(surroundings.postgres_superuser_dsn)
        dsn = f"postgresql://{database}:{password}@{address.hostname}:{address.port}/{database}"
        own = await asyncpg.connect(dsn)
        try:
            await own.execute(self.schema)
            await own.copy_records_to_table(
                "customers",
                columns=("account", "name", "email"),
                records=[(c.account, c.name, c.email) for c in workload.customers.values()],
            )
        finally:
            await own.close()
        return dsn

"""The product as a yardstick: its four services as they are deployed, with their default settings.

What differs from the defaults: the secrets and addresses of the run's surroundings, the number of
CIS connections, and, where a run forbids the many-in-one call, the single one.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import asyncpg

from bench.yardsticks.contract import Surroundings, Workload
from paypost.stack.local import (
    READY_TIMEOUT_SECONDS,
    SERVICES,
    SERVICES_WITH_API,
    inherited_environment,
    process_spec,
    service_environment,
)
from paypost.stack.state import StackState
from paypost.stack.supervisor import ChildProcess, ProcessFailedError, ProcessSpec, Supervisor
from paypost.stack.watchdog import Watchdog
from paypost.traffic.customers import register

INTAKE = "payment-intake"
NOTIFIER = "notifier"


class PaypostYardstick:
    """See `bench.yardsticks.contract.Yardstick`."""

    name = "paypost"
    versions: Mapping[str, str]

    def __init__(self, *, settings: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """Args:
        settings: by service, environment variables that win over everything else.
        """
        self.versions = {"python": platform.python_version()}
        self._settings = settings or {}
        self._watchdog: Watchdog | None = None
        self._supervisor: Supervisor | None = None
        self._state: StackState | None = None
        self._surroundings: Surroundings | None = None
        self._workload: Workload | None = None

    async def check(self) -> None:
        """Everything that it needs is in the environment that runs this."""

    async def start(self, *, surroundings: Surroundings, workload: Workload) -> None:
        self._surroundings, self._workload = surroundings, workload
        self._state = StackState.load(surroundings.stack_name)
        self._watchdog = Watchdog()
        self._supervisor = Supervisor(log_dir=surroundings.work_dir, watchdog=self._watchdog)
        await asyncio.to_thread(self._prepare)
        await asyncio.to_thread(
            self._start_services, (INTAKE,) if workload.intake_only else SERVICES
        )
        if not workload.intake_only:
            await self._register()

    async def start_rest(self) -> None:
        # Who cannot be reached when a payment is posted is not told of it: customers come first.
        await asyncio.to_thread(self._start_services, (NOTIFIER,))
        await self._register()
        rest = tuple(service for service in SERVICES if service not in {INTAKE, NOTIFIER})
        await asyncio.to_thread(self._start_services, rest)

    @property
    def webhook_url(self) -> str:
        return self.webhook_urls[0]

    @property
    def webhook_urls(self) -> tuple[str, ...]:
        """One for each instance of payment-intake; what sends shares itself out among them."""
        surroundings, workload = self._given()
        return tuple(
            f"http://127.0.0.1:{_port_of(surroundings, INTAKE, 'http', instance)}/webhooks/stripe"
            for instance in range(workload.instances)
        )

    def processes(self) -> Mapping[str, int]:
        return self._supervisor.pids if self._supervisor is not None else {}

    async def stop_services(self) -> None:
        """Stop them all; their tables are left to whoever fills them."""
        assert self._supervisor is not None
        for name in self._supervisor.names:
            await asyncio.to_thread(self._supervisor.stop, name=name)

    async def resume_services(self) -> None:
        """Start them again as they were, and return when they are ready."""
        assert self._supervisor is not None
        for name in self._supervisor.names:
            self._supervisor.resume(name=name)
        for name in self._supervisor.names:
            await asyncio.to_thread(
                self._supervisor.wait_ready, name=name, timeout_seconds=READY_TIMEOUT_SECONDS
            )

    async def stop(self) -> None:
        supervisor, watchdog = self._supervisor, self._watchdog
        self._supervisor = self._watchdog = None
        if supervisor is not None:
            await asyncio.to_thread(supervisor.close)
        if watchdog is not None:
            watchdog.close()

    def _given(self) -> tuple[Surroundings, Workload]:
        assert self._surroundings is not None
        assert self._workload is not None
        return self._surroundings, self._workload

    def _prepare(self) -> None:
        """Topics and tables, all at once: they do not need each other."""
        assert self._state is not None
        modules = {
            "topics": ("shared.contracts.topics", "--bootstrap", self._state.kafka_bootstrap)
        } | {f"{name}-migrate": (name.replace("-", "_"), "migrate") for name in SERVICES}
        with ThreadPoolExecutor(max_workers=len(modules)) as pool:
            for done in [pool.submit(self._run, name, *args) for name, args in modules.items()]:
                done.result()

    def _run(self, name: str, module: str, *arguments: str) -> None:
        assert self._state is not None
        assert self._watchdog is not None
        surroundings, _ = self._given()
        service = name.removesuffix("-migrate")
        settings = (
            service_environment(service=service, state=self._state) if service != name else {}
        )
        child = ChildProcess(
            name=name,
            command=(sys.executable, "-m", module, *arguments),
            env=inherited_environment(environ=os.environ) | settings,
            log_path=surroundings.work_dir / f"{name}.log",
            watchdog=self._watchdog,
        )
        if child.wait(timeout_seconds=READY_TIMEOUT_SECONDS) != 0:
            returncode = child.returncode
            child.kill()
            raise ProcessFailedError(
                name=name,
                reason=f"{module} failed",
                returncode=returncode,
                log_path=Path(child.log_path),
            )

    def _start_services(self, services: tuple[str, ...]) -> None:
        assert self._supervisor is not None
        _, workload = self._given()
        specs = [
            self._spec(service, instance)
            for service in services
            for instance in range(workload.instances)
        ]
        for spec in specs:
            self._supervisor.start(spec)
        for spec in specs:
            self._supervisor.wait_ready(name=spec.name, timeout_seconds=READY_TIMEOUT_SECONDS)

    def _spec(self, service: str, instance: int) -> ProcessSpec:
        assert self._state is not None
        surroundings, workload = self._given()
        prefix = service.replace("-", "_").upper()
        name = service if instance == 0 else f"{service}-{instance + 1}"
        ops_port = _port_of(surroundings, service, "ops", instance, state=self._state)
        own = {
            f"{prefix}_KAFKA_GROUP_INSTANCE_ID": name,
            f"{prefix}_OPS_PORT": str(ops_port),
        }
        if service in SERVICES_WITH_API:
            http_port = _port_of(surroundings, service, "http", instance, state=self._state)
            own[f"{prefix}_HTTP_PORT"] = str(http_port)
        if service == "cis-poster":
            own["CIS_POSTER_CIS_CONNECTIONS_MAX"] = str(workload.cis_connections_max)
            own["CIS_POSTER_CIS_TIMEOUT_SECONDS"] = str(workload.cis_timeout_seconds)
            if workload.cis_calls == "one":
                own["CIS_POSTER_CIS_BATCH_SIZE"] = "1"
        spec = process_spec(
            name=service,
            state=self._state,
            environ=os.environ,
            overrides=own | dict(self._settings.get(service, {})),
        )
        return replace(spec, name=name, ready_url=f"http://127.0.0.1:{ops_port}/readyz")

    async def _register(self) -> None:
        assert self._state is not None
        _, workload = self._given()
        connection = await asyncpg.connect(self._state.superuser_dsn)
        try:
            await register(
                state=self._state,
                connection=connection,
                customers=tuple(workload.customers.values()),
            )
        finally:
            await connection.close()


_FURTHER = tuple((service, kind) for service in SERVICES for kind in ("ops", "http"))
"""What a second instance needs a port for, in the order of the spare ports that it takes."""


def _port_of(
    surroundings: Surroundings,
    service: str,
    kind: str,
    instance: int,
    *,
    state: StackState | None = None,
) -> int:
    if instance > 0:
        return surroundings.spare_ports[
            (instance - 1) * len(_FURTHER) + _FURTHER.index((service, kind))
        ]
    if service == INTAKE and kind == "http":
        return surroundings.http_port
    assert state is not None
    urls = state.ops_urls if kind == "ops" else state.http_urls
    return int(urls[service].rpartition(":")[2])

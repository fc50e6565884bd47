"""Celery as a yardstick, once with RabbitMQ and once with Redis: broker, web process, workers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.yardsticks.celery.debian import PackagesUnavailableError
from bench.yardsticks.celery.servers import Broker, RabbitMq, Redis, RunningBroker
from bench.yardsticks.contract import Surroundings, YardstickUnavailableError
from bench.yardsticks.peer import Peer, Stage, uvicorn_stage

PORTS = 3


class _Celery(Peer):
    """What both have in common."""

    broker_type: type[Broker]

    def __init__(self, *, tuning: Mapping[str, str] | None = None) -> None:
        super().__init__(tuning=tuning)
        self._broker = RunningBroker(broker=self.broker_type())

    async def check(self) -> None:
        await super().check()
        if not self._broker.available():
            package = self._broker.broker.package
            raise YardstickUnavailableError(
                yardstick=self.name,
                missing=f"{package} is missing, and apt-get and dpkg, which would fetch it, too",
            )

    async def prepare(self, *, surroundings: Surroundings) -> None:
        try:
            await asyncio.to_thread(
                self._broker.start,
                directory=surroundings.work_dir,
                ports=surroundings.spare_ports[:PORTS],
                watchdog=self.watchdog,
            )
        except PackagesUnavailableError as error:
            raise YardstickUnavailableError(yardstick=self.name, missing=str(error)) from error
        self.versions = {**self.versions, self._broker.broker.name: self._broker.version}
        processes = int(self.tuning["worker_processes"])
        own = {
            "broker_url": self._broker.url,
            "cis_connections": str(max(1, self.settings.cis_connections_max // processes)),
        }
        self._settings = replace(self.settings, tuning={**self.tuning, **own})

    async def dismantle(self) -> None:
        await asyncio.to_thread(self._broker.stop)

    def processes(self) -> Mapping[str, int]:
        return {**super().processes(), **self._broker.processes()}

    def stages(self) -> Sequence[Stage]:
        package = "bench.yardsticks.celery"
        return [
            *(self._worker(number) for number in range(int(self.tuning["worker_processes"]))),
            uvicorn_stage(
                name="intake", application=f"{package}.intake:app", port=self.settings.http_port
            ),
        ]

    def _worker(self, number: int) -> Stage:
        name = f"worker-{number + 1}"
        return Stage(
            name=name,
            command=(
                *(sys.executable, "-m", "celery", "--app", "bench.yardsticks.celery.tasks"),
                *("worker", "--hostname", f"{name}@%h", "--loglevel", "WARNING"),
                *("--pool", self.tuning["pool"], "--concurrency", self.tuning["concurrency"]),
                *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            ),
        )


_LIBRARIES = ("celery", "kombu", "fastapi", "psycopg", "urllib3")
_DEFAULTS = {
    "pool": "threads",
    "worker_processes": "2",
    "concurrency": "16",
    "prefetch_multiplier": "4",
    "tasks": "one",
    "broker_pool_limit": "32",
    "intake_threads": "64",
    "ledger_pool_size": "16",
}


class CeleryRabbitmqYardstick(_Celery):
    """See README.md."""

    name = "celery-rabbitmq"
    libraries = (*_LIBRARIES, "amqp")
    broker_type = RabbitMq
    defaults: Mapping[str, str] = _DEFAULTS


class CeleryRedisYardstick(_Celery):
    """See README.md."""

    name = "celery-redis"
    libraries = (*_LIBRARIES, "redis")
    broker_type = Redis
    defaults: Mapping[str, str] = _DEFAULTS

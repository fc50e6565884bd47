"""The floor as a yardstick: its database, its topics, its three processes."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import for_code

from bench.yardsticks.contract import Surroundings, Workload, database_name
from bench.yardsticks.floor.stage import PARTITIONS, TOPICS, Settings
from paypost.stack.supervisor import ProcessSpec, RestartPolicy, Supervisor, tail
from paypost.stack.watchdog import Watchdog

STAGES = ("intake", "poster", "notifier")
READY_SECONDS_MAX = 30.0
_CHECKOUT = Path(__file__).resolve().parents[3]
_LIBRARIES = ("aiokafka", "asyncpg", "orjson", "uvicorn", "uvloop", "httptools")


class FloorNotReadyError(Exception):
    """A stage did not come to work.

    Attributes:
        stage: which.
    """

    def __init__(self, *, stage: str, log: str) -> None:
        super().__init__(f"{stage} is not ready after {READY_SECONDS_MAX:g} s; its log:\n{log}")
        self.stage = stage


class FloorYardstick:
    """See README.md."""

    name = "floor"
    versions: Mapping[str, str] = {
        "python": sys.version.partition(" ")[0],
        **{each: version(each) for each in _LIBRARIES},
    }

    def __init__(self, *, announce_again_seconds: float = 30.0) -> None:
        """`announce_again_seconds` is the age at which an unconfirmed payment is said again."""
        self._announce_again_seconds = announce_again_seconds
        self._watchdog: Watchdog | None = None
        self._supervisor: Supervisor | None = None
        self._settings: Settings | None = None
        self._url = ""

    async def check(self) -> None:
        """Nothing is needed that the checkout has not got."""

    async def start(self, *, surroundings: Surroundings, workload: Workload) -> None:
        if workload.instances != 1:
            raise ValueError("each stage of the floor is one process")
        dsn = await _make_database(surroundings=surroundings, workload=workload)
        await _make_topics(bootstrap=surroundings.kafka_bootstrap)
        self._settings = Settings(
            database_dsn=dsn,
            kafka_bootstrap=surroundings.kafka_bootstrap,
            cis_url=surroundings.cis_url,
            cis_api_key=surroundings.cis_api_key,
            cis_calls=workload.cis_calls,
            cis_connections_max=workload.cis_connections_max,
            cis_timeout_seconds=workload.cis_timeout_seconds,
            smtp_host=surroundings.smtp_host,
            smtp_port=surroundings.smtp_port,
            stripe_webhook_secret=surroundings.stripe_webhook_secret,
            http_port=surroundings.http_port,
            city_time_zone=workload.city_time_zone,
            currency=workload.currency,
            announce_again_seconds=self._announce_again_seconds,
            ready_dir=str(surroundings.work_dir),
        )
        self._url = f"http://127.0.0.1:{surroundings.http_port}/webhooks/stripe"
        self._watchdog = Watchdog()
        self._supervisor = Supervisor(log_dir=surroundings.work_dir, watchdog=self._watchdog)
        await self._start(STAGES[:1] if workload.intake_only else STAGES)

    async def start_rest(self) -> None:
        await self._start(STAGES[1:])

    @property
    def webhook_url(self) -> str:
        return self._url

    @property
    def supervisor(self) -> Supervisor:
        """The stages by name, to be killed one by one."""
        assert self._supervisor is not None
        return self._supervisor

    def processes(self) -> Mapping[str, int]:
        return self._supervisor.pids if self._supervisor is not None else {}

    async def stop(self) -> None:
        if self._supervisor is not None:
            await asyncio.to_thread(self._supervisor.close)
        if self._watchdog is not None:
            self._watchdog.close()
        self._supervisor = self._watchdog = None

    async def _start(self, stages: tuple[str, ...]) -> None:
        assert self._settings is not None
        ready_dir = Path(self._settings.ready_dir)
        for stage in stages:
            (ready_dir / stage).unlink(missing_ok=True)
            self.supervisor.start(
                ProcessSpec(
                    name=stage,
                    command=(sys.executable, "-m", f"bench.yardsticks.floor.{stage}"),
                    env={
                        **os.environ,
                        "PYTHONPATH": os.pathsep.join(
                            [str(_CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
                        ),
                        "FLOOR_SETTINGS": json.dumps(asdict(self._settings)),
                    },
                    drain_timeout_seconds=5.0,
                    restart=RestartPolicy(delay_seconds=0.05),
                )
            )
        deadline = time.monotonic() + READY_SECONDS_MAX
        for stage in stages:
            while not (ready_dir / stage).exists():
                if time.monotonic() > deadline:
                    log = tail(path=self.supervisor.log_path(name=stage))
                    raise FloorNotReadyError(stage=stage, log=log)
                await asyncio.sleep(0.02)


async def _make_database(*, surroundings: Surroundings, workload: Workload) -> str:
    """Make role, database, tables and contacts; the role's address of it."""
    name, password = database_name(yardstick=FloorYardstick.name), secrets.token_hex(16)
    server = await asyncpg.connect(surroundings.postgres_superuser_dsn)
    try:
        await server.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        await server.execute(f"CREATE DATABASE {name} OWNER {name}")
    finally:
        await server.close()
    address = urlsplit(surroundings.postgres_superuser_dsn)
    place = address.netloc.rpartition("@")[2]
    dsn = address._replace(netloc=f"{name}:{password}@{place}", path=f"/{name}").geturl()
    database = await asyncpg.connect(dsn)
    try:
        await database.execute(Path(__file__).with_name("schema.sql").read_text())
        await database.copy_records_to_table(
            "contacts",
            records=[(each.account, each.name, each.email) for each in workload.customers.values()],
        )
        await database.execute("ANALYZE contacts")
    finally:
        await database.close()
    return dsn


async def _make_topics(*, bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        response = await admin.create_topics(
            [
                NewTopic(name=topic, num_partitions=PARTITIONS, replication_factor=1)
                for topic in TOPICS
            ]
        )
    finally:
        await admin.close()
    for topic, code, *message in response.topic_errors:
        if code != 0:
            raise for_code(code)(f"{topic}: {message}")

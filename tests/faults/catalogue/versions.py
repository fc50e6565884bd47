"""Faults of an upgrade: the schema changed under load, two versions side by side."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from tests.faults.controls import free_port
from tests.faults.load import Shape
from tests.faults.registry import Environments, Fault, Needs, fault
from tests.faults.run import Run
from tests.faults.violations import Violation

from paypost.stack.local import LocalStack
from paypost.stack.supervisor import ProcessSpec

ROOT = Path(__file__).parents[3]
GIT_SECONDS_MAX = 60.0
MIGRATE_SECONDS_MAX = 60.0
SIDE_BY_SIDE_SECONDS = 5.0
UPGRADED = {
    "payment-intake": ("0002_charges.py", 1),
    "notifier": ("0002_notices_of_autopay.py", 2),
}
"""By service, the revision that the older version does not know, and how many follow with it.

No other service's schema has changed since the service was there.
"""


class HistoryMissingError(Exception):
    """The checkout does not hold the older version.

    Attributes:
        reason: in git's words.
    """

    def __init__(self, *, reason: str) -> None:
        super().__init__(f"the version before is not in this checkout's history: {reason}")
        self.reason = reason


def version_before(*, service: str) -> str:
    """The commit before the one that brought the service's newer schema.

    Raises:
        HistoryMissingError: there is no git, or its history does not reach that far.
    """
    package = service.replace("-", "_")
    revision, _ = UPGRADED[service]
    path = f"services/{service}/src/{package}/migrations/versions/{revision}"
    brought = _git("log", "--diff-filter=A", "--format=%H", "--", path).split()
    if not brought:
        raise HistoryMissingError(reason=f"no commit brought {revision}")
    return _git("rev-parse", "--verify", f"{brought[-1]}^").strip()


def unpack(commit: str, *, into: Path) -> None:
    """Put the code of a commit into a folder. Raises HistoryMissingError."""
    archive = _git_bytes("archive", "--format=tar", commit, "services", "shared")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(into, filter="data")


def _git(*arguments: str) -> str:
    return _git_bytes(*arguments).decode()


def _git_bytes(*arguments: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            capture_output=True,
            check=False,
            timeout=GIT_SECONDS_MAX,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HistoryMissingError(reason=str(error)) from error
    if done.returncode:
        raise HistoryMissingError(reason=done.stderr.decode(errors="replace").strip())
    return done.stdout


def _older(name: str, environments: Environments) -> LocalStack:
    return LocalStack(name=name, environments=environments, fresh=True)


@fault(
    30,
    title="migration under load; old and new version side by side",
    how="payment-intake and notifier of the commit before their last change of the schema, on that "
    "schema; under load the migration, then the new version beside the old one, then the old one "
    "stopped",
    oracles="LDANO",
    touches=("payment-intake", "notifier", "postgres"),
    repeats_mails=True,
    mixes=False,
)
class Upgrade(Fault):
    """The older payment-intake knows no autopay, so the load has none."""

    needs: ClassVar[Needs] = Needs(key="versions", open=_older)
    shape = Shape(payments=150, tail=16, charges=0, accounts=40)
    hold_seconds = 1.0
    breaking_seconds = 20.0

    def unavailable(self) -> str | None:
        try:
            for service in UPGRADED:
                version_before(service=service)
        except HistoryMissingError as error:
            return str(error)
        return None

    async def prepare(self, run: Run) -> None:
        self.specs: dict[str, ProcessSpec] = {}
        self.ops_ports: dict[str, int] = {}
        for service, (_, revisions) in UPGRADED.items():
            commit = await run.blocking(lambda name=service: version_before(service=name))
            folder = run.load.folder / f"{service}-before"
            await run.blocking(lambda c=commit, f=folder: unpack(c, into=f))
            supervisor = run.stack.supervisor
            self.specs[service] = spec = supervisor._get(service).spec
            await run.blocking(supervisor.stop, name=service)
            await self._migrate(run, service, f"-{revisions}")
            package = service.replace("-", "_")
            path = f"{folder}/services/{service}/src:{folder}/shared/src"
            old = replace(spec, env={**spec.env, "PYTHONPATH": path})
            await run.blocking(supervisor.start, old)
            await run.blocking(supervisor.wait_ready, name=service, timeout_seconds=40)
            await self._assert_old(run, service, folder / "services", package)
            run.note(**{f"{package}_before": commit[:7]})

    async def inject(self, run: Run) -> None:
        supervisor = run.stack.supervisor
        for service in UPGRADED:
            await self._migrate(run, service, "head")
        for spec in self.specs.values():
            await run.blocking(supervisor.start, self._beside(spec))
        for service in UPGRADED:
            await run.blocking(supervisor.wait_ready, name=f"{service} new", timeout_seconds=40)
        await asyncio.sleep(SIDE_BY_SIDE_SECONDS)
        for service, spec in self.specs.items():
            run.note(**{f"{service}_new_consumed": await self._consumed(run, service)})
            # In the old one's place, as a rolling upgrade does.
            await run.blocking(supervisor.start, spec)
            await run.blocking(supervisor.wait_ready, name=service, timeout_seconds=40)

    async def heal(self, run: Run) -> None:
        supervisor = run.stack.supervisor
        for service, spec in self.specs.items():
            await self._migrate(run, service, "head")
            if supervisor._get(service).spec != spec:
                await run.blocking(supervisor.start, spec)
            if f"{service} new" in supervisor.names:
                await run.blocking(supervisor.stop, name=f"{service} new")
        await run.controls.until_ready()

    async def check(self, run: Run) -> list[Violation]:
        return [
            Violation(oracle="fault", what=f"the new {service} took nothing beside the old one")
            for service in UPGRADED
            if not run.numbers.get(f"{service}_new_consumed")
        ]

    def _beside(self, spec: ProcessSpec) -> ProcessSpec:
        prefix = spec.name.replace("-", "_").upper()
        port = free_port()
        env = {**spec.env, f"{prefix}_OPS_PORT": str(port), f"{prefix}_HTTP_PORT": str(free_port())}
        # No static member: partitions are shared out between the two.
        env.pop(f"{prefix}_KAFKA_GROUP_INSTANCE_ID", None)
        self.ops_ports[spec.name] = port
        ready_url = f"http://127.0.0.1:{port}/readyz"
        return replace(spec, name=f"{spec.name} new", env=env, ready_url=ready_url)

    async def _migrate(self, run: Run, service: str, revision: str) -> None:
        package = service.replace("-", "_")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", package, "migrate", revision),
            env=dict(self.specs[service].env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        async with asyncio.timeout(MIGRATE_SECONDS_MAX):
            said, _ = await process.communicate()
        if process.returncode:
            raise OSError(f"{package} migrate {revision}: {said.decode()[-500:]}")

    async def _consumed(self, run: Run, service: str) -> float:
        url = f"http://127.0.0.1:{self.ops_ports[service]}"
        counters = await run.controls.counters_at(url)
        name = f"{service.replace('-', '_')}_consumed_records_total"
        return sum(value for label, value in counters.items() if label.startswith(name))

    async def _assert_old(self, run: Run, service: str, folder: Path, package: str) -> None:
        """Make sure that what runs is the code of the folder, not that of the checkout."""
        script = f"import {package}, sys; sys.stdout.write({package}.__file__)"
        env = dict(run.stack.supervisor._get(service).spec.env)
        told = await run.blocking(
            lambda: subprocess.run(
                [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
            )
        )
        if not told.stdout.startswith(str(folder)):
            raise OSError(f"{package} comes from {told.stdout}, not from {folder}")

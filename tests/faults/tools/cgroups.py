"""Control groups of version 1: what a set of processes may use, and whether it moves at all.

A group is made below this process's own and removed when it is left; its members then go back to
where they came from.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from uuid import uuid4

import psutil
from tests.faults.tools.machine import UnavailableError, Undo

from paypost.stack.watchdog import Watchdog

ROOT = Path("/sys/fs/cgroup")
SETTLE_SECONDS_MAX = 10.0


class ControlGroup:
    """One group of one controller, with the processes given and what they start; a context manager.

    Threads and processes that a member starts later are members too.
    """

    controller: ClassVar[str]

    def __init__(self, *, pids: Iterable[int], watchdog: Watchdog, log_path: Path) -> None:
        """Look whether a group can be made; makes none yet.

        Args:
            pids: the processes; their descendants at the time of entering go with them.
            watchdog: removes the group when this process dies.
            log_path: where what it says of that goes.

        Raises:
            UnavailableError: there is no such controller of version 1, or it is not ours to use.
        """
        mount = self.probe()
        self._pids = tuple(pids)
        self._folder = mount / f"paypost-{uuid4().hex[:12]}"
        self._came_from: dict[int, Path] = {}
        self._watchdog = watchdog
        self._log_path = log_path
        self._undo: Undo | None = None

    @classmethod
    def probe(cls) -> Path:
        """Where the controller is. Raises UnavailableError where it is not ours to use."""
        tool = f"the {cls.controller} control group"
        mount = ROOT / cls.controller
        if not (mount / "cgroup.procs").exists():
            raise UnavailableError(tool=tool, reason="no such controller of version 1")
        if not os.access(mount, os.W_OK):
            raise UnavailableError(tool=tool, reason=f"{mount} may not be written")
        return mount

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir()
        except OSError as error:
            raise UnavailableError(tool=str(self._folder), reason=str(error)) from error
        self._undo = Undo(*self._undoing(), watchdog=self._watchdog, log_path=self._log_path)
        try:
            self._configure()
            for pid in self._pids:
                for each in _with_descendants(pid):
                    self._take(each)
            self._apply()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Undo it: lift the limit, give the members back, remove the group."""
        if not self._folder.exists():
            return
        self._lift()
        deadline = time.monotonic() + SETTLE_SECONDS_MAX
        while True:
            for pid in self.members:
                home = self._came_from.get(pid, ROOT / self.controller)
                with suppress(OSError):
                    (home / "cgroup.procs").write_text(str(pid))
            try:
                self._folder.rmdir()
                break
            except OSError:
                # A member that is ending is one until it has ended.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        if self._undo is not None:
            self._undo.cancel()
            self._undo = None

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a command as a member from its first moment."""
        return ("/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self._folder))

    @property
    def members(self) -> tuple[int, ...]:
        """The processes in it now."""
        return tuple(map(int, self._read("cgroup.procs").split()))

    def _configure(self) -> None:
        """Before anybody is a member."""

    def _apply(self) -> None:
        """Once all are members."""

    def _lift(self) -> None:
        """Before anybody leaves."""

    def _undoing(self) -> list[list[str]]:
        # The members are the watchdog's to end; the group can go once they have.
        remove = f"for _ in 1 2 3 4 5 6 7 8 9; do rmdir {self._folder} && break; sleep 0.2; done"
        return [["/bin/sh", "-c", remove]]

    def _take(self, pid: int) -> None:
        with suppress(ProcessLookupError, FileNotFoundError):
            self._came_from[pid] = _home(pid, controller=self.controller)
            self._write("cgroup.procs", str(pid))

    def _write(self, name: str, value: str) -> None:
        (self._folder / name).write_text(value)

    def _read(self, name: str) -> str:
        return (self._folder / name).read_text()


class Frozen(ControlGroup):
    """Everything in it stands still: no signal tells it so, and none of it can be missed."""

    controller = "freezer"

    def _apply(self) -> None:
        self._write("freezer.state", "FROZEN")
        deadline = time.monotonic() + SETTLE_SECONDS_MAX
        while self._read("freezer.state").strip() != "FROZEN":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._folder} does not freeze")
            time.sleep(0.02)

    def _lift(self) -> None:
        self._write("freezer.state", "THAWED")

    def _undoing(self) -> list[list[str]]:
        # What is frozen cannot even be killed.
        thaw = f"echo THAWED > {self._folder}/freezer.state"
        return [["/bin/sh", "-c", thaw], *super()._undoing()]


class MemoryLimited(ControlGroup):
    """What it uses beyond the limit ends one of its processes, as the kernel chooses.

    What a process used before it became a member is not counted: start it by `prefix` to have all
    of it counted.
    """

    controller = "memory"

    def __init__(
        self, *, pids: Iterable[int], watchdog: Watchdog, log_path: Path, bytes_max: int
    ) -> None:
        super().__init__(pids=pids, watchdog=watchdog, log_path=log_path)
        self._bytes_max = bytes_max

    def limit(self, bytes_max: int) -> None:
        """Allow it this much from now on. Raises OSError where it uses more than that."""
        self._write("memory.limit_in_bytes", str(bytes_max))

    @property
    def kills(self) -> int:
        """How many processes the kernel has ended for it."""
        lines = dict(line.split() for line in self._read("memory.oom_control").splitlines())
        return int(lines.get("oom_kill", 0))

    @property
    def usage_bytes_max(self) -> int:
        """The most that was used at once."""
        return int(self._read("memory.max_usage_in_bytes"))

    def _configure(self) -> None:
        self._write("memory.limit_in_bytes", str(self._bytes_max))

    def _lift(self) -> None:
        self._write("memory.limit_in_bytes", "-1")


class CpuLimited(ControlGroup):
    """All of it together gets so much of a core, in slices of 100 ms."""

    controller = "cpu"
    PERIOD_US: ClassVar[int] = 100_000

    def __init__(
        self, *, pids: Iterable[int], watchdog: Watchdog, log_path: Path, cores: float
    ) -> None:
        super().__init__(pids=pids, watchdog=watchdog, log_path=log_path)
        self._cores = cores

    @property
    def throttled_seconds(self) -> float:
        """How long it had to wait for its next slice."""
        lines = dict(line.split() for line in self._read("cpu.stat").splitlines())
        return int(lines["throttled_time"]) / 1e9

    def _configure(self) -> None:
        self._write("cpu.cfs_period_us", str(self.PERIOD_US))
        self._write("cpu.cfs_quota_us", str(int(self._cores * self.PERIOD_US)))

    def _lift(self) -> None:
        self._write("cpu.cfs_quota_us", "-1")


def _with_descendants(pid: int) -> list[int]:
    try:
        process = psutil.Process(pid)
        return [pid, *(each.pid for each in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _home(pid: int, *, controller: str) -> Path:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return ROOT / controller / path.lstrip("/")
    return ROOT / controller

"""Where a benchmark was run: what its figures depend on."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("uvloop", "httptools", "asyncpg", "aiokafka", "faststream", "uvicorn", "orjson")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine at one time.

    Attributes:
        processor: its model.
        cores: that this process may use.
        memory_gib: in all.
        system: kernel and distribution.
        versions: of Python, the servers and the libraries that decide the speed.
        commit: of this checkout; `+` behind it where it was changed since.
        at: when, UTC.
    """

    processor: str
    cores: int
    memory_gib: float
    system: str
    versions: dict[str, str]
    commit: str
    at: datetime

    def __str__(self) -> str:
        return f"{self.processor}, {self.cores} cores, {self.memory_gib} GiB, {self.system}"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


class DiskTooSmallError(Exception):
    """There is not enough room for what is to be run.

    Attributes:
        path: where.
        needed_bytes, free_bytes: how much.
    """

    def __init__(self, *, path: Path, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"{path} has {free_bytes / 1e9:.1f} GB free; this needs {needed_bytes / 1e9:.1f} GB"
        )
        self.path = path
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


def require_space(*, path: Path, needed_bytes: int) -> None:
    """Raises DiskTooSmallError unless so much is free where this path is, or is going to be."""
    existing = next(each for each in (path, *path.parents) if each.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise DiskTooSmallError(path=existing, needed_bytes=needed_bytes, free_bytes=free_bytes)


def this_machine() -> Machine:
    """The machine that this runs on."""
    return Machine(
        processor=_first(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)") or platform.processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        system=f"{platform.system()} {platform.release()}, {_distribution()}",
        versions={"python": platform.python_version()} | _packages(),
        commit=_commit(),
        at=datetime.now(UTC).replace(microsecond=0),
    )


def _first(path: Path, pattern: str) -> str | None:
    try:
        found = re.search(pattern, path.read_text(errors="replace"))
    except OSError:
        return None
    return found[1].strip() if found else None


def _distribution() -> str:
    return _first(Path("/etc/os-release"), r'PRETTY_NAME="?([^"\n]+)') or "unknown"


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()

    head = git("rev-parse", "--short=12", "HEAD") or "unknown"
    # The report itself is written by the run that it tells of.
    changed = git("status", "--porcelain", "--", ".", ":!docs/benchmark")
    return f"{head}+" if changed else head

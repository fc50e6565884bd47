"""What the kernel and the database say of a run: CPU and memory by process, WAL written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from paypost.stack.supervisor import ProcessIdentity
from paypost.traffic.processes import Usage, read_usage

GENERATOR = "generator"
"""What sending costs this process is not read here: the servers are among its children."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Everything at one moment.

    Attributes:
        usage: by process, with all that it started.
        wal_bytes: written by PostgreSQL since it was made.
    """

    usage: Mapping[str, Usage]
    wal_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Of one process and what it started, in MB (10⁶ bytes)."""

    resident_mb: float
    peak_mb: float
    proportional_mb: float


async def read_all(*, processes: Mapping[str, int], connection: asyncpg.Connection) -> Reading:
    """Reads them; `processes` by name."""
    return Reading(
        usage=read_usage(processes=identities(processes=processes)),
        wal_bytes=int(await connection.fetchval("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")),
    )


def identities(*, processes: Mapping[str, int]) -> dict[str, ProcessIdentity]:
    """Those that are alive, so that a later process of the same number is not taken for one."""
    found = {name: ProcessIdentity.of(pid) for name, pid in processes.items()}
    return {name: identity for name, identity in found.items() if identity is not None}


def cpu_seconds(*, before: Reading, after: Reading) -> dict[str, float]:
    """What each process used between two readings; a restarted one counts from its start."""
    return {
        name: used.since(before.usage.get(name)).cpu_seconds for name, used in after.usage.items()
    }


def read_memory(*, processes: Mapping[str, int]) -> dict[str, Memory]:
    """The memory of each process, with those that it started."""
    children = _children()
    found = {}
    for name, pid in processes.items():
        pids = [pid]
        for each in pids:
            pids.extend(children.get(each, []))
        found[name] = Memory(
            resident_mb=sum(_field(each, "status", "VmRSS:") for each in pids),
            peak_mb=sum(_field(each, "status", "VmHWM:") for each in pids),
            proportional_mb=sum(_field(each, "smaps_rollup", "Pss:") for each in pids),
        )
    return found


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    return children


def _field(pid: int, file: str, name: str) -> float:
    try:
        lines = (
            Path(f"/proc/{pid}/{file}").read_text(encoding="ascii", errors="replace").split("\n")
        )
    except (OSError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))

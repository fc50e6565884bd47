"""What each process of a stack costs, read from the kernel: CPU seconds and resident memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from paypost.stack.supervisor import ProcessIdentity

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one process and those it started have used.

    Attributes:
        cpu_seconds: user and system, of ended children too.
        resident_mb: what stays in memory; a page that several of them share counts once.
        processes: how many there are.
    """

    cpu_seconds: float
    resident_mb: float
    processes: int

    def since(self, earlier: Usage | None) -> Usage:
        """The CPU used since an earlier reading; memory as it is now."""
        if earlier is None or earlier.cpu_seconds > self.cpu_seconds:
            return self
        return Usage(
            cpu_seconds=self.cpu_seconds - earlier.cpu_seconds,
            resident_mb=self.resident_mb,
            processes=self.processes,
        )


def read_usage(*, processes: Mapping[str, ProcessIdentity]) -> dict[str, Usage]:
    """By name, each with all of its descendants; empty without /proc."""
    table = dict(_read_table())
    children: dict[int, list[int]] = {}
    for pid, stat in table.items():
        children.setdefault(stat.parent, []).append(pid)
    found = {}
    for name, identity in processes.items():
        pids = [identity.pid] if identity.pid in table else []
        for pid in pids:
            pids.extend(children.get(pid, []))
        if pids:
            alone = len(pids) == 1
            found[name] = Usage(
                cpu_seconds=sum(table[pid].cpu_seconds for pid in pids),
                resident_mb=sum(table[pid].resident_mb if alone else _share(pid) for pid in pids),
                processes=len(pids),
            )
    return found


@dataclass(frozen=True, slots=True)
class _Stat:
    parent: int
    cpu_seconds: float
    resident_mb: float


def _read_table() -> Iterator[tuple[int, _Stat]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The numbers of proc(5), less the two fields up to the closing bracket.
        ticks = sum(int(field) for field in fields[11:15])
        yield (
            int(path.parent.name),
            _Stat(
                parent=int(fields[1]),
                cpu_seconds=ticks / _TICKS_PER_SECOND,
                resident_mb=int(fields[21]) * _PAGE_BYTES / 1e6,
            ),
        )


def _share(pid: int) -> float:
    """What a process among several holds, each shared page divided by those who share it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1000 for line in lines if line.startswith("Pss:"))

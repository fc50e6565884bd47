"""Processes that use all the CPU they get."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from paypost.stack.supervisor import ChildProcess
from paypost.stack.watchdog import Watchdog

# Ends by itself, so that not even a lost watchdog leaves one behind.
PROGRAM = """
import os, sys, time
os.nice(int(sys.argv[2]))
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    for _ in range(200_000):
        pass
"""
SECONDS_MAX = 600.0


class CpuBurner:
    """Busy loops, several for each core, as a neighbour on the same machine; a context manager."""

    def __init__(
        self,
        *,
        watchdog: Watchdog,
        log_path: Path,
        processes: int | None = None,
        niceness: int = 0,
        seconds_max: float = SECONDS_MAX,
    ) -> None:
        """Starts nothing yet.

        Args:
            watchdog: ends them when this process dies.
            log_path: where their output goes.
            processes: how many; by default three for each core.
            niceness: as whom they compete: 0 as equals, below 0 (root only) as betters.
            seconds_max: after which they end by themselves.
        """
        self._watchdog = watchdog
        self._log_path = log_path
        self._processes = processes or 3 * (os.cpu_count() or 1)
        self._niceness = niceness
        self._seconds_max = seconds_max
        self._children: list[ChildProcess] = []

    def __enter__(self) -> Self:
        arguments = (str(self._seconds_max), str(self._niceness))
        for number in range(self._processes):
            self._children.append(
                ChildProcess(
                    name=f"burner-{number}",
                    command=[sys.executable, "-I", "-S", "-c", PROGRAM, *arguments],
                    log_path=self._log_path,
                    watchdog=self._watchdog,
                )
            )
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for child in self._children:
            child.kill()
        self._children.clear()

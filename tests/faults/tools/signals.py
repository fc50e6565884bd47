"""A process, or a whole tree of them, that stands still and goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil


@contextmanager
def stopped(*pids: int, descendants: bool = False) -> Iterator[None]:
    """Within it, these processes are stopped by SIGSTOP; thawed however it is left.

    Args:
        pids: the processes.
        descendants: whether what they started stops too (a PostgreSQL's sessions).
    """
    frozen: list[int] = []
    try:
        freeze(*pids, descendants=descendants, into=frozen)
        yield
    finally:
        thaw(*frozen)


def freeze(*pids: int, descendants: bool = False, into: list[int] | None = None) -> list[int]:
    """Stop processes by SIGSTOP; which ones, for `thaw`. One that has ended is left out."""
    frozen = [] if into is None else into
    for pid in pids:
        for one in _tree(pid) if descendants else [pid]:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGSTOP)
                frozen.append(one)
    return frozen


def thaw(*pids: int) -> None:
    """Let stopped processes go on; those that have ended meanwhile are passed over."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _tree(pid: int) -> Sequence[int]:
    try:
        # The parent first: what is stopped starts no more.
        return [pid, *(each.pid for each in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []

"""Locks between processes: held by an open file, so that the kernel frees them with their owner."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Self


class LockHeldError(Exception):
    """Another process holds the lock.

    Attributes:
        path: the lock's file.
        owner_pid: the process that wrote its id into the file, or None where it is not readable.
    """

    def __init__(self, *, path: Path, owner_pid: int | None) -> None:
        super().__init__(f"{path} is locked by process {owner_pid or 'unknown'}")
        self.path = path
        self.owner_pid = owner_pid


class FileLock:
    """An exclusive lock on a file, free again as soon as its owner closes it or dies.

    The file itself stays: deleting it would let two owners hold two files of one name.
    """

    def __init__(self, *, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def acquire(self, *, timeout_seconds: float = 0.0) -> Self:
        """Takes the lock, waiting for it at most `timeout_seconds`.

        Raises:
            LockHeldError: another process still holds it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout_seconds
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                    os.close(descriptor)
                    raise LockHeldError(
                        path=self.path, owner_pid=int(owner) if owner.isdigit() else None
                    ) from None
                time.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        return self

    def release(self) -> None:
        """Frees the lock; does nothing where it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self if self.held else self.acquire()

    def __exit__(self, *_exc_info: object) -> None:
        self.release()


def is_locked(*, path: Path) -> bool:
    """Says whether some process holds the lock at `path`; leaves no trace where nobody does."""
    if not path.exists():
        return False
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False

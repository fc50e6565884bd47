"""Free TCP ports: a block for each stack, so that what restarts finds its own port again.

Blocks lie below the range from which the kernel takes the ports of outgoing connections (32768
and up on Linux): a port of a stopped broker cannot be taken by somebody's client meanwhile.
"""

from __future__ import annotations

import os
import random
import socket
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Self

from paypost.stack.locks import FileLock, LockHeldError

FIRST_PORT = 20_000
LAST_PORT = 31_999
BLOCK_SIZE_PORTS = 20


class NoFreePortsError(Exception):
    """Every block of ports is taken.

    Attributes:
        first, last: the range that was searched.
    """

    def __init__(self, *, first: int, last: int) -> None:
        super().__init__(f"no free block of ports between {first} and {last}")
        self.first = first
        self.last = last


def is_free(port: int) -> bool:
    """Says whether a server could listen on this port of the loopback interface now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that connections in TIME_WAIT do not count as somebody listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class PortBlock:
    """`BLOCK_SIZE_PORTS` consecutive ports that no other stack of this user takes while held.

    The claim is a file lock and dies with its owner. Ports are handed out by name, and the same
    name gets the same port for the life of the block.
    """

    def __init__(self, *, first_port: int, lock: FileLock) -> None:
        self._first_port = first_port
        self._lock = lock
        self._named: dict[str, int] = {}

    @classmethod
    def claim(
        cls,
        *,
        seed: str | None = None,
        directory: Path | None = None,
        free: Callable[[int], bool] = is_free,
    ) -> Self:
        """Claims a block in which every port is free.

        Args:
            seed: the same text is given the same block again where that is free; random if None.
            directory: where the claims are kept; by default one of this user's for the machine.
            free: the test of one port.

        Raises:
            NoFreePortsError: all blocks are taken.
        """
        directory = directory or Path(tempfile.gettempdir()) / f"paypost-{os.getuid()}" / "ports"
        blocks = (LAST_PORT + 1 - FIRST_PORT) // BLOCK_SIZE_PORTS
        start = random.randrange(blocks) if seed is None else zlib.crc32(seed.encode()) % blocks  # noqa: S311 - a starting point, no secret
        for step in range(blocks):
            first = FIRST_PORT + (start + step) % blocks * BLOCK_SIZE_PORTS
            try:
                lock = FileLock(path=directory / f"{first}.lock").acquire()
            except LockHeldError:
                continue
            if all(free(port) for port in range(first, first + BLOCK_SIZE_PORTS)):
                return cls(first_port=first, lock=lock)
            lock.release()
        raise NoFreePortsError(first=FIRST_PORT, last=LAST_PORT)

    def port(self, name: str) -> int:
        """The port of this name, the next unused one of the block at its first mention.

        Raises:
            NoFreePortsError: the block is used up.
        """
        if name not in self._named:
            if len(self._named) == BLOCK_SIZE_PORTS:
                raise NoFreePortsError(
                    first=self._first_port, last=self._first_port + BLOCK_SIZE_PORTS - 1
                )
            self._named[name] = self._first_port + len(self._named)
        return self._named[name]

    def release(self) -> None:
        """Gives the block back."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.release()

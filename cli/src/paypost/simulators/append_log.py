"""An append-only file of lines whose `append` returns only when the lines are on disk.

Invariant: lines reach the file in the order of the calls, whole, and each exactly once. Callers
that arrive while an fsync is in flight share the next one: its cost does not grow with them.
"""

import asyncio
import os
from pathlib import Path
from types import TracebackType
from typing import Self

RETRY_SECONDS = 0.25


class AppendLogClosedError(Exception):
    """The log was closed before these lines were on disk."""


class AppendLog:
    """The writer of one such file; exactly one may exist for a file at a time.

    A disk that refuses (full, read-only) delays `append` until it takes the lines again. It never
    makes it fail: a caller that was told of a failure could not know whether the line is there.
    """

    def __init__(self, *, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._durable_bytes = 0
        self._gathered: list[bytes] = []
        self._waiting: asyncio.Future[None] | None = None
        self._flusher: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def size_bytes(self) -> int:
        """Return how much of the file is known to be on disk: the offset of the next line."""
        return self._durable_bytes

    def open(self) -> None:
        """Open the file, creating it; cut off a line that a crash left unfinished.

        Raises OSError when the file cannot be opened or written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._durable_bytes = end_of_last_line(self._path)
        os.ftruncate(self._descriptor, self._durable_bytes)
        # Without this, a crash of the machine could forget the file's name together with its lines.
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def write(self, lines: bytes) -> None:
        """Hand lines over without waiting for the disk; a later `append` waits for them too.

        Raises AppendLogClosedError when the log is closed.
        """
        if self._closing:
            raise AppendLogClosedError
        self._gathered.append(lines)
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())

    async def append(self, lines: bytes) -> None:
        """Return when `lines` (whole lines, each ending in a newline) and all before are on disk.

        No lines at all wait for those of earlier callers only. Raises AppendLogClosedError when
        the log is closed first.
        """
        if lines or self._flusher is not None:
            self.write(lines)
            assert self._waiting is not None
            # Shielded, because many callers share the one future.
            await asyncio.shield(self._waiting)

    async def close(self) -> None:
        """Write what was gathered, then close the file."""
        self._closing = True
        if self._flusher is not None:
            await asyncio.wait([self._flusher])
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    async def _flush(self) -> None:
        while self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            chunk = b"".join(self._gathered)
            self._gathered.clear()
            if chunk and not await self._write(chunk):
                waiting.set_exception(AppendLogClosedError())
                waiting.exception()  # nobody may be left to hear it
                continue
            waiting.set_result(None)
        self._flusher = None

    async def _write(self, chunk: bytes) -> bool:
        while True:
            try:
                await asyncio.to_thread(self._write_through, chunk)
            except OSError:
                if self._closing:
                    return False
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._durable_bytes += len(chunk)
                return True

    def _write_through(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fdatasync(self._descriptor)
        except OSError:
            # Half a chunk must not stay: the next attempt writes the whole of it again.
            os.ftruncate(self._descriptor, self._durable_bytes)
            raise


def end_of_last_line(path: Path) -> int:
    """Return the length in bytes of the file's whole lines; 0 when it has none or is absent."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            position = start
    return 0

"""A disk that can be full: a server's data on a small file system of their own.

The data are moved there while their server is down, and are gone with it. However this process
ends, nothing stays mounted.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.faults.tools.machine import (
    CommandFailedError,
    UnavailableError,
    Undo,
    need_root,
    run,
)

from paypost.stack.watchdog import Watchdog

MIB = 1024 * 1024
CHUNK_BYTES = 64 * 1024


class SmallDisk:
    """Puts a folder on a tmpfs of its own, fills it to the last byte, and empties it again."""

    def __init__(self, *, folder: Path, free_mib: int, watchdog: Watchdog, log_path: Path) -> None:
        """Look whether a file system can be mounted; mounts none yet.

        Args:
            folder: what is to be on it.
            free_mib: how much is free on it once the data are there.
            watchdog: unmounts it when this process dies.
            log_path: where what it says of that goes.

        Raises:
            UnavailableError: not root, or mounting is not allowed here.
        """
        self.probe()
        self._folder = folder
        self._free_mib = free_mib
        self._kept = folder.with_name(f"{folder.name}.kept")
        self._ballast = folder / "ballast"
        self._watchdog = watchdog
        self._log_path = log_path
        self._undo: Undo | None = None

    @staticmethod
    def probe() -> None:
        """Mount one that nobody sees. Raises UnavailableError where that is not allowed."""
        need_root(tool="a small disk")
        try:
            run("unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt")
        except CommandFailedError as error:
            raise UnavailableError(tool="a small disk", reason=str(error)) from error

    @property
    def mounted(self) -> bool:
        """Whether the folder is on a small disk now."""
        return self._folder.is_mount()

    def take_over(self) -> None:
        """Move the folder to a small disk. Its server must be down."""
        # What is allocated: the broker makes its indexes large and sparse.
        used_mib = sum(each.stat().st_blocks * 512 for each in self._folder.rglob("*")) // MIB + 1
        mode = f"{self._folder.stat().st_mode & 0o777:o}"
        self._folder.rename(self._kept)
        self._folder.mkdir()
        size_mib = used_mib + self._free_mib
        self._undo = Undo(
            ["umount", "--lazy", str(self._folder)],
            watchdog=self._watchdog,
            log_path=self._log_path,
        )
        try:
            options = f"size={size_mib}m,mode={mode}"
            run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self._folder))
            run("cp", "-a", "--sparse=always", f"{self._kept}/.", str(self._folder))
        except CommandFailedError:
            self._unmount()
            self._folder.rmdir()
            self._kept.rename(self._folder)
            raise
        shutil.rmtree(self._kept)

    def fill(self) -> int:
        """Leave no byte free; how many were taken."""
        taken = 0
        with self._ballast.open("ab", buffering=0) as ballast:
            chunk = bytes(CHUNK_BYTES)
            while chunk:
                try:
                    taken += ballast.write(chunk)
                except OSError:
                    # Down to single bytes: the last page counts too.
                    chunk = chunk[: len(chunk) // 2]
        return taken

    def free(self) -> None:
        """Give the taken space back."""
        self._ballast.unlink(missing_ok=True)

    def drop(self) -> None:
        """Unmount it with all that is on it; the folder is empty then. Its server must be down."""
        self._unmount()

    def _unmount(self) -> None:
        if self.mounted:
            try:
                run("umount", str(self._folder))
            except CommandFailedError:
                # Somebody still has a file open there: it goes when the last one closes.
                run("umount", "--lazy", str(self._folder))
        if self._undo is not None:
            self._undo.cancel()
            self._undo = None

"""Another time for one process: libfaketime, unpacked from Debian's package.

Only the time of day is moved. The monotonic clock goes on as it is: timers, leases in memory and
`asyncio.sleep` are not touched, as when an operator sets a machine's clock.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from tests.faults.tools.machine import UnavailableError, unpacked

PLACES = (
    "/usr/lib/*/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
)


class MovedClock:
    """A clock that can be moved while a process runs: it is read from a file, once a second."""

    def __init__(self, *, path: Path) -> None:
        """Find or fetch the library, and try it out.

        Args:
            path: the file that says by how much; one for each group of processes that shares it.

        Raises:
            UnavailableError: the library cannot be had, or does nothing here.
        """
        self._library = _library()
        self._path = path
        self._try_out()

    @classmethod
    def probe(cls) -> None:
        """Move a clock that nobody has. Raises UnavailableError where that does not work."""
        with tempfile.TemporaryDirectory() as folder:
            cls(path=Path(folder) / "offset")

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to have this clock; set before it starts."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Modification times are the file system's, and so is what is compared with them.
            "NO_FAKE_STAT": "1",
        }

    def move(self, by: timedelta) -> None:
        """Be so far ahead of the real time, or behind it; known within a second."""
        partial = self._path.with_suffix(".partial")
        partial.write_text(f"{by.total_seconds():+.0f}s\n")
        partial.replace(self._path)

    def _try_out(self) -> None:
        self.move(timedelta(days=-2))
        try:
            told = subprocess.run(
                [sys.executable, "-I", "-S", "-c", "import time; print(time.time())"],
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=20,
            )
            real = subprocess.run(["date", "+%s"], capture_output=True, text=True, check=True)
            moved_by = float(real.stdout) - float(told.stdout or 0)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise UnavailableError(tool="libfaketime", reason=str(error)) from error
        finally:
            self.move(timedelta())
        if not 172_700 < moved_by < 172_900:
            reason = f"moved a clock by {-moved_by:.0f} s that was to be two days behind"
            raise UnavailableError(tool="libfaketime", reason=f"{reason}; {told.stderr.strip()}")


def _library() -> Path:
    for pattern in PLACES:
        for found in Path("/").glob(pattern.lstrip("/")):
            return found
    folder = unpacked("libfaketime", tool="libfaketime")
    for found in folder.glob("usr/lib/*/faketime/libfaketime.so.1"):
        return found
    raise UnavailableError(tool="libfaketime", reason=f"no libfaketime.so.1 in {folder}")

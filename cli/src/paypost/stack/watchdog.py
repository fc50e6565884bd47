"""No process outlives the one that started it: a watchdog kills the groups of a dead parent.

The kernel's own way (PR_SET_PDEATHSIG) is cleared by a change of credentials, which the user
namespace around PostgreSQL is. So a tiny process of its own session reads a pipe whose only
writer is the parent; however the parent ends, ``kill -9`` included, the pipe closes, and every
group that is still registered is killed.

Invariant: a child is registered before it exists as a program. `Watchdog.wrap` puts a shell in
front of it that writes its own process id into the pipe and only then becomes the program. While
the shell has not yet written, it holds the pipe open itself: there is no moment in which the
parent can die and the child be missed.

This file is also the watchdog's program, run by path and in isolation: it imports nothing of the
project, and little of the standard library.
"""

import os
import signal
import sys
import time

GRACE_SECONDS = 3.0


class Watchdog:
    """The parent's end: wraps commands, and forgets those that have ended.

    One is enough for a process; pass it to whatever starts children.
    """

    def __init__(self) -> None:
        import subprocess

        read_end, self._write_end = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=read_end,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(read_end)

    @property
    def pid(self) -> int:
        """The watchdog's process id."""
        return self._process.pid

    @property
    def descriptor(self) -> int:
        """The pipe, to be given as standard input to a wrapped command.

        Raises:
            RuntimeError: the watchdog is closed; nothing may be started any more.
        """
        if self._write_end < 0:
            raise RuntimeError("the watchdog is closed")
        return self._write_end

    def wrap(self, *, command: list[str], orphan_signal: signal.Signals) -> list[str]:
        """The command with its registration in front of it.

        To be started as leader of a session of its own, with `descriptor` as its standard input;
        the program itself gets an empty one. Where the watchdog is gone, it is not started.

        Args:
            command: what to run; its first item is looked up in PATH.
            orphan_signal: what it gets when the parent is dead; what is left three seconds later
                is killed.
        """
        register = f'echo "+ $$ {int(orphan_signal)}" >&0 && exec "$@" </dev/null'
        return ["/bin/sh", "-c", register, "sh", *command]

    def forget(self, *, pid: int) -> None:
        """Takes a group off the list. To be called before its leader is reaped.

        Until then the number cannot belong to anybody else.
        """
        if self._write_end >= 0:
            os.write(self._write_end, f"- {pid}\n".encode())

    def close(self) -> None:
        """Kills what is still registered and ends the watchdog."""
        if self._write_end >= 0:
            os.close(self._write_end)
            self._write_end = -1
            self._process.wait()


def _send(pid: int, number: int) -> bool:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _watch() -> None:
    groups: dict[int, int] = {}
    with open(0, encoding="ascii") as pipe:
        for line in pipe:
            mark, *numbers = line.split()
            if mark == "+":
                groups[int(numbers[0])] = int(numbers[1])
            else:
                groups.pop(int(numbers[0]), None)
    left = [pid for pid, number in groups.items() if _send(pid, number)]
    deadline = time.monotonic() + GRACE_SECONDS
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [pid for pid in left if _send(pid, 0)]
    for pid in left:
        _send(pid, signal.SIGKILL)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    _watch()

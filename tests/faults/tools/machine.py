"""What this machine has and allows, and what can be fetched to make up for the rest.

A tool that cannot work here says so when it is made, with the reason: the fault that needs it is
then reported as *not run*. Nothing is installed into the machine: packages of its distribution are
unpacked into the user's cache.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from paypost.stack import debian
from paypost.stack.debian import PackagesUnavailableError
from paypost.stack.supervisor import ChildProcess
from paypost.stack.watchdog import Watchdog

COMMAND_SECONDS_MAX = 30.0


class UnavailableError(Exception):
    """A tool cannot do its work on this machine.

    Attributes:
        tool: its name.
        reason: what is missing, or not allowed.
    """

    def __init__(self, *, tool: str, reason: str) -> None:
        super().__init__(f"{tool}: {reason}")
        self.tool = tool
        self.reason = reason


def reason_against(*probes: Callable[[], object]) -> str | None:
    """Why one of these tools cannot work here, the first that cannot; None where all can."""
    for probe in probes:
        try:
            probe()
        except UnavailableError as error:
            return str(error)
    return None


class CommandFailedError(Exception):
    """A command of the machine's did not do what it was asked for.

    Attributes:
        command: as it was run.
        output: what it said.
    """

    def __init__(self, *, command: Sequence[str], output: str) -> None:
        super().__init__(f"{' '.join(command)}: {output.strip() or 'failed without a word'}")
        self.command = tuple(command)
        self.output = output


def run(*command: str, seconds_max: float = COMMAND_SECONDS_MAX, cwd: Path | None = None) -> str:
    """Run a command and return what it printed.

    Raises:
        CommandFailedError: it cannot be run, failed, or took too long.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=seconds_max,
            cwd=cwd,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailedError(command=command, output=str(error)) from error
    if done.returncode:
        raise CommandFailedError(command=command, output=done.stdout)
    return done.stdout


class Undo:
    """Runs commands when this process dies before it could undo what it did to the machine.

    A shell of its own waits for the watchdog's word. `cancel` once all is undone in the normal way.
    """

    def __init__(self, *commands: Sequence[str], watchdog: Watchdog, log_path: Path) -> None:
        undo = "; ".join(shlex.join(command) for command in commands)
        script = f"trap {shlex.quote(f'{undo}; exit')} TERM; while sleep 60; do :; done"
        self._child = ChildProcess(
            name="undo",
            command=["/bin/sh", "-c", script],
            log_path=log_path,
            watchdog=watchdog,
            orphan_signal=signal.SIGTERM,
        )

    def cancel(self) -> None:
        """Have nothing run any more."""
        self._child.kill()


def need_root(*, tool: str) -> None:
    """Check that this process may do what only root may.

    Raises:
        UnavailableError: it may not.
    """
    if os.geteuid() != 0:
        raise UnavailableError(tool=tool, reason="needs root")


def need_program(name: str, *, tool: str) -> Path:
    """Return where a program of the machine is.

    Raises:
        UnavailableError: nowhere on PATH, nor in the folders of system programs.
    """
    places = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    found = shutil.which(name, path=places)
    if found is None:
        raise UnavailableError(tool=tool, reason=f"there is no {name} on this machine")
    return Path(found)


def unpacked(*packages: str, tool: str) -> Path:
    """Return a folder of the cache with the content of these Debian packages, fetched once.

    Raises:
        UnavailableError: the machine is no Debian, or a package cannot be had.
    """
    try:
        return debian.unpacked(*packages)
    except PackagesUnavailableError as error:
        raise UnavailableError(tool=tool, reason=str(error)) from error

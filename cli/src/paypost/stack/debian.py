"""Debian's packages in the user's cache: unpacked there, not installed, and by no more than a user.

Invariant: nothing of the machine is changed, and what stands in the cache is whole. Where the
machine has no lists of packages, or old ones, they are fetched into a folder of their own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from paypost.stack.kafka import cache_dir
from paypost.stack.locks import FileLock

COMMAND_SECONDS_MAX = 300.0
_PROGRAMS = ("apt-get", "dpkg")
_SIMULATED = re.compile(r"^Inst (\S+) .*?\((\S+) ", re.MULTILINE)


class PackagesUnavailableError(Exception):
    """Packages are neither in the cache nor to be had on this machine.

    Attributes:
        packages: by their names.
        reason: what was tried last, and what came of it.
    """

    def __init__(self, *, packages: Sequence[str], reason: str) -> None:
        super().__init__(f"{', '.join(packages)}: {reason}")
        self.packages = tuple(packages)
        self.reason = reason


def place_of(package: str) -> Path:
    """Return the folder in which `unpacked` keeps a package, and whatever came with it."""
    return cache_dir() / "debian" / package


def can_be_fetched() -> bool:
    """Return whether this machine has what packages are fetched with."""
    return all(map(shutil.which, _PROGRAMS))


def unpacked(*packages: str, with_needed: bool = False) -> Path:
    """Return the folder below which the files of packages stand as they would below `/`.

    They are fetched once, and kept under the name of the first.

    Args:
        packages: of Debian.
        with_needed: whether what they depend on, and the machine lacks, comes with them.

    Raises:
        PackagesUnavailableError: they cannot be had here.
    """
    place = place_of(packages[0])
    lock = FileLock(path=place.parent / f"{packages[0]}.lock")
    with lock.acquire(timeout_seconds=4 * COMMAND_SECONDS_MAX):
        if not place.exists():
            _unpack(packages, place=place, with_needed=with_needed)
    return place


def _unpack(packages: Sequence[str], *, place: Path, with_needed: bool) -> None:
    if not can_be_fetched():
        raise PackagesUnavailableError(
            packages=packages,
            reason="not installed, and without apt-get and dpkg they cannot be fetched",
        )
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetching-") as made:
        work = Path(made)
        try:
            try:
                _download(packages, (), work=work, with_needed=with_needed)
            except _CommandFailedError:
                options = _own_lists(work)
                _run("apt-get", *options, "update", cwd=work)
                _download(packages, options, work=work, with_needed=with_needed)
            for archive in sorted((work / "debs").glob("*.deb")):
                _run("dpkg", "-x", str(archive), str(work / "tree"), cwd=work)
        except _CommandFailedError as error:
            raise PackagesUnavailableError(packages=packages, reason=str(error)) from error
        # Into its place in one step: what is there is whole.
        (work / "tree").rename(place)


def _own_lists(work: Path) -> tuple[str, ...]:
    (work / "lists" / "partial").mkdir(parents=True)
    return (
        *("-o", f"Dir::State::Lists={work / 'lists'}", "-o", f"Dir::Cache={work}"),
        *("-o", "APT::Sandbox::User=root"),
    )


def _download(
    packages: Sequence[str], options: Sequence[str], *, work: Path, with_needed: bool
) -> None:
    wanted = {name: name for name in packages}
    if with_needed:
        told = _run(
            *("apt-get", *options, "install", "--simulate", "--no-install-recommends", *packages),
            cwd=work,
        )
        lacking = {name: f"{name}={version}" for name, version in _SIMULATED.findall(told)}
        wanted = {name: name for name in packages if name not in lacking} | lacking
    debs = work / "debs"
    debs.mkdir(exist_ok=True)
    _run("apt-get", *options, "download", *wanted.values(), cwd=debs)


class _CommandFailedError(Exception):
    pass


def _run(*command: str, cwd: Path) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _CommandFailedError(str(error)) from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise _CommandFailedError(f"{command[0]} failed: {said[-1] if said else done.returncode}")
    return done.stdout

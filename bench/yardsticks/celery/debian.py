"""Server programs out of Debian packages, without installing them and without root.

A program that is on PATH is used as it is. Otherwise the packages that the machine lacks are
fetched by `apt-get download` and unpacked by `dpkg -x` into the user's cache, once: nothing is
configured, enabled or started by that.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paypost.stack.kafka import cache_dir

_TIMEOUT_SECONDS = 300
_SIMULATED = re.compile(r"^Inst (\S+) .*?\((\S+) ", re.MULTILINE)


class PackagesUnavailableError(Exception):
    """The programs of a package are neither here nor to be had; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Where the files of packages are: below `root`, as they would be below `/`."""

    root: Path

    def path(self, relative: str) -> Path:
        """A file of the packages, by its place below `/`."""
        return self.root / relative

    def environment(self, *, path: str) -> dict[str, str]:
        """What its programs need to find each other and their libraries."""
        if self.root == Path("/"):
            return {"PATH": path}
        libraries = [
            str(each) for each in (self.root / "usr/lib").glob("*-linux-gnu*") if each.is_dir()
        ]
        programs = [
            str(self.root / each) for each in ("usr/lib/erlang/bin", "usr/bin", "usr/sbin", "bin")
        ]
        return {
            "PATH": os.pathsep.join([*programs, path]),
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        }


def unpacked(*, package: str, program: str) -> Tree:
    """The tree that holds a package's program: the machine's own, or one in the user's cache.

    Args:
        package: of Debian; what it depends on and the machine lacks comes with it.
        program: the program's place below `/`.

    Raises:
        PackagesUnavailableError: it is not installed, and cannot be fetched here.
    """
    if (Path("/") / program).exists():
        return Tree(Path("/"))
    place = cache_dir() / "debian" / package
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not (place / program).exists():
            _unpack(package=package, place=place)
        if not (place / program).exists():
            raise PackagesUnavailableError(f"the Debian package {package} has no /{program}")
    return Tree(place)


def can_be_had(*, package: str, program: str) -> bool:
    """Whether `unpacked` has a chance: the program is here already, or the tools to fetch it."""
    return (
        (Path("/") / program).exists()
        or (cache_dir() / "debian" / package / program).exists()
        or all(map(shutil.which, ("apt-get", "dpkg")))
    )


def _unpack(*, package: str, place: Path) -> None:
    if not all(map(shutil.which, ("apt-get", "dpkg"))):
        raise PackagesUnavailableError(
            f"{package} is not installed, and without apt-get and dpkg it cannot be fetched"
        )
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetching-") as made:
        work = Path(made)
        options: list[str] = []
        try:
            wanted = _lacking(package, options)
        except PackagesUnavailableError:
            # No lists of packages yet: fetch them, into a folder of our own.
            (work / "lists" / "partial").mkdir(parents=True)
            options = [
                *("-o", f"Dir::State::Lists={work / 'lists'}", "-o", f"Dir::Cache={work}"),
                *("-o", "APT::Sandbox::User=root"),
            ]
            _run(["apt-get", *options, "update"], cwd=work)
            wanted = _lacking(package, options)
        debs = work / "debs"
        debs.mkdir()
        _run(["apt-get", *options, "download", *wanted], cwd=debs)
        tree = work / "tree"
        for deb in sorted(debs.glob("*.deb")):
            _run(["dpkg", "-x", str(deb), str(tree)], cwd=work)
        shutil.rmtree(place, ignore_errors=True)
        tree.rename(place)


def _lacking(package: str, options: Sequence[str]) -> list[str]:
    """The package and what it needs beside what is installed, as `name=version`."""
    told = _run(
        ["apt-get", *options, "install", "--simulate", "--no-install-recommends", package],
        cwd=Path("/"),
    )
    return [f"{name}={version}" for name, version in _SIMULATED.findall(told)]


def _run(command: Sequence[str], *, cwd: Path) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PackagesUnavailableError(
            f"{' '.join(command[:1])} took longer than {_TIMEOUT_SECONDS} s"
        ) from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise PackagesUnavailableError(
            f"{command[0]} failed: {said[-1] if said else done.returncode}"
        )
    return done.stdout

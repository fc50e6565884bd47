"""Finds Prometheus and its promtool: on PATH, else fetched once as Debian's package.

The package is unpacked into the user's cache and not installed, so nobody has to be root.
"""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from paypost.stack.kafka import cache_dir
from paypost.stack.locks import FileLock

FETCH_SECONDS_MAX = 180


class ToolsUnavailableError(Exception):
    """A program cannot be had on this machine.

    Attributes:
        package: whose program it is.
        tried: what was tried and what came of it.
    """

    def __init__(self, *, package: str, tried: list[str]) -> None:
        super().__init__(
            f"{package} cannot be had: {'; '.join(tried)}. On Debian or Ubuntu:"
            f" apt-get update && apt-get install {package}"
        )
        self.package = package
        self.tried = tried


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Programs, by their paths."""

    prometheus: Path
    promtool: Path


def find_tools() -> Tools:
    """Return Prometheus and promtool.

    Raises:
        ToolsUnavailableError: neither on PATH nor to be fetched.
    """
    found = find(package="prometheus", programs=("prometheus", "promtool"))
    return Tools(prometheus=found["prometheus"], promtool=found["promtool"])


def find(*, package: str, programs: tuple[str, ...]) -> dict[str, Path]:
    """Return the paths of programs, all from PATH or all from one package.

    Raises:
        ToolsUnavailableError: neither on PATH nor to be fetched.
    """
    on_path = {name: shutil.which(name) for name in programs}
    if all(on_path.values()):
        return {name: Path(str(path)) for name, path in on_path.items()}
    kept = cache_dir() / "debian" / package
    with FileLock(path=kept.parent / f"{package}.lock").acquire(timeout_seconds=FETCH_SECONDS_MAX):
        if not kept.exists():
            _fetch(package=package, into=kept)
    found = {name: kept / "usr" / "bin" / name for name in programs}
    missing = [name for name, path in found.items() if not path.exists()]
    if missing:
        raise ToolsUnavailableError(
            package=package, tried=[f"its package holds no {', '.join(missing)}"]
        )
    return found


def _fetch(*, package: str, into: Path) -> None:
    tried = [f"{package} is not on PATH"]
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise ToolsUnavailableError(package=package, tried=[*tried, f"there is no {program}"])
    with tempfile.TemporaryDirectory() as work:
        # Package lists that were never fetched are fetched where that is allowed, then once more.
        for command in (
            ("apt-get", "download", package),
            ("apt-get", "--quiet", "update"),
            ("apt-get", "download", package),
        ):
            told = _run(command, work)
            if told is not None:
                tried.append(f"{' '.join(command)}: {told}")
            if archives := list(Path(work).glob("*.deb")):
                break
        else:
            raise ToolsUnavailableError(package=package, tried=tried)
        unpacked = into.with_suffix(".new")
        shutil.rmtree(unpacked, ignore_errors=True)
        told = _run(("dpkg", "--extract", str(archives[0]), str(unpacked)), work)
        if told is not None:
            raise ToolsUnavailableError(package=package, tried=[*tried, f"dpkg: {told}"])
        # Into its place in one step: what is there is whole.
        unpacked.rename(into)


def _run(command: tuple[str, ...], folder: str) -> str | None:
    """Run a command; return None, or the last line of what went wrong."""
    try:
        ended = subprocess.run(  # noqa: S603 - fixed commands
            command,
            cwd=folder,
            env=os.environ | {"LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if ended.returncode == 0:
        return None
    lines = [line for line in ended.stderr.splitlines() if line.startswith("E:")]
    return (lines or ended.stderr.splitlines() or ["failed"])[-1]

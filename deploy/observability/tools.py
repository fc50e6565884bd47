"""Finds Prometheus and its promtool: on PATH, else fetched once as Debian's package.

The package is unpacked into the user's cache and not installed, so nobody has to be root.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from paypost.stack.debian import PackagesUnavailableError, unpacked


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
    try:
        root = unpacked(package)
    except PackagesUnavailableError as error:
        raise ToolsUnavailableError(
            package=package, tried=[f"{package} is not on PATH", error.reason]
        ) from error
    found = {name: root / "usr" / "bin" / name for name in programs}
    missing = [name for name, path in found.items() if not path.exists()]
    if missing:
        raise ToolsUnavailableError(
            package=package, tried=[f"its package holds no {', '.join(missing)}"]
        )
    return found

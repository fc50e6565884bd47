"""Server programs: the machine's own, or out of Debian packages, without root.

Nothing is configured, enabled or started by that.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from paypost.stack import debian
from paypost.stack.debian import PackagesUnavailableError

__all__ = ["PackagesUnavailableError", "Tree", "can_be_had", "unpacked"]


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
    place = debian.unpacked(package, with_needed=True)
    if not (place / program).exists():
        raise PackagesUnavailableError(
            packages=(package,), reason=f"there is no /{program} in what was unpacked"
        )
    return Tree(place)


def can_be_had(*, package: str, program: str) -> bool:
    """Whether `unpacked` has a chance: the program is here already, or the tools to fetch it."""
    return (
        (Path("/") / program).exists()
        or (debian.place_of(package) / program).exists()
        or debian.can_be_fetched()
    )

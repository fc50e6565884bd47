"""Prints the part of requirements.lock that some of its roots need, with its hashes.

Usage: select_lock.py LOCK ROOT...

The lock says of every package which others brought it in; an image is to hold what its own
service brings in, in the very versions that were tested, and nothing of the development tools.
Only the standard library: it runs before anything is installed.
"""

import re
import sys
from pathlib import Path

_NAME = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==")
_VIA = re.compile(r"^    #(?: via)?\s+([A-Za-z0-9][A-Za-z0-9._-]*)")


class UnknownRootError(Exception):
    """A root that brings in nothing: misspelt, or not of this lock."""


def read_lock(text: str) -> dict[str, tuple[str, set[str]]]:
    """Return each package's lines and the names of those that brought it in."""
    packages: dict[str, tuple[str, set[str]]] = {}
    name = ""
    for line in text.splitlines():
        found = _NAME.match(line)
        if found:
            name = found.group(1).lower()
            packages[name] = ("", set())
        if name:
            lines, via = packages[name]
            brought_in_by = _VIA.match(line)
            if brought_in_by:
                via.add(brought_in_by.group(1).lower())
            packages[name] = (f"{lines}{line}\n", via)
    return packages


def select(text: str, *, roots: list[str]) -> str:
    """Return the lines of every package that a root brings in, and of those that are roots.

    Raises:
        UnknownRootError: a root is neither in the lock nor brings in anything.
    """
    packages = read_lock(text)
    known = set(packages) | {name for _, via in packages.values() for name in via}
    for root in roots:
        if root not in known:
            raise UnknownRootError(root)
    wanted = set(roots)
    while more := {name for name, (_, via) in packages.items() if via & wanted} - wanted:
        wanted |= more
    return "".join(lines for name, (lines, _) in packages.items() if name in wanted)


if __name__ == "__main__":
    sys.stdout.write(select(Path(sys.argv[1]).read_text(), roots=sys.argv[2:]))

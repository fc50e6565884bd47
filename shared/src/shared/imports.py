"""Imports without what comes along and is never used (docs/decisions/0050).

Nothing is taken away: what is left out here can be imported as ever by whoever needs it.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


@contextmanager
def absent(*packages: str) -> Iterator[None]:
    """Let what is imported inside find these packages missing, unless they are in use already.

    For what a library imports merely because it is there. The import system's own word for it is
    None in `sys.modules` (Python's reference, "The module cache").
    """
    hidden = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]


def postponed(package: str) -> None:
    """Let modules of a package be imported without all that the package itself imports.

    Its own code runs when it is first asked for a name that none of its modules has. Does nothing
    where the package is in use already.

    Raises:
        ModuleNotFoundError: there is no such package.
    """
    if package in sys.modules:
        return
    spec = find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    module = module_from_spec(spec)
    module.__class__ = _Postponed
    sys.modules[package] = module
    parent, _, name = package.rpartition(".")
    if parent:
        setattr(sys.modules[parent], name, module)


class _Postponed(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if find_spec(f"{self.__name__}.{name}") is not None:
            return importlib.import_module(f"{self.__name__}.{name}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)

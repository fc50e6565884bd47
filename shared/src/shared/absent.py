"""Imports without what a library takes along merely because it is there.

Measured: structlog with `rich` is 3 MB larger, and Stripe's SDK with `requests` 5 MB, in each
process; no service draws a traceback in colours, and intake brings a transport of its own.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def absent(*packages: str) -> Iterator[None]:
    """Let what is imported inside find these packages missing, unless they are in use already.

    Afterwards they can be imported as ever. The import system's own word for it is None in
    `sys.modules` (Python's reference, "The module cache").
    """
    hidden = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]

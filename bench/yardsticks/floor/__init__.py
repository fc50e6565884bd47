"""The least code that does Paypost's payment path with its guarantees: see README.md."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Only when asked for: the stages are modules of this package, and need nothing of the stack.
    if name == "FloorYardstick":
        from bench.yardsticks.floor.yardstick import FloorYardstick

        return FloorYardstick
    raise AttributeError(name)

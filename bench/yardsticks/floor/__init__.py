"""The least code that does Paypost's payment path with its guarantees: see README.md."""

from bench.yardsticks.floor.yardstick import FloorYardstick

__all__ = ["FloorYardstick"]

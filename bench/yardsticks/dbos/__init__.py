"""DBOS Transact, one durable workflow per payment; see README.md."""

from bench.yardsticks.dbos.yardstick import DbosYardstick

__all__ = ["DbosYardstick"]

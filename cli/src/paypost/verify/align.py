"""Streams in key order, walked side by side: what several books have under one key, together.

Invariant: only the rows under the present key are held.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any, Generic, TypeVar

Row = TypeVar("Row")


class Stream(Generic[Row]):
    """A stream of which the next key can be seen and all rows of a key be taken."""

    def __init__(self, rows: AsyncIterable[Row], key: Callable[[Row], Any]) -> None:
        """Reads nothing yet.

        Args:
            rows: in the order of their keys.
            key: of a row.
        """
        self._rows = aiter(rows)
        self._key = key
        self._next: Row | None = None
        self.key: Any = None
        self.ended = False

    async def start(self) -> None:
        """Read the first row."""
        await self._step()

    async def take(self, key: Any) -> list[Row]:
        """The rows under this key, if it is the next one; none otherwise."""
        taken = []
        while not self.ended and self.key == key:
            assert self._next is not None
            taken.append(self._next)
            await self._step()
        return taken

    async def _step(self) -> None:
        try:
            self._next = await anext(self._rows)
        except StopAsyncIteration:
            self.ended = True
            return
        self.key = self._key(self._next)


async def aligned(*streams: Stream[Any]) -> AsyncIterator[tuple[Any, list[list[Any]]]]:
    """Yield every key that any stream has, with the rows that each has under it."""
    for stream in streams:
        await stream.start()
    while open_streams := [stream for stream in streams if not stream.ended]:
        key = min(stream.key for stream in open_streams)
        yield key, [await stream.take(key) for stream in streams]

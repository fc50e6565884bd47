"""Turns of the event loop, for tests that wait for no time to pass."""

import asyncio


async def turns(count: int = 20) -> None:
    """Let run what is ready, and what becomes ready by that."""
    for _ in range(count):
        await asyncio.sleep(0)

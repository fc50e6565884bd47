"""An application served over HTTP from a thread with a loop of its own, for callers that block."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from tests.support.reference_cis import free_port

from shared.runtime.http import HttpServer
from shared.runtime.service import Service

START_SECONDS = 30.0


@contextmanager
def served(build: Callable[[], tuple[Any, Service]]) -> Iterator[str]:
    """Build a service's application in the loop that serves it; yield its address."""
    port = free_port()
    ready = threading.Event()
    failed: list[BaseException] = []
    ending: list[Callable[[], object]] = []

    async def serve() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        ending.append(lambda: loop.call_soon_threadsafe(stopped.set))
        async with _open(build, port):
            ready.set()
            await stopped.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="served")
    thread.start()
    try:
        assert ready.wait(START_SECONDS), "the application did not start"
        if failed:
            raise failed[0]
        yield f"http://127.0.0.1:{port}"
    finally:
        for end in ending:
            end()
        thread.join(START_SECONDS)
        assert not thread.is_alive(), "the application did not stop"


@asynccontextmanager
async def _open(build: Callable[[], tuple[Any, Service]], port: int) -> AsyncIterator[None]:
    app, service = build()
    server = HttpServer(app=app, host="127.0.0.1", port=port, drain_seconds=5)
    await server.start()
    try:
        yield
    finally:
        await server.stop()
        ends: list[Callable[[], Awaitable[None]]] = [*service.drains, *service.closes]
        for end in ends:
            await asyncio.wait_for(end(), 10)

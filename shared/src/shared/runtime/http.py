"""uvicorn, embedded: the service's own lifecycle starts and stops it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn


class HttpServer:
    """One listening address; connections are drained on `stop`."""

    def __init__(self, *, app: Any, host: str, port: int, drain_seconds: float) -> None:
        self._server = _Server(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http="httptools",
                loop="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                # A caller that keeps its connection open is the normal case for webhooks.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=int(drain_seconds),
                backlog=2048,
                ws="none",
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen; returns once connections are accepted.

        Raises:
            OSError: the address is taken.
        """
        self._task = asyncio.create_task(self._server.serve())
        while not self._server.started:
            if self._task.done():
                await self._task
                raise OSError("the HTTP server stopped before it listened")
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Accept nothing new, answer what is open, then close."""
        if self._task is not None:
            self._server.should_exit = True
            await self._task
            self._task = None


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The service handles signals: it stops all of its doors, not only this one.
        yield

"""One service as a process: what it opens, what runs in it, how it stops.

Stopping is the reverse of a payment's way: the doors close first, then what is in hand is
finished or left due in the database, then announcements leave, then resources close.
"""

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from shared.runtime.http import HttpServer
from shared.runtime.ops import Check, build_ops_app
from shared.runtime.settings import ServiceSettings

_log = structlog.get_logger(__name__)

MANY = 100
"""What a job finds where there is more: the smallest of the limits that jobs are run with."""
GATHER_SECONDS = 0.1
"""How long a job that found a few leaves more to gather."""


class Door(Protocol):
    """What lets work in: an HTTP server, the consumers."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Service:
    """Everything that `serve` needs to know of a service."""

    name: str
    doors: Sequence[Door]
    loops: Mapping[str, Callable[[], Coroutine[Any, Any, None]]]
    """What runs until the process ends; one that ends or fails by itself ends the process."""
    drains: Sequence[Callable[[], Awaitable[None]]] = ()
    """Awaited in order after the doors have closed, within the drain time."""
    closes: Sequence[Callable[[], Awaitable[None]]] = ()
    live: Mapping[str, Check] = field(default_factory=dict)
    ready: Mapping[str, Check] = field(default_factory=dict)
    registry: Any = None


async def serve(service: Service, *, settings: ServiceSettings) -> None:
    """Run a service until SIGTERM or SIGINT; returns after an orderly stop.

    Raises:
        RuntimeError: a loop ended by itself; the process is to be restarted.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopping.set)
    ops = HttpServer(
        app=build_ops_app(
            registry=service.registry,
            live=service.live,
            ready={**service.ready, "stopping": _not_stopping(stopping)},
        ),
        host=settings.ops_host,
        port=settings.ops_port,
        drain_seconds=1,
    )
    await ops.start()
    tasks = {name: asyncio.create_task(run(), name=name) for name, run in service.loops.items()}
    opened: list[Door] = []
    try:
        for door in service.doors:
            await door.start()
            opened.append(door)
        spare_the_collector()
        _log.info("service.started")
        failed = await _until_stopped(stopping, tasks)
    finally:
        stopping.set()
        await _stop(service, opened, settings.drain_seconds)
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for close in service.closes:
            await close()
        await ops.stop()
    if failed is not None:
        raise RuntimeError(f"{failed} ended")
    _log.info("service.stopped")


def spare_the_collector() -> None:
    """Keep the garbage collector off what was built at start and lives for ever: worth 15 %.

    Seldom, since each round looks at all that is in hand; yet often enough for what it finds not to
    pile up. Measured while batches waited for it too: at 50,000 a service held 5 to 10 MB more, at
    5,000 intake took a tenth less.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def _until_stopped(
    stopping: asyncio.Event, tasks: Mapping[str, asyncio.Task[None]]
) -> str | None:
    asked = asyncio.create_task(stopping.wait())
    await asyncio.wait({asked, *tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    for name, task in tasks.items():
        if task.done():
            error = None if task.cancelled() else task.exception()
            _log.critical("loop.ended", loop=name, exc_info=error)
            return name
    return None


async def _stop(service: Service, opened: Sequence[Door], drain_seconds: float) -> None:
    async def in_order() -> None:
        await asyncio.gather(*(door.stop() for door in reversed(opened)))
        for drain in service.drains:
            await drain()

    draining = asyncio.create_task(in_order())
    await asyncio.wait({draining}, timeout=drain_seconds)
    if draining.done():
        if (error := draining.exception()) is not None:
            _log.error("drain.failed", exc_info=error)
        return
    # Not awaited: a client in the middle of its own stop may swallow it, and the time is over.
    # Nothing is lost: what was in hand keeps its lease and is taken up after it.
    draining.cancel()
    _log.warning("drain.timed_out", drain_seconds=drain_seconds)


def _not_stopping(stopping: asyncio.Event) -> Check:
    async def check() -> str | None:
        return "stopping" if stopping.is_set() else None

    return check


async def every(seconds: float, job: Callable[[], Awaitable[int]], *, name: str) -> None:
    """Run a bounded job for ever: after `seconds`, or sooner while it finds work.

    It is run at once again while it finds `MANY`. While it finds a few, more gather for
    `GATHER_SECONDS`: in a backlog something is due at any moment, and a job that took it one by one
    was busy with that alone.

    A failing job waits longer each time and is logged; it never ends the process.
    """
    pause = seconds
    while True:
        try:
            found = await job()
            if found >= MANY:
                continue
            pause = min(seconds, GATHER_SECONDS) if found else seconds
        except Exception as error:
            pause = min(max(pause, 0.1) * 2, 30.0)
            _log.warning("job.failed", job=name, error=repr(error), pause_seconds=pause)
        await asyncio.sleep(pause)

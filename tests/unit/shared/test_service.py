"""A service's stop, in order and over when its time is; and how often its jobs are run."""

import asyncio
import os
import signal
import time

import pytest
from tests.support.reference_cis import free_port

from shared.runtime.service import GATHER_SECONDS, MANY, Service, every, serve
from shared.runtime.settings import ServiceSettings


class Door:
    """A door that notes what happens to it."""

    def __init__(self, noted: list[str]) -> None:
        self.noted = noted

    async def start(self) -> None:
        self.noted.append("opened")
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)

    async def stop(self) -> None:
        self.noted.append("shut")


class DeafDoor(Door):
    """Swallows the first cancellation of its stop, as clients do that cancel parts of themselves.

    `let_go` ends it in the end.
    """

    def __init__(self, noted: list[str]) -> None:
        super().__init__(noted)
        self.let_go = asyncio.Event()

    async def stop(self) -> None:
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            await self.let_go.wait()


class BrokenDoor(Door):
    async def stop(self) -> None:
        raise OSError("it is stuck")


@pytest.fixture
def settings() -> ServiceSettings:
    return ServiceSettings(
        environment="local",
        database_url="postgresql+asyncpg://nobody@127.0.0.1/none",
        kafka_bootstrap_servers="127.0.0.1:1",
        ops_host="127.0.0.1",
        ops_port=free_port(),
        drain_seconds=0.3,
    )


def service(door: Door) -> Service:
    async def forever() -> None:
        await asyncio.Event().wait()

    async def note(what: str) -> None:
        door.noted.append(what)

    return Service(
        name="a-service",
        doors=(door,),
        loops={"loop": forever},
        drains=(lambda: note("drained"),),
        closes=(lambda: note("closed"),),
    )


class TestStop:
    async def test_shuts_the_doors_then_drains_then_closes(self, settings):
        noted: list[str] = []
        await serve(service(Door(noted)), settings=settings)
        assert noted == ["opened", "shut", "drained", "closed"]

    async def test_is_over_when_its_time_is_whatever_swallows_its_cancellation(self, settings):
        noted: list[str] = []
        door = DeafDoor(noted)
        began = time.monotonic()
        async with asyncio.timeout(5):
            await serve(service(door), settings=settings)
        assert time.monotonic() - began < 4
        assert noted == ["opened", "closed"]
        door.let_go.set()

    async def test_closes_after_a_door_that_would_not_shut(self, settings):
        noted: list[str] = []
        await serve(service(BrokenDoor(noted)), settings=settings)
        assert noted == ["opened", "closed"]


class Finding:
    """A job that finds so much each time, until it has been run `rounds_max` times."""

    def __init__(self, found: int, *, rounds_max: int = 1_000_000) -> None:
        self.found = found
        self.rounds = 0
        self.rounds_max = rounds_max
        self.done = asyncio.Event()

    async def __call__(self) -> int:
        self.rounds += 1
        if self.rounds == self.rounds_max:
            self.done.set()
        await asyncio.sleep(0)
        return self.found


class TestEvery:
    async def test_goes_on_at_once_while_there_is_much(self):
        job = Finding(MANY, rounds_max=1_000)
        running = asyncio.create_task(every(3600.0, job, name="job"))
        async with asyncio.timeout(30):
            await job.done.wait()
        running.cancel()

    async def test_lets_a_few_become_more(self):
        job = Finding(MANY - 1)
        running = asyncio.create_task(every(3600.0, job, name="job"))
        await asyncio.sleep(2.5 * GATHER_SECONDS)
        running.cancel()
        assert 1 < job.rounds <= 3

    async def test_rests_where_there_is_nothing(self):
        job = Finding(0)
        running = asyncio.create_task(every(3600.0, job, name="job"))
        await asyncio.sleep(2.5 * GATHER_SECONDS)
        running.cancel()
        assert job.rounds == 1

    async def test_goes_on_after_a_failure(self):
        job = Finding(0)

        async def fail_first() -> int:
            found = await job()
            if job.rounds == 1:
                raise OSError("away")
            return found

        running = asyncio.create_task(every(0.01, fail_first, name="job"))
        async with asyncio.timeout(30):
            while job.rounds < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        running.cancel()

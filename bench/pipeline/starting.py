"""How long the whole stack takes to start, and the demo from end to end."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time

from bench.pipeline.bed import bed_directory
from bench.pipeline.frame import (
    Bench,
)
from bench.pipeline.goals import (
    Trials,
)
from bench.pipeline.machine import ROOT
from bench.pipeline.trial import NotProvenError, Trial
from paypost.stack.local import LocalStack
from paypost.stack.state import StackDirectory

DEMO_SECONDS_MAX = 300.0


async def measure_start(
    bench: Bench, *, run: str, yardstick: str, turn: int, trials: Trials
) -> Trial:
    """How long the whole stack takes to start with what it had, and `make demo` from end to end."""
    del trials
    stack_name = f"{bed_directory().name}-start"
    started = []
    for fresh in (True, False):
        bench.say("starting the whole stack" + ("" if fresh else " again"))
        at = time.monotonic()
        with LocalStack(name=stack_name, fresh=fresh):
            started.append(time.monotonic() - at)
    shutil.rmtree(StackDirectory.of(name=stack_name).path, ignore_errors=True)
    bench.say("make demo")
    at = time.monotonic()
    await _run_demo()
    return Trial(
        run=run,
        yardstick=yardstick,
        turn=turn,
        payments=0,
        seconds=0.0,
        payments_per_second=0.0,
        acks_per_second=0.0,
        ack=None,
        posted=None,
        confirmed=None,
        cpu_us={},
        memory={},
        wal_bytes=0.0,
        repeats=0,
        extra={
            "fresh_start_seconds": started[0],
            "start_seconds": started[1],
            "demo_seconds": time.monotonic() - at,
        },
    )


async def _run_demo() -> None:
    process = await asyncio.create_subprocess_exec(
        "make", "demo", cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(DEMO_SECONDS_MAX):
            _, said = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    if process.returncode:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise NotProvenError(why=f"make demo failed ({process.returncode}): {last}")

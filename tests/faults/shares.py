"""Mixes on several stacks at once: a process for each, whose outcomes are gathered here."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from tests.faults.campaign import Outcome

if TYPE_CHECKING:
    from tests.faults.command import Wanted

FILE_NAME = "outcomes.json"


async def run_shares(wanted: Wanted) -> list[Outcome] | None:
    """Run the mixes, each process its share; None where one of them could not run it."""
    folders = [wanted.folder / f"job-{place}" for place in range(wanted.jobs)]
    for folder in folders:
        (folder / FILE_NAME).unlink(missing_ok=True)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.faults", "--mixes", str(wanted.mixes), "--seed", str(wanted.seed)),
            *("--share", f"{place}/{wanted.jobs}", "--folder", str(folder)),
        )
        for place, folder in enumerate(folders)
    ]
    try:
        await asyncio.gather(*(process.wait() for process in processes))
    finally:
        # Each of them stops its stack before it ends.
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        await asyncio.gather(*(process.wait() for process in processes))
    if any(not (folder / FILE_NAME).exists() for folder in folders):
        return None
    return [outcome for folder in folders for outcome in read_outcomes(folder=folder)]


def write_outcomes(outcomes: Sequence[Outcome], *, folder: Path) -> None:
    """Write what came of a share, for the process that gathers them."""
    document = orjson.dumps([each.as_json() for each in outcomes])
    (folder / FILE_NAME).write_bytes(document)


def read_outcomes(*, folder: Path) -> list[Outcome]:
    """What came of a share."""
    return [Outcome.of_json(each) for each in orjson.loads((folder / FILE_NAME).read_bytes())]

"""What the commands of the benchmark share: they clean up, and say what they lack."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from bench.pipeline.bed import NotStartedError, bed_directory
from bench.pipeline.machine import DiskTooSmallError, require_space
from bench.pipeline.trial import NotProvenError
from bench.yardsticks.contract import YardstickUnavailableError
from paypost.stack.kafka import ArtifactUnavailableError
from paypost.stack.ports import NoFreePortsError
from paypost.stack.postgres import PostgresNotFoundError
from paypost.stack.state import StackRunningError
from paypost.stack.supervisor import ProcessFailedError, exit_on_signals

Result = TypeVar("Result")

EXIT_NO_RESULT = 1
EXIT_INTERRUPTED = 130

CANNOT_RUN = (
    ArtifactUnavailableError,
    DiskTooSmallError,
    NoFreePortsError,
    NotProvenError,
    NotStartedError,
    PostgresNotFoundError,
    ProcessFailedError,
    StackRunningError,
    YardstickUnavailableError,
)
"""What keeps a command from its end, told in one line."""


def run_to_its_end(
    work: Callable[[], Coroutine[Any, Any, Result]],
    *,
    say: Callable[[str], None],
    space_bytes: int,
) -> Result:
    """Run a command's work; whatever happens, nothing that it started is left.

    Args:
        work: makes the coroutine.
        say: hears why there is no result.
        space_bytes: how much room it needs.

    Raises:
        SystemExit: it was interrupted or cannot be run; everything has been said.
    """
    try:
        require_space(path=bed_directory().path, needed_bytes=space_bytes)
        with (
            exit_on_signals(),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            return runner.run(work())
    except KeyboardInterrupt:
        say("interrupted; everything is stopped, nothing is reported")
        raise SystemExit(EXIT_INTERRUPTED) from None
    except CANNOT_RUN as error:
        say(f"no result: {error}")
        raise SystemExit(EXIT_NO_RESULT) from None

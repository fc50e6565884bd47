"""The terminal's side of every command: options they share, tables or JSON, errors in one line.

Invariant: with `--json`, standard output holds one JSON document (or one a line where a command
says so) and nothing else; what is meant for people goes to standard error.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, TypeVar

import aiohttp
import asyncpg
import orjson
import typer
import uvloop
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.table import Table

from paypost.remote import RefusedRequestError
from paypost.simulators.processor.processor import UnknownScenarioError
from paypost.stack.kafka import ArtifactUnavailableError
from paypost.stack.locks import LockHeldError
from paypost.stack.ports import NoFreePortsError
from paypost.stack.postgres import DataVersionError, PostgresNotFoundError
from paypost.stack.state import StackNotRunningError, StackRunningError, StackState
from paypost.stack.supervisor import ProcessFailedError
from paypost.trace.timeline import PaymentNotFoundError
from shared.messaging.producer import KafkaUnavailableError

Result = TypeVar("Result")

EXIT_DOES_NOT_HOLD = 1
EXIT_USAGE = 2
EXIT_NO_STACK = 3

StackName = Annotated[
    str | None,
    typer.Option(
        "--stack",
        metavar="NAME",
        envvar="PAYPOST_STACK",
        help="Which stack; by default this checkout's own.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead.")]

# Wide where nobody looks through a window: a piped table is for reading, too.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
err = Console(stderr=True, highlight=False)


class UsageError(Exception):
    """What was asked for makes no sense; the message says what would."""


class DoesNotHoldError(Exception):
    """What was asked does not hold; everything has been said already."""


def print_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    sys.stdout.buffer.write(orjson.dumps(value, default=str, option=options))
    sys.stdout.buffer.flush()


def table_of(
    *,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    title: str | None = None,
    numbers: Sequence[str] = (),
) -> Table:
    """A table; the columns named in `numbers` stand to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    return table


def load_state(name: str | None) -> StackState:
    """The running stack that a command is about. Raises StackNotRunningError."""
    return StackState.load(name)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a command's coroutine to its end."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def parse_cents(text: str, *, option: str) -> int:
    """Read an amount as people write it, such as `84.50`; whole cents only.

    Raises:
        UsageError: not an amount.
    """
    try:
        amount = Decimal(text.replace(",", "")) * 100
    except InvalidOperation:
        raise UsageError(f"{option} {text!r} is not an amount; write it as 84.50") from None
    if not amount.is_finite() or amount != amount.to_integral_value() or amount < 0:
        raise UsageError(f"{option} {text!r} is not a whole number of cents; write it as 84.50")
    return int(amount)


def milliseconds(seconds: float | None) -> str:
    """A duration as people read it."""
    if seconds is None:
        return "-"
    if abs(seconds) < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.2f} s"


@contextmanager
def known_errors() -> Iterator[None]:
    """Turn what may go wrong into one line that says what to do next, and an exit code."""
    try:
        yield
    except DoesNotHoldError:
        raise SystemExit(EXIT_DOES_NOT_HOLD) from None
    except tuple(_SAID) as error:
        code, say = next(said for kind, said in _SAID.items() if isinstance(error, kind))
        err.print(f"[bold red]paypost:[/] {plain(say(error))}", soft_wrap=True)
        raise SystemExit(code) from None


def plain(text: str) -> str:
    """Text in which nothing is taken for markup."""
    return text.replace("[", r"\[")


_SAID: Mapping[type[Exception], tuple[int, Callable[[Any], str]]] = {
    UsageError: (EXIT_USAGE, str),
    UnknownScenarioError: (
        EXIT_USAGE,
        lambda error: f"{error}; `paypost trigger stripe --help` lists them",
    ),
    PaymentNotFoundError: (EXIT_DOES_NOT_HOLD, str),
    StackNotRunningError: (EXIT_NO_STACK, lambda error: f"{error}; start one with `paypost up`"),
    StackRunningError: (
        EXIT_DOES_NOT_HOLD,
        lambda error: f"{error}; `paypost status` shows it, `paypost down` ends it",
    ),
    ProcessFailedError: (EXIT_DOES_NOT_HOLD, str),
    ArtifactUnavailableError: (EXIT_DOES_NOT_HOLD, str),
    PostgresNotFoundError: (EXIT_DOES_NOT_HOLD, str),
    DataVersionError: (EXIT_DOES_NOT_HOLD, str),
    NoFreePortsError: (EXIT_DOES_NOT_HOLD, str),
    LockHeldError: (EXIT_DOES_NOT_HOLD, str),
    RefusedRequestError: (EXIT_DOES_NOT_HOLD, str),
    KafkaUnavailableError: (
        EXIT_DOES_NOT_HOLD,
        lambda error: f"Kafka does not answer ({error}); see `paypost status`",
    ),
    KafkaError: (
        EXIT_DOES_NOT_HOLD,
        lambda error: f"Kafka does not answer ({error}); see `paypost status`",
    ),
    aiohttp.ClientError: (
        EXIT_DOES_NOT_HOLD,
        lambda error: f"no answer ({error}); see `paypost status`",
    ),
    asyncpg.PostgresError: (
        EXIT_DOES_NOT_HOLD,
        lambda error: f"PostgreSQL says: {error}; see `paypost status`",
    ),
    asyncpg.InterfaceError: (
        EXIT_DOES_NOT_HOLD,
        lambda error: f"PostgreSQL does not answer ({error}); see `paypost status`",
    ),
    TimeoutError: (EXIT_DOES_NOT_HOLD, lambda error: f"took too long: {error}"),
    ConnectionError: (
        EXIT_DOES_NOT_HOLD,
        lambda error: f"no connection ({error}); see `paypost status`",
    ),
}
"""What may go wrong: the exit code, and what to say. The first that fits counts."""

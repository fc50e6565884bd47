"""`paypost up`, `down` and `status`: the stack as a whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from paypost.commands.terminal import (
    AsJson,
    DoesNotHoldError,
    StackName,
    err,
    load_state,
    out,
    print_json,
    run,
    table_of,
)
from paypost.stack.local import PARTS, SERVICES, LocalStack, StackEvent
from paypost.stack.state import StackState, default_stack_name, stop_stack
from paypost.stack.supervisor import exit_on_signals
from paypost.stack_status import PartStatus, read_status

STEPS = len(PARTS) + len(SERVICES) + 1
"""Every part, a migration for each service, and the topics."""

NEXT = (
    ("paypost trigger stripe card --account 1001 --amount 84.50 --wait", "a card payment"),
    ("paypost trigger stripe card --account 'A-####' --accounts 50 --count 1000 --wait", "a load"),
    ("paypost trace pi_…", "one payment's way over all services"),
    ("paypost trigger enrol 1001 --maximum 200", "autopay, with a maximum"),
    ("paypost autopay show 1001", "an account's autopay, and what comes next"),
    ("paypost cis set down=true", "let the CIS fail; `paypost cis reset` brings it back"),
    ("paypost verify --wait 30", "prove that nothing is lost and nothing doubled"),
)


def up(
    *,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin without what an earlier run kept.")
    ] = False,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Start the whole system and keep it running until Ctrl-C or `paypost down`.

    Real Kafka and PostgreSQL, the services as separate processes, and around them the reference
    CIS, a mail server and the processor's counterpart. With --json the addresses are printed as
    one JSON document once everything is ready.
    """
    name = stack or default_stack_name()
    err.print(
        f"Starting Paypost as stack [bold]{name}[/]: "
        f"Kafka, PostgreSQL, {len(SERVICES)} services, a CIS …"
    )
    with exit_on_signals():
        try:
            with start_shown() as on_event:
                local = LocalStack(name=name, fresh=fresh, on_event=on_event)
                state = local.up()
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        try:
            if as_json:
                print_json(addresses(state=state))
            else:
                _print_addresses(state)
            _wait_for_the_end()
        finally:
            err.print("Stopping …")
            local.down()


def down(*, stack: StackName = None, as_json: AsJson = False) -> None:
    """Stop the stack that `paypost up` runs, and what a killed one may have left."""
    name = stack or default_stack_name()
    with err.status(f"Stopping {name} …"):
        stopped = stop_stack(name=name)
    if as_json:
        print_json({"stack": name, "was_running": stopped})
    else:
        out.print(f"{name} is down." if stopped else f"{name} was not up.")


def status(*, stack: StackName = None, as_json: AsJson = False) -> None:
    """Show each process, whether it is ready and alive, and what waits in it.

    Exit code 1 when a part is not well, 3 when no stack is up.
    """
    state = load_state(stack)
    found = run(read_status(state=state))
    if as_json:
        print_json({"stack": state.name, "parts": [part.as_json() for part in found]})
    else:
        out.print(
            table_of(
                title=f"Stack {state.name}, up since {state.started_at:%H:%M:%S} UTC",
                columns=("part", "pid", "state", "memory", "CPU", "waiting", "address"),
                rows=[_status_row(part) for part in found],
                numbers=("pid", "memory", "CPU"),
            )
        )
    if not all(part.well for part in found):
        raise DoesNotHoldError


def addresses(*, state: StackState) -> dict[str, Any]:
    """Where everything is; the keys that callers need as well, and no passwords."""
    return {
        "stack": state.name,
        "kafka": state.kafka_bootstrap,
        "postgres": f"{state.postgres_host}:{state.postgres_port}",
        "http": state.http_urls,
        "ops": state.ops_urls,
        "smtp": f"{state.smtp_host}:{state.smtp_port}",
        "logs": {name: str(path) for name, path in state.log_paths.items()},
        "processes": {name: identity.pid for name, identity in state.processes.items()},
    }


@contextmanager
def start_shown() -> Iterator[Any]:
    """Draw a stack's start: a bar on a terminal, plain lines elsewhere. Yields the listener."""
    if not err.is_terminal:
        yield lambda event: err.print(f"{event.elapsed_seconds:6.2f} s  {_line(event)}")
        return
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    )
    task: TaskID = progress.add_task("starting", total=STEPS)
    busy: dict[str, str] = {}

    def on_event(event: StackEvent) -> None:
        if event.phase in {"starting", "progress"}:
            busy[event.part] = event.detail
        elif event.phase in {"ready", "failed"}:
            busy.pop(event.part, None)
            progress.advance(task)
        named = [f"{part} ({detail})" if detail else part for part, detail in busy.items()]
        progress.update(task, description=f"starting {', '.join(named)}"[:90])

    with progress:
        yield on_event


def _line(event: StackEvent) -> str:
    detail = f": {event.detail.splitlines()[0]}" if event.detail else ""
    return f"{event.part} {event.phase}{detail}".replace("[", r"\[")


def _print_addresses(state: StackState) -> None:
    urls = state.http_urls
    rows = [
        ("webhooks in (Stripe)", f"{urls['payment-intake']}/webhooks/stripe"),
        ("webhooks in (portal)", f"{urls['payment-intake']}/portal/events"),
        ("payments, live (portal's API)", f"{urls['payment-intake']}/payments"),
        ("autopay (operator's and portal's API)", f"{urls['autopay-scheduler']}/autopay/report"),
        ("suspense (operator's API)", f"{urls['cis-poster']}/suspense"),
        ("reference CIS", urls["cis"]),
        ("inbox of all customers", urls["mail"]),
        ("processor's counterpart", urls["processor"]),
        ("Kafka", state.kafka_bootstrap),
        ("PostgreSQL", f"{state.postgres_host}:{state.postgres_port}"),
        *((f"{name}: metrics, health", f"{url}/metrics") for name, url in state.ops_urls.items()),
        ("logs", str(next(iter(state.log_paths.values())).parent)),
    ]
    out.print(table_of(title="Paypost is up", columns=("what", "where"), rows=rows))
    out.print(
        table_of(title="Try, in another terminal", columns=("command", "shows"), rows=list(NEXT))
    )
    out.print("Ctrl-C or `paypost down` stops it.")


def _wait_for_the_end() -> None:
    ended = threading.Event()
    try:
        # Waits in pieces, so that a signal's handler gets its turn.
        while not ended.wait(3600):
            continue
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _status_row(part: PartStatus) -> tuple[object, ...]:
    waiting = ", ".join(f"{count:g} {what}" for what, count in part.backlog.items())
    return (
        part.name,
        part.pid,
        f"[green]{part.state}[/]" if part.well else f"[bold red]{part.state}[/]",
        f"{part.resident_mb:.0f} MB" if part.resident_mb is not None else "-",
        f"{part.cpu_seconds:.1f} s" if part.cpu_seconds is not None else "-",
        waiting or "-",
        part.address,
    )

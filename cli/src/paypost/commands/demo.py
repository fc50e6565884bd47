"""`paypost demo`: the whole system, one scenario, and the proof; nothing is left running."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from paypost.commands import autopay as autopays
from paypost.commands import mail as mails
from paypost.commands import suspense
from paypost.commands import trace as traces
from paypost.commands import verify as verifying
from paypost.commands.stack import start_shown
from paypost.commands.terminal import (
    AsJson,
    DoesNotHoldError,
    StackName,
    err,
    milliseconds,
    out,
    print_json,
    run,
    table_of,
)
from paypost.demo.autopay import CLOCK_AHEAD
from paypost.demo.expectations import Check, check
from paypost.demo.scenario import ENVIRONMENTS, STORY, Played, play
from paypost.remote import Remote
from paypost.stack.local import LocalStack
from paypost.stack.state import StackState, default_stack_name
from paypost.stack.supervisor import exit_on_signals
from paypost.trace.timeline import Timeline, find_payment, read_inbox, read_timeline
from paypost.traffic.journeys import spread
from paypost.verify.autopay import Terms
from paypost.verify.report import Places, Report, verify

SHOWN_PAYMENT = "refund before its payment"
SHOWN_INBOX = "d-005@customers.example"
SHOWN_ANNOUNCEMENT = "p-004@customers.example"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything that the demo prints."""

    played: Played
    report: Report
    checks: list[Check]
    timeline: Timeline
    mail: dict[str, Any]
    announcement: dict[str, Any]
    suspense: list[dict[str, Any]]

    @property
    def holds(self) -> bool:
        """Whether every expectation and every book holds."""
        return self.report.holds and all(each.holds for each in self.checks)


def demo(*, stack: StackName = None, as_json: AsJson = False) -> None:
    """Start the whole system, play a scenario on it, prove the outcome, stop everything.

    Exit code 0 only if every expectation holds and `verify` finds nothing.
    """
    name = f"{stack or default_stack_name()}-demo"[:64]
    console = err if as_json else out
    lines = "\n".join(f"{number}. {line}" for number, line in enumerate(STORY, start=1))
    console.print(
        Panel(
            "Paypost takes a city's payments from the processor to the ledger, and tells the "
            "customer, within seconds.\nThis starts all of it on this machine: real Kafka and "
            "PostgreSQL, four services, and around them a\nCIS (the ledger), a mail server and "
            f"a payment processor. Takes about 30 seconds.\n\n{lines}",
            title="paypost demo",
            title_align="left",
        )
    )
    began = time.monotonic()
    with exit_on_signals():
        try:
            outcome = _run_on(name, console)
        except KeyboardInterrupt:
            err.print("Interrupted; everything is stopped.")
            raise SystemExit(130) from None
    seconds = time.monotonic() - began
    if as_json:
        print_json(as_document(outcome=outcome, seconds=seconds))
    else:
        verdict = "[bold green]The demo holds" if outcome.holds else "[bold red]DOES NOT HOLD"
        out.print(f"{verdict}[/]: everything is stopped again, after {seconds:.1f} s.")
        out.print("Next: `make up`, then `paypost --help`.")
    if not outcome.holds:
        raise DoesNotHoldError


def _run_on(name: str, console: Console) -> Outcome:
    with start_shown() as on_event:
        local = LocalStack(name=name, fresh=True, environments=ENVIRONMENTS, on_event=on_event)
        started = time.monotonic()
        local.up()
    try:
        console.print(f"[green]✓[/] the stack is up in {time.monotonic() - started:.1f} s")
        outcome = run(_play(local, console))
        if console is out:
            print_outcome(outcome=outcome)
    finally:
        with err.status("Stopping everything …"):
            local.down()
    return outcome


async def _play(local: LocalStack, console: Console) -> Outcome:
    with _steps(console) as tell:
        played = await play(stack=local, tell=tell)
        tell("comparing all books")
        state = local.state
        terms = Terms(clock_ahead=CLOCK_AHEAD)
        report = await verify(places=Places.of(state=state, terms=terms))
    return Outcome(
        played=played,
        report=report,
        checks=await check(state=state, played=played, report=report),
        timeline=await _timeline(state, played.references[SHOWN_PAYMENT]),
        mail=await _mail(state, to=SHOWN_INBOX),
        announcement=await _mail(state, to=SHOWN_ANNOUNCEMENT),
        suspense=await suspense.read_suspense(state=state),
    )


@contextmanager
def _steps(console: Console) -> Iterator[Callable[[str], None]]:
    """Show the step under way, and leave a line for each that is done."""
    began = time.monotonic()
    current: list[tuple[str, float]] = []
    status = err.status("")

    def finish() -> None:
        if current:
            what, since = current.pop()
            now = time.monotonic()
            console.print(
                f"[green]✓[/] {now - began:5.1f} s  {escape(what)} [dim]({now - since:.1f} s)[/]"
            )

    def tell(what: str) -> None:
        finish()
        current.append((what, time.monotonic()))
        status.update(escape(what))

    with status:
        yield tell
        finish()


async def _timeline(state: StackState, name: str) -> Timeline:
    connection = await asyncpg.connect(state.superuser_dsn)
    try:
        payment_id = await find_payment(connection=connection, name=name)
        return await read_timeline(connection=connection, state=state, payment_id=payment_id)
    finally:
        await connection.close()


async def _mail(state: StackState, *, to: str) -> dict[str, Any]:
    """Return the newest mail in an inbox; empty where there is none."""
    async with Remote(base_url=state.http_urls["mail"]) as server:
        inbox = await read_inbox(mail=server, to=to)
    return await mails.read_mail(state=state, number=inbox[-1]["id"]) if inbox else {}


def print_outcome(*, outcome: Outcome) -> None:
    """What happened, as people read it."""
    played = outcome.played
    rows = []
    for window in played.windows:
        journeys = played.journeys_in(window)
        posted = spread(each.posted_after_seconds for each in journeys)
        confirmed = spread(each.confirmed_after_seconds for each in journeys)
        cells = [
            milliseconds(getattr(found, part, None))
            for found in (posted, confirmed)
            for part in ("p50_seconds", "p99_seconds", "worst_seconds")
        ]
        rows.append((window.name, len(journeys), *cells))
    out.print(
        table_of(
            title="How long it took, by when the payment was accepted",
            columns=(
                "while",
                "payments",
                "→ posted p50",
                "p99",
                "worst",
                "→ confirmed p50",
                "p99 ",
                "worst ",
            ),
            rows=rows,
            numbers=(
                "payments",
                "→ posted p50",
                "p99",
                "worst",
                "→ confirmed p50",
                "p99 ",
                "worst ",
            ),
        )
    )
    out.print("\n[bold]One payment's way: the refund that came before its payment[/]")
    out.print(traces.render(timeline=outcome.timeline))
    if outcome.mail:
        text = mails.render(message=outcome.mail)
        out.print(Panel(escape(text), title="One of the e-mails", title_align="left"))
    if outcome.announcement:
        text = mails.render(message=outcome.announcement)
        title = "Autopay: the notice before a charge"
        out.print(Panel(escape(text), title=title, title_align="left"))
    out.print("\n[bold]Autopay: declined, and charged three days later[/]")
    out.print(autopays.render_account(found=played.autopay.account))
    out.print(autopays.render_import(answer=played.autopay.imported))
    until = played.autopay.due_today + timedelta(days=30)
    out.print(autopays.render_lapsing(lapsing=played.autopay.lapsing, until=until))
    out.print(suspense.render(found=outcome.suspense))
    out.print(verifying.render(report=outcome.report))
    out.print(
        table_of(
            title="Expected, worked out by hand, and found",
            columns=("what", "expected", "found", ""),
            rows=[
                (
                    each.what,
                    each.expected,
                    each.found,
                    "[green]✓[/]" if each.holds else "[bold red]✗[/]",
                )
                for each in outcome.checks
            ],
        )
    )


def as_document(*, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """What happened, for machines."""
    windows = {}
    for window in outcome.played.windows:
        journeys = outcome.played.journeys_in(window)
        posted = spread(each.posted_after_seconds for each in journeys)
        confirmed = spread(each.confirmed_after_seconds for each in journeys)
        windows[window.name] = {
            "payments": len(journeys),
            "accepted_to_posted": posted and posted.as_json(),
            "accepted_to_confirmed": confirmed and confirmed.as_json(),
        }
    return {
        "holds": outcome.holds,
        "seconds": round(seconds, 1),
        "windows": windows,
        "expectations": [
            {
                "what": each.what,
                "expected": each.expected,
                "found": each.found,
                "holds": each.holds,
            }
            for each in outcome.checks
        ],
        "references": outcome.played.references,
        "autopay": {
            "charges": outcome.played.autopay.statuses,
            "enrolments": outcome.played.autopay.enrolments,
            "imported": outcome.played.autopay.imported,
            "lapsing": outcome.played.autopay.lapsing,
        },
        "timeline": outcome.timeline.as_json(),
        "suspense": outcome.suspense,
        "verify": outcome.report.as_json(),
    }

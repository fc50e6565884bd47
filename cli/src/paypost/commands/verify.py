"""`paypost verify`: proof that everything accepted arrived exactly once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import aiohttp
import asyncpg
import typer
from rich.console import Group, RenderableType
from rich.text import Text

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
from paypost.verify.autopay import Terms
from paypost.verify.compare import Fault
from paypost.verify.exposition import VerifyMetrics
from paypost.verify.report import Places, Report, verify

BOOKS = ("accepted", "held", "posted", "ledger", "journal", "told")
SHOWN_MAX = 30


def verify_command(
    *,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="First wait until nothing is on its way.")
    ] = 0.0,
    expect_dead: Annotated[
        int, typer.Option(help="How many dead letters and rejected webhooks there should be.")
    ] = 0,
    days_ahead: Annotated[
        float, typer.Option(min=0, help="How far autopay-scheduler's clock was moved ahead.")
    ] = 0.0,
    database_url: Annotated[
        str | None, typer.Option(help="Another PostgreSQL than the stack's own, as superuser.")
    ] = None,
    metrics_file: Annotated[
        Path | None, typer.Option(help="Also write what was found for node_exporter.")
    ] = None,
    serve: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="Go on for ever, and answer Prometheus here."),
    ] = None,
    every: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Between comparisons, with --serve.")
    ] = 300.0,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Hold every book against every other: lost, twice and invented must be 0, to the cent.

    Compares what payment-intake accepted, cis-poster posted, the CIS has in its ledger and in its
    journal, notifier told and the mail server took. Of autopay it holds what autopay-scheduler
    says of each due date against the customer's notices, payment-intake's charge and the
    processor's own book: each due enrolment is charged once, or there is a reason. Exit code 1 if
    anything differs; every difference is named. On a stack that is at work, give --wait.
    """
    places = Places.of(
        state=load_state(stack),
        database_url=database_url,
        terms=Terms(clock_ahead=timedelta(days=days_ahead)),
    )
    metrics = VerifyMetrics()
    if serve is not None:
        metrics.serve(host="127.0.0.1", port=serve)
        run(_for_ever(places=places, metrics=metrics, every_seconds=every))
    with err.status("Comparing the books …"):
        report = run(verify(places=places, wait_seconds=wait, expect_dead=expect_dead))
    metrics.compared(report)
    if metrics_file is not None:
        metrics.write(path=metrics_file)
    if as_json:
        print_json(report.as_json())
    else:
        out.print(render(report=report))
    if not report.holds:
        raise DoesNotHoldError


async def _for_ever(*, places: Places, metrics: VerifyMetrics, every_seconds: float) -> None:
    while True:
        try:
            metrics.compared(await verify(places=places))
        except (OSError, TimeoutError, asyncpg.PostgresError, aiohttp.ClientError) as error:
            # What was found last stands and ages: an alert tells of its age.
            metrics.failed()
            err.print(f"the books could not be compared: {type(error).__name__}: {error}")
        await asyncio.sleep(every_seconds)


def render(*, report: Report) -> RenderableType:
    """The report as people read it."""
    parts: list[RenderableType] = [_books(report)]
    if report.tally.held:
        held = [(reason, count) for reason, count in sorted(report.tally.held.items())]
        parts.append(
            table_of(
                title="Accepted and held back, for a stated reason",
                columns=("why", "count"),
                rows=held,
                numbers=("count",),
            )
        )
    parts.append(_autopay(report))
    notices = ", ".join(f"{count} {what}" for what, count in sorted(report.tally.notices.items()))
    parts.append(
        Text(
            f"Notices: {notices or 'none'}. Mails: {report.tally.mails}, of which "
            f"{report.tally.mails_repeated} came again under the same Message-ID."
        )
    )
    beside = [
        f"dead letters {sum(report.dead_letters.values())}",
        f"rejected webhooks {report.extras.rejections}",
        f"outbox rows {sum(report.extras.outboxes.values())}",
        f"conflicts noted {sum(report.extras.conflicts.values())}",
        f"ledger balances {'proven' if report.proof.get('proven') else 'NOT proven'}",
    ]
    parts.append(Text(f"Beside: {', '.join(beside)}."))
    if report.differences:
        parts.append(_differences(report))
    parts.append(_verdict(report))
    return Group(*parts)


def _books(report: Report) -> RenderableType:
    sums = report.tally.sums
    lines = sorted({(kind, currency) for _, kind, currency in sums})
    rows = []
    for kind, currency in lines:
        cells = []
        for book in BOOKS:
            found = sums.get((book, kind, currency))
            cells.append(f"{found.count:,} / {found.cents / 100:,.2f}" if found else "-")
        rows.append((kind, currency, *cells))
    return table_of(
        title="The books (count / sum)",
        columns=("kind", "currency", *BOOKS),
        rows=rows,
        numbers=BOOKS,
    )


def _autopay(report: Report) -> RenderableType:
    tally = report.autopay
    if not tally.has_traffic:
        return Text("Autopay: nothing of it has happened here.")
    books = "; ".join(
        f"{book} {found.count:,} / {found.cents / 100:,.2f} {currency}"
        for (book, currency), found in sorted(tally.sums.items())
    )
    rows = [(outcome, count) for outcome, count in sorted(tally.outcomes.items())]
    rows += [(f"waits: {why}", count) for why, count in sorted(tally.held.items())]
    return Group(
        table_of(
            title="Autopay: each due date charged once, or its reason",
            columns=("what became of it", "count"),
            rows=rows,
            numbers=("count",),
        ),
        Text(f"Due dates past: {tally.due_dates:,}. Books (count / sum): {books or 'empty'}."),
    )


def _differences(report: Report) -> RenderableType:
    rows = [
        (each.fault, each.key, each.payment_id or "", each.detail)
        for each in report.differences[:SHOWN_MAX]
    ]
    total = sum(report.counts.values())
    more = f", the first {SHOWN_MAX} of them" if total > SHOWN_MAX else ""
    return table_of(
        title=f"Differences: {total}{more}",
        columns=("fault", "key", "payment", "what differs"),
        rows=rows,
    )


def _verdict(report: Report) -> Text:
    counted = ", ".join(
        f"{fault} {report.count(fault)}" for fault in (Fault.LOST, Fault.TWICE, Fault.INVENTED)
    )
    if report.holds:
        return Text(f"verify: holds. {counted}; in {report.seconds:.1f} s.", style="bold green")
    others = ", ".join(
        f"{fault} {count}"
        for fault, count in sorted(report.counts.items())
        if fault not in {Fault.LOST, Fault.TWICE, Fault.INVENTED}
    )
    moving = (
        f" Still on its way: {report.pending.total}; `paypost verify --wait 60` waits for it."
        if report.pending.total
        else " `paypost trace KEY` shows one payment's way."
    )
    return Text(
        f"verify: does NOT hold. {counted}{f'; {others}' if others else ''}.{moving}",
        style="bold red",
    )

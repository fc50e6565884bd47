"""`paypost trace`: one payment's way over all services."""

from __future__ import annotations

from typing import Annotated

import asyncpg
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from paypost.commands.terminal import (
    AsJson,
    StackName,
    load_state,
    out,
    print_json,
    run,
    table_of,
)
from paypost.stack.state import StackState
from paypost.trace.timeline import Timeline, find_payment, read_timeline


def trace(
    *,
    payment: Annotated[
        str,
        typer.Argument(help="Paypost's id, a posting's key, or the processor's reference (pi_…)."),
    ],
    database_url: Annotated[
        str | None, typer.Option(help="Another PostgreSQL than the stack's own, as superuser.")
    ] = None,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Tell one payment's way: events, movements, attempts, CIS answers, e-mails, and the waits.

    Times are relative to the payment's acceptance. Exit code 1 when nobody knows the payment.
    """
    state = load_state(stack)
    timeline = run(_read(state, database_url or state.superuser_dsn, payment))
    if as_json:
        print_json(timeline.as_json())
    else:
        out.print(render(timeline=timeline))


async def _read(state: StackState, database_url: str, name: str) -> Timeline:
    connection = await asyncpg.connect(database_url)
    try:
        payment_id = await find_payment(connection=connection, name=name)
        return await read_timeline(connection=connection, state=state, payment_id=payment_id)
    finally:
        await connection.close()


def render(*, timeline: Timeline) -> RenderableType:
    """The timeline as people read it."""
    payment = timeline.payment
    amount = "amount unknown"
    if payment["amount_cents"] is not None:
        amount = f"{payment['amount_cents'] / 100:,.2f} {payment['currency']}"
        if payment["fee_cents"]:
            amount += f" and a fee of {payment['fee_cents'] / 100:,.2f}"
    head = Text(
        f"Payment {timeline.payment_id} ({payment['processor']} {', '.join(timeline.names)})\n"
        f"{amount} for account {payment['account_id'] or '(none named)'}: {payment['status']}"
    )
    rows = []
    for moment in timeline.moments:
        after = (moment.at - timeline.start).total_seconds()
        rows.append((_relative(after), moment.where, moment.what, moment.detail))
    waits = [Text(f"→ {line}", style="yellow") for line in timeline.waits()]
    done = waits or [Text("→ nothing waits: posted and told", style="green")]
    if not timeline.movements:
        done = [Text(f"→ {payment['status']}: nothing to post yet", style="yellow")]
    return Group(
        head,
        table_of(columns=("after", "where", "what", "detail"), rows=rows, numbers=("after",)),
        *done,
    )


def _relative(seconds: float) -> str:
    if abs(seconds) < 10:
        return f"{seconds * 1000:+,.1f} ms"
    return f"{seconds:+,.1f} s"

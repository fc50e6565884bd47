"""`paypost trace`: the way of one payment, charge or enrolment over all services."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
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
from paypost.trace.autopay import (
    AutopayTimeline,
    find_autopay,
    payment_of_charge,
    read_autopay,
)
from paypost.trace.moments import Moment
from paypost.trace.timeline import Timeline, find_payment, read_timeline


def trace(
    *,
    payment: Annotated[
        str,
        typer.Argument(
            help="Paypost's id, a posting's key, the processor's reference (pi_…), or the id of "
            "a charge of autopay or of an enrolment."
        ),
    ],
    database_url: Annotated[
        str | None, typer.Option(help="Another PostgreSQL than the stack's own, as superuser.")
    ] = None,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Tell one payment's way: events, movements, attempts, CIS answers, e-mails, and the waits.

    Of a payment that autopay made it tells the customer's words, announcements, requests, declines
    and pauses as well. Times are relative to the payment's acceptance; where there is no payment,
    to the first thing known. Exit code 1 when nobody knows it.
    """
    state = load_state(stack)
    timeline = run(_read(state, database_url or state.superuser_dsn, payment))
    if as_json:
        print_json(timeline.as_json())
    else:
        out.print(render(timeline=timeline))


async def _read(state: StackState, database_url: str, name: str) -> Timeline | AutopayTimeline:
    connection = await asyncpg.connect(database_url)
    try:
        found = await find_autopay(connection=connection, name=name)
        if found is not None:
            kind, key = found
            paid = (
                await payment_of_charge(connection=connection, charge_id=key)
                if kind == "charge"
                else None
            )
            if paid is None:
                return await read_autopay(connection=connection, state=state, kind=kind, key=key)
            name = str(paid)
        payment_id = await find_payment(connection=connection, name=name)
        return await read_timeline(connection=connection, state=state, payment_id=payment_id)
    finally:
        await connection.close()


def render(*, timeline: Timeline | AutopayTimeline) -> RenderableType:
    """The timeline as people read it."""
    if isinstance(timeline, AutopayTimeline):
        return _render_autopay(timeline)
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
    if timeline.charge is not None:
        head.append(
            f"\nCharge {timeline.charge.charge_id} of enrolment {timeline.charge.enrolment_id}"
        )
    waits = [Text(f"→ {line}", style="yellow") for line in timeline.waits()]
    done = waits or [Text("→ nothing waits: posted and told", style="green")]
    if not timeline.movements:
        done = [Text(f"→ {payment['status']}: nothing to post yet", style="yellow")]
    return Group(
        head,
        _table(timeline.moments, timeline.start),
        *done,
    )


def _render_autopay(timeline: AutopayTimeline) -> RenderableType:
    head = Text(
        f"{timeline.kind.capitalize()} {timeline.id} of account {timeline.account_id}\n"
        f"{timeline.about}"
    )
    paid = [
        Text(f"paypost trace {story.asked['payment_id']}")
        for story in timeline.charges
        if story.asked is not None and story.asked["payment_id"] is not None
    ]
    waits = [Text(f"→ {line}", style="yellow") for line in timeline.waits()]
    return Group(
        head,
        _table(timeline.moments, timeline.start),
        *paid,
        *(waits or [Text("→ nothing waits", style="green")]),
    )


def _table(moments: Sequence[Moment], start: datetime) -> RenderableType:
    rows = [
        (
            _relative((moment.at - start).total_seconds()),
            moment.where,
            moment.what,
            moment.detail,
        )
        for moment in moments
    ]
    return table_of(columns=("after", "where", "what", "detail"), rows=rows, numbers=("after",))


def _relative(seconds: float) -> str:
    if abs(seconds) < 10:
        return f"{seconds * 1000:+,.1f} ms"
    if abs(seconds) < 2 * 86_400:
        return f"{seconds:+,.1f} s"
    return f"{seconds / 86_400:+,.1f} days"

"""`paypost trigger`: make a payment happen, or thousands."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import uuid4

import asyncpg
import typer
from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from paypost.commands.terminal import (
    AsJson,
    DoesNotHoldError,
    StackName,
    UsageError,
    err,
    load_state,
    milliseconds,
    out,
    parse_cents,
    print_json,
    run,
    table_of,
)
from paypost.commands.trigger_autopay import trigger_bill, trigger_enrol, trigger_word
from paypost.simulators.processor.delivery import Disorder
from paypost.simulators.processor.processor import Order, UnknownScenarioError, expand_accounts
from paypost.simulators.processor.scenarios import SCENARIOS, SINGLE_EVENTS
from paypost.stack.state import StackState
from paypost.stack.supervisor import ProcessIdentity
from paypost.traffic.customers import ensure_customers
from paypost.traffic.journeys import (
    Journey,
    payments_per_second,
    read_journeys,
    spread,
)
from paypost.traffic.portal import KIOSK_SOURCE, PORTAL_SOURCE, Way, say
from paypost.traffic.processes import Usage, read_usage
from paypost.traffic.stripe import Sent, StripeSender
from paypost.verify.pending import Pending, wait_until_settled
from shared.contracts.fact import Fact
from shared.contracts.portal import (
    ContactChanged,
    CustomerRegistered,
    PaymentCaptured,
    PaymentSubmitted,
)

trigger_app = typer.Typer(
    no_args_is_help=True,
    help="Make things happen, as the processor, the portal and the CIS would.",
)

NAMES = ", ".join((*SCENARIOS, *SINGLE_EVENTS))


class Events(StrEnum):
    """How much of a card payment's train is sent."""

    ALL = "all"
    MINIMAL = "minimal"


class Said(StrEnum):
    """What the portal says."""

    SUBMITTED = "submitted"
    CAPTURED = "captured"
    REGISTERED = "registered"
    CONTACT = "contact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a run of `trigger stripe` came to."""

    sent: Sent
    journeys: tuple[Journey, ...]
    pending: Pending | None
    usage: dict[str, Usage]

    def as_json(self) -> dict[str, Any]:
        """Everything but the single deliveries, for machines."""
        ack = spread(self.sent.ack_seconds())
        paid = [each for each in self.journeys if each.kind == "payment"]
        posted = spread(each.posted_after_seconds for each in paid)
        confirmed = spread(each.confirmed_after_seconds for each in paid)
        return {
            "payments": len(self.sent.payments),
            "events": len(self.sent.deliveries),
            "not_taken": self.sent.not_taken,
            "seconds": round(self.sent.seconds, 3),
            "accepted_payments_per_second": round(self.sent.payments_per_second, 1),
            "answered_events_per_second": round(self.sent.events_per_second, 1),
            "ack": ack and ack.as_json(),
            "confirmed_payments": sum(each.confirmed_at is not None for each in paid),
            "end_to_end_payments_per_second": payments_per_second(paid),
            "accepted_to_posted": posted and posted.as_json(),
            "accepted_to_confirmed": confirmed and confirmed.as_json(),
            "pending": self.pending and self.pending.as_json(),
            "processes": {
                name: {
                    "cpu_seconds": round(used.cpu_seconds, 2),
                    "resident_mb": round(used.resident_mb, 1),
                }
                for name, used in self.usage.items()
            },
            "references": list(self.sent.references[:1000]),
        }


@trigger_app.command(
    "stripe", help=f"Send real Stripe events, signed, as Stripe does.\n\nEVENT: {NAMES}"
)
def trigger_stripe(
    *,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="A scenario or one event type.")],
    account: Annotated[
        str, typer.Option(help="The customer's account; '#' become numbers, as in 'A-####'.")
    ] = "1001",
    amount: Annotated[
        str | None, typer.Option(help="The bill, as 84.50; drawn from 5 to 400 when absent.")
    ] = None,
    fee: Annotated[str, typer.Option(help="The convenience fee on top of it.")] = "0",
    count: Annotated[int, typer.Option(min=1, help="How many payments.")] = 1,
    accounts: Annotated[
        int, typer.Option(min=1, help="Over how many accounts, in turn; needs '#' in --account.")
    ] = 1,
    duplicate: Annotated[
        bool, typer.Option("--duplicate", help="Every event twice, at the same time.")
    ] = False,
    reorder: Annotated[
        bool, typer.Option("--reorder", help="A payment's events in random order, all at once.")
    ] = False,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Payments a second at most.")] = None,
    events: Annotated[
        Events, typer.Option(help="minimal: of a card payment only payment_intent.succeeded.")
    ] = Events.ALL,
    concurrency: Annotated[
        int, typer.Option(min=1, max=1000, help="Payments under way at the same time.")
    ] = 64,
    later: Annotated[
        bool, typer.Option(help="Whether what comes days later (ACH) is sent right after.")
    ] = True,
    open_accounts: Annotated[
        bool,
        typer.Option(
            "--open/--no-open", help="Whether missing accounts are opened and customers registered."
        ),
    ] = True,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until all are confirmed, and measure it.")
    ] = False,
    wait_seconds: Annotated[float, typer.Option(help="How long --wait waits at most.")] = 300.0,
    seed: Annotated[int | None, typer.Option(help="Of ids, amounts and disorder.")] = None,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Send the events of one payment, or of many at once, and measure the answers.

    Exit code 1 when events were not taken, or with --wait when payments were not confirmed.
    """
    if event not in SCENARIOS and event not in SINGLE_EVENTS:
        raise UnknownScenarioError(name=event)
    if events is Events.MINIMAL:
        if event != "card":
            raise UsageError("--events minimal is for `card`")
        event = "payment_intent.succeeded"
    if accounts > 1 and "#" not in account:
        raise UsageError("--accounts needs a place for the number in --account, such as 'A-####'")
    order = Order(
        scenario=event,
        accounts=expand_accounts(account, count=accounts),
        amount_cents=None if amount is None else parse_cents(amount, option="--amount"),
        fee_cents=parse_cents(fee, option="--fee"),
        count=count,
    )
    state = load_state(stack)
    measured = run(
        _send(
            state,
            order,
            disorder=Disorder(duplicates=int(duplicate), reorder=reorder),
            rate=rate,
            concurrency=concurrency,
            later=later,
            open_accounts=open_accounts,
            wait_seconds=wait_seconds if wait else None,
            seed=seed,
        )
    )
    if as_json:
        print_json(measured.as_json())
    else:
        out.print(render(measured=measured))
    unconfirmed = measured.pending is not None and measured.pending.total > 0
    if measured.sent.not_taken or unconfirmed:
        raise DoesNotHoldError


async def _send(
    state: StackState,
    order: Order,
    *,
    disorder: Disorder,
    rate: float | None,
    concurrency: int,
    later: bool,
    open_accounts: bool,
    wait_seconds: float | None,
    seed: int | None,
) -> Measured:
    connection = await asyncpg.connect(state.superuser_dsn)
    try:
        if open_accounts:
            await ensure_customers(state=state, connection=connection, accounts=order.accounts)
        before = _usage(state)
        # Hundreds of thousands of answers are kept: walking them again and again is not the work.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        with _progress(order.count) as on_payment:
            async with StripeSender(state=state, seed=seed, concurrency=concurrency) as sender:
                sent = await sender.send(
                    [order],
                    disorder=disorder,
                    payments_per_second=rate,
                    later=later,
                    on_payment=on_payment,
                )
        pending = None
        journeys: list[Journey] = []
        if wait_seconds is not None:
            with err.status("Waiting until all are confirmed …"):
                pending = await wait_until_settled(
                    connection=connection, timeout_seconds=wait_seconds
                )
            journeys = await read_journeys(connection=connection, references=sent.references)
        # Loaded anew: a service that was restarted meanwhile is another process.
        after = _usage(StackState.load(state.name))
        usage = {name: used.since(before.get(name)) for name, used in after.items()}
    finally:
        await connection.close()
    return Measured(sent=sent, journeys=tuple(journeys), pending=pending, usage=usage)


def _usage(state: StackState) -> dict[str, Usage]:
    """What every process of the stack has used so far, and this one, which makes the load."""
    own = ProcessIdentity.of(os.getpid())
    return read_usage(processes=state.processes | ({"this command": own} if own else {}))


@contextmanager
def _progress(count: int) -> Any:
    if not err.is_terminal or count < 500:
        yield None
        return
    progress = Progress(
        TextColumn("sending"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        refresh_per_second=4,
    )
    task = progress.add_task("sending", total=count)
    with progress:
        report: Callable[[int], None] = lambda done: progress.update(task, completed=done)  # noqa: E731
        yield report


def render(*, measured: Measured) -> RenderableType:
    """A run as people read it."""
    sent = measured.sent
    ack = spread(sent.ack_seconds())
    rows: list[tuple[str, str]] = [
        ("payments", f"{len(sent.payments):,}, {sent.payments_per_second:,.0f} a second"),
        (
            "events answered",
            f"{len(sent.deliveries):,}, {sent.events_per_second:,.0f} a second"
            + (f"; NOT TAKEN: {sent.not_taken:,}" if sent.not_taken else ""),
        ),
    ]
    if ack is not None:
        rows.append(("answer to an event", _spread(ack)))
    paid = [each for each in measured.journeys if each.kind == "payment"]
    if measured.pending is not None:
        confirmed = sum(each.confirmed_at is not None for each in paid)
        speed = payments_per_second(paid)
        rows.append(
            (
                "confirmed",
                f"{confirmed:,} of {len(sent.payments):,}"
                + (f", {speed:,.0f} a second end to end" if speed and len(paid) > 1 else ""),
            )
        )
        for name, durations in (
            ("accepted → posted", [each.posted_after_seconds for each in paid]),
            ("accepted → confirmed", [each.confirmed_after_seconds for each in paid]),
        ):
            found = spread(durations)
            if found is not None:
                rows.append((name, _spread(found)))
    parts: list[RenderableType] = [table_of(columns=("what", "measured"), rows=rows)]
    if measured.pending is not None and len(sent.payments) > 1:
        parts.append(_costs(measured))
    if len(sent.payments) <= 5:
        parts += [Text(f"paypost trace {reference}") for reference in sent.references]
    return Group(*parts)


def _costs(measured: Measured) -> RenderableType:
    count = len(measured.sent.payments)
    return table_of(
        title="What it cost",
        columns=("process", "CPU", "CPU a payment", "resident"),
        rows=[
            (
                name,
                f"{used.cpu_seconds:.2f} s",
                f"{used.cpu_seconds / count * 1000:.2f} ms",
                f"{used.resident_mb:.0f} MB",
            )
            for name, used in sorted(measured.usage.items())
        ],
        numbers=("CPU", "CPU a payment", "resident"),
    )


def _spread(found: Any) -> str:
    return (
        f"p50 {milliseconds(found.p50_seconds)}, p99 {milliseconds(found.p99_seconds)}, "
        f"worst {milliseconds(found.worst_seconds)}"
    )


@trigger_app.command("portal")
def trigger_portal(
    *,
    what: Annotated[Said, typer.Argument(help="What the portal, or a kiosk, says.")],
    account: Annotated[str, typer.Option(help="The customer's account.")] = "1001",
    amount: Annotated[str, typer.Option(help="Of a payment, as 84.50.")] = "84.50",
    reference: Annotated[
        str | None, typer.Option(help="The processor's reference of a payment; made up if absent.")
    ] = None,
    processor: Annotated[
        str | None, typer.Option(help="By default stripe for submitted, kiosk for captured.")
    ] = None,
    name: Annotated[str, typer.Option(help="The customer's name.")] = "Ada Miller",
    email: Annotated[str | None, typer.Option(help="The customer's address, if any.")] = None,
    locale: Annotated[str, typer.Option(help="en or es.")] = "en",
    opted_out: Annotated[bool, typer.Option(help="Of `contact`: wants no e-mail.")] = False,
    via: Annotated[Way, typer.Option(help="How it gets in.")] = Way.KAFKA,
    source: Annotated[
        str | None, typer.Option(help="Who says so; kiosk for captured, else portal.")
    ] = None,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """State one of the portal's facts: over Kafka, or over HTTP with a Standard Webhooks signature.

    `submitted` posts nothing by itself; `captured` posts if its source is trusted (kiosk).
    """
    try:
        fact = _fact(
            what,
            account=account,
            amount_cents=parse_cents(amount, option="--amount"),
            reference=reference or f"ref_{uuid4().hex[:16]}",
            processor=processor or ("kiosk" if what is Said.CAPTURED else "stripe"),
            name=name,
            email=email,
            locale=locale,
            opted_out=opted_out,
        )
    except ValidationError as error:
        problems = "; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors())
        raise UsageError(problems) from None
    said_by = source or (KIOSK_SOURCE if what is Said.CAPTURED else PORTAL_SOURCE)
    state = load_state(stack)
    if said_by not in state.secrets.standard_webhook_secrets and via is Way.HTTP:
        known = ", ".join(sorted(state.secrets.standard_webhook_secrets))
        raise UsageError(f"--source {said_by!r} has no secret here; there are: {known}")
    run(say(state=state, facts=[fact], way=via, source=said_by))
    told = {"type": fact.TYPE, "id": str(fact.id()), "via": via, "source": said_by}
    if as_json:
        print_json(told | {"data": fact.model_dump(mode="json")})
    else:
        named = getattr(fact, "reference", None)
        out.print(f"{fact.TYPE} is taken, via {via} from {said_by}.")
        if named:
            out.print(f"paypost trace {named}")


def _fact(
    what: Said,
    *,
    account: str,
    amount_cents: int,
    reference: str,
    processor: str,
    name: str,
    email: str | None,
    locale: str,
    opted_out: bool,
) -> Fact:
    now = datetime.now(UTC)
    contact: dict[str, Any] = {
        "account_id": account,
        "name": name,
        "email": email,
        "locale": locale,
    }
    payment: dict[str, Any] = {
        "account_id": account,
        "processor": processor,
        "reference": reference,
        "amount_cents": amount_cents,
        "currency": "USD",
    }
    match what:
        case Said.SUBMITTED:
            return PaymentSubmitted(**payment, submitted_at=now)
        case Said.CAPTURED:
            return PaymentCaptured(**payment, captured_at=now, method="cash")
        case Said.REGISTERED:
            return CustomerRegistered(**contact, registered_at=now)
        case Said.CONTACT:
            return ContactChanged(**contact, email_opted_out=opted_out, changed_at=now)


trigger_app.command("enrol")(trigger_enrol)
trigger_app.command("bill")(trigger_bill)
trigger_app.command("autopay")(trigger_word)

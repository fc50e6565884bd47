"""`paypost autopay`: who is charged when and how much, why not, and the move to the new portal."""

from __future__ import annotations

import asyncio
import getpass
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import aiohttp
import asyncpg
import orjson
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from paypost.commands.terminal import (
    AsJson,
    DoesNotHoldError,
    StackName,
    UsageError,
    err,
    load_state,
    out,
    plain,
    print_json,
    run,
    table_of,
)
from paypost.remote import RefusedRequestError, Remote
from paypost.stack.state import StackState

PAGE_ROWS = 1_000
SWITCH_SECONDS = 5.0
"""How long one half of the kill switch may take to answer before it is said not to have."""
LAPSING_DAYS = 30
MOVE_DAYS = 14
PROBLEMS_SHOWN_MAX = 50
CHARGE_STEPS = {
    "planned": "to be announced",
    "announced": "to be charged on {charge_on}",
    "held": "for the customer: more is owed than the agreed maximum",
    "requested": "for payment-intake to say what became of it",
    "pending": "for the bank",
    "retrying": "to be presented again at {next_at}",
}
"""What comes next, by a charge's status; what has ended has nothing next."""

autopay_app = typer.Typer(
    no_args_is_help=True,
    help="Who is charged when and how much, why not, and the move to the new portal.",
)

Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD")]
Note = Annotated[str, typer.Option(help="Why; kept in the audit trail.")]
Operator = Annotated[str | None, typer.Option(help="Who; by default the user of this machine.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """One half of the kill switch, after it was turned or asked.

    Attributes:
        service: which one.
        stops: what it holds.
        goes_on: what it may be doing where it does not answer.
        is_paused: None where it did not answer.
        changed_at: when it was last turned, where that is known.
        problem: why it did not answer.
    """

    service: str
    stops: str
    goes_on: str
    is_paused: bool | None
    changed_at: str | None = None
    problem: str | None = None

    @property
    def holds(self) -> str:
        """In words."""
        if self.is_paused is None:
            return "UNKNOWN"
        return "paused" if self.is_paused else "running"

    def as_json(self) -> dict[str, Any]:
        """Everything, for machines."""
        return {
            "service": self.service,
            "is_paused": self.is_paused,
            "changed_at": self.changed_at,
            "problem": self.problem,
        }


_HALVES = (
    (
        "autopay-scheduler",
        "/autopay",
        "no new charge is asked for",
        "it may still be asking for charges",
    ),
    (
        "payment-intake",
        "/charges",
        "nothing that was asked for is sent to the processor",
        "it may still be sending charges to the processor",
    ),
)

# What was asked for may be at the processor already: a pause does not call it back.
_UNDER_WAY = """
SELECT
    (SELECT count(*) FROM autopay_scheduler.charges WHERE status = 'requested') AS requested,
    (SELECT count(*) FROM payment_intake.charges WHERE status = 'due') AS waiting,
    (SELECT count(*) FROM payment_intake.charges WHERE status = 'charging') AS in_hand,
    (SELECT count(*) FROM payment_intake.charges WHERE status = 'unknown') AS unknown,
    (SELECT count(*) FROM payment_intake.charges WHERE status = 'pending') AS at_bank,
    (SELECT count(*) FROM payment_intake.charges
        WHERE status IN ('refund_due', 'refunding')) AS giving_back
"""
UNDER_WAY = {
    "requested": "asked for, of which autopay-scheduler has not heard the end",
    "waiting": "with payment-intake, not sent: held while it is paused, and expire in their time",
    "in_hand": "in hand at this moment: may still be charged",
    "unknown": "sent without an answer: asked about, paused or not",
    "at_bank": "debits that the bank has",
    "giving_back": "being given back, paused or not",
}


@autopay_app.command("preview")
def preview(
    *,
    day: Annotated[datetime, typer.Option("--date", formats=["%Y-%m-%d"], metavar="YYYY-MM-DD")],
    every: Annotated[
        bool, typer.Option("--all", help="All of them, a page after the other.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=PAGE_ROWS, help="Without --all.")] = 100,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Say who would be charged how much on a day as things stand now, and who not and why.

    With --all and --json there is one JSON object a line, and the last one is the sum.
    """
    state = load_state(stack)
    run(_preview(state, day.date(), every=every, limit=limit, as_json=as_json))


async def _preview(state: StackState, day: date, *, every: bool, limit: int, as_json: bool) -> None:
    seen: Counter[str] = Counter()
    cents = 0
    is_paused, more = False, False
    shown: list[dict[str, Any]] = []
    async with _scheduler(state) as scheduler:
        size = PAGE_ROWS if every else limit
        async for page in _pages(scheduler, "/autopay/preview", date=day.isoformat(), limit=size):
            charges = page["charges"]
            is_paused = page["is_paused"]
            for each in charges:
                seen[each["would"]] += 1
                cents += each["amount_cents"] if each["would"] == "charge" else 0
            if as_json and every:
                _print_lines(charges)
            elif as_json:
                shown += charges
            elif charges:
                out.print(render_preview(charges=charges))
            if not every:
                more = page["next_after"] is not None
                break
    found = {
        "day": day.isoformat(),
        "is_paused": is_paused,
        "would": dict(seen),
        "charged_cents": cents,
        "is_complete": not more,
    }
    if as_json and every:
        _print_lines([found])
    elif as_json:
        print_json(found | {"charges": shown})
    else:
        out.print(_preview_sum(found))


def render_preview(*, charges: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A page of a day's charges as people read it."""
    rows = [
        (
            each["charge"]["account_id"],
            each["would"],
            _money(each["amount_cents"], each["charge"]["currency"])
            if each["would"] == "charge"
            else "-",
            each["why"],
            each["charge"]["due_date"],
            each["charge"]["id"],
        )
        for each in charges
    ]
    return table_of(
        columns=("account", "would", "amount", "why", "due", "charge"),
        rows=rows,
        numbers=("amount",),
    )


def _preview_sum(found: Mapping[str, Any]) -> RenderableType:
    counted = ", ".join(f"{count:,} {would}" for would, count in sorted(found["would"].items()))
    lines = [
        Text(f"{found['day']}: {counted or 'nothing'}; {found['charged_cents'] / 100:,.2f} in all.")
    ]
    if not found["is_complete"]:
        lines.append(Text("There are more: give --all.", style="yellow"))
    if found["is_paused"]:
        lines.append(Text("All charges are paused: none of it is asked for.", style="bold yellow"))
    return Group(*lines)


@autopay_app.command("pause")
def pause(
    *,
    note: Note,
    every: Annotated[
        bool, typer.Option("--all", help="Needed: it holds every charge of every customer.")
    ] = False,
    operator: Operator = None,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Hold all charges from this second on: none is asked for, none is sent to the processor.

    Exit code 1, and which half holds, when a service does not answer.
    """
    if not every:
        raise UsageError("this holds every charge of every customer; give --all if you mean it")
    _turn(load_state(stack), "pause", note, operator, as_json=as_json)


@autopay_app.command("resume")
def resume(
    *,
    note: Note,
    operator: Operator = None,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Charge again; what is past its days of grace by then is missed, and its customer told."""
    _turn(load_state(stack), "resume", note, operator, as_json=as_json)


@autopay_app.command("switch")
def switch(*, stack: StackName = None, as_json: AsJson = False) -> None:
    """Say whether charges are held, at both services, and what is under way."""
    state = load_state(stack)
    halves, under_way = run(_both(state, None))
    _show_switch(halves, under_way, wanted=None, as_json=as_json)


def _turn(
    state: StackState, action: str, note: str, operator: str | None, *, as_json: bool
) -> None:
    body = {"operator": operator or getpass.getuser(), "note": note}
    halves, under_way = run(_both(state, action, body))
    _show_switch(halves, under_way, wanted=action == "pause", as_json=as_json)


async def _both(
    state: StackState, action: str | None, body: dict[str, str] | None = None
) -> tuple[list[Half], dict[str, int] | None]:
    async with asyncio.TaskGroup() as group:
        # Both at once: neither waits for the other to answer.
        halves = [group.create_task(_half(state, half, action, body)) for half in _HALVES]
    return [half.result() for half in halves], await _read_under_way(state)


async def _half(
    state: StackState,
    half: tuple[str, str, str, str],
    action: str | None,
    body: dict[str, str] | None,
) -> Half:
    service, path, stops, goes_on = half
    found = partial(Half, service=service, stops=stops, goes_on=goes_on)
    try:
        async with (
            asyncio.timeout(SWITCH_SECONDS),
            Remote(
                base_url=state.http_urls[service], bearer_key=state.secrets.operator_key
            ) as remote,
        ):
            if action is None:
                answer = await remote.get(f"{path}/switch")
            else:
                answer = await remote.post(f"{path}/{action}", body)
    except TimeoutError:
        return found(is_paused=None, problem=f"no answer within {SWITCH_SECONDS:g} s")
    except (RefusedRequestError, aiohttp.ClientError, OSError) as error:
        return found(is_paused=None, problem=str(error))
    return found(is_paused=answer["is_paused"], changed_at=answer["changed_at"])


async def _read_under_way(state: StackState) -> dict[str, int] | None:
    """None where the database cannot say: the switch is what matters."""
    try:
        async with asyncio.timeout(SWITCH_SECONDS):
            connection = await asyncpg.connect(state.superuser_dsn)
            try:
                row = await connection.fetchrow(_UNDER_WAY)
            finally:
                await connection.close()
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return None
    return dict(row) if row is not None else None


def _show_switch(
    halves: Sequence[Half],
    under_way: dict[str, int] | None,
    *,
    wanted: bool | None,
    as_json: bool,
) -> None:
    unknown = [half for half in halves if half.is_paused is None]
    agreed = {half.is_paused for half in halves}
    is_as_wanted = agreed == {wanted} if wanted is not None else len(agreed) == 1 and not unknown
    if as_json:
        print_json(
            {
                "holds": is_as_wanted,
                "halves": [half.as_json() for half in halves],
                "under_way": under_way,
            }
        )
    else:
        out.print(render_switch(halves=halves, under_way=under_way))
    for half in unknown:
        holding = [other.service for other in halves if other.is_paused]
        others = f"{', '.join(holding)} is paused" if holding else "no half is known to be paused"
        err.print(
            f"[bold red]{half.service} did not answer[/] ({plain(half.problem or '')}): "
            f"{half.goes_on}; {others}.",
            soft_wrap=True,
        )
    if not is_as_wanted:
        if not unknown:
            err.print("[bold red]The two halves differ[/]; turn the switch again.", soft_wrap=True)
        raise DoesNotHoldError


def render_switch(*, halves: Sequence[Half], under_way: Mapping[str, int] | None) -> RenderableType:
    """Both halves of the switch, and what is under way, as people read it."""
    style = {"paused": "[bold yellow]paused[/]", "running": "[green]running[/]"}
    parts: list[RenderableType] = [
        table_of(
            title="Charges of autopay",
            columns=("at", "now", "since", "while paused"),
            rows=[
                (
                    half.service,
                    style.get(half.holds, "[bold red]UNKNOWN[/]"),
                    _instant(half.changed_at),
                    half.stops,
                )
                for half in halves
            ],
        )
    ]
    if under_way is None:
        parts.append(Text("What is under way is not known: the database does not answer."))
    else:
        parts.append(
            table_of(
                title="Under way",
                columns=("count", "what"),
                rows=[(under_way[name], what) for name, what in UNDER_WAY.items()],
                numbers=("count",),
            )
        )
    return Group(*parts)


@autopay_app.command("report")
def report(
    *,
    since: Day = None,
    lapsing: Annotated[
        bool, typer.Option("--lapsing", help="Who of the old portal would miss a due date.")
    ] = False,
    until: Day = None,
    move: Annotated[
        bool, typer.Option("--move", help="The move from the old portal, by day.")
    ] = False,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Print the figures: enrolments, charges, what was missed, held or given up, and why.

    --lapsing lists, up to --until (30 days from now), who would miss their next due date, with
    bill, day and contact. --move counts the move from --since (two weeks ago) on.
    """
    if lapsing and move:
        raise UsageError("--lapsing or --move, one at a time")
    if until is not None and not (lapsing or move):
        raise UsageError("--until belongs to --lapsing or --move")
    if since is not None and lapsing:
        raise UsageError("--since belongs to the report and to --move")
    state = load_state(stack)
    today = datetime.now().astimezone().date()
    if lapsing:
        last = until.date() if until else today + timedelta(days=LAPSING_DAYS)
        found: Any = run(_read_lapsing(state, last))
        shown = render_lapsing(lapsing=found, until=last)
    elif move:
        first = since.date() if since else today - timedelta(days=MOVE_DAYS)
        last = until.date() if until else today + timedelta(days=MOVE_DAYS)
        found = run(_read_move(state, first, last))
        shown = render_move(figures=found)
    else:
        found = run(_read_report(state, since.date() if since else None))
        shown = render_report(report=found)
    if as_json:
        print_json(found)
    else:
        out.print(shown)


async def _read_report(state: StackState, since: date | None) -> dict[str, Any]:
    query = {"since": since.isoformat()} if since else {}
    async with _scheduler(state) as scheduler:
        found: dict[str, Any] = await scheduler.get("/autopay/report", **query)
        return found


async def _read_lapsing(state: StackState, until: date) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with _scheduler(state) as scheduler:
        async for page in _pages(
            scheduler, "/reenrolment/lapsing", until=until.isoformat(), limit=PAGE_ROWS
        ):
            found += page["lapsing"]
    return found


async def _read_move(state: StackState, since: date, until: date) -> dict[str, Any]:
    async with _scheduler(state) as scheduler:
        found: dict[str, Any] = await scheduler.get(
            "/reenrolment/figures", since=since.isoformat(), until=until.isoformat()
        )
        return found


def render_report(*, report: Mapping[str, Any]) -> RenderableType:
    """The figures as people read them, with the lists that a clerk works through."""

    def counted(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{n:,} {what}" for what, n in sorted(counts.items())) or "none"

    rows = [
        ("charges", "PAUSED by an operator" if report["is_paused"] else "running"),
        ("enrolments", counted(report["enrolments"])),
        (f"charges since {report['since']}", counted(report["charges"])),
        ("charged", f"{report['charged_cents'] / 100:,.2f}"),
        ("stopped, by reason", counted(report["stopped"])),
        ("accounts to plan", f"{report['accounts_to_plan']:,}"),
    ]
    parts: list[RenderableType] = [table_of(title="Autopay", columns=("what", "now"), rows=rows)]
    for name, title in (
        ("missed", "Missed: should have been charged and could not be"),
        ("held", "Held: above the customer's maximum, who was asked"),
        ("failed", "Given up: declined, and not presented again"),
    ):
        if report[name]:
            parts.append(
                table_of(
                    title=title,
                    columns=("account", "amount", "why", "due", "charge on", "charge"),
                    rows=[
                        (
                            each["account_id"],
                            _money(each["amount_cents"], each["currency"]),
                            each["reason"],
                            each["due_date"],
                            each["charge_on"],
                            each["id"],
                        )
                        for each in report[name]
                    ],
                    numbers=("amount",),
                )
            )
    return Group(*parts)


def render_lapsing(*, lapsing: Sequence[Mapping[str, Any]], until: date) -> RenderableType:
    """Who would miss a due date, the most urgent first, as a clerk reads it."""
    if not lapsing:
        return Text(f"Nobody would miss a due date until {until}.")
    rows = []
    for each in lapsing:
        bill = each["bill"]
        rows.append(
            (
                bill["due_date"] if bill else "(no bill yet)",
                each["account_id"],
                each["old_account"],
                each["name"],
                each["email"] or "(none: call)",
                _money(bill["amount_cents"], bill["currency"]) if bill else "-",
                bill["bill_reference"] if bill else "",
                f"{each['invitations']}"
                + (f", last {each['last_invited_on']}" if each["last_invited_on"] else ""),
            )
        )
    columns = ("due", "account", "old", "name", "e-mail", "amount", "bill", "invited")
    return table_of(
        title=f"Not enrolled again: {len(lapsing):,} would miss a due date until {until}, "
        "or have no bill yet",
        columns=columns,
        rows=rows,
        numbers=("amount",),
    )


def render_move(*, figures: Mapping[str, Any]) -> RenderableType:
    """The move from the old portal by day, as people read it."""
    columns = ("imported", "changed", "invited", "reminded", "enrolled", "declined", "past")
    totals = ", ".join(f"{n:,} {status}" for status, n in figures["by_status"].items())
    return Group(
        Text(f"Imported enrolments: {totals}; {figures['without_email']:,} without an e-mail."),
        table_of(
            columns=("day", *columns, "would lapse"),
            rows=[
                (each["day"], *(each[name] or "" for name in columns), each["would_lapse"] or "")
                for each in figures["days"]
            ],
            numbers=(*columns, "would lapse"),
        ),
    )


@autopay_app.command("show")
def show(
    *,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT")],
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Show an account's autopay: enrolments, the customer's words, charges, and what comes next."""
    found = run(read_account(state=load_state(stack), account=account))
    if as_json:
        print_json(found | {"next": next_steps(found=found)})
    else:
        out.print(render_account(found=found))


async def read_account(*, state: StackState, account: str) -> dict[str, Any]:
    """Everything about an account's autopay, as the scheduler's API states it.

    Raises:
        RefusedRequestError: nothing is known of it.
    """
    async with _scheduler(state) as scheduler:
        found: dict[str, Any] = await scheduler.get(f"/accounts/{quote(account, safe='')}/autopay")
        return found


def next_steps(*, found: Mapping[str, Any]) -> list[str]:
    """What each charge that has not ended waits for, the earliest due first."""
    steps = []
    for charge in sorted(found["charges"], key=lambda each: str(each["due_date"])):
        step = CHARGE_STEPS.get(charge["status"])
        if step is None:
            continue
        why = f" ({charge['reason']})" if charge["reason"] else ""
        waits = step.format(charge_on=charge["charge_on"], next_at=_instant(charge["next_at"]))
        steps.append(
            f"{_money(charge['amount_cents'], charge['currency'])} due {charge['due_date']} "
            f"waits {waits}{why}"
        )
    return steps


def render_account(*, found: Mapping[str, Any]) -> RenderableType:
    """An account's autopay as people read it."""
    balance = found["balance_cents"]
    owed = "not known" if balance is None else f"{balance / 100:,.2f}"
    parts: list[RenderableType] = [
        Text(
            f"Account {found['account_id']}: owes {owed}, "
            f"{found['under_way_cents'] / 100:,.2f} under way"
        ),
        table_of(
            title="Enrolments",
            columns=("enrolment", "status", "method", "rule", "terms", "authorised", "until"),
            rows=[_enrolment_row(each) for each in found["enrolments"]],
        ),
        table_of(
            title="What the customer said (evidence of the mandate)",
            columns=("said at", "what", "terms", "event"),
            rows=[
                (
                    _instant(each["said_at"]),
                    each["type"],
                    each["authorisation_version"],
                    f"{each['event_source']} {each['event_id']}",
                )
                for each in found["mandates"]
            ],
        ),
        table_of(
            title="Charges",
            columns=("due", "charge on", "amount", "status", "attempt", "announced", "charge"),
            rows=[_charge_row(each) for each in found["charges"]],
            numbers=("amount", "attempt"),
        ),
    ]
    steps = next_steps(found=found)
    parts += [Text(f"→ {step}", style="yellow") for step in steps]
    if not steps:
        parts.append(Text("→ nothing waits", style="green"))
    return Group(*parts)


def _enrolment_row(each: Mapping[str, Any]) -> tuple[object, ...]:
    method, rule = each["method"], each["rule"]
    status = each["status"] + (f": {each['reason']}" if each["reason"] else "")
    if each["resume_on"]:
        status += f", until {each['resume_on']}"
    return (
        each["id"],
        status,
        "" if method is None else f"{method['label'] or method['kind']} {method['last4'] or ''}",
        "" if rule is None else describe_rule(rule=rule),
        each["authorisation_version"],
        _instant(each["authorised_at"]),
        _instant(each["ended_at"]),
    )


def describe_rule(*, rule: Mapping[str, Any]) -> str:
    """When and how much, in one line."""
    when = {
        "due_date": "on the due date",
        "days_before_due": f"{rule['days_before']} days before",
        "day_of_month": f"on day {rule['day_of_month']}",
    }[rule["charge_on"]]
    amount = rule["amount"].replace("_", " ")
    if rule["fixed_cents"] is not None:
        amount = f"{rule['fixed_cents'] / 100:,.2f}"
    if rule["minimum_cents"] is not None:
        amount += f", from {rule['minimum_cents'] / 100:,.2f}"
    if rule["maximum_cents"] is not None:
        amount += f", to {rule['maximum_cents'] / 100:,.2f}"
    return f"{amount}, {when}"


def _charge_row(each: Mapping[str, Any]) -> tuple[object, ...]:
    told = [
        f"{one['amount_cents'] / 100:,.2f} told {one['noticed_on'] or 'not yet'}"
        + (f", {one['left_cents'] / 100:,.2f} left" if one["left_cents"] else "")
        for one in each["announcements"]
    ]
    return (
        each["due_date"],
        each["charge_on"],
        _money(each["paid_cents"] or each["amount_cents"], each["currency"]),
        each["status"] + (f": {each['reason']}" if each["reason"] else ""),
        each["attempt"] or "",
        "; ".join(told),
        each["id"],
    )


@autopay_app.command("import")
def import_file(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE.csv")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be imported, and keep nothing.")
    ] = False,
    operator: Operator = None,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Import the old portal's enrolments: they await re-enrolment, and charge nobody.

    Exit code 1 when lines were not taken; each is named with its field and reason.
    """
    _upload(load_state(stack), "imports", file, dry_run, operator, as_json=as_json)


@autopay_app.command("drafts")
def import_drafts(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE.csv")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be imported, and keep nothing.")
    ] = False,
    operator: Operator = None,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Import what the old portal still drafts: those due dates are not charged here."""
    _upload(load_state(stack), "drafts", file, dry_run, operator, as_json=as_json)


def _upload(
    state: StackState,
    kind: str,
    file: Path,
    dry_run: bool,
    operator: str | None,
    *,
    as_json: bool,
) -> None:
    async def upload() -> dict[str, Any]:
        async with _scheduler(state) as scheduler:
            found: dict[str, Any] = await scheduler.upload(
                f"/reenrolment/{kind}",
                file=file,
                media_type="text/csv",
                file_name=file.name,
                operator=operator or getpass.getuser(),
                dry_run=str(dry_run).lower(),
            )
            return found

    try:
        with err.status(f"Importing {file.name} …"):
            answer = run(upload())
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    except RefusedRequestError as error:
        # Nothing was kept: what stands in the way is said by line and field, in either form.
        if not as_json or error.status != 422:
            raise
        print_json({"title": error.title, "errors": list(error.errors)})
        raise DoesNotHoldError from None
    if as_json:
        print_json(answer)
    else:
        out.print(render_import(answer=answer))
    if answer["refused"]:
        raise DoesNotHoldError


def render_import(*, answer: Mapping[str, Any]) -> RenderableType:
    """What came of a file, as people read it."""
    verb = "would be" if answer["dry_run"] else "are"
    parts: list[RenderableType] = [
        Text(
            f"{answer['lines']:,} lines: {answer['imported']:,} {verb} imported, "
            f"{answer['changed']:,} changed, {answer['unchanged']:,} known already, "
            f"{answer['refused']:,} not taken."
        )
    ]
    problems = answer["problems"]
    if problems:
        reasons = ", ".join(f"{n:,} {why}" for why, n in answer["problems_by_reason"].items())
        total = sum(answer["problems_by_reason"].values())
        more = f"; the first {PROBLEMS_SHOWN_MAX}" if total > PROBLEMS_SHOWN_MAX else ""
        parts.append(
            table_of(
                title=f"Not taken: {reasons}{more}",
                columns=("line", "field", "reason", "what is wrong"),
                rows=[
                    (each["line"], each["field"], each["reason"], each["message"])
                    for each in problems[:PROBLEMS_SHOWN_MAX]
                ],
                numbers=("line",),
            )
        )
    if not answer["dry_run"]:
        parts.append(Text(f"Import {answer['import_id']}."))
    return Group(*parts)


@autopay_app.command("stop")
def stop(
    *,
    enrolment_id: Annotated[
        str, typer.Argument(metavar="ENROLMENT", help="As `paypost autopay show` has it.")
    ],
    note: Note,
    operator: Operator = None,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Stop an enrolment for good, as after a call by the customer, who is told."""

    async def act(state: StackState) -> dict[str, Any]:
        body = {"operator": operator or getpass.getuser(), "note": note}
        async with _scheduler(state) as scheduler:
            found: dict[str, Any] = await scheduler.post(
                f"/enrolments/{quote(enrolment_id, safe='')}/stop", body
            )
            return found

    answer = run(act(load_state(stack)))
    if as_json:
        print_json(answer)
    else:
        why = f" ({answer['reason']})" if answer["reason"] else ""
        out.print(f"{answer['id']} is {answer['status']}{why}. `paypost trace {answer['id']}`")


async def _pages(remote: Remote, path: str, **query: str | int) -> AsyncIterator[dict[str, Any]]:
    """Every page of a list, in order."""
    after: str | None = None
    while True:
        cursor = {} if after is None else {"after": after}
        page = await remote.get(path, **query, **cursor)
        yield page
        after = page.get("next_after") or page.get("next")
        if after is None:
            return


def _scheduler(state: StackState) -> Remote:
    return Remote(
        base_url=state.http_urls["autopay-scheduler"], bearer_key=state.secrets.operator_key
    )


def _print_lines(values: Sequence[Mapping[str, Any]]) -> None:
    for value in values:
        sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def _money(cents: int, currency: str) -> str:
    return f"{cents / 100:,.2f} {currency}"


def _instant(text: str | None) -> str:
    return "" if text is None else text[:19].replace("T", " ")

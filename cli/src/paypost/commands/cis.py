"""`paypost cis`: the reference CIS, its switches and its books."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer

from paypost.commands.terminal import (
    AsJson,
    StackName,
    UsageError,
    load_state,
    out,
    print_json,
    run,
    table_of,
)
from paypost.remote import Remote
from paypost.simulators.cis.journal import read_journal
from paypost.stack.state import StackState

cis_app = typer.Typer(
    no_args_is_help=True, help="The reference CIS: make it slow, wrong or away; read its books."
)


@cis_app.command("switches")
def switches(*, stack: StackName = None, as_json: AsJson = False) -> None:
    """Show how the CIS is told to misbehave now."""
    _show(run(_call(load_state(stack), "GET", "/_switches")), as_json=as_json)


@cis_app.command("set")
def set_switches(
    *,
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=VALUE…",
            help="Such as latency_ms=50 down=true 'timeout_after_apply={\"count\": 3}'.",
        ),
    ],
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Switch faults on or off; docs/cis-protocol.md lists them."""
    wanted = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        try:
            if not separator:
                raise orjson.JSONDecodeError("", "", 0)
            wanted[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise UsageError(
                f"{setting!r} is not NAME=VALUE with a JSON value, such as down=true"
            ) from None
    _show(run(_call(load_state(stack), "PUT", "/_switches", wanted)), as_json=as_json)


@cis_app.command("reset")
def reset(*, stack: StackName = None, as_json: AsJson = False) -> None:
    """Switch everything off and let go what hangs."""
    _show(run(_call(load_state(stack), "POST", "/_switches/reset")), as_json=as_json)


@cis_app.command("account")
def account(
    *,
    number: Annotated[str, typer.Argument(metavar="ACCOUNT")],
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Show an account: its name, its status and what it owes."""
    found = run(_call(load_state(stack), "GET", f"/v1/accounts/{number}"))
    if as_json:
        print_json(found)
    else:
        owed = f"{found['balance_cents'] / 100:,.2f} {found['currency']}"
        cash_only = ", cash only" if found["cash_only"] else ""
        out.print(f"{found['account']} {found['name']}: {found['status']}{cash_only}, owes {owed}")


@cis_app.command("journal")
def journal(
    *,
    account: Annotated[str | None, typer.Option(help="Only this account.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Show the newest effects in the CIS's own journal."""
    path = load_state(stack).cis_journal_path
    newest: list[dict[str, Any]] = []
    for line in read_journal(path) if path.exists() else ():
        if account is None or line["account"] == account:
            newest.append(line)
            if len(newest) > limit:
                newest.pop(0)
    if as_json:
        print_json(newest)
        return
    rows = [
        (
            line["cis_reference"],
            line["posted_at"][11:23],
            line["kind"],
            line["account"],
            f"{line['amount_cents'] / 100:,.2f} {line['currency']}",
            line["key"],
        )
        for line in newest
    ]
    columns = ("reference", "at", "kind", "account", "amount", "key")
    out.print(table_of(columns=columns, rows=rows, numbers=("amount",)))


async def _call(state: StackState, method: str, path: str, body: Any = None) -> Any:
    async with Remote(base_url=state.http_urls["cis"], bearer_key=state.secrets.cis_api_key) as cis:
        if method == "GET":
            return await cis.get(path)
        return await (cis.put(path, body) if method == "PUT" else cis.post(path))


def _show(described: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(described)
        return
    rows = [
        (name, "off" if value in (False, 0, 0.0) else orjson.dumps(value).decode())
        for name, value in described.items()
    ]
    out.print(table_of(title="Switches of the CIS", columns=("switch", "now"), rows=rows))

"""`paypost suspense`: what the CIS would not take, and what an operator does about it."""

from __future__ import annotations

import getpass
from typing import Annotated, Any

import typer

from paypost.commands.terminal import (
    AsJson,
    StackName,
    load_state,
    out,
    print_json,
    run,
    table_of,
)
from paypost.remote import Remote
from paypost.stack.state import StackState

suspense_app = typer.Typer(
    no_args_is_help=True, help="What the CIS would not take, and what an operator does about it."
)

PostingId = Annotated[str, typer.Argument(metavar="ID", help="As `paypost suspense list` has it.")]
Note = Annotated[str, typer.Option(help="Why; kept in the audit trail.")]
Operator = Annotated[str | None, typer.Option(help="Who; by default the user of this machine.")]


@suspense_app.command("list")
def list_suspense(
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """List what waits for an operator, oldest first, with the CIS's reason."""
    found = run(read_suspense(state=load_state(stack), limit=limit))
    if as_json:
        print_json(found)
    elif not found:
        out.print("Nothing is in suspense.")
    else:
        out.print(render(found=found))


@suspense_app.command("release")
def release(
    *,
    posting_id: PostingId,
    note: Note,
    to_account: Annotated[
        str | None, typer.Option(help="Another account than the one that was refused.")
    ] = None,
    operator: Operator = None,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Send a suspended posting again, to another account where one is given."""
    body = {"to_account": to_account, "operator": operator or getpass.getuser(), "note": note}
    _act(load_state(stack), posting_id, "release", body, as_json=as_json)


@suspense_app.command("return")
def give_back(
    *,
    posting_id: PostingId,
    note: Note,
    operator: Operator = None,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Close a suspended posting for good: the payer gets the money back at the processor."""
    body = {"operator": operator or getpass.getuser(), "note": note}
    _act(load_state(stack), posting_id, "return", body, as_json=as_json)


def render(*, found: list[dict[str, Any]]) -> Any:
    """The list as people read it."""
    return table_of(
        title="Suspense",
        columns=("id", "kind", "account", "amount", "why", "reference", "since"),
        rows=[
            (
                each["id"],
                each["kind"],
                each["account_id"] or "(none)",
                f"{each['amount_cents'] / 100:,.2f} {each['currency']}",
                each["reason"],
                each["reference"],
                each["suspended_at"][11:19],
            )
            for each in found
        ],
        numbers=("amount",),
    )


async def read_suspense(*, state: StackState, limit: int = 100) -> list[dict[str, Any]]:
    """What is in suspense now, as the operator's API states it."""
    async with _poster(state) as poster:
        found: list[dict[str, Any]] = await poster.get("/suspense", limit=limit)
        return found


def _act(
    state: StackState, posting_id: str, action: str, body: dict[str, Any], *, as_json: bool
) -> None:
    async def act() -> Any:
        async with _poster(state) as poster:
            return await poster.post(f"/suspense/{posting_id}/{action}", body)

    answer = run(act())
    if as_json:
        print_json({"id": posting_id} | answer)
    else:
        out.print(f"{posting_id} is {answer['status']}. `paypost trace {posting_id}` follows it.")


def _poster(state: StackState) -> Remote:
    return Remote(base_url=state.http_urls["cis-poster"], bearer_key=state.secrets.operator_key)

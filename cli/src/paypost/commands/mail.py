"""`paypost mail`: what customers got."""

from __future__ import annotations

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
from paypost.trace.timeline import read_inbox

mail_app = typer.Typer(
    invoke_without_command=True, help="What customers got, from the local mail server."
)


@mail_app.callback()
def mail(context: typer.Context) -> None:
    """List the newest mails when no subcommand is given."""
    if context.invoked_subcommand is None:
        list_mail()


@mail_app.command("list")
def list_mail(
    *,
    to: Annotated[str | None, typer.Option(help="Only this address.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 20,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """List the newest mails."""
    count, messages = run(_list(load_state(stack), to, limit))
    if as_json:
        print_json({"count": count, "messages": messages})
        return
    rows = [
        (each["id"], each["received_at"][11:19], ", ".join(each["to"]), each["subject"])
        for each in messages
    ]
    out.print(
        table_of(
            title=f"{count:,} mails, the newest last",
            columns=("#", "at", "to", "subject"),
            rows=rows,
            numbers=("#",),
        )
    )


@mail_app.command("show")
def show_mail(
    *,
    number: Annotated[int, typer.Argument(metavar="#", help="As `paypost mail list` has it.")],
    html: Annotated[bool, typer.Option("--html", help="Its HTML instead of its text.")] = False,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Print one mail."""
    message = run(read_mail(state=load_state(stack), number=number))
    if as_json:
        print_json(message)
    else:
        out.print(render(message=message, html=html), markup=False)


def render(*, message: dict[str, Any], html: bool = False) -> str:
    """A mail as people read it: the headers that matter, and one of its bodies."""
    wanted = ("From", "To", "Subject", "Date", "Message-ID")
    head = [f"{name}: {value}" for name, value in message["headers"] if name in wanted]
    body = message["html" if html else "text"] or ""
    return "\n".join([*head, "", body.strip()])


async def read_mail(*, state: StackState, number: int) -> dict[str, Any]:
    """One mail, whole.

    Raises:
        RefusedRequestError: there is none of this number.
    """
    async with Remote(base_url=state.http_urls["mail"]) as server:
        message: dict[str, Any] = await server.get(f"/messages/{number}")
        return message


async def _list(state: StackState, to: str | None, limit: int) -> tuple[int, list[dict[str, Any]]]:
    async with Remote(base_url=state.http_urls["mail"]) as server:
        if to is not None:
            found = await read_inbox(mail=server, to=to)
            return len(found), found[-limit:]
        count = (await server.get("/count"))["count"]
        page = await server.get("/messages", after=max(0, count - limit), limit=limit)
        return count, page["messages"]

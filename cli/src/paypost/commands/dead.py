"""`paypost dead`: what was given up on, as it was, and putting it back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

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
from paypost.dead.letters import DeadLetter, once_each, read_dead_letters, replay
from paypost.remote import Remote
from paypost.stack.state import StackState
from shared.contracts.streams import STREAMS

dead_app = typer.Typer(
    no_args_is_help=True,
    help="Records that no attempt could read or handle, and webhooks that were refused as invalid.",
)

StreamName = Annotated[
    str | None, typer.Option("--stream", help=f"One of {', '.join(STREAMS)}; all by default.")
]


@dead_app.command("list")
def list_dead(
    *,
    stream: StreamName = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters (Kafka records) and rejections (signed webhooks that made no sense)."""
    state = load_state(stack)
    letters, rejections = run(_read(state, stream, limit))
    if as_json:
        print_json({"letters": [letter.as_json() for letter in letters], "rejections": rejections})
        return
    if not letters and not rejections:
        out.print("Nothing is dead.")
        return
    rows = [
        (
            letter.id,
            letter.at.strftime("%H:%M:%S"),
            letter.story.get("consumer", ""),
            letter.story.get("reason", ""),
            letter.story.get("detail", ""),
        )
        for letter in letters
    ]
    rows += [
        (each["id"], each["received_at"][11:19], each["source"], each["field"], each["reason"])
        for each in rejections
    ]
    out.print(table_of(columns=("id", "at", "by", "reason or field", "detail"), rows=rows))
    out.print("`paypost dead show ID` prints one, `paypost dead replay ID` puts one back.")


@dead_app.command("show")
def show_dead(
    *,
    letter_id: Annotated[str, typer.Argument(metavar="ID")],
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Print one dead letter or rejection with its original bytes."""
    state = load_state(stack)
    letters, rejections = run(_read(state, None, 1000))
    found: dict[str, Any] | None = None
    for letter in letters:
        if letter.id == letter_id:
            found = letter.as_json()
    for rejection in rejections:
        if rejection["id"] == letter_id:
            found = rejection
    if found is None:
        raise UsageError(f"nothing dead is called {letter_id!r}; see `paypost dead list`")
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        if name in {"headers", "story"}:
            pairs = value.items() if isinstance(value, dict) else value
            for key, text in pairs:
                out.print(f"{name}.{key}: {text}", markup=False)
        else:
            out.print(f"{name}: {value}", markup=False)


@dead_app.command("replay")
def replay_dead(
    *,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID…")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every letter of the stream.")] = False,
    stream: StreamName = None,
    yes: Annotated[bool, typer.Option("--yes", help="Really do it.")] = False,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Publish dead letters to their streams again, as they were; says only what it would do.

    Consumers know what they have taken already, so nothing is posted twice.
    """
    if not ids and not every:
        raise UsageError("name letters, or give --all")
    state = load_state(stack)
    letters = run(read_dead_letters(bootstrap=state.kafka_bootstrap, streams=_streams(stream)))
    chosen = [letter for letter in letters if every or letter.id in (ids or ())]
    missing = sorted(set(ids or ()) - {letter.id for letter in chosen})
    if missing:
        raise UsageError(f"no dead letter is called {', '.join(missing)}")
    chosen = once_each(letters=chosen)
    if yes and chosen:
        run(replay(bootstrap=state.kafka_bootstrap, letters=chosen))
    if as_json:
        print_json({"replayed": yes, "letters": [letter.id for letter in chosen]})
        return
    verb = "published again" if yes else "would be published again (give --yes)"
    out.print(f"{len(chosen)} {verb}: {', '.join(letter.id for letter in chosen) or 'none'}")


def _streams(stream: str | None) -> Sequence[str] | None:
    if stream is not None and stream not in STREAMS:
        raise UsageError(f"no stream is called {stream!r}; there are {', '.join(STREAMS)}")
    return None if stream is None else (stream,)


async def _read(
    state: StackState, stream: str | None, limit: int
) -> tuple[list[DeadLetter], list[dict[str, Any]]]:
    letters = await read_dead_letters(
        bootstrap=state.kafka_bootstrap, streams=_streams(stream), limit=limit
    )
    if stream is not None:
        return letters, []
    async with Remote(
        base_url=state.http_urls["payment-intake"], bearer_key=state.secrets.portal_api_key
    ) as intake:
        return letters, await intake.get("/rejections", limit=limit)

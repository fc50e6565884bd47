"""The HTTP side of the sink: what it holds, an inbox to look at, and its switches."""

import html
from typing import Any

from paypost.simulators.asgi import (
    ASGIScope,
    HttpProblemError,
    Receive,
    Send,
    answer_lifespan,
    read_json,
    read_query,
    send_body,
    send_json,
    send_problem,
)
from paypost.simulators.faults import MalformedSwitchError
from paypost.simulators.mail.store import MessageStore, StoredMessage
from paypost.simulators.mail.switches import Switches

LIMIT_MAX = 1_000
BODY_BYTES_MAX = 64 * 1024

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Mail sink</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ border-bottom: 1px solid #ddd; padding: .4rem .6rem; text-align: left }}
pre {{ background: #f6f6f6; padding: 1rem; white-space: pre-wrap }}
</style>
{content}
</html>
"""


class MailApplication:
    """The ASGI application of the mail sink."""

    def __init__(self, *, store: MessageStore, switches: Switches) -> None:
        self._store = store
        self._switches = switches

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        try:
            await self._route(scope, receive, send)
        except HttpProblemError as problem:
            await send_problem(send, problem)
        except MalformedSwitchError as error:
            await send_problem(
                send, HttpProblemError(status=400, title="Malformed", detail=str(error))
            )

    async def _route(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        match (scope["method"], path):
            case ("GET", "/"):
                await self._send_inbox(send)
            case ("GET", "/messages"):
                await self._send_list(read_query(scope), send)
            case ("GET", "/count"):
                to = read_query(scope).get("to")
                count = self._store.count if to is None else self._store.count_to(to)
                await send_json(send, {"count": count})
            case ("GET", _) if path.startswith("/messages/"):
                message = self._message(path.removeprefix("/messages/"))
                await send_json(send, describe(message, whole=True))
            case ("GET", _) if path.startswith("/inbox/"):
                await self._send_message_page(self._message(path.removeprefix("/inbox/")), send)
            case _:
                await self._control(scope["method"], path, receive, send)

    async def _control(self, method: str, path: str, receive: Receive, send: Send) -> None:
        match (method, path):
            case ("GET", "/livez" | "/readyz"):
                await send_json(send, {"status": "ready"})
            case ("GET", "/_switches"):
                await send_json(send, self._switches.describe())
            case ("PUT", "/_switches"):
                self._switches.change(await read_json(receive, limit_bytes=BODY_BYTES_MAX))
                await send_json(send, self._switches.describe())
            case ("POST", "/_switches/reset"):
                self._switches.reset()
                await send_json(send, self._switches.describe())
            case _:
                raise HttpProblemError(status=404, title="There is nothing at this address")

    def _message(self, number: str) -> StoredMessage:
        message = self._store.get(int(number)) if number.isdecimal() else None
        if message is None:
            raise HttpProblemError(status=404, title="There is no such message")
        return message

    async def _send_list(self, query: dict[str, str], send: Send) -> None:
        after, limit = query.get("after", "0"), query.get("limit", "100")
        if not (after.isdecimal() and limit.isdecimal()) or int(limit) > LIMIT_MAX:
            raise HttpProblemError(
                status=400,
                title="Malformed",
                detail=f"after and limit are whole numbers; limit is at most {LIMIT_MAX}",
            )
        found = self._store.list(to=query.get("to"), after=int(after), limit=int(limit))
        more = len(found) == int(limit) and bool(found)
        await send_json(
            send,
            {
                "messages": [describe(message, whole=False) for message in found],
                "next": found[-1].id if more else None,
            },
        )

    async def _send_inbox(self, send: Send) -> None:
        newest = self._store.list(to=None, after=max(0, self._store.count - 100), limit=100)
        rows = "".join(
            f"<tr><td>{message.id}<td>{message.received_at:%H:%M:%S}"
            f"<td>{html.escape(', '.join(message.recipients))}"
            f'<td><a href="/inbox/{message.id}">{html.escape(message.subject) or "—"}</a>'
            for message in reversed(newest)
        )
        content = (
            f"<h1>{self._store.count} messages</h1>"
            f"<table><tr><th>#<th>at (UTC)<th>to<th>subject{rows}</table>"
        )
        await _send_page(send, content)

    async def _send_message_page(self, message: StoredMessage, send: Send) -> None:
        headers = "\n".join(f"{name}: {value}" for name, value in message.parsed.items())
        text = message.body(subtype="plain") or message.body(subtype="html") or ""
        await _send_page(
            send,
            f'<p><a href="/">Inbox</a></p><h1>{html.escape(message.subject)}</h1>'
            f"<pre>{html.escape(headers)}</pre><pre>{html.escape(text)}</pre>",
        )


def describe(message: StoredMessage, *, whole: bool) -> dict[str, Any]:
    """Return a message as JSON: its envelope and main headers; `whole` adds the rest and bodies."""
    described: dict[str, Any] = {
        "id": message.id,
        "received_at": message.received_at,
        "from": message.sender,
        "to": message.recipients,
        "message_id": message.message_id,
        "subject": message.subject,
    }
    if whole:
        described |= {
            "headers": [[name, str(value)] for name, value in message.parsed.items()],
            "text": message.body(subtype="plain"),
            "html": message.body(subtype="html"),
            "raw": message.raw.decode("utf-8", "replace"),
        }
    return described


async def _send_page(send: Send, content: str) -> None:
    await send_body(
        send,
        status=200,
        body=PAGE.format(content=content).encode(),
        content_type=b"text/html; charset=utf-8",
        headers=((b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),),
    )

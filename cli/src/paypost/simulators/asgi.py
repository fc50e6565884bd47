"""The little of HTTP that the counterparts need: bodies in, JSON and problems out.

Raw ASGI instead of a framework: the counterparts share the machine with the system they load, so
each request of theirs that costs more than it must makes the measured system look slower.
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import orjson
import uvicorn

ASGIScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[ASGIScope, Receive, Send], Awaitable[None]]

JSON = b"application/json"
PROBLEM = b"application/problem+json"


class HttpProblemError(Exception):
    """A request that is answered with an RFC 9457 problem."""

    def __init__(self, *, status: int, title: str, detail: str = "", **members: Any) -> None:
        super().__init__(f"{status} {title}")
        self.status = status
        self.title = title
        self.detail = detail
        self.members = members


async def read_body(receive: Receive, *, limit_bytes: int) -> bytes:
    """Return the whole body. Raises HttpProblemError 413 beyond the limit, 400 when cut short."""
    body = b""
    chunk: bytes
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HttpProblemError(status=400, title="The request ended before its body")
        chunk = message.get("body", b"")
        body = body + chunk if body else chunk
        if len(body) > limit_bytes:
            raise HttpProblemError(
                status=413, title="The body is too large", detail=f"At most {limit_bytes} bytes."
            )
        if not message.get("more_body", False):
            return body


async def read_json(receive: Receive, *, limit_bytes: int) -> Any:
    """Return the body as parsed JSON. Raises HttpProblemError 400 or 413."""
    body = await read_body(receive, limit_bytes=limit_bytes)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HttpProblemError(
            status=400, title="The body is not JSON", detail=str(error)
        ) from None


def read_query(scope: ASGIScope) -> dict[str, str]:
    """Return the query parameters; of a repeated name the last one counts."""
    return dict(parse_qsl(scope["query_string"].decode("latin-1")))


def read_header(scope: ASGIScope, name: bytes) -> bytes | None:
    """Return the first header of this lower-case name, or None."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


async def send_body(
    send: Send,
    *,
    status: int,
    body: bytes,
    content_type: bytes = JSON,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    """Send one whole answer."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type),
                (b"content-length", str(len(body)).encode()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, value: Any, *, status: int = 200) -> None:
    """Send a value as JSON."""
    await send_body(send, status=status, body=orjson.dumps(value))


async def send_problem(send: Send, problem: HttpProblemError) -> None:
    """Send an RFC 9457 problem; its extra members stand beside the standard ones."""
    body = {"type": "about:blank", "title": problem.title, "status": problem.status}
    if problem.detail:
        body["detail"] = problem.detail
    body |= problem.members
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if problem.status == 401:
        headers = ((b"www-authenticate", b"Bearer"),)
    elif problem.status == 503:
        headers = ((b"retry-after", b"1"),)
    await send_body(
        send,
        status=problem.status,
        body=orjson.dumps(body),
        content_type=PROBLEM,
        headers=headers,
    )


async def answer_lifespan(receive: Receive, send: Send) -> None:
    """Follow the server's start and end; applications open and close nothing themselves."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def hold_open(receive: Receive, *, seconds: float, released: asyncio.Event) -> None:
    """Leave a request unanswered until the client goes, the time is over, or it is released."""
    waits = [
        asyncio.ensure_future(wait_for_disconnect(receive)),
        asyncio.ensure_future(released.wait()),
    ]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class Server(uvicorn.Server):
    """A server that ends at SIGTERM or SIGINT and leaves its caller the time to close what it owns.

    uvicorn itself raises the signal again when it is done, which kills the process before the
    caller's own `finally`.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take both signals for as long as it serves."""
        loop = asyncio.get_running_loop()
        taken = (signal.SIGTERM, signal.SIGINT)
        for number in taken:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)


def build_server(application: Application, *, host: str, port: int) -> Server:
    """Return a server for the application, as lean as uvicorn goes.

    Its shutdown waits at most two seconds, since a request may be hanging on purpose.
    """
    return Server(
        uvicorn.Config(
            application,
            host=host,
            port=port,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=2048,
            timeout_keep_alive=300,
            timeout_graceful_shutdown=2,
        )
    )

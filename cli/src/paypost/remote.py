"""Calls to the HTTP sides of a stack: JSON in, JSON out, refusals as errors with their title."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

TIMEOUT_SECONDS = 30.0
UPLOAD_ANSWER_SECONDS = 1900.0
"""A service may take half an hour for a million lines; it says so itself when that is too long."""
CHUNK_BYTES = 256 * 1024


class RefusedRequestError(Exception):
    """A server answered a call with a problem.

    Attributes:
        status: the HTTP status.
        title: what it said.
        url: whom it was asked of.
        errors: which fields, and of a file which lines, it objects to: `field`, `message`, `line`.
    """

    def __init__(
        self, *, status: int, title: str, url: str, errors: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        objections = "; ".join(_objection(each) for each in errors)
        super().__init__(
            f"{url} answered {status}: {title}{f': {objections}' if objections else ''}"
        )
        self.status = status
        self.title = title
        self.url = url
        self.errors = tuple(errors)


def _objection(error: Mapping[str, Any]) -> str:
    line = f"line {error['line']}, " if "line" in error else ""
    return f"{line}{error.get('field', '')}: {error.get('message', '')}"


def refusal_of(*, status: int, body: bytes, url: str) -> RefusedRequestError:
    """The error that an answer of 3xx, 4xx or 5xx amounts to."""
    try:
        problem = orjson.loads(body)
        title = str(problem.get("title", ""))
        detail = problem.get("detail")
        errors = [each for each in problem.get("errors") or () if isinstance(each, dict)]
        if any(each.get("message") == detail for each in errors):
            # Said by its field, or its line, already.
            detail = None
    except (orjson.JSONDecodeError, AttributeError):
        title, detail, errors = body.decode(errors="replace")[:200], None, []
    return RefusedRequestError(
        status=status,
        title=f"{title} ({detail})" if detail else title,
        url=url,
        errors=errors,
    )


class Remote:
    """One server; a context manager that keeps its connections."""

    def __init__(self, *, base_url: str, bearer_key: str | None = None) -> None:
        self._base_url = base_url
        headers = {"authorization": f"Bearer {bearer_key}"} if bearer_key else {}
        self._session = aiohttp.ClientSession(
            headers=headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(self, path: str, **query: str | int) -> Any:
        """The JSON at a path.

        Raises:
            RefusedRequestError: not 2xx.
            aiohttp.ClientError: no answer.
        """
        return await self._call("GET", path, query=query)

    async def post(self, path: str, body: Any = None) -> Any:
        """The answer to a JSON body; raises as `get` does."""
        return await self._call("POST", path, body=body)

    async def upload(self, path: str, *, file: Path, media_type: str, **query: str | int) -> Any:
        """The answer to a file, which is read while it is sent; raises as `get` does, and OSError.

        Never holds more of the file than a piece.
        """
        url = f"{self._base_url}{path}"
        # Opened first: a file that is not there is said to be so, and nothing is asked.
        with file.open("rb") as opened:

            async def pieces() -> AsyncIterator[bytes]:
                while piece := opened.read(CHUNK_BYTES):
                    yield piece

            async with self._session.post(
                url,
                params=query,
                data=pieces(),
                headers={"content-type": media_type},
                timeout=aiohttp.ClientTimeout(total=None, sock_read=UPLOAD_ANSWER_SECONDS),
            ) as response:
                answer = await response.read()
                if response.status >= 300:
                    raise refusal_of(status=response.status, body=answer, url=url)
                return orjson.loads(answer)

    async def put(self, path: str, body: Any) -> Any:
        """The answer to a JSON body; raises as `get` does."""
        return await self._call("PUT", path, body=body)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str | int] | None = None,
        body: Any = None,
    ) -> Any:
        url = f"{self._base_url}{path}"
        data = None if body is None else orjson.dumps(body)
        headers = {"content-type": "application/json"} if data is not None else None
        async with self._session.request(
            method, url, params=query, data=data, headers=headers
        ) as response:
            answer = await response.read()
            if response.status >= 300:
                raise refusal_of(status=response.status, body=answer, url=url)
            return orjson.loads(answer) if answer else None

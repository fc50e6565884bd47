"""RFC 9457 problems, and the bearer keys of the HTTP APIs: the same answers at every door."""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.responses import JSONResponse
from fastapi.security.base import SecurityBase
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from shared.errors import TransientError

MEDIA_TYPE = "application/problem+json"
_JSON = "application/json"


class Problem(BaseModel):
    """A problem as RFC 9457 writes it; `errors` names the fields where there are some."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    errors: list[dict[str, str]] | None = None

    def response(self, *, headers: dict[str, str] | None = None) -> JSONResponse:
        """Return the problem as an HTTP response."""
        return JSONResponse(
            self.model_dump(exclude_none=True),
            status_code=self.status,
            media_type=MEDIA_TYPE,
            headers=headers,
        )


class BearerKeys(SecurityBase):
    """A FastAPI dependency that lets in whoever holds one of the keys, known by hash only."""

    def __init__(self, *, sha256s: Sequence[str]) -> None:
        self.model = HTTPBearerModel()
        self.scheme_name = "bearer"
        self._digests = [bytes.fromhex(digest) for digest in sha256s]

    async def __call__(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(key.encode()).digest()
        # Every digest is compared, in constant time: the answer's time tells nothing of a key.
        known = [hmac.compare_digest(digest, each) for each in self._digests]
        if scheme.lower() != "bearer" or not any(known):
            raise HTTPException(
                401, "a bearer key is required", headers={"WWW-Authenticate": "Bearer"}
            )


def install_problems(app: FastAPI) -> None:
    """Answer every error of an API as a problem, and let its document say so."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_problems(described())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        headers: Any = error.headers
        return Problem(status=error.status_code, title=error.detail).response(headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return Problem(
            status=422,
            title="The request is not valid",
            errors=[
                {
                    "field": ".".join(str(part) for part in entry["loc"]),
                    "message": str(entry["msg"]),
                }
                for entry in error.errors()
            ],
        ).response()

    @app.exception_handler(Exception)
    async def defect(_: Request, __: Exception) -> JSONResponse:
        # The server logs it; who asked is told no more than whose mistake it is.
        return Problem(status=500, title="This is our mistake").response()

    @app.exception_handler(TransientError)
    async def unavailable(_: Request, error: TransientError) -> JSONResponse:
        return Problem(
            status=503, title="Not possible for the moment", detail=type(error).__name__
        ).response(headers={"Retry-After": "1"})


def _with_problems(document: dict[str, Any]) -> dict[str, Any]:
    """Return an OpenAPI document whose errors are of the media type in which they are answered."""
    for path in document["paths"].values():
        for operation in path.values():
            responses = operation["responses"]
            if "requestBody" in operation and _JSON in operation["requestBody"]["content"]:
                content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
                unreadable = {"description": "The body is not UTF-8 text.", "content": content}
                responses.setdefault("400", unreadable)
            for status, response in responses.items():
                if status >= "400" and _JSON in response.get("content", {}):
                    response["content"][MEDIA_TYPE] = response["content"].pop(_JSON)
    return document

"""The operations port: `/metrics`, `/livez` and `/readyz`, the same for every service.

Alive means that work moves, not that a broker answers a ping. Ready means that what this service
promises to its callers can be kept now.
"""

from collections.abc import Awaitable, Callable, Mapping

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Check = Callable[[], Awaitable[str | None]]
"""Returns None when all is well, else what is wrong in a few words."""


def build_ops_app(
    *, registry: CollectorRegistry, live: Mapping[str, Check], ready: Mapping[str, Check]
) -> Starlette:
    """Return the ASGI application of the operations port."""

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type)

    async def livez(_: Request) -> Response:
        return await _answer(live)

    async def readyz(_: Request) -> Response:
        return await _answer(ready)

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/livez", livez), Route("/readyz", readyz)]
    )


async def _answer(checks: Mapping[str, Check]) -> Response:
    found = {name: await check() for name, check in checks.items()}
    wrong = {name: problem for name, problem in found.items() if problem is not None}
    body = {"status": "failing" if wrong else "ok", "checks": list(found), "failing": wrong}
    return Response(
        orjson.dumps(body), status_code=503 if wrong else 200, media_type="application/json"
    )

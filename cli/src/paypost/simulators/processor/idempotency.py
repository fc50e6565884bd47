"""Idempotency keys as Stripe keeps them.

The first answer under a key, whatever its status, is the answer to every later request with that
key and the same parameters, for 24 hours of the processor's clock. Source: Stripe's API reference,
"Idempotent requests".
"""

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from paypost.simulators.processor.errors import IDEMPOTENCY, ApiError

KEPT = timedelta(hours=24)
KEY_LENGTH_MAX = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer:
    """The answer to the first request under a key."""

    path: str
    fingerprint: str
    status: int
    body: bytes
    """Compressed: a load test leaves a hundred thousand of them."""
    request_id: str
    kept_at: datetime

    def read_body(self) -> bytes:
        """Return the body as it was sent."""
        return zlib.decompress(self.body)


class IdempotencyKeys:
    """The keys in use and the answers kept under them."""

    def __init__(self) -> None:
        # In the order of keeping, hence of expiry.
        self._kept: dict[str, KeptAnswer] = {}
        self._in_flight: dict[str, tuple[str, str]] = {}

    def begin(self, key: str, *, path: str, fingerprint: str, now: datetime) -> KeptAnswer | None:
        """Return the answer kept under a key; without one, hold the key for this request.

        Raises ApiError: 400 when the key was used for something else, 409 while it is in use.
        """
        if len(key) > KEY_LENGTH_MAX:
            raise ApiError(
                status=400, message=f"Idempotency keys have up to {KEY_LENGTH_MAX} characters."
            )
        self._expire(now)
        kept = self._kept.get(key)
        used = (kept.path, kept.fingerprint) if kept else self._in_flight.get(key)
        if used is not None and used[0] != path:
            raise ApiError(
                status=400,
                type=IDEMPOTENCY,
                message="Keys for idempotent requests can only be used for the same endpoint they"
                f" were first used for ('{path}' vs '{used[0]}'). Try using a key other than"
                f" '{key}' if you meant to execute a different request.",
            )
        if used is not None and used[1] != fingerprint:
            raise ApiError(
                status=400,
                type=IDEMPOTENCY,
                message="Keys for idempotent requests can only be used with the same parameters"
                f" they were first used with. Try using a key other than '{key}' if you meant to"
                " execute a different request.",
            )
        if kept is None and used is not None:
            raise ApiError(
                status=409,
                type=IDEMPOTENCY,
                code="idempotency_key_in_use",
                message="There is currently another in-progress request using this Idempotent Key"
                " (that probably means you submitted twice, and the other request is still going"
                f" through): {key}. Please try again later.",
            )
        if kept is None:
            self._in_flight[key] = (path, fingerprint)
        return kept

    def keep(
        self,
        key: str,
        *,
        path: str,
        fingerprint: str,
        status: int,
        body: bytes,
        request_id: str,
        now: datetime,
    ) -> None:
        """Keep the answer of the request that holds the key."""
        self._in_flight.pop(key, None)
        self._kept[key] = KeptAnswer(
            path=path,
            fingerprint=fingerprint,
            status=status,
            body=zlib.compress(body, 1),
            request_id=request_id,
            kept_at=now,
        )

    def release(self, key: str) -> None:
        """Forget the request that holds the key: it was never begun."""
        self._in_flight.pop(key, None)

    def _expire(self, now: datetime) -> None:
        while self._kept:
            eldest = next(iter(self._kept))
            if now - self._kept[eldest].kept_at < KEPT:
                return
            del self._kept[eldest]


def fingerprint_of(form: Mapping[str, Any]) -> str:
    """Return what two requests have in common if their parameters are the same, in any order."""
    canonical = orjson.dumps(form, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()[:32]

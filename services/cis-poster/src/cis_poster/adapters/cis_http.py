"""The CIS over HTTP, by docs/cis-protocol.md.

What the network does is mapped here, once: never connected means nothing took effect; anything
after the request was written, without an answer that can be understood, means nobody knows.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import aiohttp
import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from cis_poster.domain import HELD_BACK, Answer, Outcome, Posting
from cis_poster.usecases import PosterMetrics

_CIS_OUTCOMES: Mapping[str, Outcome] = {
    "applied": Outcome.APPLIED,
    "exists": Outcome.EXISTS,
    "conflict": Outcome.CONFLICT,
    "refused": Outcome.REFUSED,
    "unavailable": Outcome.UNAVAILABLE,
    "not_attempted": Outcome.UNAVAILABLE,
}
_CIS_FINDINGS: Mapping[str, Outcome] = {
    "exists": Outcome.EXISTS,
    "not_found": Outcome.NOT_FOUND,
}


_MALFORMED = Answer(outcome=Outcome.REFUSED, reason="malformed")


class _CisAnswer(BaseModel):
    """An answer as the protocol writes it; anything else on the wire is not understood."""

    model_config = ConfigDict(extra="ignore")

    key: UUID
    outcome: str
    reason: str | None = None
    cis_reference: str | None = None
    balance_cents: int | None = None
    posted_at: AwareDatetime | None = None
    amount_cents: int | None = None
    account: str | None = None


class _CisAnswers(BaseModel):
    answers: list[_CisAnswer]


class HttpCisGateway:
    """See `cis_poster.ports.CisGateway`; one kept connection for each call in flight."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        timeout_seconds: float,
        connections_max: int,
        metrics: PosterMetrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
        }
        self._timeout = aiohttp.ClientTimeout(
            total=timeout_seconds, sock_connect=min(timeout_seconds, 2.0)
        )
        self._connections_max = connections_max
        self._metrics = metrics
        self._monotonic = monotonic
        self._session: aiohttp.ClientSession | None = None

    async def post(self, postings: Sequence[Posting]) -> Sequence[Answer]:
        bodies = [_body(posting) for posting in postings]
        if len(postings) == 1:
            return await self._call("post", "/v1/postings", bodies[0], postings, single=True)
        answers = await self._call(
            "post_many", "/v1/postings/batch", {"postings": bodies}, postings, single=False
        )
        if all(answer == _MALFORMED for answer in answers):
            return await self._post_halves(postings)
        return answers

    async def _post_halves(self, postings: Sequence[Posting]) -> Sequence[Answer]:
        """Find the posting that spoils its call: refused as a whole, nothing of it was applied."""
        middle = len(postings) // 2
        first = await self.post(postings[:middle])
        if any(answer.outcome in (Outcome.UNAVAILABLE, Outcome.LOST) for answer in first):
            return [*first, *(HELD_BACK for _ in postings[middle:])]
        return [*first, *await self.post(postings[middle:])]

    async def find(self, postings: Sequence[Posting]) -> Sequence[Answer]:
        body = {"keys": [str(posting.id) for posting in postings]}
        answers = await self._call("find", "/v1/postings/find", body, postings, single=False)
        # Asking changes nothing: a question without one of its two answers is only asked again.
        return [
            answer
            if answer.outcome in (Outcome.EXISTS, Outcome.NOT_FOUND)
            else Answer(outcome=Outcome.LOST, reason=answer.reason)
            for answer in answers
        ]

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _call(
        self, operation: str, path: str, body: Any, postings: Sequence[Posting], *, single: bool
    ) -> Sequence[Answer]:
        started = self._monotonic()
        try:
            async with self._connected().post(
                self._base_url + path,
                data=orjson.dumps(body),
                headers=self._headers,
                timeout=self._timeout,
            ) as response:
                payload = await response.read()
                answers = _understood(
                    response.status,
                    payload,
                    postings,
                    single=single,
                    outcomes=_CIS_FINDINGS if operation == "find" else _CIS_OUTCOMES,
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            answers = _all(postings, Outcome.UNAVAILABLE, "cis_unreachable")
        except TimeoutError:
            answers = _all(postings, Outcome.LOST, "cis_timeout")
        except aiohttp.ClientError:
            answers = _all(postings, Outcome.LOST, "cis_connection_lost")
        self._metrics.called(
            operation=operation,
            outcome=_label(answers),
            seconds=self._monotonic() - started,
            size=len(postings),
        )
        return answers

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections_max, keepalive_timeout=60, force_close=False
                ),
                # Bodies are bytes already, and cookies are not part of the protocol.
                cookie_jar=aiohttp.DummyCookieJar(),
                loop=asyncio.get_running_loop(),
            )
        return self._session


def _body(posting: Posting) -> dict[str, Any]:
    return {
        "key": str(posting.id),
        "kind": str(posting.kind),
        "account": posting.account_id,
        "amount_cents": posting.amount_cents,
        "currency": posting.currency,
        "effective_date": posting.effective_date.isoformat(),
        "accepted_at": posting.accepted_at.isoformat(),
        "payment_key": str(posting.payment_id),
        "reference": posting.reference,
    }


def _understood(
    status: int,
    payload: bytes,
    postings: Sequence[Posting],
    *,
    single: bool,
    outcomes: Mapping[str, Outcome],
) -> Sequence[Answer]:
    """Return what an HTTP answer says; what cannot be understood may have taken effect."""
    if status in (401, 403, 404, 429):
        return _all(postings, Outcome.UNAVAILABLE, f"cis_http_{status}")
    if status == 400:
        return [_MALFORMED for _ in postings]
    if status == 503:
        return _all(postings, Outcome.UNAVAILABLE, _reason(payload) or "cis_unavailable")
    if status >= 500:
        return _all(postings, Outcome.LOST, f"cis_http_{status}")
    try:
        found = (
            [_CisAnswer.model_validate_json(payload)]
            if single
            else _CisAnswers.model_validate_json(payload).answers
        )
    except ValidationError:
        return _all(postings, Outcome.LOST, "cis_answer_not_understood")
    if [answer.key for answer in found] != [posting.id for posting in postings]:
        return _all(postings, Outcome.LOST, "cis_answer_for_other_keys")
    return [_answer(answer, outcomes) for answer in found]


def _answer(answer: _CisAnswer, outcomes: Mapping[str, Outcome]) -> Answer:
    outcome = outcomes.get(answer.outcome)
    on_ledger = outcome in (Outcome.APPLIED, Outcome.EXISTS)
    is_complete = answer.cis_reference is not None and answer.balance_cents is not None
    if outcome is None or (on_ledger and not is_complete):
        return Answer(outcome=Outcome.LOST, reason="cis_answer_not_understood")
    return Answer(
        outcome=outcome,
        reason=answer.reason or (answer.outcome if outcome is Outcome.UNAVAILABLE else None),
        cis_reference=answer.cis_reference,
        balance_cents=answer.balance_cents,
        posted_at=answer.posted_at,
        amount_cents=answer.amount_cents,
        account_id=answer.account,
        attempted=answer.outcome != "not_attempted",
    )


def _reason(payload: bytes) -> str | None:
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    reason = body.get("reason") if isinstance(body, dict) else None
    return reason if isinstance(reason, str) else None


def _all(postings: Sequence[Posting], outcome: Outcome, reason: str) -> Sequence[Answer]:
    return [Answer(outcome=outcome, reason=reason) for _ in postings]


def _label(answers: Sequence[Answer]) -> str:
    outcomes = {str(answer.outcome) for answer in answers}
    return outcomes.pop() if len(outcomes) == 1 else "mixed"

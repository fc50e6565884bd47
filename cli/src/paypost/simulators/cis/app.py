"""The CIS's HTTP edge: translation between requests and the ledger, and the faults on the way."""

import asyncio
import collections
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson

from paypost.simulators.asgi import (
    PROBLEM,
    ASGIScope,
    HttpProblemError,
    Receive,
    Send,
    answer_lifespan,
    hold_open,
    read_header,
    read_json,
    read_query,
    send_body,
    send_json,
    send_problem,
)
from paypost.simulators.cis import protocol, store
from paypost.simulators.cis.ledger import Decision, Entry, Outcome, Posting, Reason
from paypost.simulators.cis.switches import FIND, OF_SINGLE_POSTINGS, POST, Switches
from paypost.simulators.cis.writer import (
    DATABASE_ERRORS,
    LedgerUnavailableError,
    LedgerWriter,
    OutcomeUnknownError,
)
from paypost.simulators.faults import MalformedSwitchError

BODY_BYTES_MAX = 2 * 1024 * 1024
PAGE_MAX = 5_000

NONSENSE = b'{"result":"OK","ledger":[{"line":0}]}'


class CisApplication:
    """The ASGI application of the reference CIS."""

    def __init__(
        self,
        *,
        writer: LedgerWriter,
        reader: "asyncpg.Pool[asyncpg.Record]",
        switches: Switches,
        api_key: str,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._switches = switches
        self._authorization = f"Bearer {api_key}".encode()
        self._counts: collections.Counter[str] = collections.Counter()

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        try:
            await self._route(scope, receive, send)
        except HttpProblemError as problem:
            await send_problem(send, problem)
        except protocol.MalformedError as error:
            await send_problem(send, _malformed(field=error.field, message=error.message))
        except MalformedSwitchError as error:
            await send_problem(send, _malformed(field=error.field, message=error.message))
        except store.OpeningBalanceError as error:
            await send_problem(
                send,
                HttpProblemError(
                    status=409,
                    title="The account was opened with another balance",
                    account=error.account,
                    opening_balance_cents=error.held_cents,
                ),
            )
        except (LedgerUnavailableError, *DATABASE_ERRORS):
            await send_problem(send, _unavailable(Reason.DOWN))
        except OutcomeUnknownError:
            await send_problem(
                send,
                HttpProblemError(
                    status=500,
                    title="The outcome is unknown",
                    detail="The ledger went away while it wrote. Ask for the key.",
                ),
            )

    async def _route(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        method: str = scope["method"]
        if path.startswith("/v1/"):
            self._authorize(scope)
            match (method, path):
                case ("POST", "/v1/postings"):
                    await self._post_one(receive, send)
                case ("POST", "/v1/postings/batch"):
                    await self._post_many(receive, send)
                case ("POST", "/v1/postings/find"):
                    await self._find_many(receive, send)
                case ("GET", _) if path.startswith("/v1/postings/"):
                    await self._find_one(path.removeprefix("/v1/postings/"), receive, send)
                case _:
                    await self._administer(method, path, scope, receive, send)
            return
        await self._control(method, path, receive, send)

    async def _control(self, method: str, path: str, receive: Receive, send: Send) -> None:
        match (method, path):
            case ("GET", "/livez"):
                await send_json(send, {"status": "alive"})
            case ("GET", "/readyz"):
                if not self._writer.ready:
                    raise _unavailable(Reason.DOWN)
                await send_json(send, {"status": "ready"})
            case ("GET", "/_switches"):
                await send_json(send, self._switches.describe())
            case ("PUT", "/_switches"):
                self._switches.change(await read_json(receive, limit_bytes=BODY_BYTES_MAX))
                await send_json(send, self._switches.describe())
            case ("POST", "/_switches/reset"):
                self._switches.reset()
                await send_json(send, self._switches.describe())
            case ("GET", "/_counts"):
                await send_json(send, dict(sorted(self._counts.items())))
            case _:
                raise HttpProblemError(status=404, title="There is nothing at this address")

    def _authorize(self, scope: ASGIScope) -> None:
        given = read_header(scope, b"authorization")
        if given is None or not secrets.compare_digest(given, self._authorization):
            self._counts["unauthorized"] += 1
            raise HttpProblemError(status=401, title="The API key is missing or wrong")

    async def _post_one(self, receive: Receive, send: Send) -> None:
        body = await read_json(receive, limit_bytes=BODY_BYTES_MAX)
        posting = protocol.parse_posting(body)
        self._counts["calls_post"] += 1
        if self._switches.quiet:
            decision = (await self._writer.post((posting,)))[0]
        else:
            decisions = await self._post_faultily((posting,), receive, send)
            if decisions is None:
                return
            decision = decisions[0]
        self._counts[decision.outcome.value] += 1
        await _send_decision(send, decision)

    async def _post_many(self, receive: Receive, send: Send) -> None:
        body = await read_json(receive, limit_bytes=BODY_BYTES_MAX)
        postings = protocol.parse_postings(body)
        self._counts["calls_post_batch"] += 1
        if self._switches.quiet:
            decisions: list[Decision] | None = await self._writer.post(postings)
        else:
            decisions = await self._post_faultily(postings, receive, send)
        if decisions is not None:
            for decision in decisions:
                self._counts[decision.outcome.value] += 1
            await _send_decisions(send, decisions)

    async def _find_one(self, key: str, receive: Receive, send: Send) -> None:
        wanted = protocol.parse_key(key, field="key")
        self._counts["calls_find"] += 1
        if not self._switches.quiet and await self._fail_before(FIND, (), receive, send):
            return
        decision = (await self._writer.find((wanted,)))[0]
        await _send_decision(send, self._found(decision))

    async def _find_many(self, receive: Receive, send: Send) -> None:
        keys = protocol.parse_keys(await read_json(receive, limit_bytes=BODY_BYTES_MAX))
        self._counts["calls_find_batch"] += 1
        if not self._switches.quiet and await self._fail_before(FIND, (), receive, send):
            return
        decisions = await self._writer.find(keys)
        await _send_decisions(send, [self._found(decision) for decision in decisions])

    def _found(self, decision: Decision) -> Decision:
        if decision.entry is not None and self._switches.meets(
            "exists_other_amount", operation=FIND, accounts=(decision.entry.account,)
        ):
            return _with_other_amount(decision)
        return decision

    async def _post_faultily(
        self, postings: Sequence[Posting], receive: Receive, send: Send
    ) -> list[Decision] | None:
        """Apply postings under the switches; None when the call was answered in another way."""
        accounts = {posting.account for posting in postings}
        if await self._fail_before(POST, accounts, receive, send):
            return None
        switches = self._switches
        hang_after = switches.meets("timeout_after_apply", operation=POST, accounts=accounts)
        error_after = switches.meets("error_after_apply", operation=POST, accounts=accounts)
        decisions = await self._post_singly_faulty(postings)
        if hang_after:
            await self._hang(receive, send)
            return None
        if error_after:
            raise _failed()
        return decisions

    async def _post_singly_faulty(self, postings: Sequence[Posting]) -> list[Decision]:
        decisions: list[Decision | None] = []
        wanted: list[Posting] = []
        # An account with one posting undecided takes no later one: its order would be lost.
        stopped: set[str] = set()
        for posting in postings:
            decision = self._single_fault(posting, stopped)
            decisions.append(decision)
            if decision is None:
                wanted.append(posting)
        applied = iter(await self._writer.post(wanted) if wanted else ())
        return [decision if decision is not None else next(applied) for decision in decisions]

    def _single_fault(self, posting: Posting, stopped: set[str]) -> Decision | None:
        if posting.account in stopped:
            return protocol.undecided(posting.key, outcome=Outcome.NOT_ATTEMPTED, reason=None)
        of_account = (posting.account,)
        for name, reason in (("down", Reason.DOWN), ("batch_closed", Reason.BATCH_CLOSED)):
            if self._switches.names_accounts(name) and self._switches.meets(
                name, operation=POST, accounts=of_account
            ):
                stopped.add(posting.account)
                return protocol.undecided(posting.key, outcome=Outcome.UNAVAILABLE, reason=reason)
        if self._switches.meets("exists_other_amount", operation=POST, accounts=of_account):
            return _invented(posting)
        return None

    async def _fail_before(
        self, operation: str, accounts: set[str] | tuple[()], receive: Receive, send: Send
    ) -> bool:
        """Meet what hits the whole call before the ledger; True when the call is over with that.

        Raises HttpProblemError for what is answered as a problem.
        """
        switches = self._switches
        delay_seconds = switches.delay_seconds()
        if delay_seconds:
            await asyncio.sleep(delay_seconds)

        def hits(name: str) -> bool:
            if name in OF_SINGLE_POSTINGS and operation == POST and switches.names_accounts(name):
                return False
            return switches.meets(name, operation=operation, accounts=accounts)

        if switches.flapped_down() or hits("down"):
            self._counts["unavailable"] += 1
            raise _unavailable(Reason.DOWN)
        if hits("batch_closed"):
            self._counts["unavailable"] += 1
            raise _unavailable(Reason.BATCH_CLOSED)
        if hits("error_before_apply"):
            raise _failed()
        if hits("wrong_answer"):
            await send_body(send, status=200, body=NONSENSE)
            return True
        if hits("hang") or hits("timeout_before_apply"):
            await self._hang(receive, send)
            return True
        return False

    async def _hang(self, receive: Receive, send: Send) -> None:
        await hold_open(
            receive, seconds=self._switches.hang_seconds, released=self._switches.let_go
        )
        await send_problem(send, HttpProblemError(status=504, title="The CIS took too long"))

    async def _administer(
        self, method: str, path: str, scope: ASGIScope, receive: Receive, send: Send
    ) -> None:
        match (method, path):
            case ("POST", "/v1/accounts"):
                body = await read_json(receive, limit_bytes=BODY_BYTES_MAX)
                accounts = protocol.parse_accounts(body)
                await self._writer.put_accounts(accounts)
                await send_json(send, {"accounts": len(accounts)})
            case ("PUT", _) if path.startswith("/v1/accounts/"):
                body = await read_json(receive, limit_bytes=BODY_BYTES_MAX)
                account = protocol.parse_account(body, account=path.removeprefix("/v1/accounts/"))
                await self._writer.put_accounts((account,))
                await self._send_account(send, account.account)
            case ("GET", _) if path.startswith("/v1/accounts/"):
                await self._send_account(send, path.removeprefix("/v1/accounts/"))
            case ("GET", "/v1/ledger/totals"):
                async with self._reader.acquire() as connection:
                    totals = await store.read_totals(connection)
                await send_json(
                    send, {"count": sum(total["count"] for total in totals), "totals": totals}
                )
            case ("GET", "/v1/ledger/proof"):
                async with self._reader.acquire() as connection:
                    await send_json(send, await store.read_proof(connection))
            case ("GET", "/v1/ledger/postings"):
                await self._send_page(scope, send)
            case _:
                raise HttpProblemError(status=404, title="There is nothing at this address")

    async def _send_account(self, send: Send, account: str) -> None:
        async with self._reader.acquire() as connection:
            accounts = await store.read_accounts(connection, accounts=(account,))
        if not accounts:
            raise HttpProblemError(status=404, title="There is no such account", account=account)
        held = accounts[0]
        await send_json(
            send,
            {
                "account": held.account,
                "name": held.name,
                "status": held.status,
                "cash_only": held.cash_only,
                "currency": held.currency,
                "balance_cents": held.balance_cents,
            },
        )

    async def _send_page(self, scope: ASGIScope, send: Send) -> None:
        query = read_query(scope)
        after = _whole_number(query.get("after", "0"), field="after", most=2**62)
        limit = _whole_number(query.get("limit", "1000"), field="limit", most=PAGE_MAX)
        async with self._reader.acquire() as connection:
            entries = await store.list_entries(connection, after=after, limit=limit)
        postings = [
            {
                "sequence": entry.sequence,
                "key": entry.key,
                "kind": entry.kind.value,
                "account": entry.account,
                "amount_cents": entry.amount_cents,
                "currency": entry.currency,
                "payment_key": entry.payment_key,
                "posted_at": entry.posted_at,
                "cis_reference": entry.cis_reference,
            }
            for entry in entries
        ]
        more = bool(entries) and len(entries) == limit
        await send_json(
            send, {"postings": postings, "next": entries[-1].sequence if more else None}
        )


async def _send_decision(send: Send, decision: Decision) -> None:
    status = protocol.STATUS_OF_OUTCOME[decision.outcome]
    answer = protocol.render_decision(decision)
    if status < 400:
        await send_body(send, status=status, body=orjson.dumps(answer))
        return
    title = protocol.TITLE_OF_OUTCOME[decision.outcome]
    problem: dict[str, Any] = {"type": "about:blank", "title": title, "status": status} | answer
    headers = ((b"retry-after", b"1"),) if status == 503 else ()
    await send_body(
        send,
        status=status,
        body=orjson.dumps(problem),
        content_type=PROBLEM,
        headers=headers,
    )


async def _send_decisions(send: Send, decisions: Sequence[Decision]) -> None:
    answers = [protocol.render_decision(decision) for decision in decisions]
    await send_body(send, status=200, body=orjson.dumps({"answers": answers}))


def _invented(posting: Posting) -> Decision:
    """Return an answer that claims another amount for a key, without touching the ledger."""
    entry = Entry(
        sequence=0,
        key=posting.key,
        kind=posting.kind,
        account=posting.account,
        amount_cents=posting.amount_cents + 100,
        currency=posting.currency,
        payment_key=posting.payment_key,
        posted_at=datetime.now(UTC),
    )
    return Decision(posting.key, Outcome.EXISTS, None, entry, 0)


def _with_other_amount(decision: Decision) -> Decision:
    assert decision.entry is not None
    entry = replace(decision.entry, amount_cents=decision.entry.amount_cents + 100)
    return replace(decision, entry=entry)


def _malformed(*, field: str, message: str) -> HttpProblemError:
    return HttpProblemError(
        status=400,
        title="The request is malformed",
        detail=f"{field} {message}",
        errors=[{"field": field, "message": message}],
    )


def _unavailable(reason: Reason) -> HttpProblemError:
    return HttpProblemError(
        status=503,
        title=protocol.TITLE_OF_OUTCOME[Outcome.UNAVAILABLE],
        outcome=Outcome.UNAVAILABLE.value,
        reason=reason.value,
    )


def _failed() -> HttpProblemError:
    return HttpProblemError(status=500, title="The CIS failed")


def _whole_number(text: str, *, field: str, most: int) -> int:
    if not text.isdecimal() or int(text) > most:
        raise protocol.MalformedError(field=field, message=f"must be a whole number up to {most}")
    return int(text)

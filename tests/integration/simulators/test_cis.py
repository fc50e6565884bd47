import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import jsonschema
import pytest
from tests.integration.simulators.counterparts import Counterpart, free_port, running
from tests.support.backends import TestDatabase

from paypost.simulators.cis.journal import read_journal

OPENAPI = Path(__file__).parents[3] / "docs" / "openapi" / "cis.json"
KEY = "key-of-the-tests"


@dataclass
class Cis:
    process: Counterpart
    url: str
    journal: Path
    database_url: str
    http: aiohttp.ClientSession

    async def call(
        self, method: str, path: str, body: object = None, *, timeout_seconds: float = 10
    ) -> tuple[int, Any]:
        async with self.http.request(
            method,
            self.url + path,
            json=body,
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        ) as answer:
            return answer.status, await answer.json(content_type=None)

    async def open_account(self, **members: object) -> str:
        account = f"A-{uuid4().hex[:8]}"
        status, _ = await self.call("PUT", f"/v1/accounts/{account}", {"name": "Ann", **members})
        assert status == 200
        return account

    async def post(self, **members: object) -> tuple[int, Any]:
        return await self.call("POST", "/v1/postings", posting(**members))

    def journaled(self, key: str) -> list[dict[str, Any]]:
        return [line for line in read_journal(self.journal) if line["key"] == key]


def posting(**members: object) -> dict[str, object]:
    return {
        "key": str(uuid4()),
        "kind": "payment",
        "account": "nobody",
        "amount_cents": 2_500,
        "currency": "USD",
        "effective_date": "2025-03-14",
        "accepted_at": "2025-03-14T12:00:00Z",
        "reference": "pi_1",
    } | members


@pytest.fixture(scope="module")
def process(
    database: TestDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Counterpart, str, Path, str]]:
    port = free_port()
    journal = tmp_path_factory.mktemp("cis") / "journal.jsonl"
    url, database_url = f"http://127.0.0.1:{port}", database.dsns["reference_cis"]
    with running(
        module="paypost.simulators.cis",
        arguments=[
            *("--port", str(port), "--database-url", database_url),
            *("--journal", str(journal), "--api-key", KEY),
        ],
        ready_url=f"{url}/readyz",
    ) as counterpart:
        yield counterpart, url, journal, database_url


@pytest.fixture
async def cis(process: tuple[Counterpart, str, Path, str]) -> AsyncIterator[Cis]:
    async with aiohttp.ClientSession() as http:
        counterpart, url, journal, database_url = process
        cis = Cis(counterpart, url, journal, database_url, http)
        yield cis
        assert (await cis.call("POST", "/_switches/reset"))[0] == 200
        assert (await cis.call("GET", "/v1/ledger/proof"))[1]["proven"]


class TestPosting:
    async def test_applies_once_and_journals_before_it_answers(self, cis: Cis) -> None:
        account = await cis.open_account(opening_balance_cents=10_000)
        key = str(uuid4())
        status, applied = await cis.post(key=key, account=account)
        assert (status, applied["outcome"], applied["balance_cents"]) == (201, "applied", 7_500)
        line = cis.journaled(key)[0]
        for member in ("kind", "account", "amount_cents", "currency", "cis_reference", "posted_at"):
            assert line[member] == applied[member]
        status, exists = await cis.post(key=key, account=account)
        assert (status, exists["outcome"]) == (200, "exists")
        assert exists["cis_reference"] == applied["cis_reference"]
        assert len(cis.journaled(key)) == 1

    async def test_applies_one_of_fifty_posts_of_a_key_at_once(self, cis: Cis) -> None:
        account = await cis.open_account()
        body = posting(account=account)
        answers = await asyncio.gather(*(cis.call("POST", "/v1/postings", body) for _ in range(50)))
        assert sorted(status for status, _ in answers) == [200] * 49 + [201]
        assert {answer["balance_cents"] for _, answer in answers} == {-2_500}
        assert len(cis.journaled(str(body["key"]))) == 1

    async def test_states_its_own_amount_on_a_conflict(self, cis: Cis) -> None:
        account = await cis.open_account()
        key = str(uuid4())
        await cis.post(key=key, account=account)
        status, answer = await cis.post(key=key, account=account, amount_cents=9)
        assert (status, answer["outcome"], answer["amount_cents"]) == (409, "conflict", 2_500)

    async def test_refuses_with_a_reason(self, cis: Cis) -> None:
        closed = await cis.open_account(status="closed")
        cash_only = await cis.open_account(cash_only=True)
        reasons = []
        for account in ("nobody", closed, cash_only):
            status, answer = await cis.post(account=account)
            assert (status, answer["outcome"]) == (422, "refused")
            reasons.append(answer["reason"])
        assert reasons == ["account_unknown", "account_closed", "cash_only"]

    async def test_posts_a_refused_key_once_the_reason_is_gone(self, cis: Cis) -> None:
        account = await cis.open_account(status="closed")
        key = str(uuid4())
        assert (await cis.post(key=key, account=account))[0] == 422
        await cis.call("PUT", f"/v1/accounts/{account}", {"name": "Ann", "status": "active"})
        assert (await cis.post(key=key, account=account))[0] == 201

    async def test_turns_away_who_has_no_key(self, cis: Cis) -> None:
        async with cis.http.post(f"{cis.url}/v1/postings", json=posting()) as answer:
            assert answer.status == 401
            assert answer.content_type == "application/problem+json"

    async def test_names_the_field_that_is_malformed(self, cis: Cis) -> None:
        status, problem = await cis.call(
            "POST", "/v1/postings/batch", {"postings": [posting(), posting(amount_cents=1.5)]}
        )
        assert status == 400
        assert problem["errors"][0]["field"] == "postings[1].amount_cents"


class TestBatch:
    async def test_applies_an_accounts_postings_in_order(self, cis: Cis) -> None:
        account = await cis.open_account()
        payment = str(uuid4())
        _, body = await cis.call(
            "POST",
            "/v1/postings/batch",
            {
                "postings": [
                    posting(key=payment, account=account),
                    posting(kind="reversal", account=account, payment_key=payment),
                    posting(kind="reinstatement", account=account, payment_key=payment),
                    posting(account="nobody"),
                ]
            },
        )
        outcomes = [(answer["outcome"], answer["balance_cents"]) for answer in body["answers"]]
        assert outcomes == [
            ("applied", -2_500),
            ("applied", 0),
            ("applied", -2_500),
            ("refused", None),
        ]

    async def test_attempts_no_later_posting_of_an_account_that_is_unavailable(
        self, cis: Cis
    ) -> None:
        closed, other = await cis.open_account(), await cis.open_account()
        await cis.call("PUT", "/_switches", {"batch_closed": {"accounts": [closed], "count": 1}})
        postings = [posting(account=account) for account in (closed, other, closed, other)]
        _, body = await cis.call("POST", "/v1/postings/batch", {"postings": postings})
        assert [(answer["outcome"], answer["reason"]) for answer in body["answers"]] == [
            ("unavailable", "batch_closed"),
            ("applied", None),
            ("not_attempted", None),
            ("applied", None),
        ]
        assert [answer["key"] for answer in body["answers"]] == [one["key"] for one in postings]

    async def test_finds_many(self, cis: Cis) -> None:
        account = await cis.open_account()
        key, absent = str(uuid4()), str(uuid4())
        await cis.post(key=key, account=account)
        _, body = await cis.call("POST", "/v1/postings/find", {"keys": [absent, key]})
        found = [(answer["outcome"], answer["amount_cents"]) for answer in body["answers"]]
        assert found == [("not_found", None), ("exists", 2_500)]
        assert (await cis.call("GET", f"/v1/postings/{absent}"))[0] == 404


class TestSwitches:
    @pytest.mark.parametrize(
        ("switch", "status", "stands"),
        [
            ("down", 503, False),
            ("batch_closed", 503, False),
            ("error_before_apply", 500, False),
            ("error_after_apply", 500, True),
        ],
    )
    async def test_fail_as_they_say(self, cis: Cis, switch: str, status: int, stands: bool) -> None:
        account, key = await cis.open_account(), str(uuid4())
        await cis.call("PUT", "/_switches", {switch: {"count": 1}})
        assert (await cis.post(key=key, account=account))[0] == status
        assert bool(cis.journaled(key)) is stands
        assert (await cis.post(key=key, account=account))[0] == (200 if stands else 201)

    @pytest.mark.parametrize(
        ("switch", "stands"),
        [("timeout_before_apply", False), ("timeout_after_apply", True), ("hang", False)],
    )
    async def test_leave_a_call_without_an_answer(
        self, cis: Cis, switch: str, stands: bool
    ) -> None:
        account, key = await cis.open_account(), str(uuid4())
        await cis.call("PUT", "/_switches", {switch: {"count": 1, "operations": ["post"]}})
        with pytest.raises(TimeoutError):
            await cis.call(
                "POST", "/v1/postings", posting(key=key, account=account), timeout_seconds=0.3
            )
        status, answer = await cis.call("GET", f"/v1/postings/{key}")
        assert (status, answer["outcome"]) == ((200, "exists") if stands else (404, "not_found"))

    async def test_let_go_what_hangs_when_reset(self, cis: Cis) -> None:
        await cis.call("PUT", "/_switches", {"hang": True})
        hanging = asyncio.create_task(cis.post())
        await asyncio.sleep(0.1)
        await cis.call("POST", "/_switches/reset")
        assert (await hanging)[0] == 504

    async def test_answer_wrongly(self, cis: Cis) -> None:
        account = await cis.open_account()
        switches = {"wrong_answer": {"count": 1}, "exists_other_amount": {"count": 1}}
        await cis.call("PUT", "/_switches", switches)
        status, nonsense = await cis.post(account=account)
        assert status == 200
        assert "outcome" not in nonsense
        status, other = await cis.post(account=account)
        assert (status, other["outcome"], other["amount_cents"]) == (200, "exists", 2_600)
        _, held = await cis.call("GET", f"/v1/accounts/{account}")
        assert held["balance_cents"] == 0

    async def test_take_their_time(self, cis: Cis) -> None:
        account = await cis.open_account()
        await cis.call("PUT", "/_switches", {"latency_ms": 80, "jitter_ms": 10})
        started = asyncio.get_running_loop().time()
        assert (await cis.post(account=account))[0] == 201
        assert asyncio.get_running_loop().time() - started >= 0.07


class TestLedger:
    async def test_lists_what_the_journal_holds(self, cis: Cis) -> None:
        account = await cis.open_account()
        await asyncio.gather(*(cis.post(account=account) for _ in range(20)))
        listed: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            _, page = await cis.call("GET", f"/v1/ledger/postings?after={after}&limit=7")
            listed += page["postings"]
            after = page["next"]
        assert listed == [
            {member: line[member] for member in listed[0]} for line in read_journal(cis.journal)
        ]
        _, totals = await cis.call("GET", "/v1/ledger/totals")
        assert totals["count"] == len(listed)
        assert sum(total["amount_cents"] for total in totals["totals"]) == sum(
            one["amount_cents"] for one in listed
        )

    async def test_cannot_hold_an_entry_that_does_not_balance(self, cis: Cis) -> None:
        account = await cis.open_account(opening_balance_cents=100)
        connection = await asyncpg.connect(cis.database_url)
        try:
            for change in (
                "SET debit_account = credit_account",
                "SET amount_cents = 0",
                "SET amount_cents = -5",
                "SET account = 'another'",
            ):
                with pytest.raises(asyncpg.CheckViolationError):
                    await connection.execute(
                        f"UPDATE reference_cis.entries {change} WHERE account = $1", account
                    )
        finally:
            await connection.close()

    async def test_proof_names_a_balance_that_entries_do_not_bear_out(self, cis: Cis) -> None:
        account = await cis.open_account(opening_balance_cents=100)
        connection = await asyncpg.connect(cis.database_url)
        change = (
            "UPDATE reference_cis.accounts SET balance_cents = balance_cents + $2::bigint"
            " WHERE account = $1"
        )
        try:
            await connection.execute(change, account, 1)
            _, proof = await cis.call("GET", "/v1/ledger/proof")
            await connection.execute(change, account, -1)
        finally:
            await connection.close()
        assert not proof["proven"]
        assert proof["differences"] == [
            {"account": account, "balance_cents": 101, "entries_cents": 100}
        ]

    async def test_keeps_an_opening_balance(self, cis: Cis) -> None:
        account = await cis.open_account(opening_balance_cents=-700)
        status, problem = await cis.call(
            "PUT", f"/v1/accounts/{account}", {"name": "Ann", "opening_balance_cents": 1}
        )
        assert (status, problem["opening_balance_cents"]) == (409, -700)


class TestRestart:
    async def test_loses_and_doubles_nothing_when_killed_under_load(self, cis: Cis) -> None:
        accounts = [await cis.open_account() for _ in range(5)]
        answered: list[str] = []
        enough = asyncio.Event()
        bodies = [posting(account=accounts[n % 5]) for n in range(1_000)]

        async def post(share: list[dict[str, object]]) -> None:
            for body in share:
                try:
                    status, _ = await cis.call("POST", "/v1/postings", body)
                except (aiohttp.ClientError, OSError):
                    return
                if status == 201:
                    answered.append(str(body["key"]))
                if len(answered) == 200:
                    enough.set()

        posting_tasks = [asyncio.create_task(post(bodies[n::20])) for n in range(20)]
        await asyncio.wait_for(enough.wait(), timeout=20)
        cis.process.kill()
        await asyncio.gather(*posting_tasks)
        # The crash between commit and line: what the ledger holds last is missing in the journal.
        lines = cis.journal.read_bytes().splitlines(keepends=True)
        cis.journal.write_bytes(b"".join(lines[:-3]) + lines[-3][:40])
        await asyncio.to_thread(cis.process.start)
        await self._agree(cis, answered)
        again = await asyncio.gather(*(cis.call("POST", "/v1/postings", b) for b in bodies))
        assert {status for status, _ in again} <= {200, 201}
        await self._agree(cis, [str(body["key"]) for body in bodies])

    async def test_ends_cleanly_when_asked_and_comes_back(self, cis: Cis) -> None:
        account, key = await cis.open_account(), str(uuid4())
        await cis.post(key=key, account=account)
        assert await asyncio.to_thread(cis.process.stop) == 0
        await asyncio.to_thread(cis.process.start)
        status, answer = await cis.call("GET", f"/v1/postings/{key}")
        assert (status, answer["outcome"]) == (200, "exists")

    async def test_goes_on_after_the_database_ended_its_sessions(
        self, cis: Cis, database: TestDatabase
    ) -> None:
        account, key = await cis.open_account(), str(uuid4())
        connection = await asyncpg.connect(database.superuser_dsn)
        try:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'reference-cis' AND datname = current_database()"
            )
        finally:
            await connection.close()
        status = 0
        for _ in range(20):
            status, _ = await cis.post(key=key, account=account)
            if status in {200, 201}:
                break
            await asyncio.sleep(0.1)
        assert status in {200, 201}
        assert len(cis.journaled(key)) == 1

    async def _agree(self, cis: Cis, keys: list[str]) -> None:
        journaled = [line["key"] for line in read_journal(cis.journal)]
        assert len(journaled) == len(set(journaled))
        assert set(keys) <= set(journaled)
        _, totals = await cis.call("GET", "/v1/ledger/totals")
        assert totals["count"] == len(journaled)


class TestDocument:
    async def test_describes_what_the_server_answers(self, cis: Cis) -> None:
        document = json.loads(OPENAPI.read_text())
        account, key = await cis.open_account(), str(uuid4())
        good = posting(key=key, account=account, payment_key=key)
        calls: list[tuple[str, str, str, object, int]] = [
            ("post", "/v1/postings", "/v1/postings", good, 201),
            ("post", "/v1/postings", "/v1/postings", good, 200),
            ("post", "/v1/postings", "/v1/postings", good | {"amount_cents": 1}, 409),
            ("post", "/v1/postings", "/v1/postings", posting(), 422),
            ("post", "/v1/postings", "/v1/postings", {}, 400),
            ("post", "/v1/postings/batch", "/v1/postings/batch", {"postings": [good]}, 200),
            ("post", "/v1/postings/find", "/v1/postings/find", {"keys": [key]}, 200),
            ("get", "/v1/postings/{key}", f"/v1/postings/{key}", None, 200),
            ("get", "/v1/postings/{key}", f"/v1/postings/{uuid4()}", None, 404),
            ("get", "/v1/postings/{key}", "/v1/postings/x", None, 400),
            (
                "post",
                "/v1/accounts",
                "/v1/accounts",
                {"accounts": [{"account": account, "name": "B"}]},
                200,
            ),
            ("put", "/v1/accounts/{account}", f"/v1/accounts/{account}", {"name": "C"}, 200),
            (
                "put",
                "/v1/accounts/{account}",
                f"/v1/accounts/{account}",
                {"name": "C", "opening_balance_cents": 1},
                409,
            ),
            ("get", "/v1/accounts/{account}", f"/v1/accounts/{account}", None, 200),
            ("get", "/v1/accounts/{account}", "/v1/accounts/nobody", None, 404),
            ("get", "/v1/ledger/totals", "/v1/ledger/totals", None, 200),
            ("get", "/v1/ledger/proof", "/v1/ledger/proof", None, 200),
            ("get", "/v1/ledger/postings", "/v1/ledger/postings?limit=5", None, 200),
            ("get", "/_switches", "/_switches", None, 200),
            ("put", "/_switches", "/_switches", {"down": False}, 200),
            ("put", "/_switches", "/_switches", {"dwon": True}, 400),
            ("post", "/_switches/reset", "/_switches/reset", None, 200),
            ("get", "/_counts", "/_counts", None, 200),
            ("get", "/livez", "/livez", None, 200),
            ("get", "/readyz", "/readyz", None, 200),
        ]
        for method, template, path, body, expected in calls:
            async with cis.http.request(
                method, cis.url + path, json=body, headers={"Authorization": f"Bearer {KEY}"}
            ) as answer:
                assert answer.status == expected, (method, path)
                content = document["paths"][template][method]["responses"][str(expected)]["content"]
                schema = content[answer.content_type]["schema"]
                jsonschema.validate(
                    await answer.json(content_type=None),
                    schema | {"components": document["components"]},
                    cls=jsonschema.Draft202012Validator,
                )
        described = {(method, path) for path, item in document["paths"].items() for method in item}
        assert described == {(method, template) for method, template, *_ in calls}

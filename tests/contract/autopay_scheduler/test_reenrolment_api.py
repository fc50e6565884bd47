"""What the operator's routes of the move answer, on a store in memory."""

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import date
from typing import Any

import pytest
from fastapi import FastAPI
from tests.support.asgi import Answer, call
from tests.support.reenrolment import (
    HEADER,
    NOON,
    CountedMove,
    InMemoryReenrolments,
    KnownBill,
    Surroundings,
    a_calendar,
    a_file,
    a_reader,
    a_row,
)

from autopay_scheduler.api.reenrolment import build_reenrolment_router
from autopay_scheduler.usecases.reenrolment import DeclineInvitations, FollowMove, ImportLists
from shared.ids import uuid7
from shared.runtime.problems import BearerKeys, install_problems

KEY = "operators-write-with-this"
CSV = {"content-type": "text/csv; charset=utf-8"}
IMPORTS = "/reenrolment/imports?file_name=old.csv&operator=kim"
DRAFTS = "/reenrolment/drafts?file_name=drafts.csv&operator=kim"
VISA = "4242424242424242"


class Api:
    """The routes of the move as the service builds them."""

    def __init__(self, *accounts: str, size_max_bytes: int = 100_000) -> None:
        self.around = Surroundings(accounts=set(accounts))
        self.store = InMemoryReenrolments(self.around)
        shared: dict[str, Any] = {
            "reenrolments": self.store,
            "metrics": CountedMove(),
            "clock": lambda: NOON,
        }
        imports = ImportLists(files=a_reader(), calendar=a_calendar(), new_id=uuid7, **shared)
        self.app = FastAPI()
        install_problems(self.app)
        self.app.include_router(
            build_reenrolment_router(
                imports=imports,
                declines=DeclineInvitations(**shared),
                move=FollowMove(calendar=a_calendar(), **shared),
                keys=BearerKeys(sha256s=[hashlib.sha256(KEY.encode()).hexdigest()]),
                size_max_bytes=size_max_bytes,
                seconds_max=0.2,
            )
        )

    async def post(
        self, target: str, body: bytes, headers: Mapping[str, str] = CSV, *, key: str = KEY
    ) -> Answer:
        given = {**headers, "authorization": f"Bearer {key}"}
        return await call(self.app, "POST", target, headers=given, body=body)

    async def say(self, target: str, body: bytes) -> Answer:
        return await self.post(target, body, {"content-type": "application/json"})

    async def get(self, target: str, *, key: str = KEY) -> Answer:
        return await call(self.app, "GET", target, headers={"authorization": f"Bearer {key}"})

    def bill(self, account_id: str, due_date: date) -> None:
        self.around.bills.append(KnownBill(account_id, "B-1", due_date, 8_000, 0, "open"))


def problem(answer: Answer) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status
    return answer.status, answer.json()["title"]


class TestImports:
    async def test_answer_what_came_of_every_line(self) -> None:
        api = Api("A-1", "A-2")
        answer = await api.post(IMPORTS, a_file(a_row("A-1"), a_row("A-2", email="x"), a_row("NO")))
        assert answer.status == 200
        found = answer.json()
        import_id = found.pop("import_id")
        assert found == {
            "dry_run": False,
            "lines": 3,
            "imported": 1,
            "changed": 0,
            "unchanged": 0,
            "refused": 2,
            "problems": [
                {
                    "line": 3,
                    "field": "email",
                    "reason": "invalid",
                    "message": "is no e-mail address",
                },
                {
                    "line": 4,
                    "field": "account",
                    "reason": "unknown_account",
                    "message": "neither the CIS nor the portal has named this account",
                },
            ],
            "problems_by_reason": {"invalid": 1, "unknown_account": 1},
        }
        target = f"/reenrolment/imports/{import_id}/problems"
        page = (await api.get(f"{target}?limit=1")).json()
        assert ([each["line"] for each in page["problems"]], page["next"]) == ([3], 3)
        page = (await api.get(f"{target}?limit=2&after=3")).json()
        assert ([each["line"] for each in page["problems"]], page["next"]) == ([4], None)
        assert (await api.get(f"/reenrolment/imports/{uuid7()}/problems")).status == 404

    async def test_can_be_tried(self) -> None:
        api = Api("A-1")
        answer = await api.post(f"{IMPORTS}&dry_run=true", a_file(a_row("A-1")))
        assert (answer.json()["dry_run"], answer.json()["imported"]) == (True, 1)
        assert api.store.rows == {}

    @pytest.mark.parametrize(
        ("body", "entry"),
        [
            (
                a_file(a_row(), header=f"{HEADER},card_number"),
                {
                    "field": "card_number",
                    "line": "1",
                    "reason": "payment_data_column",
                    "message": "column 'card_number' looks like payment data; none may be imported",
                },
            ),
            (
                a_file(a_row()) + b"\xff",
                {
                    "field": "file",
                    "line": "3",
                    "reason": "wrong_encoding",
                    "message": "byte 1 of line 3 is not UTF-8; save the file in UTF-8",
                },
            ),
            (b"", {"field": "file", "reason": "empty_file", "message": "the file is empty"}),
        ],
    )
    async def test_refuse_a_file_with_field_and_line(
        self, body: bytes, entry: dict[str, str]
    ) -> None:
        api = Api("A-1")
        answer = await api.post(IMPORTS, body)
        assert problem(answer) == (422, "The file is not imported")
        assert answer.json()["errors"] == [entry]
        assert api.store.rows == {}

    async def test_repeat_nothing_of_a_card_number(self) -> None:
        api = Api("A-1")
        answer = await api.post(IMPORTS, a_file(a_row("A-1", name=f"Ada {VISA}")))
        assert answer.json()["problems"][0]["reason"] == "payment_data"
        assert VISA not in answer.text

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"content-type": "application/json"},
            {"content-type": "text/csv; charset=latin-1"},
            {"content-type": "text/csv", "content-encoding": "gzip"},
        ],
    )
    async def test_take_plain_csv_only(self, headers: dict[str, str]) -> None:
        assert (await Api().post(IMPORTS, a_file(a_row()), headers)).status == 415

    async def test_take_no_more_than_so_many_bytes(self) -> None:
        api = Api("A-1", size_max_bytes=200)
        body = a_file(*(a_row("A-1") for _ in range(10)))
        assert problem(await api.post(IMPORTS, body))[0] == 413
        declared = {**CSV, "content-length": "201"}
        assert problem(await api.post(IMPORTS, b"", declared))[0] == 413
        assert api.store.rows == {}

    async def test_wait_for_a_body_no_longer_than_so_many_seconds(self) -> None:
        api = Api("A-1")

        async def receive() -> Mapping[str, Any]:
            await asyncio.sleep(60)
            raise AssertionError("nobody waited")

        answer = await _with_receive(api, receive)
        assert answer == 408

    async def test_keep_nothing_of_a_body_that_breaks_off(self) -> None:
        api = Api("A-1")
        messages = [
            {"type": "http.request", "body": a_file(a_row("A-1")), "more_body": True},
            {"type": "http.disconnect"},
        ]

        async def receive() -> Mapping[str, Any]:
            return messages.pop(0)

        assert await _with_receive(api, receive) == 400
        assert api.store.rows == {}

    @pytest.mark.parametrize(
        "target",
        [
            "/reenrolment/imports",
            "/reenrolment/imports?file_name=x",
            "/reenrolment/imports?file_name=x&operator=",
            "/reenrolment/imports?file_name=a%0Ab&operator=kim",
            "/reenrolment/imports?file_name=x&operator=kim&dry_run=perhaps",
        ],
    )
    async def test_want_to_know_who_and_what(self, target: str) -> None:
        assert problem(await Api().post(target, a_file(a_row())))[0] == 422

    async def test_are_for_who_holds_a_key(self) -> None:
        assert (await Api().post(IMPORTS, a_file(a_row()), key="other")).status == 401
        assert (await Api().get("/reenrolment", key="other")).status == 401


async def _with_receive(api: Api, receive: Any) -> int:
    sent: list[Mapping[str, Any]] = []

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    path, _, query = IMPORTS.partition("?")
    headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"content-type", b"text/csv")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": headers,
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "server": ("test", 80),
        "client": ("test", 1),
    }
    await api.app(scope, receive, send)
    status: int = sent[0]["status"]
    return status


class TestDrafts:
    async def test_are_imported_and_withdrawn(self) -> None:
        api = Api("A-1")
        body = b"account,due_date,amount_cents\nA-1,2026-03-15,8000\nNO,2026-03-15,1\n"
        found = (await api.post(DRAFTS, body)).json()
        assert (found["imported"], found["refused"]) == (1, 1)
        word = b'{"account_id": "A-1", "operator": "kim", "note": "cancelled there"}'
        answer = await api.say("/reenrolment/drafts/withdraw", word)
        assert (answer.status, answer.json()) == (200, {"withdrawn": 1})
        assert (await api.say("/reenrolment/drafts/withdraw", word)).status == 404


class TestLists:
    async def test_tell_who_would_lapse_page_by_page(self) -> None:
        api = Api("A-1", "A-2", "A-3")
        await api.post(IMPORTS, a_file(*(a_row(each) for each in ("A-1", "A-2", "A-3"))))
        api.bill("A-2", date(2026, 3, 5))
        api.bill("A-1", date(2026, 3, 6))
        target = "/reenrolment/lapsing?until=2026-03-31&limit=1"
        first = (await api.get(target)).json()
        assert first == {
            "lapsing": [
                {
                    "account_id": "A-2",
                    "old_account": "OLD-A-2",
                    "name": "Ada Byron",
                    "email": "a-2@example.org",
                    "invitations": 0,
                    "last_invited_on": None,
                    "bill": {
                        "bill_reference": "B-1",
                        "due_date": "2026-03-05",
                        "amount_cents": 8000,
                        "currency": "USD",
                    },
                }
            ],
            "next": "2026-03-05/A-2",
        }
        second = (await api.get(f"{target}&after={first['next']}")).json()
        assert [each["account_id"] for each in second["lapsing"]] == ["A-1"]
        third = (await api.get(f"{target}&after={second['next']}")).json()
        assert [(each["account_id"], each["bill"]) for each in third["lapsing"]] == [("A-3", None)]
        last = (await api.get(f"{target}&after={third['next']}")).json()
        assert last == {"lapsing": [], "next": None}

    @pytest.mark.parametrize("after", ["x", "2026-13-01/A", "A-1"])
    async def test_refuse_a_page_that_nobody_named(self, after: str) -> None:
        answer = await Api().get(f"/reenrolment/lapsing?until=2026-03-31&after={after}")
        assert problem(answer) == (422, "The request is not valid")
        assert answer.json()["errors"][0]["field"] == "query.after"

    async def test_tell_the_figures(self) -> None:
        api = Api("A-1", "A-2")
        await api.post(IMPORTS, a_file(a_row("A-1"), a_row("A-2", email="")))
        api.bill("A-1", date(2026, 3, 5))
        found = (await api.get("/reenrolment/figures?since=2026-03-01&until=2026-03-31")).json()
        quiet = {"changed": 0, "invited": 0, "reminded": 0, "enrolled": 0, "declined": 0, "past": 0}
        assert found == {
            "by_status": {"awaiting": 2, "enrolled": 0, "declined": 0, "past": 0},
            "without_email": 1,
            "days": [
                {"day": "2026-03-02", "imported": 2, "would_lapse": 0, **quiet},
                {"day": "2026-03-05", "imported": 0, "would_lapse": 1, **quiet},
            ],
        }
        answer = await api.get("/reenrolment/figures?since=2026-03-31&until=2026-03-01")
        assert problem(answer)[0] == 422

    async def test_go_by_status_and_account(self) -> None:
        api = Api("A-1", "A-2", "A-3")
        await api.post(IMPORTS, a_file(*(a_row(each) for each in ("A-1", "A-2", "A-3"))))
        page = (await api.get("/reenrolment?limit=2")).json()
        assert [each["account_id"] for each in page["reenrolments"]] == ["A-1", "A-2"]
        page = (await api.get(f"/reenrolment?limit=2&after={page['next']}")).json()
        assert ([e["account_id"] for e in page["reenrolments"]], page["next"]) == (["A-3"], None)
        assert (await api.get("/reenrolment?status=past")).json()["reenrolments"] == []
        assert (await api.get("/reenrolment?status=gone")).status == 422
        assert (await api.get("/reenrolment?limit=1001")).status == 422

    async def test_show_one_with_its_history(self) -> None:
        api = Api("A-1")
        report = (await api.post(IMPORTS, a_file(a_row("A-1", maximum_cents="9000")))).json()
        found = (await api.get("/reenrolment/A-1")).json()
        assert found["reenrolment"]["rule"]["maximum_cents"] == 9000
        assert [(e["event"], e["import_id"], e["line"]) for e in found["history"]] == [
            ("imported", report["import_id"], 2)
        ]
        assert problem(await api.get("/reenrolment/A-2")) == (404, "Never imported")


class TestDeclining:
    async def test_is_noted_once(self) -> None:
        api = Api("A-1")
        await api.post(IMPORTS, a_file(a_row("A-1")))
        word = b'{"operator": "kim", "note": "by telephone"}'
        answer = await api.say("/reenrolment/A-1/decline", word)
        assert (answer.status, answer.json()) == (200, {"status": "declined"})
        assert api.store.audit == [("reenrolment.decline", "A-1", "kim")]
        assert problem(await api.say("/reenrolment/A-1/decline", word))[0] == 404

    async def test_wants_to_know_who_and_why(self) -> None:
        assert (await Api().say("/reenrolment/A-1/decline", b'{"operator": "kim"}')).status == 422

"""What the portal and operators may read and do over HTTP, on real PostgreSQL."""

import hashlib
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from fastapi import APIRouter, FastAPI
from tests.support.asgi import Answer, call
from tests.support.autopay_scheduler import (
    Scheduler,
    SchedulerDatabase,
    StillClock,
    at,
    at_intake,
    bill,
    changed,
    charge_of,
    enrolled,
    noticed,
    registered,
)

from autopay_scheduler.api import build_api
from autopay_scheduler.domain.enrolments import enrolment_id
from shared.runtime.problems import BearerKeys

MONDAY = at("2026-03-02 12:00")
DUE = "2026-03-20"
PORTAL, OPERATOR = "the-portal-reads-with-this", "operators-act-with-this"
ACT = {"operator": "kim", "note": "called by the customer"}
READS = (
    "/accounts/A-1/autopay",
    f"/autopay/preview?date={DUE}",
    "/autopay/report",
)
ACTS = ("/autopay/pause", "/autopay/resume", f"/enrolments/{enrolment_id('E-A-1')}/stop")


class Api:
    """The routes as the service builds them."""

    def __init__(self, autopay: Scheduler) -> None:
        operators = BearerKeys(sha256s=[_sha256(OPERATOR)])
        self.app: FastAPI = build_api(
            view=autopay.view,
            operate=autopay.operate,
            reenrolment=APIRouter(),
            reader_keys=BearerKeys(sha256s=[_sha256(PORTAL), _sha256(OPERATOR)]),
            operator_keys=operators,
        )

    async def get(self, target: str, *, key: str | None = PORTAL) -> Answer:
        return await call(self.app, "GET", target, headers=_bearer(key))

    async def post(self, target: str, body: Any = ACT, *, key: str | None = OPERATOR) -> Answer:
        headers = {**_bearer(key), "content-type": "application/json"}
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        return await call(self.app, "POST", target, headers=headers, body=raw)


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _bearer(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


@pytest.fixture
def api(autopay: Scheduler) -> Api:
    return Api(autopay)


async def announced(autopay: Scheduler, rows: SchedulerDatabase, *accounts: str) -> None:
    await autopay.hear(
        *(registered(name, when=MONDAY) for name in accounts),
        *(enrolled(name, when=MONDAY) for name in accounts),
    )
    await autopay.hear(*(bill(name, DUE, 8_000, when=MONDAY) for name in accounts))
    await autopay.run()
    stated = await rows.stated("charge.announced")
    await autopay.hear(*(noticed(each, when=autopay.clock()) for each in stated))


def problem(answer: Answer) -> int:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status
    return answer.status


class TestKeys:
    @pytest.mark.parametrize("target", [*READS, "/autopay/switch"])
    @pytest.mark.parametrize("key", [None, "", "guessed"])
    async def test_are_needed_to_read(self, api: Api, target: str, key: str | None) -> None:
        assert problem(await api.get(target, key=key)) == 401

    @pytest.mark.parametrize("target", ACTS)
    @pytest.mark.parametrize("key", [None, "guessed", PORTAL])
    async def test_of_operators_are_needed_to_act(
        self, api: Api, rows: SchedulerDatabase, target: str, key: str | None
    ) -> None:
        assert problem(await api.post(target, key=key)) == 401
        assert await rows.value("SELECT count(*) FROM audit_entries") == 0

    async def test_of_the_portal_do_not_read_the_switch(self, api: Api) -> None:
        assert problem(await api.get("/autopay/switch", key=PORTAL)) == 401


class TestAccounts:
    async def test_are_told_as_a_whole(
        self, api: Api, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announced(autopay, rows, "A-1")
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        answer = await api.get("/accounts/A-1/autopay")
        assert answer.status == 200
        found = answer.json()
        assert (found["balance_cents"], found["under_way_cents"]) == (8_000, 8_000)
        [enrolment] = found["enrolments"]
        assert enrolment["status"] == "active"
        assert enrolment["method"] == {
            "kind": "card",
            "label": "Visa",
            "last4": "4242",
            "expires": "2030-12",
        }
        assert enrolment["rule"]["charge_on"] == "due_date"
        [mandate] = found["mandates"]
        assert mandate["authorisation_version"] == "2026-01"
        [charge] = found["charges"]
        assert charge["id"] == str(charge_of("E-A-1", DUE))
        assert (charge["status"], charge["attempt"], charge["requested_cents"]) == (
            "requested",
            1,
            8_000,
        )
        [told] = charge["announcements"]
        assert (told["amount_cents"], told["noticed_on"]) == (8_000, "2026-03-02")

    async def test_never_show_a_token(
        self, api: Api, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announced(autopay, rows, "A-1")
        clock.advance(minutes=1)
        await autopay.hear(
            changed("A-1", when=clock(), mandate_token="mandate_one", payment_method_token="pm_new")
        )
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        [request] = await rows.stated("charge.requested")
        assert request["payment_method_token"] == "pm_new"
        await autopay.hear(
            at_intake(request).declined(clock(), "lost", attempt="ch_1", category="hard")
        )
        for target in READS:
            text = (await api.get(target)).text
            assert "A-1" in text
            for token in ("pm_", "cus_", "mandate_one", "payment_method_token"):
                assert token not in text, target

    @pytest.mark.parametrize("account", ["nobody", "A%2F1", "%C3%A4"])
    async def test_that_nobody_knows_are_not_found(self, api: Api, account: str) -> None:
        assert problem(await api.get(f"/accounts/{account}/autopay")) == 404

    @pytest.mark.parametrize("account", ["A\x001", "A" * 65, "A\x7f1"])
    async def test_of_impossible_names_are_refused(self, api: Api, account: str) -> None:
        assert problem(await call_raw(api, f"/accounts/{account}/autopay")) == 422


class TestPreview:
    async def test_says_who_how_much_and_why_not(
        self, api: Api, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announced(autopay, rows, "A-1", "A-2", "A-3")
        await autopay.hear(bill("A-2", DUE, 6_000, when=clock(), version=2))
        await autopay.hear(bill("A-3", DUE, 0, when=clock(), version=2))
        found = (await api.get(f"/autopay/preview?date={DUE}")).json()
        assert (found["day"], found["is_paused"], found["next_after"]) == (DUE, False, None)
        assert [
            (each["charge"]["account_id"], each["would"], each["amount_cents"], each["why"])
            for each in found["charges"]
        ] == [
            ("A-1", "charge", 8_000, None),
            ("A-2", "charge", 6_000, None),
            ("A-3", "skip", 0, "paid"),
        ]

    async def test_goes_page_by_page_over_all(
        self, api: Api, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        names = [f"A/{number:02}" for number in range(25)]
        await announced(autopay, rows, *names)
        found: list[str] = []
        after = ""
        while True:
            page = (await api.get(f"/autopay/preview?date={DUE}&limit=10{after}")).json()
            found += [each["charge"]["account_id"] for each in page["charges"]]
            if page["next_after"] is None:
                break
            after = f"&after={quote(page['next_after'], safe='')}"
        assert found == names

    async def test_says_that_all_is_paused(self, api: Api, rows: SchedulerDatabase) -> None:
        await api.post("/autopay/pause")
        assert (await api.get(f"/autopay/preview?date={DUE}")).json()["is_paused"] is True

    @pytest.mark.parametrize(
        "query",
        [
            "",
            "?date=tomorrow",
            "?date=2026-02-30",
            f"?date={DUE}&limit=0",
            f"?date={DUE}&limit=1001",
            f"?date={DUE}&after=nothing",
            f"?date={DUE}&after=A%00%2Fx",
            f"?date={DUE}&after={'A' * 129}",
        ],
    )
    async def test_refuses_what_it_cannot_read(self, api: Api, query: str) -> None:
        assert problem(await api.get(f"/autopay/preview{query}")) == 422

    @pytest.mark.parametrize("date", ["0001-01-01", "9999-12-31"])
    async def test_of_any_other_day_is_empty(self, api: Api, date: str) -> None:
        assert (await api.get(f"/autopay/preview?date={date}")).json()["charges"] == []


class TestReport:
    async def test_counts_what_happened(
        self, api: Api, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announced(autopay, rows, "A-1", "A-2", "A-3")
        clock.to(f"{DUE} 06:00")
        await autopay.hear(bill("A-3", DUE, 0, when=clock(), version=2))
        await autopay.run()
        requests = {fact["account_id"]: fact for fact in await rows.stated("charge.requested")}
        await autopay.hear(at_intake(requests["A-1"]).paid(clock()))
        await autopay.hear(
            at_intake(requests["A-2"]).declined(clock(), "lost", attempt="c", category="hard")
        )
        await autopay.run()
        found = (await api.get("/autopay/report")).json()
        assert found["charges"] == {"paid": 1, "failed": 1, "skipped": 1}
        assert found["enrolments"] == {"active": 2, "stopped": 1}
        assert found["stopped"] == {"declined_for_good": 1}
        assert (found["charged_cents"], found["accounts_to_plan"]) == (8_000, 0)
        assert [each["account_id"] for each in found["failed"]] == ["A-2"]

    @pytest.mark.parametrize("since", ["0001-01-01", "9999-12-31", "2026-03-20"])
    async def test_is_of_any_day(self, api: Api, since: str) -> None:
        answer = await api.get(f"/autopay/report?since={since}")
        assert (answer.status, answer.json()["since"]) == (200, since)

    async def test_refuses_no_day(self, api: Api) -> None:
        assert problem(await api.get("/autopay/report?since=never")) == 422


class TestSwitch:
    async def test_holds_from_one_answer_to_the_next(
        self, api: Api, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        await announced(autopay, rows, "A-1")
        clock.to(f"{DUE} 06:00")
        paused = await api.post("/autopay/pause", {"operator": "kim", "note": "wrong bills"})
        assert (paused.status, paused.json()["is_paused"]) == (200, True)
        state = (await api.get("/autopay/switch", key=OPERATOR)).json()
        assert state == {"is_paused": True, "changed_at": "2026-03-20T11:00:00Z"}
        await autopay.run()
        assert await rows.stated("charge.requested") == []
        await api.post("/autopay/resume", {"operator": "lee", "note": "bills are right"})
        await autopay.run()
        assert len(await rows.stated("charge.requested")) == 1
        entries = await rows.fetch("SELECT * FROM audit_entries ORDER BY id")
        assert [(row["operator"], row["action"], row["note"]) for row in entries] == [
            ("kim", "pause", "wrong bills"),
            ("lee", "resume", "bills are right"),
        ]

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"operator": "kim"},
            {"operator": "", "note": "x"},
            {"operator": "kim", "note": ""},
            {"operator": "kim", "note": "a\x00b"},
            {"operator": "k" * 65, "note": "x"},
            {"operator": "kim", "note": "x" * 501},
            b"not json",
            b"",
        ],
    )
    async def test_wants_a_name_and_a_reason(
        self, api: Api, rows: SchedulerDatabase, body: Any
    ) -> None:
        assert problem(await api.post("/autopay/pause", body)) == 422
        assert await rows.value("SELECT count(*) FROM switches") == 0


class TestStopping:
    async def test_stops_for_good_and_says_so(
        self, api: Api, autopay: Scheduler, rows: SchedulerDatabase
    ) -> None:
        await announced(autopay, rows, "A-1")
        target = f"/enrolments/{enrolment_id('E-A-1')}/stop"
        answer = await api.post(target)
        assert (answer.status, answer.json()["status"]) == (200, "stopped")
        again = await api.post(target)
        assert again.json()["reason"] == "stopped_by_operator"
        assert await rows.status("E-A-1", DUE) == ("cancelled", "stopped_by_operator")
        assert len(await rows.stated("enrolment.stopped")) == 1
        assert await rows.value("SELECT count(*) FROM audit_entries") == 1

    async def test_of_what_nobody_knows_is_not_found(self, api: Api) -> None:
        assert problem(await api.post(f"/enrolments/{enrolment_id('none')}/stop")) == 404

    async def test_of_no_id_is_refused(self, api: Api) -> None:
        assert problem(await api.post("/enrolments/E-A-1/stop")) == 422


class TestOtherPaths:
    async def test_are_problems_too(self, api: Api) -> None:
        assert problem(await api.get("/nothing")) == 404
        assert problem(await api.get("/autopay/pause", key=OPERATOR)) == 405


async def call_raw(api: Api, path: str) -> Answer:
    return await call(api.app, "GET", path, headers=_bearer(PORTAL))

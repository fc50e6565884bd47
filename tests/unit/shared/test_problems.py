import hashlib
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Query
from tests.support.asgi import call

from shared.errors import TransientError
from shared.runtime.metrics import ServiceMetrics
from shared.runtime.ops import build_ops_app
from shared.runtime.problems import BearerKeys, install_problems

KEY = "portal-key"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()


@pytest.fixture
def api():
    app = FastAPI()
    install_problems(app)

    @app.get("/open")
    def opened(size: Annotated[int, Query(ge=1)] = 1) -> int:
        return size

    @app.get("/away")
    def away() -> None:
        raise TransientError("secret address of the database")

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("secret")

    @app.get("/closed", dependencies=[Depends(BearerKeys(sha256s=[OTHER, DIGEST]))])
    def closed() -> str:
        return "in"

    return app


class TestProblems:
    async def test_name_the_field_that_is_wrong(self, api):
        answer = await call(api, "GET", "/open?size=0")
        assert answer.status == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["errors"][0]["field"] == "query.size"

    async def test_say_when_to_come_again(self, api):
        answer = await call(api, "GET", "/away")
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert "secret" not in answer.text

    @pytest.mark.parametrize(
        ("method", "path", "status"), [("GET", "/nowhere", 404), ("POST", "/open", 405)]
    )
    async def test_answer_what_is_not_there(self, api, method, path, status):
        answer = await call(api, method, path)
        assert answer.status == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status

    async def test_admit_a_defect_without_its_details(self, api):
        answer = await call(api, "GET", "/broken")
        assert answer.status == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "secret" not in answer.text


class TestBearerKeys:
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"authorization": ""},
            {"authorization": "Bearer"},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {KEY}"},
            {"authorization": f"Bearer {DIGEST}"},
        ],
    )
    async def test_keep_out_who_holds_none(self, api, headers):
        answer = await call(api, "GET", "/closed", headers=headers)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"

    @pytest.mark.parametrize("key", [KEY, "another"])
    async def test_let_in_who_holds_any_of_them(self, api, key):
        assert (
            await call(api, "GET", "/closed", headers={"authorization": f"bearer {key}"})
        ).json() == "in"

    async def test_let_nobody_in_where_there_are_no_keys(self):
        app = FastAPI()
        install_problems(app)
        app.get("/closed", dependencies=[Depends(BearerKeys(sha256s=[]))])(lambda: "in")
        assert (
            await call(app, "GET", "/closed", headers={"authorization": "Bearer "})
        ).status == 401


class TestOperations:
    @pytest.fixture
    def state(self):
        return {"live": None, "ready": None}

    @pytest.fixture
    def ops(self, state):
        async def live():
            return state["live"]

        async def ready():
            return state["ready"]

        metrics = ServiceMetrics(prefix="demo")
        metrics.consumed(stream="payments.v1", count=3)
        return build_ops_app(registry=metrics.registry, live={"a": live}, ready={"b": ready})

    async def test_are_well_when_every_check_is(self, ops):
        assert (await call(ops, "GET", "/livez")).json() == {
            "status": "ok",
            "checks": ["a"],
            "failing": {},
        }
        assert (await call(ops, "GET", "/readyz")).status == 200

    async def test_name_what_fails(self, ops, state):
        state["ready"] = "the database is away"
        answer = await call(ops, "GET", "/readyz")
        assert answer.status == 503
        assert answer.json()["failing"] == {"b": "the database is away"}
        assert (await call(ops, "GET", "/livez")).status == 200

    async def test_show_what_was_counted(self, ops):
        assert (
            'demo_consumed_records_total{stream="payments.v1"} 3.0'
            in (await call(ops, "GET", "/metrics")).text
        )

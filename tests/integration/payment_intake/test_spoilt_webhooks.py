"""Real payloads, spoilt and signed: each door answers, says what is wrong, and keeps no card."""

import re
import time
from uuid import uuid4

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.contract.facts.test_facts import GOLDEN
from tests.support.asgi import call
from tests.support.examples import examples
from tests.support.intake_database import intake_database, sqlalchemy_url
from tests.support.intake_service import (
    KIOSK_SECRET,
    PORTAL_SECRET,
    STRIPE_SECRET,
    intake_settings,
)
from tests.support.mutations import spoilt_bodies, with_a_card_number

from payment_intake.app import build_app
from paypost.simulators.processor.objects import read_fixture
from paypost.simulators.processor.signatures import sign_standard, sign_stripe
from paypost.stack.ports import PortBlock

SPOILING = settings(
    max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck)
)
CARD = re.compile(rb"4242[ -]?4242[ -]?4242[ -]?4242")
STRIPE_TYPES = (
    "charge.dispute.closed",
    "charge.dispute.created",
    "charge.dispute.funds_reinstated",
    "charge.dispute.funds_withdrawn",
    "charge.failed",
    "charge.refund.updated",
    "charge.refunded",
    "charge.succeeded",
    "mandate.updated",
    "payment_intent.canceled",
    "payment_intent.payment_failed",
    "payment_intent.processing",
    "payment_intent.succeeded",
    "payment_method.attached",
    "payout.paid",
)


def stripe_event(event_type: str) -> dict:
    return read_fixture(event_type) | {"id": f"evt_{uuid4().hex}"}


def portal_facts() -> list[dict]:
    goldens = [orjson.loads(path.read_bytes()) for path in sorted(GOLDEN.glob("portal.v1.*"))]
    assert goldens
    return goldens


def cloud_event(golden: dict) -> dict:
    return {
        "specversion": "1.0",
        "id": uuid4().hex,
        "source": "/portal",
        "type": golden["headers"]["ce_type"],
        "time": golden["headers"]["ce_time"],
        "data": golden["value"],
    }


def standard_event(golden: dict) -> dict:
    return {
        "type": golden["headers"]["ce_type"],
        "timestamp": golden["headers"]["ce_time"],
        "data": golden["value"],
    }


STRIPE_EVENTS = st.sampled_from(STRIPE_TYPES).map(stripe_event)
CLOUD_EVENTS = st.sampled_from(portal_facts()).map(cloud_event)
BATCHES = st.lists(CLOUD_EVENTS, min_size=1, max_size=3)
STANDARD_EVENTS = st.sampled_from(portal_facts()).map(standard_event)


class Doors:
    """The real application on the real database, called without a network."""

    def __init__(self, app, rows) -> None:
        self.app = app
        self.rows = rows

    async def stripe(self, body: bytes):
        signature = sign_stripe(body=body, secrets=[STRIPE_SECRET], timestamp=int(time.time()))
        return await self._post("/webhooks/stripe", body, {"stripe-signature": signature})

    async def portal(self, body: bytes):
        return await self._post("/portal/events", body, self._signed(body, PORTAL_SECRET))

    async def standard(self, body: bytes):
        return await self._post("/webhooks/standard/kiosk", body, self._signed(body, KIOSK_SECRET))

    async def holds_a_card(self) -> bool:
        """Whether anything that was stored has a card's number in it; forgets what was stored."""
        found = []
        for table in ("events", "rejections", "payments", "conflicts", "outbox", "movements"):
            found += [row[0] for row in await self.rows.fetch(f"SELECT {table}::text FROM {table}")]
        for table in ("events", "rejections"):
            found += [
                row[0].decode("latin-1")
                for row in await self.rows.fetch(f"SELECT body FROM {table}")
            ]
        await self.rows.empty()
        return any(CARD.search(text.encode()) for text in found)

    async def _post(self, path: str, body: bytes, headers: dict[str, str]):
        given = {"content-type": "application/json", **headers}
        return await call(self.app.ingress, "POST", path, headers=given, body=body)

    def _signed(self, body: bytes, secret: str) -> dict[str, str]:
        return sign_standard(
            body=body, secrets=[secret], message_id=uuid4().hex, timestamp=int(time.time())
        )


@pytest.fixture(scope="module")
async def doors(database):
    # Of Kafka nothing is wanted here: what was taken waits in the outbox.
    with PortBlock.claim() as ports:
        kafka = f"127.0.0.1:{ports.port('kafka')}"
        async with intake_database(database) as rows:
            app = build_app(intake_settings(database_url=sqlalchemy_url(database), kafka=kafka))
            yield Doors(app, rows)
            for drain in app.service.drains:
                await drain()
            for close in app.service.closes:
                await close()


def assert_is_an_answer(answer) -> None:
    """2xx with what became of it, or a problem of RFC 9457; never a 5xx."""
    assert answer.status < 500, answer.text
    body = answer.json()
    if answer.status == 200:
        assert answer.headers["content-type"] == "application/json"
        assert set(body) <= {"status", "statuses"}
        return
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status in (413, 422)
    assert (body["type"], body["status"]) == ("about:blank", answer.status)
    assert isinstance(body["title"], str)
    assert all(set(each) == {"field", "message"} for each in body.get("errors", []))


class TestStripeDoor:
    @SPOILING
    @given(body=spoilt_bodies(STRIPE_EVENTS))
    async def test_answers_whatever_is_signed(self, doors, body):
        assert_is_an_answer(await doors.stripe(body))

    @SPOILING
    @given(event=with_a_card_number(STRIPE_EVENTS))
    async def test_keeps_and_logs_no_card_number(self, doors, event):
        with capture_logs() as logged:
            assert_is_an_answer(await doors.stripe(orjson.dumps(event)))
        assert not CARD.search(repr(logged).encode())
        assert not await doors.holds_a_card()


class TestPortalDoor:
    @SPOILING
    @given(body=spoilt_bodies(st.one_of(CLOUD_EVENTS, BATCHES)))
    async def test_answers_whatever_is_signed(self, doors, body):
        assert_is_an_answer(await doors.portal(body))

    @SPOILING
    @given(event=with_a_card_number(CLOUD_EVENTS))
    async def test_keeps_and_logs_no_card_number(self, doors, event):
        with capture_logs() as logged:
            assert_is_an_answer(await doors.portal(orjson.dumps(event)))
        assert not CARD.search(repr(logged).encode())
        assert not await doors.holds_a_card()


class TestStandardDoor:
    @SPOILING
    @given(body=spoilt_bodies(STANDARD_EVENTS))
    async def test_answers_whatever_is_signed(self, doors, body):
        assert_is_an_answer(await doors.standard(body))

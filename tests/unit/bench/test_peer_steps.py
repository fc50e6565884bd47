"""The steps that the peers share, against the processor simulator's events and the run's reader."""

import random
import time
from datetime import UTC, datetime

import orjson
import pytest
from bench.pipeline.books import Books
from bench.yardsticks.peer_steps import (
    CisUnavailableError,
    Paid,
    Posted,
    WebhookRefusedError,
    mail_of,
    payment_id_of,
    posted_of,
    read_event,
    verify_signature,
)

from paypost.simulators.processor.events import EventBuilder, Ids, Purchase
from paypost.simulators.processor.scenarios import Scenarios
from paypost.simulators.processor.signatures import sign_stripe

SECRET = "whsec_test"
# 03:30 in London is still the day before in Chicago.
NOW = datetime(2026, 3, 15, 3, 30, tzinfo=UTC)
PAID = Paid(
    payment_id="7c1e6f1e-8f43-4b0e-9f0c-1d2f3a4b5c6d",
    reference="pi_1",
    account="B-00001",
    amount_cents=123_456,
    currency="USD",
    effective_date="2026-03-14",
    accepted_at="2026-03-15T03:30:00+00:00",
)


def train_bodies() -> dict[str, bytes]:
    ids = Ids(chance=random.Random(7))
    train = Scenarios(ids=ids, builder=EventBuilder(ids=ids)).card(
        Purchase(account="B-00001", amount_cents=8_450, fee_cents=245)
    )
    events = [step.build(NOW) for step in train.steps]
    return {event.type: event.body for event in events}


class TestReadEvent:
    def test_takes_what_was_paid_without_the_fee_on_the_citys_day(self) -> None:
        body = train_bodies()["payment_intent.succeeded"]
        event = read_event(body=body, now=NOW, city_time_zone="America/Chicago")
        assert event.paid is not None
        assert event.paid.account == "B-00001"
        assert event.paid.amount_cents == 8_450
        assert event.paid.currency == "USD"
        assert event.paid.effective_date == "2026-03-14"
        assert event.paid.payment_id == payment_id_of(reference=event.paid.reference)

    @pytest.mark.parametrize(
        "event_type", ["payment_intent.created", "charge.succeeded", "charge.updated"]
    )
    def test_makes_no_payment_of_the_other_events_of_a_train(self, event_type: str) -> None:
        body = train_bodies()[event_type]
        assert read_event(body=body, now=NOW, city_time_zone="UTC").paid is None

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b'{"id":"evt_1"}', b'{"id":"e","type":"payment_intent.succeeded"}']
    )
    def test_refuses_what_is_no_event(self, body: bytes) -> None:
        with pytest.raises(WebhookRefusedError):
            read_event(body=body, now=NOW, city_time_zone="UTC")


class TestVerifySignature:
    def test_accepts_what_the_processor_signs(self) -> None:
        header = sign_stripe(body=b"{}", secrets=[SECRET], timestamp=1_000)
        verify_signature(body=b"{}", header=header, secret=SECRET, now_seconds=1_299.0)

    @pytest.mark.parametrize(
        ("body", "secret", "now_seconds"),
        [(b"{ }", SECRET, 1_000.0), (b"{}", "whsec_other", 1_000.0), (b"{}", SECRET, 1_301.0)],
    )
    def test_refuses_another_body_secret_or_time(
        self, body: bytes, secret: str, now_seconds: float
    ) -> None:
        header = sign_stripe(body=b"{}", secrets=[SECRET], timestamp=1_000)
        with pytest.raises(WebhookRefusedError):
            verify_signature(body=body, header=header, secret=secret, now_seconds=now_seconds)

    @pytest.mark.parametrize("header", ["", "t=", "v1=00", "t=x,v1=00"])
    def test_refuses_a_header_without_its_parts(self, header: str) -> None:
        with pytest.raises(WebhookRefusedError):
            verify_signature(body=b"{}", header=header, secret=SECRET, now_seconds=time.time())


class TestPostedOf:
    @pytest.mark.parametrize(("status", "outcome"), [(201, "applied"), (200, "exists")])
    def test_is_posted_when_the_ledger_holds_the_amount(self, status: int, outcome: str) -> None:
        body = orjson.dumps(
            {"outcome": outcome, "amount_cents": 123_456, "cis_reference": "C1", "balance_cents": 5}
        )
        posted = posted_of(status=status, body=body, paid=PAID)
        assert posted == Posted(cis_reference="C1", balance_cents=5)

    def test_is_refused_when_the_ledger_holds_another_amount(self) -> None:
        body = orjson.dumps(
            {"outcome": "exists", "amount_cents": 1, "cis_reference": "C1", "reason": None}
        )
        posted = posted_of(status=200, body=body, paid=PAID)
        assert posted == Posted(cis_reference=None, balance_cents=None, reason="exists")

    def test_is_refused_with_the_reason_of_the_cis(self) -> None:
        body = orjson.dumps({"outcome": "refused", "reason": "account_closed"})
        assert posted_of(status=422, body=body, paid=PAID).reason == "account_closed"

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (503, b'{"outcome": "unavailable", "reason": "down"}'),
            (500, b"{}"),
            (504, b""),
            (200, b"<html>"),
            (200, b"[]"),
        ],
    )
    def test_is_not_decided_by_any_other_answer(self, status: int, body: bytes) -> None:
        with pytest.raises(CisUnavailableError):
            posted_of(status=status, body=body, paid=PAID)


class TestMailOf:
    def test_is_read_by_the_run_as_the_mail_of_its_payment(self) -> None:
        posted = Posted(cis_reference="C1", balance_cents=-250)
        mail = mail_of(paid=PAID, posted=posted, name="Ada Miller", email="b-00001@x.example")
        books = Books()
        books.add_mail(
            {
                "raw": mail.as_bytes().decode().replace("\n", "\r\n"),
                "to": ["b-00001@x.example"],
                "received_at": "2026-03-15T03:30:01+00:00",
            },
            accounts={"b-00001@x.example": "B-00001"},
        )
        assert list(books.mailed) == [("B-00001", 123_456)]
        assert "Credit now: $2.50" in mail.get_content()

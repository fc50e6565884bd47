from datetime import UTC, datetime

import orjson
import pytest
from tests.support.intake import TRACE

from payment_intake.adapters.portal import PortalReader
from payment_intake.adapters.readings import InvalidEventError
from payment_intake.domain import Heard

SUBMITTED = {
    "account_id": "1002003",
    "processor": "stripe",
    "reference": "pi_1",
    "amount_cents": 8250,
    "currency": "USD",
    "bill_reference": "B-1",
    "submitted_at": "2026-03-02T11:00:00-06:00",
}
CAPTURED = {
    "account_id": "1002003",
    "processor": "kiosk",
    "reference": "K-1",
    "amount_cents": 8250,
    "currency": "USD",
    "method": "cash",
    "captured_at": "2026-03-02T17:00:00Z",
}
CHANGED = {
    "account_id": "1002003",
    "name": "Ana",
    "email": "ana@example.org",
    "locale": "es",
    "changed_at": "2026-03-02T17:00:00Z",
}


def cloud_event(event_type="payment.submitted", data=None, **attributes) -> dict:
    return {
        "specversion": "1.0",
        "id": "e-1",
        "source": "/portal",
        "type": event_type,
        "data": SUBMITTED if data is None else data,
    } | attributes


def reader(*trusted: str) -> PortalReader:
    return PortalReader(trusted_sources=trusted, currencies=["USD"])


def read(event, *trusted: str):
    return reader(*trusted).read_cloud_event(event, traceparent=TRACE)


class TestPortalReader:
    def test_reads_that_the_customer_pressed_pay(self):
        reading = read(cloud_event())
        assert (reading.source, reading.event_id, reading.event_type) == (
            "/portal",
            "e-1",
            "payment.submitted",
        )
        found = reading.observation
        assert found.heard is Heard.SUBMITTED
        assert found.references == ("pi_1",)
        assert found.at == datetime(2026, 3, 2, 17, 0, tzinfo=UTC)
        assert (found.amount_cents, found.fee_cents, found.bill_reference) == (8250, 0, "B-1")
        assert reading.relay is None

    def test_reads_captured_money_of_a_trusted_source(self):
        reading = read(cloud_event("payment.captured", CAPTURED, source="kiosk-3"), "kiosk-3")
        assert reading.observation.heard is Heard.CAPTURED
        assert reading.observation.method == "cash"
        assert not reading.is_untrusted

    def test_believes_no_other_source_that_it_took_money(self):
        reading = read(cloud_event("payment.captured", CAPTURED), "kiosk-3")
        assert reading.is_untrusted
        assert reading.observation is None
        assert reading.relay is None

    def test_passes_on_what_is_for_other_services(self):
        relay = read(cloud_event("contact.changed", CHANGED)).relay
        headers = dict(relay.headers)
        assert relay.topic == "portal.v1"
        assert relay.key == b"1002003"
        assert headers["ce_id"] == b"e-1"
        assert headers["ce_source"] == b"/portal"
        assert headers["traceparent"] == TRACE.encode()
        assert orjson.loads(relay.value)["email"] == "ana@example.org"

    def test_keeps_a_type_that_it_does_not_know(self):
        reading = read(cloud_event("portal.painted", {"any": "thing"}))
        assert (reading.observation, reading.relay, reading.is_untrusted) == (None, None, False)

    def test_knows_a_repetition_however_it_is_written(self):
        event = cloud_event()
        shuffled = dict(reversed(event.items())) | {"data": dict(reversed(SUBMITTED.items()))}
        assert read(event).canonical == read(shuffled).canonical
        assert read(event).canonical != read(cloud_event(data=SUBMITTED | {"amount_cents": 1}))

    def test_reads_a_plain_webhook_as_the_same_fact(self):
        body = orjson.dumps({"type": "payment.submitted", "timestamp": "x", "data": SUBMITTED})
        by_webhook = reader().read_webhook(
            body, source="portal", message_id="msg_1", traceparent=TRACE
        )
        assert by_webhook.observation == read(cloud_event()).observation
        assert (by_webhook.source, by_webhook.event_id) == ("portal", "msg_1")

    @pytest.mark.parametrize(
        ("event", "field"),
        [
            (None, "body"),
            ([], "body"),
            ("text", "body"),
            (cloud_event(specversion="0.3"), "specversion"),
            (cloud_event(specversion=None), "specversion"),
            (cloud_event(id=""), "id"),
            (cloud_event(id=7), "id"),
            (cloud_event(id="x" * 256), "id"),
            (cloud_event(id="a\nb"), "id"),
            (cloud_event(source=None), "source"),
            (cloud_event(type=None), "type"),
            (cloud_event(data=[]), "data"),
            (cloud_event(data="text"), "data"),
            (cloud_event(data=SUBMITTED | {"amount_cents": 0}), "data.amount_cents"),
            (cloud_event(data=SUBMITTED | {"amount_cents": 1.5}), "data.amount_cents"),
            (cloud_event(data=SUBMITTED | {"amount_cents": "1"}), "data.amount_cents"),
            (cloud_event(data=SUBMITTED | {"currency": "EUR"}), "data.currency"),
            (cloud_event(data=SUBMITTED | {"currency": "usd"}), "data.currency"),
            (cloud_event(data=SUBMITTED | {"account_id": "a b"}), "data.account_id"),
            (cloud_event(data=SUBMITTED | {"reference": ""}), "data.reference"),
            (cloud_event(data=SUBMITTED | {"processor": "Stripe"}), "data.processor"),
            (cloud_event(data=SUBMITTED | {"bill_reference": "\x00"}), "data.bill_reference"),
            (
                cloud_event(data=SUBMITTED | {"submitted_at": "2026-03-02T17:00:00"}),
                "data.submitted_at",
            ),
            (
                cloud_event("contact.changed", CHANGED | {"email": "a@b.c\r\nBcc: x"}),
                "data.email",
            ),
        ],
    )
    def test_names_the_field_that_it_refuses(self, event, field):
        with pytest.raises(InvalidEventError) as caught:
            read(event)
        assert caught.value.field == field

    @pytest.mark.parametrize("body", [b"", b"[]", b"7", b"{", b"\xff"])
    def test_refuses_what_is_no_webhook(self, body):
        with pytest.raises(InvalidEventError, match="body"):
            reader().read_webhook(body, source="portal", message_id="m", traceparent=TRACE)

    def test_never_repeats_what_it_refuses(self):
        with pytest.raises(InvalidEventError) as caught:
            read(cloud_event(data=SUBMITTED | {"amount_cents": "4242424242424242"}))
        assert "4242" not in str(caught.value)

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from uuid import UUID

import orjson
import pytest

from shared.contracts.payments import PaymentAccepted
from shared.contracts.portal import ContactChanged
from shared.contracts.streams import PAYMENTS, PORTAL
from shared.contracts.wire import UnreadableRecordError, decode, encode

KEY = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass(frozen=True)
class Record:
    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    def with_header(self, name: str, value: bytes | None) -> "Record":
        return replace(self, headers=(*self.without(name).headers, (name, value)))

    def without(self, name: str) -> "Record":
        return replace(self, headers=tuple(each for each in self.headers if each[0] != name))

    def with_fields(self, **fields: object) -> "Record":
        return replace(self, value=orjson.dumps(orjson.loads(self.value) | fields))


def accepted(**changes) -> PaymentAccepted:
    fields = {
        "payment_id": KEY,
        "account_id": "1002003",
        "processor": "stripe",
        "reference": "pi_1",
        "amount_cents": 8250,
        "currency": "USD",
        "posting_key": KEY,
        "effective_date": date(2026, 3, 2),
        "accepted_at": datetime(2026, 3, 2, 17, 0, tzinfo=UTC),
        "fee_cents": 250,
    }
    return PaymentAccepted(**(fields | changes))


def received(record) -> Record:
    return Record(record.topic, record.key, record.value, record.headers)


RECORD = received(encode(accepted(), stream=PAYMENTS, traceparent=TRACE))


class TestEncoding:
    def test_puts_the_attributes_into_headers_and_the_fact_into_the_value(self):
        assert dict(RECORD.headers) == {
            "ce_specversion": b"1.0",
            "ce_id": str(accepted().id()).encode(),
            "ce_type": b"payment.accepted",
            "ce_source": b"/paypost/payment-intake",
            "ce_subject": b"1002003",
            "ce_time": b"2026-03-02T17:00:00+00:00",
            "content-type": b"application/json",
            "traceparent": TRACE.encode(),
        }
        assert orjson.loads(RECORD.value)["amount_cents"] == 8250
        assert RECORD.topic == "payments.v1"

    def test_keys_by_account_so_that_an_account_stays_in_order(self):
        assert RECORD.key == b"1002003"

    def test_keys_a_payment_without_an_account_by_itself(self):
        record = encode(accepted(account_id=None), stream=PAYMENTS)
        assert record.key == str(KEY).encode()

    def test_leaves_the_trace_out_where_there_is_none(self):
        names = [name for name, _ in encode(accepted(), stream=PAYMENTS).headers]
        assert "traceparent" not in names

    def test_keeps_the_id_and_source_of_an_event_that_is_passed_on(self):
        fact = ContactChanged(account_id="7", changed_at=datetime(2026, 3, 2, tzinfo=UTC))
        record = encode(fact, stream=PORTAL, source="/portal", event_id="evt-9")
        assert dict(record.headers)["ce_id"] == b"evt-9"
        assert dict(record.headers)["ce_source"] == b"/portal"

    def test_states_the_time_in_utc_whatever_zone_it_came_in(self):
        at = datetime.fromisoformat("2026-03-02T11:00:00-06:00")
        headers = dict(encode(accepted(accepted_at=at), stream=PAYMENTS).headers)
        assert headers["ce_time"] == b"2026-03-02T17:00:00+00:00"

    def test_gives_a_restated_fact_the_same_id(self):
        again = accepted(accepted_at=datetime(2026, 3, 9, tzinfo=UTC), amount_cents=1)
        assert again.id() == accepted().id()


class TestDecoding:
    def test_returns_the_fact_with_its_envelope(self):
        found = decode(RECORD)
        assert found.fact == accepted()
        assert found.event_id == str(accepted().id())
        assert found.event_type == "payment.accepted"
        assert found.source == "/paypost/payment-intake"
        assert found.time == datetime(2026, 3, 2, 17, 0, tzinfo=UTC)
        assert found.traceparent == TRACE

    def test_ignores_a_type_that_it_does_not_know(self):
        assert decode(RECORD.with_header("ce_type", b"payment.celebrated")) is None

    def test_ignores_a_type_of_another_stream(self):
        assert decode(RECORD.with_header("ce_type", b"posting.posted")) is None

    def test_ignores_fields_that_it_does_not_know(self):
        assert decode(RECORD.with_fields(loyalty_points=3)).fact == accepted()

    def test_ignores_headers_that_it_does_not_know(self):
        assert decode(RECORD.with_header("x-more", b"1")).fact == accepted()

    def test_takes_a_record_without_a_version_as_1_0(self):
        assert decode(RECORD.without("ce_specversion")).fact == accepted()

    @pytest.mark.parametrize("time", [None, b"yesterday", b"2026-03-02T17:00:00"])
    def test_does_without_a_readable_time(self, time):
        record = RECORD.with_header("ce_time", time) if time else RECORD.without("ce_time")
        assert decode(record).time is None

    @pytest.mark.parametrize(
        ("record", "reason"),
        [
            (RECORD.without("ce_type"), "no_type"),
            (replace(RECORD, headers=()), "no_type"),
            (RECORD.without("ce_id"), "no_id"),
            (RECORD.with_header("ce_id", b""), "no_id"),
            (RECORD.with_header("ce_id", None), "no_id"),
            (RECORD.with_header("ce_specversion", b"0.3"), "unknown_version"),
            (RECORD.with_header("ce_source", b"\xff\xfe"), "bad_header"),
            (RECORD.with_header("x-more", b"\xc3\x28"), "bad_header"),
            (replace(RECORD, value=None), "no_value"),
            (replace(RECORD, value=b""), "invalid"),
            (replace(RECORD, value=b"{"), "invalid"),
            (replace(RECORD, value=b"\xff"), "invalid"),
            (replace(RECORD, value=b"null"), "invalid"),
            (replace(RECORD, value=b"[]"), "invalid"),
            (replace(RECORD, value=b"[" * 100_000), "invalid"),
            (RECORD.with_fields(amount_cents=0), "invalid"),
            (RECORD.with_fields(amount_cents=-1), "invalid"),
            (RECORD.with_fields(amount_cents=12.0), "invalid"),
            (RECORD.with_fields(amount_cents="12"), "invalid"),
            (RECORD.with_fields(amount_cents=True), "invalid"),
            (RECORD.with_fields(amount_cents=100_000_001), "invalid"),
            (RECORD.with_fields(currency="usd"), "invalid"),
            (RECORD.with_fields(account_id="with space"), "invalid"),
            (RECORD.with_fields(account_id="newline\n"), "invalid"),
            (RECORD.with_fields(account_id=""), "invalid"),
            (RECORD.with_fields(accepted_at="2026-03-02T17:00:00"), "invalid"),
            (RECORD.with_fields(payment_id="not a uuid"), "invalid"),
        ],
    )
    def test_says_why_a_record_cannot_be_read(self, record, reason):
        with pytest.raises(UnreadableRecordError) as caught:
            decode(record)
        assert caught.value.reason == reason

    def test_says_which_field_is_wrong_and_never_what_stood_in_it(self):
        with pytest.raises(UnreadableRecordError) as caught:
            decode(RECORD.with_fields(amount_cents="4242424242424242"))
        assert caught.value.detail.startswith("amount_cents: ")
        assert "4242" not in str(caught.value)


class TestMailboxes:
    @pytest.mark.parametrize("email", ["ana@example.org", "ana.b+c@mail.example.org"])
    def test_are_taken(self, email):
        assert contact(email=email).email == email

    @pytest.mark.parametrize(
        "email",
        [
            "ana",
            "ana@",
            "@example.org",
            "ana@example",
            "a b@example.org",
            "ana@example.org\r\nBcc: all@example.org",
            "ana@example.org, bo@example.org",
            '"Ana" <ana@example.org>',
        ],
    )
    def test_that_could_smuggle_a_header_in_are_refused(self, email):
        with pytest.raises(ValueError, match="email"):
            contact(email=email)


def contact(**fields) -> ContactChanged:
    return ContactChanged(account_id="7", changed_at=datetime(2026, 3, 2, tzinfo=UTC), **fields)

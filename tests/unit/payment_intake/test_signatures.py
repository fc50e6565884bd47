import base64
from datetime import UTC, datetime, timedelta

import pytest
import stripe
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from payment_intake.adapters.signatures import (
    SignatureRefusedError,
    StandardSignature,
    StripeSignature,
)
from paypost.simulators.processor.signatures import sign_standard, sign_stripe

NOW = datetime.now(UTC).replace(microsecond=0)
AT = int(NOW.timestamp())
BODY = '{"id":"evt_1","name":"Pérez"}'.encode()
SECRET = "whsec_one-of-stripes-secrets"
OTHER = "whsec_another-of-stripes-secrets"
KEY = "whsec_" + base64.b64encode(b"a standard webhooks secret").decode()
OTHER_KEY = "whsec_" + base64.b64encode(b"another standard secret").decode()


def stripe_signed(*, body=BODY, secrets=(SECRET,), at=AT) -> bytes:
    """As Stripe's own SDK computes it."""
    signatures = [
        stripe.WebhookSignature._compute_signature(f"{at}.{body.decode()}", secret)
        for secret in secrets
    ]
    return ",".join([f"t={at}", *(f"v1={each}" for each in signatures)]).encode()


def verify_stripe(header, *, body=BODY, secrets=(SECRET,), now=NOW) -> None:
    headers = {} if header is None else {b"stripe-signature": header}
    verifier = StripeSignature(secrets=list(secrets), tolerance_seconds=300)
    verifier.verify(headers=headers, body=body, now=now)


def reason_of(act, *arguments, **options) -> str:
    with pytest.raises(SignatureRefusedError) as caught:
        act(*arguments, **options)
    return caught.value.reason


class TestStripeSignature:
    def test_of_the_official_sdk_is_taken(self):
        verify_stripe(stripe_signed())

    def test_of_the_counterpart_is_taken_by_the_official_sdk_and_here(self):
        # The SDK looks at the clock itself, and NOW may be minutes old by then.
        now = datetime.now(UTC)
        header = sign_stripe(body=BODY, secrets=[SECRET], timestamp=int(now.timestamp()))
        assert stripe.WebhookSignature.verify_header(BODY.decode(), header, SECRET, 300)
        verify_stripe(header.encode(), now=now)

    def test_is_taken_while_secrets_are_rotated(self):
        verify_stripe(stripe_signed(secrets=[SECRET, OTHER]), secrets=[OTHER])
        verify_stripe(stripe_signed(secrets=[SECRET]), secrets=[OTHER, SECRET])

    def test_is_taken_beside_schemes_of_other_versions(self):
        verify_stripe(stripe_signed() + b",v0=abc,v2=def")

    @pytest.mark.parametrize("seconds", [-300, 0, 300])
    def test_is_taken_within_its_tolerance(self, seconds):
        verify_stripe(stripe_signed(), now=NOW + timedelta(seconds=seconds))

    @pytest.mark.parametrize("seconds", [-302, 302, 86_400])
    def test_is_expired_outside_of_it(self, seconds):
        now = NOW + timedelta(seconds=seconds)
        assert reason_of(verify_stripe, stripe_signed(), now=now) == "expired"

    @pytest.mark.parametrize(
        ("header", "reason"),
        [
            (None, "missing"),
            (b"", "missing"),
            (b"v1=abc", "malformed"),
            (b"t=1", "malformed"),
            (b"t=now,v1=abc", "malformed"),
            (b"t=-5,v1=abc", "malformed"),
            (b"t=,v1=abc", "malformed"),
            (b"t=1,t=2,v1=abc", "malformed"),
            (b"t=%s,v1=abc" % (b"9" * 400), "malformed"),
            (b"t=1,v1=abc", "expired"),
            (b"t=%d,v0=abc" % AT, "malformed"),
            (b"t=%d,v1=abc" % AT, "mismatch"),
            (b"t=%d,v1=" % AT, "mismatch"),
            (b"t=%d,v1=\xff\xfe" % AT, "mismatch"),
        ],
    )
    def test_is_refused_with_its_reason(self, header, reason):
        assert reason_of(verify_stripe, header) == reason

    def test_of_another_body_is_refused(self):
        assert reason_of(verify_stripe, stripe_signed(), body=BODY + b" ") == "mismatch"

    def test_of_another_secret_is_refused(self):
        assert reason_of(verify_stripe, stripe_signed(), secrets=[OTHER]) == "mismatch"

    def test_is_refused_where_no_secret_is_set(self):
        assert reason_of(verify_stripe, stripe_signed(), secrets=[]) == "mismatch"


def standard_signed(*, body=BODY, secret=KEY, message_id="msg_1", at=NOW) -> dict[bytes, bytes]:
    """As the reference library of Standard Webhooks signs it."""
    return {
        b"webhook-id": message_id.encode(),
        b"webhook-timestamp": str(int(at.timestamp())).encode(),
        b"webhook-signature": Webhook(secret).sign(message_id, at, body.decode()).encode(),
    }


def verify_standard(headers, *, body=BODY, secrets=(KEY,), now=NOW, source="portal") -> str:
    verifier = StandardSignature(secrets={"portal": list(secrets)}, tolerance_seconds=300)
    return verifier.verify(source=source, headers=headers, body=body, now=now)


class TestStandardSignature:
    def test_of_the_specifications_vector_is_taken(self):
        # From the SDKs' tests of the Standard Webhooks project.
        headers = {
            b"webhook-id": b"msg_p5jXN8AQM9LWM0D4loKWxJek",
            b"webhook-timestamp": b"1614265330",
            b"webhook-signature": b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        }
        found = verify_standard(
            headers,
            body=b'{"test": 2432232314}',
            secrets=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
            now=datetime.fromtimestamp(1614265330, UTC),
        )
        assert found == "msg_p5jXN8AQM9LWM0D4loKWxJek"

    def test_of_the_reference_library_is_taken(self):
        assert verify_standard(standard_signed()) == "msg_1"

    def test_of_the_counterpart_is_taken_by_the_reference_library_and_here(self):
        now = datetime.now(UTC)
        at = int(now.timestamp())
        headers = sign_standard(body=BODY, secrets=[KEY], message_id="msg_1", timestamp=at)
        assert Webhook(KEY).verify(BODY, headers)
        given = {name.encode(): value.encode() for name, value in headers.items()}
        assert verify_standard(given, now=now) == "msg_1"

    def test_is_taken_while_secrets_are_rotated(self):
        old, new = standard_signed(), standard_signed(secret=OTHER_KEY)
        both = b" ".join((old[b"webhook-signature"], new[b"webhook-signature"]))
        assert verify_standard(old | {b"webhook-signature": both}, secrets=[OTHER_KEY])
        assert verify_standard(old, secrets=[OTHER_KEY, KEY])

    def test_is_taken_beside_a_signature_of_another_version(self):
        headers = standard_signed()
        headers[b"webhook-signature"] = b"v1a,whatever== " + headers[b"webhook-signature"]
        assert verify_standard(headers) == "msg_1"

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({b"webhook-id": None}, "missing"),
            ({b"webhook-timestamp": None}, "missing"),
            ({b"webhook-signature": None}, "missing"),
            ({b"webhook-id": b"msg_2"}, "mismatch"),
            ({b"webhook-timestamp": b"soon"}, "malformed"),
            ({b"webhook-timestamp": b"1"}, "expired"),
            ({b"webhook-signature": b"v1"}, "mismatch"),
            ({b"webhook-signature": b"v1,"}, "mismatch"),
            ({b"webhook-signature": b"v1,!!!"}, "malformed"),
            ({b"webhook-signature": b"v1,\xff"}, "malformed"),
            ({b"webhook-signature": b"v1,AAAA"}, "mismatch"),
            ({b"webhook-signature": b"v2,AAAA"}, "mismatch"),
        ],
    )
    def test_is_refused_with_its_reason(self, changes, reason):
        headers = {k: v for k, v in (standard_signed() | changes).items() if v is not None}
        assert reason_of(verify_standard, headers) == reason

    @pytest.mark.parametrize("seconds", [-302, 302])
    def test_is_expired_outside_of_its_tolerance(self, seconds):
        now = NOW + timedelta(seconds=seconds)
        assert reason_of(verify_standard, standard_signed(), now=now) == "expired"

    def test_of_another_source_is_refused(self):
        assert reason_of(verify_standard, standard_signed(), source="kiosk") == "unknown_source"

    def test_of_another_body_is_refused(self):
        assert reason_of(verify_standard, standard_signed(), body=BODY + b" ") == "mismatch"


@settings(max_examples=150, deadline=None)
@given(header=st.one_of(st.binary(max_size=60), st.from_regex(rb"(t=\d{0,12}|v1=[^,]*|,)*")))
def test_any_stripe_header_is_refused_and_nothing_worse(header):
    with pytest.raises(SignatureRefusedError):
        verify_stripe(header)


@settings(max_examples=150, deadline=None)
@given(
    message_id=st.binary(max_size=20),
    timestamp=st.one_of(st.binary(max_size=14), st.just(str(AT).encode())),
    signature=st.one_of(st.binary(max_size=60), st.from_regex(rb"(v1,[^ ]* ?)*")),
)
def test_any_standard_headers_are_refused_and_nothing_worse(message_id, timestamp, signature):
    headers = {
        b"webhook-id": message_id,
        b"webhook-timestamp": timestamp,
        b"webhook-signature": signature,
    }
    with pytest.raises(SignatureRefusedError):
        verify_standard(headers)

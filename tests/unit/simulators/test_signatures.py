import base64
from datetime import UTC, datetime

import pytest
import stripe
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from paypost.simulators.processor.signatures import sign_standard, sign_stripe

BODY = b'{"id": "evt_1", "object": "event", "amount": 8450}'


def now() -> int:
    return int(datetime.now(UTC).timestamp())


class TestSignStripe:
    def test_is_accepted_by_the_official_sdk(self) -> None:
        header = sign_stripe(body=BODY, secrets=["whsec_a"], timestamp=now())
        event = stripe.Webhook.construct_event(BODY, header, "whsec_a")
        assert event["id"] == "evt_1"

    @pytest.mark.parametrize("secret", ["whsec_old", "whsec_new"])
    def test_is_accepted_under_each_secret_while_rotated(self, secret: str) -> None:
        header = sign_stripe(body=BODY, secrets=["whsec_old", "whsec_new"], timestamp=now())
        stripe.WebhookSignature.verify_header(BODY.decode(), header, secret, 300)

    def test_is_refused_under_another_secret_and_when_old(self) -> None:
        header = sign_stripe(body=BODY, secrets=["whsec_a"], timestamp=now())
        old = sign_stripe(body=BODY, secrets=["whsec_a"], timestamp=now() - 301)
        for given, secret in ((header, "whsec_b"), (old, "whsec_a")):
            with pytest.raises(stripe.SignatureVerificationError):
                stripe.WebhookSignature.verify_header(BODY.decode(), given, secret, 300)


class TestSignStandard:
    def test_matches_the_published_vector(self) -> None:
        headers = sign_standard(
            body=b'{"test": 2432232314}',
            secrets=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
            message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
            timestamp=1614265330,
        )
        assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

    def test_is_accepted_by_the_official_sdk_under_each_secret(self) -> None:
        secrets = ["whsec_" + base64.b64encode(bytes([n]) * 24).decode() for n in (1, 2)]
        headers = sign_standard(body=BODY, secrets=secrets, message_id="msg_1", timestamp=now())
        for secret in secrets:
            assert Webhook(secret).verify(BODY, headers)["id"] == "evt_1"
        with pytest.raises(WebhookVerificationError):
            Webhook(base64.b64encode(b"x" * 24).decode()).verify(BODY, headers)

"""Webhook signatures, made. Written apart from the code that verifies them in the services."""

import base64
import hashlib
import hmac
from collections.abc import Sequence


def sign_stripe(*, body: bytes, secrets: Sequence[str], timestamp: int) -> str:
    """Return the `Stripe-Signature` header's value, with one v1 for each secret.

    Stripe signs `timestamp.body`; its key is the secret's text as it is, `whsec_` included.
    """
    signed = b"%d.%b" % (timestamp, body)
    signatures = [
        hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets
    ]
    return ",".join([f"t={timestamp}", *(f"v1={signature}" for signature in signatures)])


def sign_standard(
    *, body: bytes, secrets: Sequence[str], message_id: str, timestamp: int
) -> dict[str, str]:
    """Return the three Standard Webhooks headers, with one signature for each secret.

    A secret is base64 behind `whsec_`. Raises binascii.Error when it is not.
    """
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    signatures = []
    for secret in secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        signatures.append(f"v1,{base64.b64encode(digest).decode()}")
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }

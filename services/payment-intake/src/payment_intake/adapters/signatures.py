"""Who signed a webhook: Stripe's scheme and Standard Webhooks 1.0, checked on the raw bytes.

Several secrets may be valid at once, so that one can be rotated without refusing a call.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from shared.errors import PermanentError

Headers = Mapping[bytes, bytes]
"""Header names in lower case, as ASGI gives them."""


class SignatureRefusedError(PermanentError):
    """The sender is not who it says, or the call is too old to be trusted.

    `reason` is one of: missing, malformed, expired, mismatch, unknown_source.
    """

    def __init__(self, *, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StripeSignature:
    """`Stripe-Signature: t=…,v1=…[,v1=…]`: HMAC-SHA256 over `t.body` with the secret's text.

    Source: Stripe, "Verify webhook signatures manually"; tolerance 300 s, here both ways.
    """

    def __init__(self, *, secrets: Sequence[str], tolerance_seconds: int) -> None:
        self._keys = [secret.encode() for secret in secrets]
        self._tolerance_seconds = tolerance_seconds

    def verify(self, *, headers: Headers, body: bytes, now: datetime) -> None:
        """Return when the body is Stripe's and fresh.

        Raises:
            SignatureRefusedError: it is not, with the reason.
        """
        header = headers.get(b"stripe-signature")
        if not header:
            raise SignatureRefusedError(reason="missing")
        timestamp, signatures = _stripe_parts(header)
        _refuse_stale(timestamp, now, self._tolerance_seconds)
        payload = timestamp + b"." + body
        expected = [
            hmac.new(key, payload, hashlib.sha256).hexdigest().encode() for key in self._keys
        ]
        _refuse_mismatch(signatures, expected)


class StandardSignature:
    """Standard Webhooks 1.0: HMAC-SHA256 over `id.timestamp.body`, base64, secrets by source.

    Source: the Standard Webhooks specification, "Verifying webhook authenticity".
    """

    def __init__(self, *, secrets: Mapping[str, Sequence[str]], tolerance_seconds: int) -> None:
        self._keys = {
            source: [base64.b64decode(secret.removeprefix("whsec_")) for secret in each]
            for source, each in secrets.items()
        }
        self._tolerance_seconds = tolerance_seconds

    def verify(self, *, source: str, headers: Headers, body: bytes, now: datetime) -> str:
        """Return the message's id, the same across the sender's retries.

        Raises:
            SignatureRefusedError: not this source's signature, with the reason.
        """
        keys = self._keys.get(source)
        if keys is None:
            raise SignatureRefusedError(reason="unknown_source")
        message_id = headers.get(b"webhook-id")
        timestamp = headers.get(b"webhook-timestamp")
        header = headers.get(b"webhook-signature")
        if not message_id or not timestamp or not header:
            raise SignatureRefusedError(reason="missing")
        _refuse_stale(timestamp, now, self._tolerance_seconds)
        payload = b".".join((message_id, timestamp, body))
        expected = [
            base64.b64encode(hmac.new(key, payload, hashlib.sha256).digest()) for key in keys
        ]
        _refuse_mismatch(list(_standard_signatures(header)), expected)
        try:
            return message_id.decode("ascii")
        except UnicodeDecodeError:
            raise SignatureRefusedError(reason="malformed") from None


def _stripe_parts(header: bytes) -> tuple[bytes, list[bytes]]:
    parts = [part.strip().partition(b"=") for part in header.split(b",")]
    timestamps = [value for name, _, value in parts if name == b"t"]
    signatures = [value for name, _, value in parts if name == b"v1"]
    if len(timestamps) != 1 or not signatures:
        raise SignatureRefusedError(reason="malformed")
    return timestamps[0], signatures


def _standard_signatures(header: bytes) -> Iterator[bytes]:
    for signature in header.split(b" "):
        version, _, value = signature.partition(b",")
        if version != b"v1":
            continue
        try:
            base64.b64decode(value, validate=True)
        except binascii.Error:
            raise SignatureRefusedError(reason="malformed") from None
        yield value


def _refuse_stale(timestamp: bytes, now: datetime, tolerance_seconds: int) -> None:
    if not timestamp.isdigit() or len(timestamp) > 12:
        raise SignatureRefusedError(reason="malformed")
    if abs(now.timestamp() - int(timestamp)) > tolerance_seconds:
        raise SignatureRefusedError(reason="expired")


def _refuse_mismatch(signatures: Sequence[bytes], expected: Sequence[bytes]) -> None:
    # Every pair is compared, each in constant time.
    matches = [hmac.compare_digest(given, key) for given in signatures for key in expected]
    if not any(matches):
        raise SignatureRefusedError(reason="mismatch")

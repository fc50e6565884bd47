"""The settings of payment-intake: prefix `PAYMENT_INTAKE_`."""

import base64
import binascii
from datetime import time
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from shared.money import Currency
from shared.runtime.settings import ServiceSettings, Sha256Hex


class Settings(ServiceSettings):
    """What payment-intake is told."""

    model_config = SettingsConfigDict(env_prefix="PAYMENT_INTAKE_")

    http_host: str = "0.0.0.0"  # noqa: S104  processors and the portal reach it through ingress
    http_port: int = Field(default=8080, ge=0, le=65535)

    stripe_webhook_secrets: list[SecretStr] = Field(default_factory=list)
    """Signing secrets of the Stripe endpoint; several while one is being rotated."""
    standard_webhook_secrets: dict[str, list[SecretStr]] = Field(default_factory=dict)
    """Standard Webhooks secrets (`whsec_…`) by source; the portal's source is `portal`."""
    signature_tolerance_seconds: int = Field(default=300, ge=1, le=3600)
    """Stripe's and Standard Webhooks' own default, both ways."""
    portal_api_key_sha256s: list[Sha256Hex] = Field(default_factory=list)
    """SHA-256, in hex, of each bearer key of the portal's read API: kept hashed."""
    operator_key_sha256s: list[Sha256Hex] = Field(default_factory=list)
    """SHA-256, in hex, of each operator's bearer key for the switch of charges: kept hashed."""
    trusted_capture_sources: list[str] = Field(default_factory=list)
    """Sources whose `payment.captured` is money: a `/webhooks/standard/{source}` name, or the
    CloudEvents `source` on portal.v1 and /portal/events."""

    metadata_account_field: str = "account_number"
    metadata_fee_field: str = "convenience_fee_cents"
    metadata_bill_field: str = "bill_reference"
    metadata_charge_field: str = "paypost_charge_id"
    """Names the charge of autopay that a payment is."""
    currencies: list[Currency] = Field(default_factory=lambda: ["USD"])
    """What the city takes; anything else is refused as unknown."""
    post_ach_at: Literal["submission", "settlement"] = "settlement"

    city_time_zone: str = "America/Chicago"
    city_cutoff_time: time | None = None
    """Payments after this local time count for the next day; none by default."""

    request_size_max_bytes: int = Field(default=256 * 1024, ge=1024, le=8 * 1024 * 1024)
    request_seconds_max: float = Field(default=10.0, gt=0, le=60)
    """How long a body may take to arrive."""
    take_batch_size_max: int = Field(default=200, ge=1, le=1000)
    take_queue_size_max: int = Field(default=2000, ge=1, le=100_000)
    """Webhooks that may wait for their commit; beyond it the answer is 503."""
    take_patience_seconds: float = Field(default=3.0, gt=0, le=30)
    """How long a database that is away is waited for before the answer is 503."""
    take_seconds_max: float = Field(default=8.0, gt=0, le=60)
    """After this the answer is 503 whatever it waits for: many senders give up after ten seconds
    (Adyen and GitHub; Stripe after twenty)."""
    lock_wait_seconds: float = Field(default=1.0, ge=0.01, le=10)
    """How long a statement waits for a row that another session holds: all webhooks wait with it.
    """

    delayed_after_seconds: float = Field(default=60.0, gt=0)
    """The city's limit: past it the customer is told that posting is delayed; past twice it while
    what an outage has left is worked off, and their turn comes (docs/decisions/0051)."""
    announce_again_after_seconds: float = Field(default=30.0, gt=0)
    announce_again_cap_seconds: float = Field(default=3600.0, gt=0)

    stripe_api_key: SecretStr | None = None
    """A restricted key that may write PaymentIntents and refunds. Without one autopay's requests
    wait, and expire; everything else works."""
    stripe_api_base: str = Field(default="https://api.stripe.com", pattern=r"^https?://[^/]+/?$")
    charges_per_second: float = Field(default=25.0, gt=0, le=1000)
    """Stripe answers more than the account's rate with refusals: 100 live, 25 in test mode."""
    charge_connections_max: int = Field(default=16, ge=1, le=256)
    charge_timeout_seconds: float = Field(default=20.0, gt=0, le=80)
    """After this, a call's outcome is unknown and is asked about."""
    charge_lease_seconds: float = Field(default=120.0, gt=0, le=3600)
    """How long a charge in hand is this process's."""
    charge_retry_initial_seconds: float = Field(default=1.0, gt=0)
    charge_retry_cap_seconds: float = Field(default=60.0, gt=0)
    charge_breaker_failures_max: int = Field(default=5, ge=1)
    """Calls in a row without an answer before nothing is sent for a while."""
    charge_breaker_pause_seconds: float = Field(default=1.0, gt=0)
    charge_breaker_pause_seconds_max: float = Field(default=30.0, gt=0)
    charge_recovery_interval_seconds: float = Field(default=0.25, gt=0)
    cancellation_grace_seconds: float = Field(default=60.0, ge=0, le=86_400)
    """A cancellation said so long after the charge was answered is still given back."""

    @field_validator("standard_webhook_secrets")
    @classmethod
    def _base64_keys(cls, secrets: dict[str, list[SecretStr]]) -> dict[str, list[SecretStr]]:
        for source, each in secrets.items():
            for secret in each:
                key = secret.get_secret_value().removeprefix("whsec_")
                try:
                    base64.b64decode(key, validate=True)
                except binascii.Error:
                    raise ValueError(f"a secret of {source!r} is not base64") from None
        return secrets

    @field_validator("city_time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"no time zone is called {name!r}") from None
        return name

    @model_validator(mode="after")
    def _refuse_short_lease(self) -> "Settings":
        # In hand at the longest: a question, a look, an amount and a confirmation, one by one.
        if self.charge_lease_seconds <= 4 * self.charge_timeout_seconds:
            raise ValueError("charge_lease_seconds must be longer than 4 charge_timeout_seconds")
        return self

    @model_validator(mode="after")
    def _refuse_keys_in_the_clear(self) -> "Settings":
        is_local = self.environment == "local"
        if self.stripe_api_key and not is_local and not self.stripe_api_base.startswith("https"):
            raise ValueError("stripe_api_base must be https: the key travels with every call")
        return self

import hashlib
from datetime import time

import pytest
from pydantic import ValidationError

from payment_intake.settings import Settings

REQUIRED = {
    "environment": "local",
    "database_url": "postgresql+asyncpg://localhost/none",
    "kafka_bootstrap_servers": "localhost:1",
}


def settings(**changes) -> Settings:
    return Settings(**(REQUIRED | changes))


class TestSettings:
    def test_are_usable_with_what_is_required(self):
        found = settings()
        assert found.signature_tolerance_seconds == 300
        assert found.request_size_max_bytes == 262_144
        assert found.post_ach_at == "settlement"
        assert found.currencies == ["USD"]
        assert found.city_cutoff_time is None
        assert found.trusted_capture_sources == []

    def test_come_from_the_environment(self, monkeypatch):
        monkeypatch.setenv("PAYMENT_INTAKE_CITY_CUTOFF_TIME", "17:30")
        monkeypatch.setenv("PAYMENT_INTAKE_STRIPE_WEBHOOK_SECRETS", '["whsec_a", "whsec_b"]')
        found = settings()
        assert found.city_cutoff_time == time(17, 30)
        assert [each.get_secret_value() for each in found.stripe_webhook_secrets] == [
            "whsec_a",
            "whsec_b",
        ]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"city_time_zone": "Mars/Olympus"},
            {"city_time_zone": "../etc/passwd"},
            {"city_cutoff_time": "25:00"},
            {"currencies": ["usd"]},
            {"post_ach_at": "whenever"},
            {"signature_tolerance_seconds": 0},
            {"request_size_max_bytes": 1},
            {"take_queue_size_max": 0},
            {"standard_webhook_secrets": {"portal": ["whsec_not base64!"]}},
            {"standard_webhook_secrets": {"portal": ["whsec_abc"]}},
            {"portal_api_key_sha256s": ["the key itself"]},
            {"portal_api_key_sha256s": [hashlib.sha256(b"k").hexdigest()[:-1]]},
            {"operator_key_sha256s": ["the key itself"]},
            {"stripe_api_base": "ftp://api.stripe.com"},
            {"stripe_api_base": "https://api.stripe.com/v1"},
            {"charges_per_second": 0},
            {"charge_timeout_seconds": 30.0},
            {"charge_lease_seconds": 80.0},
            {"cancellation_grace_seconds": -1},
        ],
    )
    def test_name_what_is_wrong(self, wrong):
        [name] = wrong
        with pytest.raises(ValidationError, match=name):
            settings(**wrong)

    def test_send_no_key_in_the_clear_but_in_local_mode(self):
        plain = {"stripe_api_key": "rk_live_key", "stripe_api_base": "http://stripe.local"}
        assert settings(**plain).stripe_api_base == "http://stripe.local"
        with pytest.raises(ValidationError, match="stripe_api_base must be https"):
            settings(**plain, environment="production")

    def test_never_show_a_secret(self):
        shown = repr(settings(stripe_webhook_secrets=["whsec_hidden"], stripe_api_key="hidden"))
        assert "hidden" not in shown

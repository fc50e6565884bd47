import pytest
from pydantic import ValidationError

from notifier.settings import Settings

GIVEN = {
    "database_url": "postgresql+asyncpg://notifier:x7Rk@db/paypost",
    "kafka_bootstrap_servers": "kafka:9092",
    "smtp_host": "smtp.springfield.example",
    "sender_address": "payments@springfield.example",
    "sender_name": "City of Springfield Utilities",
    "city_name": "City of Springfield",
    "city_time_zone": "America/Chicago",
    "portal_url": "https://pay.springfield.example",
    "support_phone": "555-0100",
}


class TestSettings:
    def test_are_usable_with_what_is_required(self):
        assert Settings(**GIVEN).smtp_security == "starttls"

    @pytest.mark.parametrize(
        ("changed", "complaint"),
        [
            ({"smtp_security": "plain"}, "smtp_security plain is for local mode"),
            ({"smtp_username": "notifier"}, "go together"),
            ({"city_time_zone": "Springfield"}, "not a time zone"),
            ({"sender_address": "a@b.example\r\nBcc: c@d.example"}, "sender_address"),
            ({"lease_seconds": 10}, "lease_seconds must be longer"),
            ({"smtp_username": "notifier", "smtp_password": "changeme"}, "default secrets"),
        ],
    )
    def test_refuse(self, changed, complaint):
        with pytest.raises(ValidationError, match=complaint):
            Settings(**GIVEN | changed)

    @pytest.mark.parametrize(
        "changed", [{"environment": "local"}, {"smtp_host": "127.0.0.1"}, {"smtp_host": "::1"}]
    )
    def test_allow_plain_mail_nearby(self, changed):
        assert Settings(**GIVEN | {"smtp_security": "plain"} | changed).smtp_security == "plain"

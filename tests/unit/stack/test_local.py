import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from paypost.stack.local import (
    COUNTERPARTS,
    SERVICES,
    LocalStack,
    UnknownPartError,
    process_spec,
    service_environment,
)
from paypost.stack.state import StackSecrets, StackState
from paypost.stack.supervisor import ProcessIdentity

STATE = StackState(
    name="tried",
    ready=True,
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
    owner=ProcessIdentity(pid=1, started="1"),
    kafka_bootstrap="127.0.0.1:20000",
    postgres_host="127.0.0.1",
    postgres_port=20001,
    superuser_dsn="postgresql://postgres:s@127.0.0.1:20001/paypost",
    dsns={
        role: f"postgresql://{role}:p@127.0.0.1:20001/paypost"
        for role in (
            "payment_intake",
            "cis_poster",
            "autopay_scheduler",
            "notifier",
            "reference_cis",
        )
    },
    http_urls={
        "payment-intake": "http://127.0.0.1:20002",
        "cis-poster": "http://127.0.0.1:20003",
        "cis": "http://127.0.0.1:20004",
        "mail": "http://127.0.0.1:20005",
        "processor": "http://127.0.0.1:20006",
        "autopay-scheduler": "http://127.0.0.1:20011",
    },
    ops_urls={
        "payment-intake": "http://127.0.0.1:20007",
        "cis-poster": "http://127.0.0.1:20008",
        "notifier": "http://127.0.0.1:20009",
        "autopay-scheduler": "http://127.0.0.1:20012",
    },
    smtp_host="127.0.0.1",
    smtp_port=20010,
    processes={},
    secrets=StackSecrets(
        stripe_webhook_secret="whsec_stripe",
        standard_webhook_secrets={"portal": "whsec_cA==", "kiosk": "whsec_aw=="},
        portal_api_key="portal-key",
        operator_key="operator-key",
        cis_api_key="cis-key",
        processor_api_key="processor-key",
        postgres_superuser_password="s",
        postgres_passwords={},
    ),
    log_paths={},
    cis_journal_path=Path("/state/cis-journal.jsonl"),
    mail_store_path=Path("/state/mail"),
    processor_journal_path=Path("/state/processor-journal.jsonl"),
    charges_journal_path=Path("/state/charges-journal.jsonl"),
)


def spec(name, *, environ=None, overrides=None):
    return process_spec(name=name, state=STATE, environ=environ or {}, overrides=overrides or {})


class TestServiceEnvironment:
    def test_tells_each_service_where_everything_is(self):
        env = service_environment(service="notifier", state=STATE)
        assert env == {
            "NOTIFIER_ENVIRONMENT": "local",
            "NOTIFIER_DATABASE_URL": "postgresql+asyncpg://notifier:p@127.0.0.1:20001/paypost",
            "NOTIFIER_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:20000",
            "NOTIFIER_KAFKA_GROUP_INSTANCE_ID": "notifier",
            "NOTIFIER_OPS_HOST": "127.0.0.1",
            "NOTIFIER_OPS_PORT": "20009",
            "NOTIFIER_SMTP_HOST": "127.0.0.1",
            "NOTIFIER_SMTP_PORT": "20010",
            "NOTIFIER_SMTP_SECURITY": "plain",
            "NOTIFIER_SENDER_ADDRESS": "billing@city.example",
            "NOTIFIER_SENDER_NAME": "City of Example Utilities",
            "NOTIFIER_CITY_NAME": "City of Example Utilities",
            "NOTIFIER_CITY_TIME_ZONE": "America/Chicago",
            "NOTIFIER_PORTAL_URL": "https://portal.city.example",
            "NOTIFIER_SUPPORT_PHONE": "555-0100",
        }

    def test_gives_intake_the_secrets_it_checks_by(self):
        env = service_environment(service="payment-intake", state=STATE)
        assert json.loads(env["PAYMENT_INTAKE_STRIPE_WEBHOOK_SECRETS"]) == ["whsec_stripe"]
        assert json.loads(env["PAYMENT_INTAKE_STANDARD_WEBHOOK_SECRETS"]) == {
            "portal": ["whsec_cA=="],
            "kiosk": ["whsec_aw=="],
        }
        assert json.loads(env["PAYMENT_INTAKE_PORTAL_API_KEY_SHA256S"]) == [
            hashlib.sha256(b"portal-key").hexdigest()
        ]
        assert json.loads(env["PAYMENT_INTAKE_TRUSTED_CAPTURE_SOURCES"]) == ["kiosk"]
        assert env["PAYMENT_INTAKE_CITY_TIME_ZONE"] == "America/Chicago"
        assert env["PAYMENT_INTAKE_HTTP_PORT"] == "20002"

    def test_sends_intake_s_charges_to_the_processor_s_counterpart(self):
        env = service_environment(service="payment-intake", state=STATE)
        assert env["PAYMENT_INTAKE_STRIPE_API_BASE"] == "http://127.0.0.1:20006"
        assert env["PAYMENT_INTAKE_STRIPE_API_KEY"] == "processor-key"
        assert spec("processor").env["PROCESSOR_API_KEY"] == "processor-key"

    def test_lets_the_operator_switch_charges_without_telling_intake_the_key(self):
        env = service_environment(service="payment-intake", state=STATE)
        assert json.loads(env["PAYMENT_INTAKE_OPERATOR_KEY_SHA256S"]) == [
            hashlib.sha256(b"operator-key").hexdigest()
        ]
        assert "operator-key" not in "".join(env.values())

    def test_tells_the_scheduler_its_city_and_whom_it_answers(self):
        env = service_environment(service="autopay-scheduler", state=STATE)
        prefix = "AUTOPAY_SCHEDULER_"
        database = "postgresql+asyncpg://autopay_scheduler:p@127.0.0.1:20001/paypost"
        operator, portal = (
            hashlib.sha256(key).hexdigest() for key in (b"operator-key", b"portal-key")
        )
        assert env == {
            f"{prefix}ENVIRONMENT": "local",
            f"{prefix}DATABASE_URL": database,
            f"{prefix}KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:20000",
            f"{prefix}KAFKA_GROUP_INSTANCE_ID": "autopay-scheduler",
            f"{prefix}OPS_HOST": "127.0.0.1",
            f"{prefix}OPS_PORT": "20012",
            f"{prefix}HTTP_HOST": "127.0.0.1",
            f"{prefix}HTTP_PORT": "20011",
            f"{prefix}OPERATOR_KEY_SHA256S": f'["{operator}"]',
            f"{prefix}PORTAL_API_KEY_SHA256S": f'["{portal}"]',
            f"{prefix}CITY_TIME_ZONE": "America/Chicago",
            f"{prefix}PORTAL_URL": "https://portal.city.example",
        }

    def test_gives_the_poster_its_key_and_the_operator_s_hash_only(self):
        env = service_environment(service="cis-poster", state=STATE)
        assert env["CIS_POSTER_CIS_BASE_URL"] == "http://127.0.0.1:20004"
        assert env["CIS_POSTER_CIS_API_KEY"] == "cis-key"
        assert "operator-key" not in "".join(env.values())


class TestProcessSpec:
    @pytest.mark.parametrize("service", SERVICES)
    def test_nothing_but_the_stack_says_what_a_service_s_settings_are(self, service):
        stray = f"{service.replace('-', '_')}_stray".upper()
        environ = {stray: "1", "PAYPOST_FAILPOINT": "taken", "PATH": "/bin"}
        env = spec(service, environ=environ).env
        assert stray not in env
        assert "PAYPOST_FAILPOINT" not in env
        assert env["PATH"] == "/bin"

    def test_the_caller_s_settings_win(self):
        env = spec("notifier", overrides={"NOTIFIER_SMTP_PORT": "25"}).env
        assert env["NOTIFIER_SMTP_PORT"] == "25"

    def test_keeps_secrets_out_of_its_repr(self):
        assert "cis-key" not in repr(spec("cis-poster"))

    @pytest.mark.parametrize("counterpart", COUNTERPARTS)
    def test_no_command_line_shows_a_secret(self, counterpart):
        line = " ".join(spec(counterpart).command)
        assert not any(secret in line for secret in ("whsec_", "-key", ":p@"))

    def test_counterparts_get_their_secrets_all_the_same(self):
        assert spec("cis").env["CIS_API_KEY"] == "cis-key"
        assert spec("cis").env["CIS_DATABASE_URL"].startswith("postgresql://reference_cis:p@")
        assert spec("processor").env["STRIPE_WEBHOOK_SECRET"] == "whsec_stripe"

    def test_a_counterpart_is_told_by_its_command_line(self):
        command = spec("mail").command
        assert command[1:] == (
            "-m",
            "paypost.simulators.mail",
            "--smtp-port",
            "20010",
            "--http-port",
            "20005",
            "--store",
            "/state/mail",
        )

    def test_the_processor_finds_its_charges_again_after_a_restart(self):
        command = spec("processor").command
        assert command[command.index("--book") + 1] == "/state/charges-journal.jsonl"
        assert command[command.index("--journal") + 1] == "/state/processor-journal.jsonl"


class TestLocalStack:
    def test_refuses_parts_that_do_not_exist(self):
        with pytest.raises(UnknownPartError) as caught:
            LocalStack(name="tried", parts={"kafka", "rabbit"})
        assert caught.value.unknown == {"rabbit"}

    def test_is_not_to_be_asked_before_it_is_up(self):
        with pytest.raises(RuntimeError, match="not up"):
            _ = LocalStack(name="tried").state

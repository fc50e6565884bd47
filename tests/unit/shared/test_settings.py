from pathlib import Path

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from shared.runtime.settings import (
    ServiceSettings,
    load_settings,
    placeholder_settings,
    settings_table,
)


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="DEMO_")

    size_max: int = Field(default=10, ge=1)
    keys: list[SecretStr] = Field(default_factory=list)
    keys_by_source: dict[str, list[SecretStr]] = Field(default_factory=dict)


USABLE = {
    "DEMO_DATABASE_URL": "postgresql+asyncpg://demo:s3cr3t-enough@db/demo",
    "DEMO_KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
}


@pytest.fixture
def environment(monkeypatch):
    """Sets exactly these DEMO_ variables, over the usable ones."""

    def set_to(**changes: str | None) -> None:
        for name, value in (USABLE | changes).items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return set_to


def refusal(capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        load_settings(Settings)
    assert ended.value.code == 78
    return capsys.readouterr().err


class TestSettings:
    def test_come_from_the_environment_under_their_prefix(self, environment):
        environment(DEMO_SIZE_MAX="7", DEMO_KEYS='["one-key", "another-key"]')
        found = load_settings(Settings)
        assert found.size_max == 7
        assert [key.get_secret_value() for key in found.keys] == ["one-key", "another-key"]
        assert found.environment == "production"

    def test_name_every_error_at_once_and_exit_with_78(self, environment, capsys):
        environment(
            DEMO_DATABASE_URL=None, DEMO_SIZE_MAX="none", DEMO_KEYS="no json", DEMO_LOG_LEVEL="loud"
        )
        said = refusal(capsys)
        for name in ("DEMO_DATABASE_URL", "DEMO_SIZE_MAX", "DEMO_KEYS", "DEMO_LOG_LEVEL"):
            assert f"  {name}: " in said

    def test_never_print_what_was_given(self, environment, capsys):
        environment(DEMO_KEYS="hunter2-hunter2", DEMO_SIZE_MAX="hunter3-hunter3")
        assert "hunter" not in refusal(capsys)

    def test_are_read_from_the_file_that_is_named(self, environment, tmp_path: Path):
        secret = tmp_path / "url"
        secret.write_text("postgresql+asyncpg://demo:from-a-file@db/demo\n")
        environment(DEMO_DATABASE_URL=None, DEMO_DATABASE_URL_FILE=str(secret))
        found = load_settings(Settings).database_url.get_secret_value()
        assert found == "postgresql+asyncpg://demo:from-a-file@db/demo"

    def test_read_lists_and_tables_from_files_too(self, environment, tmp_path: Path):
        keys = tmp_path / "keys"
        keys.write_text('["one-key", "another-key"]\n')
        table = tmp_path / "table"
        table.write_text('{"portal": ["one-key"]}')
        environment(DEMO_KEYS_FILE=str(keys), DEMO_KEYS_BY_SOURCE_FILE=str(table))
        found = load_settings(Settings)
        assert [key.get_secret_value() for key in found.keys] == ["one-key", "another-key"]
        assert found.keys_by_source["portal"][0].get_secret_value() == "one-key"

    def test_prefer_the_file_to_the_variable(self, environment, tmp_path: Path):
        size = tmp_path / "size"
        size.write_text("3")
        environment(DEMO_SIZE_MAX="7", DEMO_SIZE_MAX_FILE=str(size))
        assert load_settings(Settings).size_max == 3

    def test_name_a_file_that_cannot_be_read(self, environment, capsys, tmp_path: Path):
        environment(DEMO_DATABASE_URL_FILE=str(tmp_path / "absent"), DEMO_SIZE_MAX="none")
        said = refusal(capsys)
        assert "  DEMO_DATABASE_URL_FILE: " in said
        assert "  DEMO_SIZE_MAX: " in said

    @pytest.mark.parametrize(
        "weak",
        [
            {"DEMO_KEYS": '["good-key", "changeme"]'},
            {"DEMO_KEYS": '["ChangeMe "]'},
            {"DEMO_KEYS_BY_SOURCE": '{"portal": ["secret"]}'},
            {"DEMO_KAFKA_SASL_PASSWORD": ""},
            {"DEMO_DATABASE_URL": "postgresql+asyncpg://demo:postgres@db/demo"},
            {"DEMO_DATABASE_URL": "postgresql+asyncpg://demo:paypost@db/demo"},
        ],
    )
    def test_refuse_a_default_secret_outside_local_mode(self, environment, capsys, weak):
        environment(**weak)
        assert "default secrets" in refusal(capsys)

    def test_take_a_default_secret_in_local_mode(self, environment):
        environment(DEMO_ENVIRONMENT="local", DEMO_KEYS='["changeme"]')
        assert load_settings(Settings).environment == "local"

    def test_do_not_change_once_loaded(self, environment):
        environment()
        with pytest.raises(ValueError, match="frozen"):
            load_settings(Settings).size_max = 3

    def test_are_shown_as_a_table_without_any_secret(self):
        table = settings_table(Settings)
        assert "| `DEMO_DATABASE_URL` | **required** |" in table
        assert "| `DEMO_SIZE_MAX` | `10` | `int` |" in table

    def test_can_be_described_without_an_environment(self):
        assert placeholder_settings(Settings).environment == "local"


class TestKafkaSecurity:
    def test_names_mechanism_user_and_password(self):
        found = placeholder_settings(Settings).model_copy(
            update={
                "kafka_security_protocol": "SASL_SSL",
                "kafka_sasl_username": "intake",
                "kafka_sasl_password": SecretStr("long-enough"),
            }
        )
        options = found.kafka_security()
        assert options.pop("ssl_context").check_hostname
        assert options == {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": "intake",
            "sasl_plain_password": "long-enough",
        }

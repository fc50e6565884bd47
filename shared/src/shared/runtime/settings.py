"""Settings: typed, from the environment, validated at start with every error at once.

A setting `NAME` of a service with the prefix `P_` is read from `P_NAME`, or from the file that
`P_NAME_FILE` names (a mounted secret). Nothing is read at import.
"""

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar
from urllib.parse import unquote

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

DEFAULT_SECRETS = frozenset({"", "changeme", "secret", "password", "postgres", "paypost"})
"""Values that are nobody's secret; accepted in local mode only."""
DEFAULT_SECRET_PARTS = ("local-only", "local_only")
"""What the default secrets of docker-compose.yml have in them."""

EXIT_BAD_SETTINGS = 78
"""`EX_CONFIG` of sysexits.h: a restart will not help."""


Sha256Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""The SHA-256 of a key in hex: `printf %s KEY | sha256sum`."""


class DatabaseSettings(BaseSettings):
    """What is told of the database: all that a migration has to know."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    environment: Literal["local", "production"] = "production"
    """`local` allows default secrets and plain connections; nothing else differs."""

    database_url: SecretStr
    """`postgresql+asyncpg://…`, as this service's own role."""
    database_tls_ca_file: Path | None = None
    """Verify PostgreSQL's certificate against this authority; without it the URL decides."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, _FileSource(settings_cls), _EnvironmentSource(settings_cls))

    @model_validator(mode="after")
    def _refuse_default_secrets(self) -> "DatabaseSettings":
        if self.environment == "local":
            return self
        weak = [
            name
            for name in type(self).model_fields
            for value in _secrets(getattr(self, name))
            if _is_default(value.strip().lower())
        ]
        if weak:
            raise ValueError(f"default secrets are for local mode only: {', '.join(weak)}")
        return self


class ServiceSettings(DatabaseSettings):
    """What every service is told; each adds its own under its own prefix."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    database_pool_size: int = Field(default=8, ge=2, le=100)

    kafka_bootstrap_servers: str
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_tls_ca_file: Path | None = None
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None

    kafka_session_timeout_seconds: float = Field(default=15.0, ge=1, le=300)
    """How long a dead process keeps its partitions; a frozen one loses them after this."""
    kafka_group_instance_id: str | None = None
    """A name that survives restarts (a StatefulSet pod's): a restarted process then takes over
    its own partitions at once, without a rebalance."""

    ops_host: str = "0.0.0.0"  # noqa: S104  probes and scrapes come from outside the pod
    ops_port: int = Field(default=9000, ge=0, le=65535)
    """`/metrics`, `/livez` and `/readyz`; never exposed to the internet."""

    traces_otlp_endpoint: str | None = None
    """Where spans go, such as `http://collector:4318/v1/traces`; without it none are made."""
    traces_sampled_ratio: float = Field(default=0.01, ge=0, le=1)
    """Of the payments that begin at this service's door; a caller's own decision is kept."""

    drain_seconds: float = Field(default=20.0, gt=0, le=300)
    """How long work in hand may take after SIGTERM; what is left stays due in the database."""

    @model_validator(mode="after")
    def _refuse_half_a_login(self) -> "ServiceSettings":
        wants_login = self.kafka_security_protocol.startswith("SASL")
        if wants_login and not (self.kafka_sasl_username and self.kafka_sasl_password):
            raise ValueError("kafka_security_protocol SASL_* needs a username and a password")
        return self

    def kafka_security(self) -> dict[str, Any]:
        """Return aiokafka's TLS and SASL options; empty for a plain connection."""
        if self.kafka_security_protocol == "PLAINTEXT":
            return {}
        from aiokafka.helpers import create_ssl_context

        options: dict[str, Any] = {"security_protocol": self.kafka_security_protocol}
        if self.kafka_security_protocol.endswith("SSL"):
            ca_file = self.kafka_tls_ca_file
            options["ssl_context"] = create_ssl_context(cafile=str(ca_file) if ca_file else None)
        if self.kafka_security_protocol.startswith("SASL"):
            password = self.kafka_sasl_password
            options |= {
                "sasl_mechanism": self.kafka_sasl_mechanism,
                "sasl_plain_username": self.kafka_sasl_username,
                "sasl_plain_password": password.get_secret_value() if password else None,
            }
        return options


_UNREADABLE = object()
"""Stands for a file that cannot be read: no setting takes it, so it is told with the others."""


class _EnvironmentSource(EnvSettingsSource):
    """Leaves what is not JSON to the validation, which tells of it with all other errors."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except (ValueError, TypeError):
            return value


class _FileSource(_EnvironmentSource):
    """Reads `P_NAME_FILE` where it is set: secrets come as files in most clusters."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        _, key, is_complex = super().get_field_value(field, field_name)
        path = os.environ.get(_file_variable(self.env_prefix, field_name))
        return _read(path) if path else None, key, is_complex


def _file_variable(prefix: str, name: str) -> str:
    return f"{prefix}{name}_FILE".upper()


def _read(path: str) -> Any:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return _UNREADABLE


def _is_default(secret: str) -> bool:
    return secret in DEFAULT_SECRETS or any(part in secret for part in DEFAULT_SECRET_PARTS)


def _secrets(value: object) -> list[str]:
    match value:
        case SecretStr():
            text = value.get_secret_value()
            in_address = re.match(r"[a-z0-9+]+://[^/@]*?:([^@]*)@", text)
            return [text, unquote(in_address.group(1))] if in_address else [text]
        case list() | tuple():
            return [found for entry in value for found in _secrets(entry)]
        case dict():
            return [found for entry in value.values() for found in _secrets(entry)]
        case _:
            return []


Settings = TypeVar("Settings", bound=DatabaseSettings)


def load_settings(settings_class: type[Settings]) -> Settings:
    """Return the settings from the environment, or print every error and exit with 78."""
    try:
        return settings_class()
    except ValidationError as error:
        _exit_with(settings_class, error)


def _exit_with(settings_class: type[DatabaseSettings], error: ValidationError) -> NoReturn:
    prefix = settings_class.model_config.get("env_prefix", "")
    lines = [
        f"  {(prefix + '.'.join(str(part) for part in entry['loc'])).upper()}: {entry['msg']}"
        if entry["loc"]
        else f"  {entry['msg']}"
        for entry in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    for name in settings_class.model_fields:
        variable = _file_variable(prefix, name)
        if (path := os.environ.get(variable)) and _read(path) is _UNREADABLE:
            lines.append(f"  {variable}: cannot be read")
    sys.stderr.write("\n".join(["settings are not usable:", *lines]) + "\n")
    raise SystemExit(EXIT_BAD_SETTINGS)


def database_settings(settings_class: type[ServiceSettings]) -> type[DatabaseSettings]:
    """Return what a service is told of its database, as a class of its own: nothing else is read.

    So that what migrates needs neither the service's other settings nor its secrets.
    """

    class OfDatabase(DatabaseSettings):
        model_config = SettingsConfigDict(env_prefix=settings_class.model_config["env_prefix"])

    return OfDatabase


def placeholder_settings(settings_class: type[Settings]) -> Settings:
    """Return settings that name nothing real: enough to describe a service, not to run it."""
    required = [name for name, field in settings_class.model_fields.items() if field.is_required()]
    values: dict[str, Any] = {
        name: "https://example.org" if name.endswith("_url") else "placeholder@example.org"
        for name in required
    }
    values |= {"environment": "local", "database_url": "postgresql+asyncpg://localhost/none"}
    return settings_class(**values)


def settings_table(settings_class: type[ServiceSettings]) -> str:
    """Return the service's settings as a Markdown table, for its README and `settings` command."""
    prefix = settings_class.model_config.get("env_prefix", "")
    rows = ["| setting | default | type |", "|---|---|---|"]
    for name, field in settings_class.model_fields.items():
        if field.is_required():
            default = "**required**"
        elif isinstance(field.default, SecretStr):
            default = "(secret)"
        else:
            default = f"`{field.get_default(call_default_factory=True)}`"
        kind = str(field.annotation).replace("typing.", "").replace("pathlib._local.", "")
        kind = kind.removeprefix("<class '").removesuffix("'>").replace("|", "or")
        rows.append(f"| `{(prefix + name).upper()}` | {default} | `{kind}` |")
    return "\n".join(rows)

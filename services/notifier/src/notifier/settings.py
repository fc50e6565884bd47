"""The settings of notifier: prefix `NOTIFIER_`."""

import ipaddress
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from shared.contracts.portal import EmailAddress
from shared.runtime.settings import ServiceSettings


def _known_time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("not a time zone of the IANA database") from error
    return name


class Settings(ServiceSettings):
    """What notifier is told."""

    model_config = SettingsConfigDict(env_prefix="NOTIFIER_")

    smtp_host: str
    smtp_port: int = Field(default=587, ge=1, le=65535)
    smtp_security: Literal["plain", "starttls", "tls"] = "starttls"
    """`plain` is for local mode, or for a relay on the loopback address."""
    smtp_username: str | None = None
    smtp_password: SecretStr | None = None
    smtp_client_name: str = Field(default="localhost", pattern=r"^[A-Za-z0-9.-]+$")
    """What EHLO says; some relays want the host's public name."""
    smtp_connections_max: int = Field(default=20, ge=1, le=64)
    smtp_connect_timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    smtp_reply_timeout_seconds: float = Field(default=10.0, gt=0, le=300)
    """How long the server may take over one mail."""
    send_batch_size: int = Field(default=25, ge=1, le=500)
    """Mails in one call over one connection; they are settled together."""
    send_seconds_max: float = Field(default=15.0, gt=0, le=600)
    """A call ends after this; what it could not begin in half of it stays due."""

    sender_address: EmailAddress
    sender_name: str = Field(min_length=1, max_length=100)
    city_name: str = Field(min_length=1, max_length=100)
    city_time_zone: Annotated[str, AfterValidator(_known_time_zone)]
    """IANA name: the zone in which times are told to customers."""
    city_territory: str = Field(default="US", pattern=r"^[A-Z]{2}$")
    """Decides how each language writes amounts and dates."""
    portal_url: str = Field(pattern=r"^https?://[\x21-\x7e]+$")
    support_phone: str = Field(min_length=3, max_length=40)

    lease_seconds: float = Field(default=30.0, gt=0, le=3600)
    """How long a taken notification is this process's; a crash delays it by as much."""
    held_max: int = Field(default=2000, ge=1, le=100_000)
    """Notifications in memory at most; beyond it the consumer waits."""
    attempts_max: int = Field(default=200, ge=1, le=10_000)
    """Refusals for now (4xx), or lost answers, before one message is given up: about an hour.
    An unreachable mail server uses up none."""
    retry_initial_seconds: float = Field(default=1.0, gt=0)
    retry_cap_seconds: float = Field(default=20.0, gt=0)
    """Bounds how long after its recovery the mail server's refusals are still felt."""
    breaker_failures_max: int = Field(default=5, ge=1)
    """Calls in a row in which no message was taken before nothing is sent for a while."""
    breaker_pause_seconds: float = Field(default=0.5, gt=0)
    breaker_pause_seconds_max: float = Field(default=2.0, gt=0)
    recovery_interval_seconds: float = Field(default=0.25, gt=0)

    @model_validator(mode="after")
    def _refuse_unprotected_mail(self) -> "Settings":
        is_local = self.environment == "local" or _is_loopback(self.smtp_host)
        if self.smtp_security == "plain" and not is_local:
            raise ValueError("smtp_security plain is for local mode or a loopback smtp_host only")
        if (self.smtp_username is None) != (self.smtp_password is None):
            raise ValueError("smtp_username and smtp_password go together")
        return self

    @model_validator(mode="after")
    def _refuse_short_lease(self) -> "Settings":
        if self.lease_seconds <= self.send_seconds_max:
            raise ValueError("lease_seconds must be longer than send_seconds_max")
        return self


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""The settings of cis-poster: prefix `CIS_POSTER_`."""

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from shared.runtime.settings import ServiceSettings, Sha256Hex


class Settings(ServiceSettings):
    """What cis-poster is told."""

    model_config = SettingsConfigDict(env_prefix="CIS_POSTER_")

    http_host: str = "0.0.0.0"  # noqa: S104  operators reach it through the cluster's ingress
    http_port: int = Field(default=8081, ge=0, le=65535)
    """The operator's API: suspense."""
    operator_key_sha256s: list[Sha256Hex] = Field(default_factory=list)
    """SHA-256, in hex, of each operator's bearer key: kept hashed, so none can be read here."""

    cis_base_url: str
    cis_api_key: SecretStr
    cis_timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    """After this, a call's outcome is unknown and is asked about."""
    cis_connections_max: int = Field(default=64, ge=1, le=512)
    cis_batch_size: int = Field(default=50, ge=1, le=500)
    """Postings in one call; 1 uses the CIS's single call."""

    lease_seconds: float = Field(default=30.0, gt=0, le=600)
    """How long a taken posting is this process's; longer than `held_max` takes to be sent."""
    held_max: int = Field(default=4000, ge=1, le=100_000)
    """Postings in memory at most; beyond it the consumer waits."""
    retry_initial_seconds: float = Field(default=0.5, gt=0)
    retry_cap_seconds: float = Field(default=30.0, gt=0)
    breaker_failures_max: int = Field(default=5, ge=1)
    """Calls in a row without an answer before nothing is sent for a while."""
    breaker_pause_seconds: float = Field(default=0.5, gt=0)
    breaker_pause_seconds_max: float = Field(default=2.0, gt=0)
    """Bounds how long after its return the CIS is still left alone."""
    recovery_interval_seconds: float = Field(default=0.25, gt=0)

    @model_validator(mode="after")
    def _refuse_short_lease(self) -> "Settings":
        # An attempt may be a question and a posting, one after the other.
        if self.lease_seconds <= 2 * self.cis_timeout_seconds:
            raise ValueError("lease_seconds must be longer than two cis_timeout_seconds")
        return self

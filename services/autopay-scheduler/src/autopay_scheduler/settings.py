"""The settings of autopay-scheduler: prefix `AUTOPAY_SCHEDULER_`."""

from datetime import date, time
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import holidays
from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from autopay_scheduler.domain.notices import NOTICE_DAYS_MIN
from shared.money import AMOUNT_CENTS_MAX, Currency
from shared.runtime.settings import ServiceSettings, Sha256Hex


class Settings(ServiceSettings):
    """What autopay-scheduler is told."""

    model_config = SettingsConfigDict(env_prefix="AUTOPAY_SCHEDULER_")

    http_host: str = "0.0.0.0"  # noqa: S104  operators and the portal reach it through ingress
    http_port: int = Field(default=8082, ge=0, le=65535)
    operator_key_sha256s: list[Sha256Hex] = Field(default_factory=list)
    """SHA-256, in hex, of each operator's bearer key: kept hashed."""
    portal_api_key_sha256s: list[Sha256Hex] = Field(default_factory=list)
    """The same of the portal's keys, which may read and nothing else."""
    portal_url: str = Field(pattern=r"^https?://[\x21-\x7e]+$")
    """Where invitations send customers."""

    city_time_zone: str = "America/Chicago"
    charge_time: time = time(6, 0)
    """When charges are made on their day, by the city's clock."""
    holidays_country: str = "US"
    holidays_subdivision: str | None = None
    """A state or province, as the `holidays` package calls it."""
    holidays_extra: list[date] = Field(default_factory=list)
    """Days on which this city is closed besides."""
    business_days: Literal["before", "after", "same"] = "before"
    """What becomes of a charge that falls on a weekend or a holiday."""
    currency: Currency = "USD"
    """What bills are stated in; one in another currency becomes a dead letter."""
    least_cents: int = Field(default=50, gt=0, le=10_000)
    """The least that is charged at once: less waits for the next bill. The default is Stripe's for
    US dollars (docs.stripe.com/currencies); what is refused there would end the enrolment."""
    limit_cents: int = Field(default=1_000_000, gt=0, le=AMOUNT_CENTS_MAX)
    """The most that is charged at once, whatever a customer authorised: more is held."""
    token_prefixes: dict[str, list[str]] = Field(
        default_factory=lambda: {"stripe": ["pm_", "card_", "ba_", "src_"]}
    )
    """By processor, how its payment-method tokens begin; another processor's are refused."""

    notice_days: int = Field(default=NOTICE_DAYS_MIN, ge=NOTICE_DAYS_MIN, le=60)
    """12 CFR 1005.10(d)(1) wants 10 at least."""
    charge_unnotified: bool = False
    """Charge although the notice could not be delivered: only where a bill on paper is one."""
    late_grace_days: int = Field(default=3, ge=0, le=15)
    """How long after its day a charge is still made; later the customer is told instead."""
    retry_days: list[int] = Field(default_factory=lambda: [3, 7], max_length=4)
    """Days after the first attempt on which a declined charge is presented again."""
    given_up_max: int = Field(default=3, ge=1, le=100)
    """Charges in a row that were given up before the enrolment is stopped."""
    expiry_warning_days: list[int] = Field(default_factory=lambda: [60, 30, 7], max_length=6)

    requests_per_second: float = Field(default=20.0, gt=0, le=10_000)
    """Below payment-intake's `charges_per_second`, so that requests do not gather there: what is
    not asked for yet is what a pause holds at once."""
    announcements_per_second: float = Field(default=500.0, gt=0, le=100_000)
    invite_after_days: list[int] = Field(default_factory=lambda: [0, 7, 14, 28], max_length=12)
    """Days after the import on which customers of the old portal are asked to enrol again."""
    invite_before_due_days: list[int] = Field(default_factory=lambda: [10, 3], max_length=6)
    """Days before the next due date that they would miss."""
    invite_until_days: int = Field(default=90, ge=1, le=730)
    """Days after the import; then they are left alone."""
    invitations_per_second: float = Field(default=50.0, gt=0, le=10_000)
    import_lines_max: int = Field(default=1_000_000, ge=1)
    import_size_max_bytes: int = Field(default=512 * 1024 * 1024, ge=1024)
    import_seconds_max: float = Field(default=1800.0, gt=0)
    """How long an uploaded list may take to arrive."""

    restate_after_seconds: float = Field(default=60.0, gt=0)
    """When a request or an announcement of which nothing was heard is stated again."""
    restate_cap_seconds: float = Field(default=3600.0, gt=0)
    clock_offset_seconds: int = Field(default=0, ge=0, le=400 * 24 * 3600)
    """How far this service's clock is ahead, to try out the days to come: in local mode only."""
    job_interval_seconds: float = Field(default=0.5, gt=0, le=60)
    plan_batch_size: int = Field(default=2000, ge=1, le=20_000)

    @field_validator("city_time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"no time zone is called {name!r}") from None
        return name

    @field_validator("retry_days", "expiry_warning_days")
    @classmethod
    def _positive_days(cls, days: list[int]) -> list[int]:
        if any(day < 1 for day in days) or len(set(days)) < len(days):
            raise ValueError("days are whole numbers of 1 or more, each once")
        return days

    @field_validator("invite_after_days", "invite_before_due_days")
    @classmethod
    def _no_negative_days(cls, days: list[int]) -> list[int]:
        if any(day < 0 for day in days):
            raise ValueError("days are whole numbers of 0 or more")
        return days

    @field_validator("retry_days")
    @classmethod
    def _in_order(cls, days: list[int]) -> list[int]:
        if days != sorted(days):
            raise ValueError("retry days count up")
        return days

    @model_validator(mode="after")
    def _refuse_moved_clock(self) -> "Settings":
        if self.clock_offset_seconds and self.environment != "local":
            raise ValueError("clock_offset_seconds is for local mode only")
        return self

    @model_validator(mode="after")
    def _known_holidays(self) -> "Settings":
        try:
            holidays.country_holidays(self.holidays_country, subdiv=self.holidays_subdivision)
        except NotImplementedError as error:
            raise ValueError(f"holidays_country or holidays_subdivision: {error}") from None
        return self

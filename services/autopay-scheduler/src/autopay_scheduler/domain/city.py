"""The city's own rules, together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autopay_scheduler.domain.days import Calendar
from autopay_scheduler.domain.notices import NoticeRule


@dataclass(frozen=True, slots=True, kw_only=True)
class City:
    """What the city has set; see the settings of the same names."""

    calendar: Calendar
    notice: NoticeRule
    late_grace_days: int
    retry_days: Sequence[int]
    least_cents: int
    limit_cents: int
    given_up_max: int
    currency: str
    token_prefixes: Mapping[str, tuple[str, ...]]
    expiry_warning_days: Sequence[int]

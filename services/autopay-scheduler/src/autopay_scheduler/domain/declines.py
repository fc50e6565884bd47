"""What follows from a decline.

Sources: Nacha Operating Rules, "Reinitiation of Returned Entries" (an entry returned R01 or R09 may
be reinitiated at most twice within 180 days); the card networks' limits on repeated
authorisations (Visa: 15 in 30 days; Mastercard: 10 in 24 hours), far above what is done here.
Stripe, "Network decline codes": R01 and R09 are its `insufficient_funds`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from types import MappingProxyType

from autopay_scheduler.domain.days import Calendar, open_day_from
from shared.contracts.autopay import NextStep
from shared.contracts.payments import DeclineCategory

REPRESENTED_CODES = frozenset({"R01", "R09", "insufficient_funds"})
"""The bank's two codes, and Stripe's one word for both."""
REPRESENTMENTS_MAX = 2
REPRESENTMENT_DAYS_MAX = 180
"""From the original entry's settlement; counted here from the attempt, which is earlier."""
ATTEMPTS_MAX = 9
"""What a request can say of its attempt, and fewer than any network allows within a month."""

NEXT_STEPS: Mapping[DeclineCategory, tuple[NextStep, ...]] = MappingProxyType(
    {
        "soft": ("retry", "give_up"),
        "hard": ("stop",),
        "withdrawn": ("stop",),
        "action_required": ("ask",),
    }
)
"""What `next_step` can answer to each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline:
    """One decline of one attempt."""

    id: str
    """The processor's id of the attempt."""
    category: DeclineCategory
    code: str | None


@dataclass(frozen=True, slots=True)
class Next:
    """What is done about it."""

    step: NextStep
    attempt_on: date | None = None


def next_step(
    *,
    decline: Decline,
    is_bank_debit: bool,
    attempt: int,
    first_attempt_on: date,
    today: date,
    retry_days: Sequence[int],
    calendar: Calendar,
) -> Next:
    """Return what follows from a decline of attempt number `attempt`.

    `retry_days` are counted from the first attempt; a return that arrives later than its retry
    day is presented again on the next day. A closed day moves on to the next open one, also where
    the city's rule moves charges back: a second attempt that comes too early fails again.
    """
    match decline.category:
        case "withdrawn" | "hard":
            return Next("stop")
        case "action_required":
            return Next("ask")
        case "soft":
            pass
    if attempt > len(retry_days) or attempt >= ATTEMPTS_MAX:
        return Next("give_up")
    attempt_on = max(
        first_attempt_on + timedelta(days=retry_days[attempt - 1]), today + timedelta(days=1)
    )
    attempt_on = open_day_from(attempt_on, calendar=calendar)
    if is_bank_debit and not _may_be_represented(decline, attempt, first_attempt_on, attempt_on):
        return Next("give_up")
    return Next("retry", attempt_on)


def _may_be_represented(
    decline: Decline, attempt: int, first_attempt_on: date, attempt_on: date
) -> bool:
    return (
        decline.code in REPRESENTED_CODES
        and attempt <= REPRESENTMENTS_MAX
        and attempt_on <= first_attempt_on + timedelta(days=REPRESENTMENT_DAYS_MAX)
    )

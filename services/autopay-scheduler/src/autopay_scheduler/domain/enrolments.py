"""An enrolment: who authorised what, and what the portal's words make of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Literal
from uuid import UUID

from autopay_scheduler.domain.amounts import Limits
from autopay_scheduler.domain.days import ChargeOn
from shared.contracts.autopay import (
    EnrolmentActivated,
    EnrolmentRefused,
    EnrolmentStopped,
    RefusalReason,
)
from shared.contracts.portal import Locale
from shared.ids import fact_id

MethodKind = Literal["card", "us_bank_account"]


class EnrolmentStatus(StrEnum):
    """Where an enrolment stands."""

    ACTIVE = "active"
    PAUSED = "paused"
    """By the customer, until a day or until further notice."""
    STOPPED = "stopped"
    """For good: only a new enrolment turns autopay on again."""
    REFUSED = "refused"


ENROLMENT_TRANSITIONS: Mapping[tuple[EnrolmentStatus | None, EnrolmentStatus], str | None] = (
    MappingProxyType(
        {
            (None, EnrolmentStatus.ACTIVE): EnrolmentActivated.TYPE,
            (None, EnrolmentStatus.REFUSED): EnrolmentRefused.TYPE,
            # Cancelled before it was heard of: its enrolment comes after and changes nothing.
            (None, EnrolmentStatus.STOPPED): None,
            (EnrolmentStatus.ACTIVE, EnrolmentStatus.PAUSED): None,
            (EnrolmentStatus.PAUSED, EnrolmentStatus.ACTIVE): None,
            (EnrolmentStatus.ACTIVE, EnrolmentStatus.STOPPED): EnrolmentStopped.TYPE,
            (EnrolmentStatus.PAUSED, EnrolmentStatus.STOPPED): EnrolmentStopped.TYPE,
        }
    )
)
"""Every allowed change of status and the type of the fact that states it."""

ON = frozenset({EnrolmentStatus.ACTIVE, EnrolmentStatus.PAUSED})
"""One such enrolment an account, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A payment method by its processor's tokens."""

    processor: str
    token: str
    customer_token: str | None
    mandate_token: str | None
    kind: MethodKind
    label: str
    last4: str | None
    expires: str | None
    """`YYYY-MM`, the last month in which a card is good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When and how much."""

    charge_on: ChargeOn
    days_before: int | None
    day_of_month: int | None
    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """An enrolment as autopay-scheduler knows it."""

    id: UUID
    account_id: str
    reference: str
    status: EnrolmentStatus
    method: Method
    rule: Rule
    authorisation_version: str
    authorised_at: datetime
    locale: Locale
    resume_on: date | None
    word_at: datetime
    """The portal's own time of its last word about it: a later word wins."""

    def is_paused(self, *, on: date) -> bool:
        """Return whether the customer wants no charge on a day."""
        if self.status is not EnrolmentStatus.PAUSED:
            return False
        return self.resume_on is None or on < self.resume_on


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentRecord:
    """An enrolment as it is kept."""

    id: UUID
    account_id: str
    reference: str
    status: EnrolmentStatus
    reason: str | None
    enrolment: Enrolment | None
    """None where only its end was heard of."""
    word_at: datetime
    given_up: int = 0
    """Charges in a row that were given up."""
    taken_at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an enrolment is not taken, and which field stands in the way."""

    reason: RefusalReason
    field: str


def enrolment_id(reference: str) -> UUID:
    """Return the id of the enrolment that the portal calls so: the same for ever."""
    return fact_id(fact_type="enrolment", key=reference)


def refusal(
    *,
    enrolment: Enrolment,
    is_account_known: bool,
    has_other: bool,
    token_prefixes: Mapping[str, tuple[str, ...]],
    limit_cents: int,
) -> Refusal | None:
    """Return why an enrolment cannot be taken; None where it can.

    Args:
        enrolment: as the portal states it.
        is_account_known: whether the CIS or the portal has ever named the account.
        has_other: whether autopay is already on for it.
        token_prefixes: by processor, how its tokens begin.
        limit_cents: the most that the city charges at once.
    """
    found = method_refusal(
        enrolment=enrolment, token_prefixes=token_prefixes, limit_cents=limit_cents
    )
    if found is not None:
        return found
    if not is_account_known:
        return Refusal("unknown_account", "account_id")
    if has_other:
        return Refusal("already_enrolled", "account_id")
    return None


def method_refusal(
    *, enrolment: Enrolment, token_prefixes: Mapping[str, tuple[str, ...]], limit_cents: int
) -> Refusal | None:
    """Return why this method or rule cannot be taken, whatever the account; None where it can."""
    prefixes = token_prefixes.get(enrolment.method.processor)
    if prefixes is None:
        return Refusal("unknown_processor", "processor")
    if not enrolment.method.token.startswith(prefixes):
        return Refusal("foreign_token", "payment_method_token")
    limits = enrolment.rule.limits
    for field, cents in (
        ("rule.fixed_cents", limits.fixed_cents),
        ("rule.minimum_cents", limits.minimum_cents),
        ("rule.maximum_cents", limits.maximum_cents),
    ):
        if cents is not None and cents > limit_cents:
            return Refusal("above_city_limit", field)
    return None

"""What customers say of autopay on the portal, one by one or thousands at once.

The facts are those of `portal.v1`; `paypost.traffic.portal.say` states them, over Kafka or over
HTTP with the portal's signature.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import asyncpg

from paypost.simulators.processor.tokens import BANK_METHOD, behaviour_of
from paypost.stack.state import StackState
from paypost.traffic.portal import Way, say
from shared.contracts.enrolments import AutopayRule, PaymentMethod
from shared.contracts.fact import Fact
from shared.contracts.portal import (
    AutopayCancelled,
    AutopayChanged,
    AutopayEnrolled,
    AutopayInvitationDeclined,
    AutopayPaused,
    AutopayResumed,
    Locale,
)
from shared.ids import fact_id

FACTS_IN_CALL_MAX = 2_000
HEARD_TIMEOUT_SECONDS = 60.0
AUTHORISATION_VERSION = "autopay-terms-1"
VISA = PaymentMethod(kind="card", label="Visa", last4="4242", expires="2030-12")
PROCESSOR = "stripe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """A customer with autopay, and what was authorised.

    Attributes:
        account: the utility's.
        reference: the portal's name of the enrolment.
        token: the processor's of the payment method; what it does is read off it.
        customer_token: the processor's of the customer.
        mandate_token: of a bank debit.
        method: as the portal shows it.
        rule: when and how much.
    """

    account: str
    reference: str
    token: str = "pm_card_visa"  # noqa: S105 — Stripe's own test token
    customer_token: str | None = None
    mandate_token: str | None = None
    method: PaymentMethod = VISA
    rule: AutopayRule = field(default_factory=AutopayRule)
    locale: Locale = "en"
    authorisation_version: str = AUTHORISATION_VERSION

    @property
    def enrolment_id(self) -> UUID:
        """Paypost's id of the enrolment: the same for ever."""
        return fact_id(fact_type="enrolment", key=self.reference)

    def charge_id(self, *, due_date: date) -> UUID:
        """Paypost's id of the one charge of this enrolment and a due date."""
        return fact_id(fact_type="charge", key=f"{self.enrolment_id}:{due_date.isoformat()}")

    def enrolled(self, *, at: datetime) -> AutopayEnrolled:
        """The customer turned autopay on."""
        return AutopayEnrolled(**self._authorisation(at), enrolled_at=at, locale=self.locale)

    def changed(self, *, at: datetime) -> AutopayChanged:
        """The customer authorised what stands here instead of what was before."""
        return AutopayChanged(**self._authorisation(at), changed_at=at)

    def paused(self, *, at: datetime, resume_on: date | None = None) -> AutopayPaused:
        """The customer wants no charges, until a day or until further notice."""
        return AutopayPaused(**self._about(), paused_at=at, resume_on=resume_on)

    def resumed(self, *, at: datetime) -> AutopayResumed:
        """The customer ended a pause."""
        return AutopayResumed(**self._about(), resumed_at=at)

    def cancelled(self, *, at: datetime) -> AutopayCancelled:
        """The customer withdrew the authorisation."""
        return AutopayCancelled(**self._about(), cancelled_at=at)

    def declined_invitation(self, *, at: datetime) -> AutopayInvitationDeclined:
        """The customer of the old portal does not want autopay on the new one."""
        return AutopayInvitationDeclined(account_id=self.account, declined_at=at)

    def _about(self) -> dict[str, Any]:
        return {"account_id": self.account, "enrolment_reference": self.reference}

    def _authorisation(self, at: datetime) -> dict[str, Any]:
        return self._about() | {
            "processor": PROCESSOR,
            "payment_method_token": self.token,
            "customer_token": self.customer_token,
            "mandate_token": self.mandate_token,
            "method": self.method,
            "rule": self.rule,
            "authorisation_version": self.authorisation_version,
            "authorised_at": at,
        }


def subscriber_of(
    *,
    account: str,
    token: str = "pm_card_visa",  # noqa: S107 — Stripe's own test token
    rule: AutopayRule | None = None,
    reference: str | None = None,
) -> Subscriber:
    """A made-up enrolment for an account, always the same one; its method is what the token is."""
    return Subscriber(
        account=account,
        reference=reference or f"enr_{account}",
        token=token,
        method=method_of(token=token),
        customer_token=f"cus_{fact_id(fact_type='customer', key=account).hex[:14]}",
        rule=rule or AutopayRule(),
    )


def method_of(*, token: str) -> PaymentMethod:
    """A payment method as the processor describes it, by its token."""
    behaviour = behaviour_of(token)
    last4 = (behaviour.last4 if behaviour is not None else "") or None
    if behaviour is not None and behaviour.method_type == BANK_METHOD:
        return PaymentMethod(kind="us_bank_account", label="Test Bank", last4=last4)
    return VISA.model_copy(update={"last4": last4 or VISA.last4})


async def state_words(*, state: StackState, words: Sequence[Fact], way: Way = Way.KAFKA) -> None:
    """State what customers said, in this order; returns when it is taken for good.

    Raises:
        KafkaUnavailableError, RefusedRequestError, aiohttp.ClientError: see `say`.
    """
    for start in range(0, len(words), FACTS_IN_CALL_MAX):
        await say(state=state, facts=words[start : start + FACTS_IN_CALL_MAX], way=way)


async def enrol(
    *,
    state: StackState,
    connection: asyncpg.Connection[Any],
    subscribers: Sequence[Subscriber],
    way: Way = Way.KAFKA,
    at: datetime | None = None,
) -> dict[str, int]:
    """Let customers enrol, and wait until autopay-scheduler has answered each.

    Their accounts have to be known: registered at the portal, or billed.

    Returns:
        How many enrolments there are now by status: a refused one is an answer, too.

    Raises:
        TimeoutError: autopay-scheduler has not heard of all of them in time.
    """
    now = at or datetime.now(UTC)
    await state_words(state=state, words=[each.enrolled(at=now) for each in subscribers], way=way)
    ids = [each.enrolment_id for each in subscribers]
    deadline = time.monotonic() + HEARD_TIMEOUT_SECONDS
    while True:
        found = await enrolments_by_status(connection=connection, ids=ids)
        if sum(found.values()) >= len(set(ids)):
            return found
        if time.monotonic() > deadline:
            raise TimeoutError("autopay-scheduler has not heard of all enrolments; see its log")
        await asyncio.sleep(0.05)


async def enrolments_by_status(
    *, connection: asyncpg.Connection[Any], ids: Sequence[UUID]
) -> dict[str, int]:
    """How many of these enrolments autopay-scheduler has, by status."""
    rows = await connection.fetch(
        "SELECT status, count(*) AS n FROM autopay_scheduler.enrolments"
        " WHERE id = ANY($1::uuid[]) GROUP BY status",
        ids,
    )
    return {row["status"]: row["n"] for row in rows}

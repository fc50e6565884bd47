"""What a notification may become, and what an answer of the mail server makes of it; pure.

A mail is said to be sent only after the server took it. One whose answer was lost may be in the
customer's inbox already: it is sent again under the same Message-ID, and counted as a repeat.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Literal
from uuid import UUID

from shared.contracts.notifications import (
    NotificationFailed,
    NotificationSent,
    NotificationSkipped,
)
from shared.contracts.portal import Locale
from shared.ids import fact_id

SkipReason = Literal["no_address", "opted_out", "no_account", "superseded"]


class Kind(StrEnum):
    """What the customer is told."""

    POSTED = "posted"
    REVERSED = "reversed"
    REINSTATED = "reinstated"
    DELAYED = "delayed"
    DECLINED = "declined"


ON_LEDGER = (Kind.POSTED, Kind.REVERSED, Kind.REINSTATED)
"""Each says that a posting is on the ledger: after it, its delay is no news any more."""


class Status(StrEnum):
    """Where a notification stands."""

    DUE = "due"
    """To be sent when `due_at` comes."""
    SENDING = "sending"
    """In somebody's hands until `due_at`; after that it may have been sent, or not."""
    SENT = "sent"
    FAILED = "failed"
    """Refused for good, or refused for now too many times."""
    SKIPPED = "skipped"
    """Nobody to tell, or nothing to tell any more."""


UNSETTLED = frozenset({Status.DUE, Status.SENDING})

TRANSITIONS: Mapping[tuple[Status | None, Status], str | None] = MappingProxyType(
    {
        (None, Status.SENDING): None,
        (None, Status.DUE): None,
        (None, Status.SKIPPED): NotificationSkipped.TYPE,
        (Status.DUE, Status.SENDING): None,
        (Status.DUE, Status.SKIPPED): NotificationSkipped.TYPE,
        (Status.SENDING, Status.SENDING): None,
        (Status.SENDING, Status.DUE): None,
        (Status.SENDING, Status.SENT): NotificationSent.TYPE,
        (Status.SENDING, Status.FAILED): NotificationFailed.TYPE,
        (Status.SENDING, Status.SKIPPED): NotificationSkipped.TYPE,
    }
)
"""Every allowed change of status and the type of the fact that states it."""


class Outcome(StrEnum):
    """What the mail server, or the way to it, made of one message."""

    SENT = "sent"
    DEFERRED = "deferred"
    """The server wants this message later (4xx)."""
    REFUSED = "refused"
    """The server will never take this message (5xx)."""
    UNAVAILABLE = "unavailable"
    """Known not to have been sent, for no fault of the message: the server is away or busy."""
    LOST = "lost"
    """Sent; no answer. May have been delivered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One thing that one customer is to be told, once."""

    id: UUID
    kind: Kind
    payment_id: UUID
    posting_key: UUID | None
    account_id: str | None
    amount_cents: int
    currency: str
    effective_date: date | None
    balance_after_cents: int | None
    accepted_at: datetime | None
    """When the customer paid; None for a decline, since nothing was accepted."""
    happened_at: datetime
    traceparent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """How the customer of an account is to be reached, as the portal last said."""

    account_id: str
    name: str
    email: str | None
    locale: Locale
    email_opted_out: bool | None
    """None where the fact says nothing of it: what was said before stays."""
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A notification in hand: whose contact it goes to, who works on it until when."""

    notification: Notification
    contact: Contact
    attempts: int
    repeats: int
    lease: UUID
    leased_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was learnt about one message."""

    outcome: Outcome
    reason: str | None = None
    attempted: bool = True
    """Whether the mail server was asked at all."""


NOT_SENT = Answer(outcome=Outcome.UNAVAILABLE, reason="not_sent", attempted=False)
"""Nothing was tried: the breaker is open, or the lease would not have lasted."""

UNCOMPOSABLE = Answer(outcome=Outcome.REFUSED, reason="uncomposable", attempted=False)
"""A defect of ours: no message could be made of the notification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of a notification."""

    status: Status
    reason: str | None = None
    attempts: int
    repeats: int


def notification_id(*, kind: Kind, key: UUID) -> UUID:
    """Return the id of the one notification of this kind about this posting or fact."""
    return fact_id(fact_type="notification", key=f"{kind}:{key}")


def ledger_notification_ids(posting_key: UUID) -> list[UUID]:
    """Return the ids that a notification about this posting's being on the ledger can have."""
    return [notification_id(kind=kind, key=posting_key) for kind in ON_LEDGER]


def skip_reason(*, notification: Notification, contact: Contact | None) -> SkipReason | None:
    """Return why there is nobody to tell, or None where there is somebody."""
    if notification.account_id is None:
        return "no_account"
    if contact is None or contact.email is None:
        return "no_address"
    if contact.email_opted_out:
        return "opted_out"
    return None


def decide(*, attempt: Attempt, answer: Answer, attempts_max: int) -> Decision:
    """Return what an answer makes of a notification that is being sent.

    An outage of the mail server uses up no attempt: it delays, and fails nothing.
    """
    attempts = attempt.attempts + (0 if answer.outcome is Outcome.UNAVAILABLE else 1)
    repeats = attempt.repeats + (1 if answer.outcome is Outcome.LOST else 0)
    match answer.outcome:
        case Outcome.SENT:
            return Decision(status=Status.SENT, attempts=attempts, repeats=repeats)
        case Outcome.REFUSED:
            status, reason = Status.FAILED, answer.reason
        case Outcome.UNAVAILABLE:
            status, reason = Status.DUE, answer.reason
        case Outcome.DEFERRED | Outcome.LOST:
            status = Status.FAILED if attempts >= attempts_max else Status.DUE
            reason = answer.reason
    return Decision(
        status=status, reason=reason or str(answer.outcome), attempts=attempts, repeats=repeats
    )


def latest_contacts(stated: Iterable[Contact]) -> list[Contact]:
    """Return one contact an account: the last by its own time, with what it left unsaid."""
    latest: dict[str, Contact] = {}
    for contact in sorted(stated, key=lambda each: each.changed_at):
        before = latest.get(contact.account_id)
        if contact.email_opted_out is None and before is not None:
            latest[contact.account_id] = replace(contact, email_opted_out=before.email_opted_out)
        else:
            latest[contact.account_id] = contact
    return list(latest.values())

"""What a notification may become, and what an answer of the mail server makes of it; pure.

A mail is said to be sent only after the server took it. One whose answer was lost may be in the
customer's inbox already: it is sent again under the same Message-ID, and counted as a repeat.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Literal
from uuid import UUID

from shared.contracts.autopay import (
    ChargeAnnounced,
    ChargeClosed,
    ChargeFailed,
    ChargeHeld,
    EnrolmentActivated,
    EnrolmentInvited,
    EnrolmentRefused,
    EnrolmentStopped,
    MethodExpiring,
)
from shared.contracts.notifications import (
    NotificationFailed,
    NotificationSent,
    NotificationSkipped,
    notification_id,
)
from shared.contracts.portal import Locale

SkipReason = Literal["no_address", "opted_out", "no_account", "superseded"]


class Kind(StrEnum):
    """What the customer is told."""

    POSTED = "posted"
    REVERSED = "reversed"
    REINSTATED = "reinstated"
    DELAYED = "delayed"
    DECLINED = "declined"
    AUTOPAY_STARTED = "autopay_started"
    AUTOPAY_REFUSED = "autopay_refused"
    AUTOPAY_STOPPED = "autopay_stopped"
    AUTOPAY_INVITED = "autopay_invited"
    AUTOPAY_REMINDED = "autopay_reminded"
    CHARGE_ANNOUNCED = "charge_announced"
    CHARGE_HELD = "charge_held"
    CHARGE_DECLINED = "charge_declined"
    CHARGE_MISSED = "charge_missed"
    CHARGE_REFUNDED = "charge_refunded"
    METHOD_EXPIRING = "method_expiring"


AutopayFact = (
    EnrolmentActivated
    | EnrolmentRefused
    | EnrolmentStopped
    | EnrolmentInvited
    | MethodExpiring
    | ChargeAnnounced
    | ChargeHeld
    | ChargeFailed
    | ChargeClosed
)
"""What of autopay.v1 a customer may be told."""

FACT_TOLD: Mapping[Kind, type[AutopayFact]] = MappingProxyType(
    {
        Kind.AUTOPAY_STARTED: EnrolmentActivated,
        Kind.AUTOPAY_REFUSED: EnrolmentRefused,
        Kind.AUTOPAY_STOPPED: EnrolmentStopped,
        Kind.AUTOPAY_INVITED: EnrolmentInvited,
        Kind.AUTOPAY_REMINDED: EnrolmentInvited,
        Kind.CHARGE_ANNOUNCED: ChargeAnnounced,
        Kind.CHARGE_HELD: ChargeHeld,
        Kind.CHARGE_DECLINED: ChargeFailed,
        Kind.CHARGE_MISSED: ChargeClosed,
        Kind.CHARGE_REFUNDED: ChargeClosed,
        Kind.METHOD_EXPIRING: MethodExpiring,
    }
)
"""Each kind of notice of autopay tells one fact, and its notification holds it whole."""

OF_PAYMENTS = tuple(kind for kind in Kind if kind not in FACT_TOLD)
"""Each tells of one payment: its notification names it and its amount."""

OWED = frozenset(
    {
        Kind.AUTOPAY_STARTED,
        Kind.AUTOPAY_REFUSED,
        Kind.AUTOPAY_STOPPED,
        Kind.CHARGE_ANNOUNCED,
        Kind.CHARGE_HELD,
        Kind.CHARGE_DECLINED,
        Kind.CHARGE_MISSED,
        Kind.CHARGE_REFUNDED,
    }
)
"""Told to customers who want no e-mail, too: the city owes it to whomever it charges.

The copy of the authorisation is owed by 12 CFR 1005.10(b), the notice of amount and day before a
charge that varies by 12 CFR 1005.10(d). The others say that money which the customer counts on
does not move as agreed: without them a bill goes unpaid, and nobody knows. None advertises
anything: each is a transactional message (15 U.S.C. 7702(17)(A)), which no opt-out ends.

Not among them are invitations, reminders and warnings of a card's expiry: they ask for something
that the customer may leave undone. An expired card is told of by its decline; whoever was not
invited is known to autopay by `notification.skipped`, so that a clerk can call.
"""

ON_LEDGER = (Kind.POSTED, Kind.REVERSED, Kind.REINSTATED)
"""Each says that a posting is on the ledger: after it, its delay is no news any more."""

LATER_VERSIONS_MAX = 3
"""How many later announcements of a charge are looked for. They count up one by one and come in
order, so that the next is there if any is; one more or two, since a crash may reorder them."""

_DAY_EVERYWHERE = timedelta(hours=36)
"""From a day's first hour in UTC to its last in the westernmost zone."""


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
    about: UUID | None = None
    """The id of the fact that it tells of; None in what was taken before this was kept."""
    payment_id: UUID | None = None
    """None where it tells of no payment, as an announcement does."""
    posting_key: UUID | None = None
    account_id: str | None
    amount_cents: int | None = None
    currency: str | None = None
    """Of the amount; None where there is none."""
    effective_date: date | None = None
    balance_after_cents: int | None = None
    accepted_at: datetime | None = None
    """When the customer paid; None for a decline, since nothing was accepted."""
    happened_at: datetime
    traceparent: str | None = None
    fact: AutopayFact | None = None
    """What a notice of autopay tells, whole; None for what is told of a payment."""


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


def ledger_notification_ids(posting_key: UUID) -> list[UUID]:
    """Return the ids that a notification about this posting's being on the ledger can have."""
    return [notification_id(kind=kind, key=posting_key) for kind in ON_LEDGER]


def kind_told(fact: AutopayFact) -> Kind | None:
    """Return what the customer is told by a fact of autopay, if anything.

    A charge that was paid is confirmed when it is posted; one that was skipped or cancelled is
    what the customer brought about.
    """
    match fact:
        case EnrolmentActivated():
            return Kind.AUTOPAY_STARTED
        case EnrolmentRefused():
            return Kind.AUTOPAY_REFUSED
        case EnrolmentStopped():
            return Kind.AUTOPAY_STOPPED
        case EnrolmentInvited():
            return Kind.AUTOPAY_INVITED if fact.invitation == 1 else Kind.AUTOPAY_REMINDED
        case MethodExpiring():
            return Kind.METHOD_EXPIRING
        case ChargeAnnounced():
            return Kind.CHARGE_ANNOUNCED
        case ChargeHeld():
            return Kind.CHARGE_HELD
        case ChargeFailed():
            return Kind.CHARGE_DECLINED
        case ChargeClosed(outcome="missed"):
            return Kind.CHARGE_MISSED
        case ChargeClosed(outcome="refunded"):
            return Kind.CHARGE_REFUNDED
        case ChargeClosed():
            return None


def superseding_ids(notification: Notification) -> list[UUID]:
    """Return the ids of what leaves nothing to tell here, once any of it is taken.

    A delay is no news after its posting; an announcement is none after a later one of its charge.
    """
    if notification.kind is Kind.DELAYED and notification.posting_key is not None:
        return ledger_notification_ids(notification.posting_key)
    if isinstance(fact := notification.fact, ChargeAnnounced):
        versions = range(fact.version + 1, fact.version + 1 + LATER_VERSIONS_MAX)
        later = (fact.model_copy(update={"version": version}) for version in versions)
        return [notification_id(kind=notification.kind, key=each.id()) for each in later]
    return []


def is_past(*, notification: Notification, taken_at: datetime, now: datetime) -> bool:
    """Return whether an announcement has waited here until its day was over: it would be untrue.

    Only the time that it has waited is measured, so that no two clocks are compared.
    """
    fact = notification.fact
    if not isinstance(fact, ChargeAnnounced):
        return False
    ahead = fact.charge_on - fact.announced_at.date()
    return now - taken_at > ahead + _DAY_EVERYWHERE


def addressee(*, notification: Notification, contact: Contact | None) -> Contact | None:
    """Return to whom it goes: the contact on file, but for whoever is invited.

    An invitation carries its own: who had autopay on the old portal need not be known here. If
    they are, their opt-out counts.
    """
    fact = notification.fact
    if not isinstance(fact, EnrolmentInvited):
        return contact
    return Contact(
        account_id=fact.account_id,
        name=fact.name,
        email=fact.email,
        locale=fact.locale,
        email_opted_out=contact.email_opted_out if contact is not None else None,
        changed_at=fact.invited_at,
    )


def skip_reason(*, notification: Notification, contact: Contact | None) -> SkipReason | None:
    """Return why the addressee cannot be told, or None where there is one who can."""
    if notification.account_id is None:
        return "no_account"
    if contact is None or contact.email is None:
        return "no_address"
    if contact.email_opted_out and notification.kind not in OWED:
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

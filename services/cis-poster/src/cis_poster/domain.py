"""What a posting may become, and what an answer of the CIS makes of it; pure.

"Unknown" is a status, not an exception: a call whose answer was lost may have taken effect, so
the CIS is asked by the posting's key before anything is sent again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from types import MappingProxyType
from uuid import UUID

from shared.contracts.postings import (
    PostingDeferred,
    PostingPosted,
    PostingReturned,
    PostingReversed,
    PostingSuspended,
)


class Kind(StrEnum):
    """What is posted: a credit, its taking back, or the taking back of that."""

    PAYMENT = "payment"
    REVERSAL = "reversal"
    REINSTATEMENT = "reinstatement"


class Status(StrEnum):
    """Where a posting stands."""

    DUE = "due"
    """To be sent when `due_at` comes; never sent, or known not to have taken effect."""
    ATTEMPTING = "attempting"
    """In somebody's hands until `due_at`; after that its outcome counts as unknown."""
    UNKNOWN = "unknown"
    """Sent without an answer; the CIS is asked when `due_at` comes."""
    WAITING = "waiting"
    """A reversal, or a reinstatement, whose payment is not on the ledger yet; never sent."""
    POSTED = "posted"
    SUSPENDED = "suspended"
    """Refused with a reason; an operator releases or returns it."""
    CONFLICTED = "conflicted"
    """The CIS holds this key with other content: nothing more is sent, somebody looks."""
    RETURNED = "returned"
    """An operator gave the money back; never posted."""


UNSETTLED = frozenset({Status.DUE, Status.ATTEMPTING, Status.UNKNOWN})
"""What holds up the later postings of the same account."""

_ON_LEDGER = f"{PostingPosted.TYPE}|{PostingReversed.TYPE}"

TRANSITIONS: Mapping[tuple[Status | None, Status], str | None] = MappingProxyType(
    {
        (None, Status.ATTEMPTING): None,
        (None, Status.DUE): PostingDeferred.TYPE,
        (None, Status.WAITING): None,
        (None, Status.SUSPENDED): PostingSuspended.TYPE,
        (Status.DUE, Status.ATTEMPTING): None,
        (Status.UNKNOWN, Status.ATTEMPTING): None,
        (Status.ATTEMPTING, Status.ATTEMPTING): None,
        (Status.ATTEMPTING, Status.POSTED): _ON_LEDGER,
        (Status.ATTEMPTING, Status.DUE): PostingDeferred.TYPE,
        (Status.ATTEMPTING, Status.UNKNOWN): PostingDeferred.TYPE,
        (Status.ATTEMPTING, Status.SUSPENDED): PostingSuspended.TYPE,
        (Status.ATTEMPTING, Status.CONFLICTED): PostingSuspended.TYPE,
        (Status.WAITING, Status.DUE): None,
        (Status.WAITING, Status.RETURNED): PostingReturned.TYPE,
        (Status.SUSPENDED, Status.DUE): None,
        (Status.SUSPENDED, Status.RETURNED): PostingReturned.TYPE,
        (Status.CONFLICTED, Status.DUE): None,
        (Status.CONFLICTED, Status.RETURNED): PostingReturned.TYPE,
    }
)
"""Every allowed change of status and the type of the fact that states it."""


class Outcome(StrEnum):
    """What the CIS, or the way to it, made of a call."""

    APPLIED = "applied"
    EXISTS = "exists"
    CONFLICT = "conflict"
    REFUSED = "refused"
    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"
    """Known not to have taken effect: never sent, or refused as a whole."""
    LOST = "lost"
    """Sent; no answer, or one that cannot be understood. May have taken effect."""


ACCOUNT_MISSING = "account_missing"
AMOUNT_CONFLICT = "amount_conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """One effect wanted on the ledger, under a key that never expires."""

    id: UUID
    payment_id: UUID
    kind: Kind
    account_id: str | None
    amount_cents: int
    currency: str
    effective_date: date
    accepted_at: datetime
    processor: str
    reference: str
    reason_code: str | None
    traceparent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A posting in hand: who works on it until when, and what is known of earlier tries."""

    posting: Posting
    attempts: int
    ask_first: bool
    """Whether an earlier try may have taken effect."""
    leased_until: datetime
    last_reason: str | None = None
    suspensions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was learnt about one posting."""

    outcome: Outcome
    reason: str | None = None
    cis_reference: str | None = None
    balance_cents: int | None = None
    posted_at: datetime | None = None
    amount_cents: int | None = None
    account_id: str | None = None
    attempted: bool = True
    """False where nothing was sent: neither a try to count nor a question to ask."""


CIS_UNAVAILABLE = "cis_unavailable"
NOT_SENT = Answer(outcome=Outcome.UNAVAILABLE, reason=CIS_UNAVAILABLE, attempted=False)
"""Held back because the CIS does not answer, or the lease was about to run out."""
HELD_BACK = Answer(outcome=Outcome.UNAVAILABLE, reason="earlier_posting_open", attempted=False)
"""Held back because an earlier posting of the account is an open question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of a posting."""

    status: Status
    reason: str | None = None


def decide(*, posting: Posting, answer: Answer) -> Decision:
    """Return what an answer makes of a posting that is being attempted."""
    match answer.outcome:
        case Outcome.APPLIED:
            return Decision(status=Status.POSTED)
        case Outcome.EXISTS:
            if _is_other(posting, answer):
                return Decision(status=Status.CONFLICTED, reason=AMOUNT_CONFLICT)
            return Decision(status=Status.POSTED)
        case Outcome.CONFLICT:
            return Decision(status=Status.CONFLICTED, reason=AMOUNT_CONFLICT)
        case Outcome.REFUSED:
            return Decision(status=Status.SUSPENDED, reason=answer.reason or "refused")
        case Outcome.UNAVAILABLE:
            return Decision(status=Status.DUE, reason=answer.reason or CIS_UNAVAILABLE)
        case Outcome.LOST:
            return Decision(status=Status.UNKNOWN, reason=answer.reason or "answer_lost")
        case Outcome.NOT_FOUND:
            return Decision(status=Status.DUE, reason="not_found")


def _is_other(posting: Posting, answer: Answer) -> bool:
    """Whether what the CIS holds under our key is not what we want posted."""
    if answer.amount_cents is not None and answer.amount_cents != posting.amount_cents:
        return True
    return answer.account_id is not None and answer.account_id != posting.account_id


def next_status(*, attempt: Attempt, answer: Answer, decision: Decision) -> Status:
    """Return the status to write: what may have taken effect stays a question until answered."""
    if decision.status is Status.DUE and attempt.ask_first and not answer.attempted:
        return Status.UNKNOWN
    return decision.status


def states_deferral(*, attempt: Attempt, decision: Decision) -> bool:
    """Return whether a deferral is worth a fact: the first one, and each change of reason."""
    return decision.status in (Status.DUE, Status.UNKNOWN) and decision.reason not in {
        HELD_BACK.reason,
        attempt.last_reason,
    }

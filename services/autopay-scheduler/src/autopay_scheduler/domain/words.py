"""What the portal says of autopay, and what each word makes of an enrolment; pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum

from autopay_scheduler.domain.enrolments import (
    ON,
    Enrolment,
    EnrolmentRecord,
    EnrolmentStatus,
    Refusal,
    enrolment_id,
    method_refusal,
    refusal,
)


class WordKind(StrEnum):
    """What the customer did."""

    ENROLLED = "enrolled"
    CHANGED = "changed"
    PAUSED = "paused"
    RESUMED = "resumed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One word of the customer, by the portal's own time."""

    kind: WordKind
    account_id: str
    reference: str
    at: datetime
    enrolment: Enrolment | None = None
    """What was authorised, where the word is an authorisation."""
    resume_on: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a word made of an enrolment: what is to be kept, and what it was."""

    record: EnrolmentRecord
    is_activated: bool = False
    is_stopped: bool = False
    refusal: Refusal | None = None


def hear(
    word: Word,
    *,
    known: EnrolmentRecord | None,
    other: EnrolmentRecord | None,
    is_account_known: bool,
    token_prefixes: Mapping[str, tuple[str, ...]],
    limit_cents: int,
    now: datetime,
) -> Heard | None:
    """Return what a word makes of an enrolment; None where it changes nothing.

    Words may come late or in another order: what the portal said last by its own time holds, and
    a cancellation holds for good, even where its enrolment is heard of after it.

    Args:
        word: what was said.
        known: the enrolment of that reference.
        other: another one that is on for the account.
        is_account_known: whether the CIS or the portal has ever named the account.
        token_prefixes: by processor, how its tokens begin.
        limit_cents: the most that the city charges at once.
        now: when it is heard.
    """
    if word.kind is WordKind.CANCELLED:
        return _cancelled(word, known, now)
    if known is None:
        if word.enrolment is None:
            # A pause of what is not known: its enrolment, or nothing, comes after.
            return None
        found = refusal(
            enrolment=word.enrolment,
            is_account_known=is_account_known,
            has_other=other is not None,
            token_prefixes=token_prefixes,
            limit_cents=limit_cents,
        )
        return _new(word, word.enrolment, found, now)
    if known.status not in ON or known.enrolment is None or word.at <= known.word_at:
        return None
    match word.kind:
        case WordKind.PAUSED:
            return _kept(known, known.enrolment, word, EnrolmentStatus.PAUSED, word.resume_on)
        case WordKind.RESUMED:
            return _kept(known, known.enrolment, word, EnrolmentStatus.ACTIVE, None)
        case _:
            return _changed(word, known, known.enrolment, token_prefixes, limit_cents)


def _new(word: Word, enrolment: Enrolment, found: Refusal | None, now: datetime) -> Heard:
    record = EnrolmentRecord(
        id=enrolment.id,
        account_id=enrolment.account_id,
        reference=enrolment.reference,
        status=EnrolmentStatus.REFUSED if found else EnrolmentStatus.ACTIVE,
        reason=found.reason if found else None,
        enrolment=replace(
            enrolment, status=EnrolmentStatus.REFUSED if found else EnrolmentStatus.ACTIVE
        ),
        word_at=word.at,
        taken_at=now,
        ended_at=now if found else None,
    )
    return Heard(record=record, is_activated=found is None, refusal=found)


def _changed(
    word: Word,
    known: EnrolmentRecord,
    held: Enrolment,
    token_prefixes: Mapping[str, tuple[str, ...]],
    limit_cents: int,
) -> Heard | None:
    if word.enrolment is None:
        return None
    found = method_refusal(
        enrolment=word.enrolment, token_prefixes=token_prefixes, limit_cents=limit_cents
    )
    if found is not None:
        # What was authorised before stays in force.
        return Heard(record=replace(known, word_at=word.at), refusal=found)
    enrolment = replace(
        word.enrolment,
        id=known.id,
        account_id=known.account_id,
        status=known.status,
        locale=held.locale,
        resume_on=held.resume_on,
    )
    record = replace(known, enrolment=enrolment, word_at=word.at)
    return Heard(record=record, is_activated=True)


def _kept(
    known: EnrolmentRecord,
    held: Enrolment,
    word: Word,
    status: EnrolmentStatus,
    resume_on: date | None,
) -> Heard:
    enrolment = replace(held, status=status, resume_on=resume_on, word_at=word.at)
    return Heard(record=replace(known, status=status, enrolment=enrolment, word_at=word.at))


def _cancelled(word: Word, known: EnrolmentRecord | None, now: datetime) -> Heard | None:
    if known is None:
        record = EnrolmentRecord(
            id=enrolment_id(word.reference),
            account_id=word.account_id,
            reference=word.reference,
            status=EnrolmentStatus.STOPPED,
            reason="cancelled",
            enrolment=None,
            word_at=word.at,
            taken_at=now,
            ended_at=now,
        )
        return Heard(record=record)
    if known.status not in ON:
        return None
    return Heard(record=replace(known, word_at=max(word.at, known.word_at)), is_stopped=True)

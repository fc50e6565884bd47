"""The move from the old portal: who is still to enrol, when they are asked, what is drafted there.

Invariant: what stands here has no payment method and no way to a charge. Only the customer's own
enrolment on the new portal, with an authorisation of its own, can be charged.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from types import MappingProxyType


class ReenrolmentStatus(StrEnum):
    """Where an imported enrolment stands."""

    AWAITING = "awaiting"
    """The customer has not enrolled on the new portal yet."""
    ENROLLED = "enrolled"
    DECLINED = "declined"
    """The customer does not want autopay any more."""
    PAST = "past"
    """The invitations are over, unanswered."""


class ReenrolmentEvent(StrEnum):
    """What has happened to an imported enrolment: its history, never deleted."""

    IMPORTED = "imported"
    CHANGED = "changed"
    """A later import said something else of it."""
    INVITED = "invited"
    REMINDED = "reminded"
    ENROLLED = "enrolled"
    DECLINED = "declined"
    PAST = "past"


REENROLMENT_TRANSITIONS: Mapping[
    tuple[ReenrolmentStatus | None, ReenrolmentStatus], ReenrolmentEvent
] = MappingProxyType(
    {
        (None, ReenrolmentStatus.AWAITING): ReenrolmentEvent.IMPORTED,
        (ReenrolmentStatus.AWAITING, ReenrolmentStatus.AWAITING): ReenrolmentEvent.CHANGED,
        (ReenrolmentStatus.AWAITING, ReenrolmentStatus.ENROLLED): ReenrolmentEvent.ENROLLED,
        (ReenrolmentStatus.AWAITING, ReenrolmentStatus.DECLINED): ReenrolmentEvent.DECLINED,
        (ReenrolmentStatus.AWAITING, ReenrolmentStatus.PAST): ReenrolmentEvent.PAST,
        # Late, or on second thoughts: what the customer does counts.
        (ReenrolmentStatus.PAST, ReenrolmentStatus.ENROLLED): ReenrolmentEvent.ENROLLED,
        (ReenrolmentStatus.PAST, ReenrolmentStatus.DECLINED): ReenrolmentEvent.DECLINED,
        (ReenrolmentStatus.DECLINED, ReenrolmentStatus.ENROLLED): ReenrolmentEvent.ENROLLED,
    }
)
"""Every allowed change of status and what it is called in the history."""


def may_become(after: ReenrolmentStatus) -> Sequence[ReenrolmentStatus]:
    """Return from which other statuses one may be reached."""
    return [
        before
        for before, then in REENROLMENT_TRANSITIONS
        if then is after and before is not None and before is not after
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """When customers are asked to enrol again."""

    after_days: Sequence[int] = (0, 7, 14, 28)
    """Days after the import; the first is the invitation, the others are reminders."""
    before_due_days: Sequence[int] = (10, 3)
    """Days before the next due date that would be missed."""
    gap_days: int = 2
    """Never two messages closer than this: the earlier one stands for both."""
    until_days: int = 90
    """Days after the import; then the customer is left alone."""


def next_invitation(
    *,
    imported_on: date,
    last_sent_on: date | None,
    next_due_date: date | None,
    today: date,
    rhythm: Rhythm,
) -> date | None:
    """Return the day of the next message, today where one is due; None where none is planned.

    A day that passed while nothing ran is made up for by one message, not by one for each. A day
    that a message was sent on, or shortly before, is done with. A bill that comes later may bring
    a day that nobody could know of: ask again each day.

    Args:
        imported_on: the city's day of the import.
        last_sent_on: the day of the last message about it, if there was one.
        next_due_date: the first due date from today on that nothing covers, where one is known.
        today: the city's day.
        rhythm: the city's rule.
    """
    if is_over(imported_on=imported_on, today=today, rhythm=rhythm):
        return None
    days = {imported_on + timedelta(days=days) for days in rhythm.after_days}
    if next_due_date is not None:
        days |= {next_due_date - timedelta(days=days) for days in rhythm.before_due_days}
    if last_sent_on is not None:
        days = {day for day in days if day >= last_sent_on + timedelta(days=rhythm.gap_days)}
    planned = max(min(days), today) if days else None
    last_day = imported_on + timedelta(days=rhythm.until_days)
    return planned if planned is not None and planned <= last_day else None


def is_over(*, imported_on: date, today: date, rhythm: Rhythm) -> bool:
    """Return whether the customer is left alone from now on."""
    return today > imported_on + timedelta(days=rhythm.until_days)


DRAFT_WINDOW_DAYS = 27
"""How long before a due date a draft for it may come: less than the shortest month has days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OldDraft:
    """A draft that the old portal has still scheduled, as its list says."""

    draft_date: date | None
    due_date: date | None


def has_old_draft(
    due_date: date,
    *,
    drafts: Iterable[OldDraft],
    due_dates: Iterable[date],
    late_grace_days: int,
) -> bool:
    """Return whether the old portal still drafts what is due on a day: it is not charged here.

    A draft that names its due date is for that one. Any other is for the earliest due date D with
    D - 27 days < draft date ≤ D + `late_grace_days`: for one, so that no draft keeps two due dates
    from being charged.

    Args:
        due_date: the one that is asked about.
        drafts: all that the old portal has scheduled for the account.
        due_dates: of all open bills of the account.
        late_grace_days: how long after the due date a draft may come.
    """
    earlier = [day for day in due_dates if day < due_date]
    for draft in drafts:
        if draft.due_date is not None:
            if draft.due_date == due_date:
                return True
        elif draft.draft_date is not None and (
            _can_be_for(draft.draft_date, due_date, late_grace_days)
            and not any(_can_be_for(draft.draft_date, day, late_grace_days) for day in earlier)
        ):
            return True
    return False


def _can_be_for(draft_date: date, due_date: date, late_grace_days: int) -> bool:
    earliest = due_date - timedelta(days=DRAFT_WINDOW_DAYS)
    return earliest < draft_date <= due_date + timedelta(days=late_grace_days)

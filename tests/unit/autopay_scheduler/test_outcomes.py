"""What intake's statements make of charges, over every status; the scenarios run on PostgreSQL."""

from dataclasses import replace
from datetime import UTC, date, datetime, time
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from autopay_scheduler.domain.charges import Status, may
from autopay_scheduler.domain.city import City
from autopay_scheduler.domain.days import BusinessDays, Calendar
from autopay_scheduler.domain.declines import Decline
from autopay_scheduler.domain.notices import NoticeRule
from autopay_scheduler.domain.outcomes import Outcome, OutcomeKind, follow, return_name
from autopay_scheduler.domain.planning import ChargeRecord

NOW = datetime(2026, 3, 20, 18, 0, tzinfo=UTC)
CITY = City(
    calendar=Calendar(
        zone=ZoneInfo("America/Chicago"),
        is_closed=lambda day: day.weekday() >= 5,
        business_days=BusinessDays.BEFORE,
        charge_time=time(6, 0),
    ),
    notice=NoticeRule(days=10, charge_unnotified=False),
    late_grace_days=3,
    retry_days=(3, 7),
    least_cents=50,
    limit_cents=1_000_000,
    given_up_max=3,
    currency="USD",
    token_prefixes={},
    expiry_warning_days=(60, 30, 7),
)
ASKED = ChargeRecord(
    id=UUID(int=1),
    enrolment_id=UUID(int=2),
    account_id="A-1",
    bill_reference="B-1",
    due_date=date(2026, 3, 20),
    planned_on=date(2026, 3, 2),
    chosen_on=date(2026, 3, 20),
    charge_on=date(2026, 3, 20),
    amount_cents=8_000,
    currency="USD",
    status=Status.REQUESTED,
    act_at=NOW,
    attempt=1,
    first_attempt_on=date(2026, 3, 20),
    requested_cents=8_000,
    requested_at=NOW,
)
DECLINES = [
    Decline(id="ch_1", category=category, code="x")  # type: ignore[arg-type]
    for category in ("soft", "hard", "withdrawn", "action_required")
]
NEVER_STATED = {
    # Only ours to decide, before intake was asked.
    *(Status.PLANNED, Status.ANNOUNCED, Status.HELD),
}


def outcome(kind: OutcomeKind, **parts: object) -> Outcome:
    known = {"charge_id": ASKED.id, "at": NOW, "amount_cents": 8_000, "payment_id": UUID(int=3)}
    return Outcome(kind=kind, **{**known, **parts})  # type: ignore[arg-type]


def after(record: ChargeRecord, *outcomes: Outcome) -> ChargeRecord:
    for each in outcomes:
        followed = follow(record, each, is_bank_debit=False, city=CITY, now=NOW)
        record = followed.record if followed else record
    return record


def outcomes() -> list[Outcome]:
    return [
        *(outcome(kind) for kind in OutcomeKind if kind not in _WITH_DECLINE),
        *(outcome(kind, decline=each) for kind in _WITH_DECLINE for each in DECLINES),
        outcome(OutcomeKind.WITHDRAWN, attempt=1, reason="cancelled"),
        outcome(OutcomeKind.WITHDRAWN, attempt=1, reason="expired"),
        outcome(OutcomeKind.GIVEN_BACK, attempt=1, reason="cancelled"),
    ]


_WITH_DECLINE = (OutcomeKind.DECLINED, OutcomeKind.RETURNED)


class TestFollow:
    @pytest.mark.parametrize("status", sorted(set(Status) - NEVER_STATED))
    def test_changes_a_status_only_as_the_table_allows(self, status: Status) -> None:
        record = replace(ASKED, status=status, paid_cents=8_000 if status == "paid" else None)
        for each in outcomes():
            changed = after(record, each).status
            is_allowed = changed is status or may(status, changed)
            assert is_allowed, f"{status} became {changed} by {each.kind} {each.reason}"

    @pytest.mark.parametrize("status", list(Status))
    def test_the_same_again_changes_nothing_more(self, status: Status) -> None:
        record = replace(ASKED, status=status)
        for each in outcomes():
            once = after(record, each)
            assert after(once, each) == once, each.kind

    @pytest.mark.parametrize("status", list(Status))
    def test_moves_nothing_that_was_never_asked_for(self, status: Status) -> None:
        record = replace(ASKED, status=status, attempt=0, requested_cents=None)
        for each in outcomes():
            if status not in (Status.REQUESTED, Status.PENDING):
                assert after(record, each).status is status, each.kind

    @pytest.mark.parametrize("status", list(Status))
    def test_is_looked_at_again_as_long_as_it_is_open_and_not_after(self, status: Status) -> None:
        is_open = status in (Status.REQUESTED, Status.PENDING, Status.RETRYING)
        record = replace(ASKED, status=status, act_at=NOW if is_open else None)
        for each in outcomes():
            found = after(record, each)
            if found.status is not status:
                is_open_now = found.status in (Status.PENDING, Status.RETRYING)
                assert (found.act_at is not None) is is_open_now, (each.kind, found.status)

    def test_remembers_a_return_whatever_came_first(self) -> None:
        name = return_name(UUID(int=9))
        returned = outcome(
            OutcomeKind.RETURNED, decline=Decline(id=name, category="soft", code="R01")
        )
        paid = outcome(OutcomeKind.PAID)
        for told in ((paid, returned), (returned, paid), (paid, returned, paid, returned)):
            assert after(ASKED, *told).status is Status.FAILED

    def test_presents_nothing_again_after_a_cancellation(self) -> None:
        record = replace(ASKED, cancelled_at=NOW)
        declined = outcome(OutcomeKind.DECLINED, decline=DECLINES[0])
        followed = follow(record, declined, is_bank_debit=False, city=CITY, now=NOW)
        assert followed is not None
        assert followed.following is not None
        assert (followed.record.status, followed.following.step) == (Status.FAILED, "give_up")

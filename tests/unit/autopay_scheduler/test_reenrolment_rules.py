from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopay_scheduler.domain.reenrolment import (
    REENROLMENT_TRANSITIONS,
    OldDraft,
    ReenrolmentStatus,
    Rhythm,
    has_old_draft,
    is_over,
    may_become,
    next_invitation,
)

RHYTHM = Rhythm()
IMPORTED = date(2026, 3, 2)


def day(text: str) -> date:
    return date.fromisoformat(f"2026-{text}")


class TestRhythm:
    @pytest.mark.parametrize(
        ("today", "last_sent", "due", "expected"),
        [
            # The invitation, at once.
            ("03-02", None, None, "03-02"),
            ("03-02", None, "04-20", "03-02"),
            # A week later, two, four.
            ("03-03", "03-02", None, "03-09"),
            ("03-09", "03-02", None, "03-09"),
            ("03-10", "03-09", None, "03-16"),
            ("03-17", "03-16", None, "03-30"),
            # Then nothing, until a due date is known.
            ("03-31", "03-30", None, None),
            ("03-31", "03-30", "04-20", "04-10"),
            ("04-11", "04-10", "04-20", "04-17"),
            ("04-18", "04-17", "04-20", None),
            ("04-21", "04-17", "05-20", "05-10"),
            # A due date comes between.
            ("03-03", "03-02", "03-15", "03-05"),
            ("03-06", "03-05", "03-15", "03-09"),
            ("03-10", "03-09", "03-15", "03-12"),
            # Two days within the gap are one message; the day after it is not.
            ("03-09", "03-02", "03-20", "03-09"),
            ("03-10", "03-09", "03-20", "03-16"),
            ("03-10", "03-09", "03-21", "03-11"),
            # A bill that comes late is said at once.
            ("04-04", "03-30", "04-12", "04-04"),
            # Nothing ran for three weeks: one message, not three.
            ("03-25", "03-02", None, "03-25"),
            ("03-26", "03-25", None, "03-30"),
            # It was never begun: still one.
            ("04-15", None, None, "04-15"),
            # The last day, and the day after.
            ("05-31", None, None, "05-31"),
            ("06-01", None, None, None),
            ("06-01", "03-30", "06-04", None),
            # A day that would come after the end is not planned.
            ("05-25", "03-30", "06-20", None),
            ("05-25", "03-30", "06-10", "05-31"),
        ],
    )
    def test_says_the_next_day(
        self, today: str, last_sent: str | None, due: str | None, expected: str | None
    ) -> None:
        found = next_invitation(
            imported_on=IMPORTED,
            last_sent_on=day(last_sent) if last_sent else None,
            next_due_date=day(due) if due else None,
            today=day(today),
            rhythm=RHYTHM,
        )
        assert found == (day(expected) if expected else None)

    def test_is_over_the_day_after_the_last(self) -> None:
        assert not is_over(imported_on=IMPORTED, today=day("05-31"), rhythm=RHYTHM)
        assert is_over(imported_on=IMPORTED, today=day("06-01"), rhythm=RHYTHM)

    @settings(max_examples=300)
    @given(
        up=st.sets(st.integers(0, 120)),
        due_days=st.sets(st.integers(0, 150)),
        known_before=st.integers(5, 30),
    )
    def test_warns_before_each_due_date_and_never_twice_in_a_gap(
        self, up: set[int], due_days: set[int], known_before: int
    ) -> None:
        """Whatever days the job runs on, and whenever bills become known."""
        sent: list[date] = []
        for number in sorted(up):
            today = IMPORTED + timedelta(days=number)
            due = [IMPORTED + timedelta(days=each) for each in due_days]
            known = [each for each in due if today <= each <= today + timedelta(days=known_before)]
            found = next_invitation(
                imported_on=IMPORTED,
                last_sent_on=sent[-1] if sent else None,
                next_due_date=min(known, default=None),
                today=today,
                rhythm=RHYTHM,
            )
            assert found is None or found >= today
            if found == today:
                sent.append(today)
            in_time = number <= RHYTHM.until_days
            if known and in_time and min(known) - today <= timedelta(days=3):
                # Whoever would miss it in three days was told within the ten days before it.
                assert sent
                assert sent[-1] >= min(known) - timedelta(days=10 + RHYTHM.gap_days)
        assert all(later - earlier >= timedelta(days=2) for earlier, later in pairwise(sent))
        assert all(each <= IMPORTED + timedelta(days=90) for each in sent)
        assert not up or min(up) > 90 or sent


class TestOldDraft:
    DUE = date(2026, 3, 15)

    @pytest.mark.parametrize(
        ("draft", "covered"),
        [
            ("2026-02-15", False),
            ("2026-02-16", False),
            ("2026-02-17", True),
            ("2026-03-15", True),
            ("2026-03-18", True),
            ("2026-03-19", False),
        ],
    )
    def test_by_its_day_covers_the_due_date_it_can_be_for(self, draft: str, covered: bool) -> None:
        found = has_old_draft(
            self.DUE,
            drafts=[OldDraft(draft_date=date.fromisoformat(draft), due_date=None)],
            due_dates=[self.DUE],
            late_grace_days=3,
        )
        assert found is covered

    @pytest.mark.parametrize(("due", "covered"), [("2026-03-15", True), ("2026-03-14", False)])
    def test_that_names_its_due_date_covers_that_one(self, due: str, covered: bool) -> None:
        draft = OldDraft(draft_date=date(2026, 3, 15), due_date=date.fromisoformat(due))
        found = has_old_draft(self.DUE, drafts=[draft], due_dates=[self.DUE], late_grace_days=3)
        assert found is covered

    def test_covers_the_earlier_of_two_due_dates_in_a_short_month(self) -> None:
        # 28 days apart: a draft two days late could be for either, by the days alone.
        first, second = date(2026, 2, 1), date(2026, 3, 1)
        drafts = [OldDraft(draft_date=date(2026, 2, 3), due_date=None)]
        both = {"drafts": drafts, "due_dates": [second, first], "late_grace_days": 3}
        assert has_old_draft(first, **both)
        assert not has_old_draft(second, **both)

    @settings(max_examples=500)
    @given(
        start=st.dates(date(2024, 1, 1), date(2027, 12, 31)),
        gaps=st.lists(st.integers(25, 35), min_size=1, max_size=6),
        offset=st.integers(-40, 200),
        grace=st.integers(0, 10),
    )
    def test_covers_one_due_date_at_most(
        self, start: date, gaps: list[int], offset: int, grace: int
    ) -> None:
        due_dates = [start]
        for gap in gaps:
            due_dates.append(due_dates[-1] + timedelta(days=gap))
        drafts = [OldDraft(draft_date=start + timedelta(days=offset), due_date=None)]
        covered = [
            each
            for each in due_dates
            if has_old_draft(each, drafts=drafts, due_dates=due_dates, late_grace_days=grace)
        ]
        assert len(covered) <= 1

    def test_is_missing_where_there_is_none(self) -> None:
        assert not has_old_draft(self.DUE, drafts=[], due_dates=[self.DUE], late_grace_days=3)


class TestTransitions:
    def test_lead_out_of_every_status_but_enrolled(self) -> None:
        starts = {before for before, _ in REENROLMENT_TRANSITIONS}
        assert starts == {None, *ReenrolmentStatus} - {ReenrolmentStatus.ENROLLED}

    @pytest.mark.parametrize(
        ("status", "before"),
        [
            ("awaiting", set()),
            ("enrolled", {"awaiting", "past", "declined"}),
            ("declined", {"awaiting", "past"}),
            ("past", {"awaiting"}),
        ],
    )
    def test_say_what_may_become_what(self, status: str, before: set[str]) -> None:
        assert set(may_become(ReenrolmentStatus(status))) == before

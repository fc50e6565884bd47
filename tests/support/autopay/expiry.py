"""When a customer is warned that a card runs out: the examples."""

from tests.support.autopay.tables import NOTHING, Cells, Chapter, Table, day, in_words

from autopay_scheduler.domain.expiry import last_good_day, warning_due

WARNING_DAYS = (60, 30, 7)


def _warning(cells: Cells) -> Cells:
    found = warning_due(
        expires=cells["good until"], today=day(cells["today"]), warning_days=WARNING_DAYS
    )
    return {
        "last good day": in_words(last_good_day(cells["good until"])),
        "warning": NOTHING if found is None else f"{found} days",
    }


WARNINGS = Table(
    title="Expiry warnings",
    text=(
        "At 60, 30 and 7 days; each is told once, by its key. A warning that was slept through is "
        "told as soon as the scheduler runs again, unless the next one has come."
    ),
    columns=("good until", "today", "last good day", "warning", "why"),
    answers=_warning,
    rows=(
        ("2027-08", "Thu 2027-07-01", "Tue 2027-08-31", NOTHING, "61 days are left"),
        ("2027-08", "Fri 2027-07-02", "Tue 2027-08-31", "60 days", "60 days"),
        ("2027-08", "Sun 2027-07-04", "Tue 2027-08-31", "60 days", "slept through for two days"),
        ("2027-08", "Sat 2027-07-31", "Tue 2027-08-31", "60 days", "31 days: told already"),
        ("2027-08", "Sun 2027-08-01", "Tue 2027-08-31", "30 days", "30 days"),
        ("2027-08", "Mon 2027-08-23", "Tue 2027-08-31", "30 days", "8 days: told already"),
        ("2027-08", "Tue 2027-08-24", "Tue 2027-08-31", "7 days", "7 days"),
        ("2027-08", "Tue 2027-08-31", "Tue 2027-08-31", "7 days", "its last good day"),
        ("2027-08", "Wed 2027-09-01", "Tue 2027-08-31", NOTHING, "past: the decline says it"),
        ("2027-02", "Fri 2027-01-29", "Sun 2027-02-28", "30 days", "a February of 28 days"),
        ("2028-02", "Sun 2028-01-30", "Tue 2028-02-29", "30 days", "a leap February"),
        ("2028-02", "Sat 2028-01-29", "Tue 2028-02-29", "60 days", "31 days before a leap day"),
        ("2027-12", "Fri 2027-12-24", "Fri 2027-12-31", "7 days", "the end of the year"),
        ("2027-01", "Wed 2026-12-02", "Sun 2027-01-31", "60 days", "over the end of the year"),
        ("2026-04", "Mon 2026-04-20", "Thu 2026-04-30", "30 days", "enrolled ten days before"),
    ),
)

CHAPTER = Chapter(
    title="The card's expiry",
    text="A card is good until the last day of its month. A new date changes nothing else.",
    tables=(WARNINGS,),
)

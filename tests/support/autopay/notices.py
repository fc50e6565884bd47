"""The advance notice: the examples."""

from dataclasses import replace

from tests.support.autopay.amounts import limits_of
from tests.support.autopay.tables import (
    GRACE_DAYS,
    NOTHING,
    NOTICE,
    Cells,
    Chapter,
    Table,
    cents,
    city_calendar,
    day,
    in_words,
    money,
)

from autopay_scheduler.domain.charges import is_lost
from autopay_scheduler.domain.notices import (
    Announce,
    Announcement,
    TooLate,
    announcement,
    ceiling_cents,
    is_owed,
)


def announced(text: str) -> list[Announcement]:
    """Read announcements in their order, separated by `; `; see the page's own words."""
    if text == NOTHING:
        return []
    return [_announced(each, version) for version, each in enumerate(text.split("; "), start=1)]


def _announced(text: str, version: int) -> Announcement:
    amount, *facts = text.split(", ")
    found = Announcement(
        version=version,
        amount_cents=cents(amount),
        left_cents=0,
        charge_on=day("Mon 2026-03-02"),
        announced_on=day("Mon 2026-03-02"),
        noticed_on=None,
    )
    for fact in facts:
        name, _, value = fact.partition(" ")
        match name:
            case "for":
                found = replace(found, charge_on=day(value))
            case "left":
                found = replace(found, left_cents=cents(value))
            case "made":
                found = replace(found, announced_on=day(value))
            case "sent":
                found = replace(found, announced_on=day(value), noticed_on=day(value))
            case "void":
                found = replace(found, is_void=True)
            case _:
                raise ValueError(fact)
    return found


def _announce(cells: Cells) -> Cells:
    earlier = announced(cells["announced before"])
    found = announcement(
        amount_cents=cents(cells["owed now"]),
        earlier=earlier[-1] if earlier else None,
        limits=limits_of(cells["rule"]),
        charge_on=day(cells["its day"]),
        due_date=day(cells["due date"]),
        today=day(cells["today"]),
        rule=NOTICE,
        calendar=city_calendar(cells["closed days"]),
    )
    match found:
        case None:
            said = "nothing new"
        case TooLate():
            said = "too late: not charged, told at once"
        case Announce(amount_cents, left_cents, charge_on):
            left = f", left {money(left_cents)}" if left_cents else ""
            said = f"{money(amount_cents)} for {in_words(charge_on)}{left}"
    return {"announced": said}


ANNOUNCED = Table(
    title="What is announced",
    text=(
        "Ten days' notice is owed where the amount varies and no maximum was agreed. A charge "
        "whose notice would be too short is put off, at most to the due date, or to the open day "
        "to which that moves. A rise that comes too late is not charged; the customer is told what "
        "is left. A charge that was held makes what was announced before it void."
    ),
    columns=(
        "rule",
        "owed now",
        "announced before",
        "its day",
        "due date",
        "today",
        "closed days",
        "announced",
        "why",
    ),
    answers=_announce,
    rows=(
        (
            "full balance",
            "$120.00",
            NOTHING,
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Mon 2026-03-02",
            "before",
            "$120.00 for Fri 2026-03-20",
            "18 days ahead",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "Thu 2026-03-12",
            "Fri 2026-03-20",
            "Mon 2026-03-02",
            "before",
            "$120.00 for Thu 2026-03-12",
            "exactly ten days",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "Wed 2026-03-11",
            "Fri 2026-03-20",
            "Mon 2026-03-02",
            "before",
            "$120.00 for Thu 2026-03-12",
            "a day too short: put off by a day",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "Mon 2026-03-09",
            "Fri 2026-03-20",
            "Wed 2026-03-04",
            "before",
            "$120.00 for Mon 2026-03-16",
            "ten days end on a Saturday; Friday would break them: Monday",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "Mon 2026-03-09",
            "Sun 2026-03-15",
            "Wed 2026-03-04",
            "before",
            "$120.00 for Sat 2026-03-14",
            "no open day is left up to the due date: a closed day",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "Mon 2026-03-09",
            "Sat 2026-03-14",
            "Wed 2026-03-04",
            "after",
            "$120.00 for Mon 2026-03-16",
            "the due date itself moves on to Monday",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "Mon 2026-03-09",
            "Fri 2026-03-20",
            "Wed 2026-03-04",
            "same",
            "$120.00 for Sat 2026-03-14",
            "closed days do not matter",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Tue 2026-03-10",
            "before",
            "$120.00 for Fri 2026-03-20",
            "ten days up to the due date itself",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Wed 2026-03-11",
            "before",
            "too late: not charged, told at once",
            "nine days up to the due date",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "Thu 2026-12-24",
            "Mon 2027-01-04",
            "Tue 2026-12-22",
            "before",
            "$120.00 for Mon 2027-01-04",
            "over the end of the year, New Year's Day",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "Mon 2028-02-28",
            "Fri 2028-03-03",
            "Sat 2028-02-19",
            "before",
            "$120.00 for Tue 2028-02-29",
            "ten days end on a leap day",
        ),
        (
            "full balance, max $200.00",
            "$120.00",
            NOTHING,
            "Wed 2026-03-11",
            "Fri 2026-03-20",
            "Tue 2026-03-10",
            "before",
            "$120.00 for Wed 2026-03-11",
            "an agreed maximum: a day's notice is enough",
        ),
        (
            "fixed $50.00",
            "$50.00",
            NOTHING,
            "Tue 2026-03-10",
            "Fri 2026-03-20",
            "Tue 2026-03-10",
            "before",
            "$50.00 for Tue 2026-03-10",
            "a fixed amount: the same day is enough",
        ),
        (
            "full balance",
            "$150.00",
            "$120.00, for Fri 2026-03-20",
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Tue 2026-03-10",
            "before",
            "$150.00 for Fri 2026-03-20",
            "a rise in time",
        ),
        (
            "full balance",
            "$150.00",
            "$120.00, for Thu 2026-03-12",
            "Thu 2026-03-12",
            "Fri 2026-03-20",
            "Mon 2026-03-09",
            "before",
            "$150.00 for Thu 2026-03-19",
            "a rise puts the charge off",
        ),
        (
            "full balance",
            "$150.00",
            "$120.00, for Fri 2026-03-20",
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Wed 2026-03-11",
            "before",
            "$120.00 for Fri 2026-03-20, left $30.00",
            "a rise too late: charged what was announced",
        ),
        (
            "full balance",
            "$160.00",
            "$120.00, for Fri 2026-03-20, left $30.00",
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Thu 2026-03-12",
            "before",
            "$120.00 for Fri 2026-03-20, left $40.00",
            "it rose again",
        ),
        (
            "full balance",
            "$150.00",
            "$120.00, for Fri 2026-03-20, left $30.00",
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Thu 2026-03-12",
            "before",
            "nothing new",
            "said already",
        ),
        (
            "full balance",
            "$120.00",
            "$120.00, for Fri 2026-03-20, left $30.00",
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Fri 2026-03-13",
            "before",
            "$120.00 for Fri 2026-03-20",
            "it fell back: nothing is left any more",
        ),
        (
            "full balance",
            "$100.00",
            "$120.00, for Fri 2026-03-20",
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Tue 2026-03-10",
            "before",
            "nothing new",
            "a fall: at most what was announced",
        ),
        (
            "full balance",
            "$120.00",
            "$120.00, for Fri 2026-03-20",
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Tue 2026-03-10",
            "before",
            "nothing new",
            "the same, looked at twice",
        ),
        (
            "full balance, max $200.00",
            "$150.00",
            "$120.00, for Fri 2026-03-20",
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Thu 2026-03-19",
            "before",
            "$150.00 for Fri 2026-03-20",
            "a rise within the maximum",
        ),
        (
            "full balance, max $400.00",
            "$120.00",
            "$120.00, for Fri 2026-03-20, void",
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Wed 2026-03-18",
            "before",
            "$120.00 for Fri 2026-03-20",
            "released by a higher maximum: told anew",
        ),
        (
            "full balance",
            "$120.00",
            "$120.00, for Fri 2026-03-20, void",
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "Wed 2026-03-18",
            "before",
            "too late: not charged, told at once",
            "released by no maximum at all: a notice is owed again",
        ),
    ),
)


def _ceiling(cells: Cells) -> Cells:
    limits = limits_of(cells["rule"])
    today = day(cells["today"])
    found = ceiling_cents(announced(cells["announced"]), limits=limits, today=today, rule=NOTICE)
    return {
        "notice is owed": "yes" if is_owed(limits) else "no",
        "at most": money(found) if found is not None else "nothing",
    }


CEILINGS = Table(
    title="What may be charged",
    text=(
        "The most that was announced and whose notice was sent ten days ago, at least. `sent` is "
        "the day on which the mail server took the notice; `made` is an announcement of which "
        "nothing was heard."
    ),
    columns=("rule", "announced", "today", "notice is owed", "at most", "why"),
    answers=_ceiling,
    rows=(
        (
            "full balance",
            "$120.00, sent Mon 2026-03-02",
            "Thu 2026-03-12",
            "yes",
            "$120.00",
            "ten days",
        ),
        (
            "full balance",
            "$120.00, sent Mon 2026-03-02",
            "Wed 2026-03-11",
            "yes",
            "nothing",
            "nine days",
        ),
        (
            "full balance",
            "$120.00, made Mon 2026-03-02",
            "Fri 2026-03-20",
            "yes",
            "nothing",
            "it is not known that it was sent",
        ),
        ("full balance", NOTHING, "Fri 2026-03-20", "yes", "nothing", "nothing was announced"),
        (
            "statement",
            "$120.00, sent Mon 2026-03-02; $150.00, sent Tue 2026-03-10",
            "Fri 2026-03-20",
            "yes",
            "$150.00",
            "both are kept: the higher",
        ),
        (
            "statement",
            "$120.00, sent Mon 2026-03-02; $150.00, sent Wed 2026-03-11",
            "Fri 2026-03-20",
            "yes",
            "$120.00",
            "the rise is a day too young",
        ),
        (
            "statement",
            "$120.00, sent Mon 2026-03-02; $150.00, made Tue 2026-03-10",
            "Fri 2026-03-20",
            "yes",
            "$120.00",
            "nobody knows whether the rise was told",
        ),
        (
            "statement",
            "$120.00, sent Mon 2026-03-02; $120.00, left $30.00, sent Thu 2026-03-12",
            "Fri 2026-03-20",
            "yes",
            "$120.00",
            "what is left is not charged",
        ),
        (
            "full balance",
            "$120.00, sent Mon 2026-03-02, void; $300.00, sent Sat 2026-03-07",
            "Mon 2026-03-16",
            "yes",
            "nothing",
            "held in between: only what was told after it counts",
        ),
        (
            "full balance",
            "$120.00, sent Fri 2028-02-18",
            "Mon 2028-02-28",
            "yes",
            "$120.00",
            "ten days in a leap February",
        ),
        (
            "full balance",
            "$120.00, sent Tue 2026-12-22",
            "Fri 2027-01-01",
            "yes",
            "$120.00",
            "over the end of the year",
        ),
        (
            "full balance, max $200.00",
            "$120.00, made Tue 2026-03-10",
            "Tue 2026-03-10",
            "no",
            "$120.00",
            "a maximum was agreed",
        ),
        (
            "full balance, max $200.00",
            NOTHING,
            "Fri 2026-03-20",
            "no",
            "nothing",
            "announced it has to be",
        ),
        (
            "fixed $50.00",
            "$50.00, made Tue 2026-03-10",
            "Tue 2026-03-10",
            "no",
            "$50.00",
            "a fixed amount",
        ),
    ),
)


def _lost(cells: Cells) -> Cells:
    found = is_lost(
        limits=limits_of(cells["rule"]),
        announcements=announced(cells["announced"]),
        charge_on=day(cells["its day"]),
        today=day(cells["today"]),
        notice=NOTICE,
        late_grace_days=GRACE_DAYS,
    )
    return {"lost": "yes" if found else "no"}


LOST = Table(
    title="A notice that came late",
    text=(
        "A notice that was sent later than it was announced puts the charge off within the grace, "
        "here three days. As soon as it cannot be kept within the grace the bill is given up and "
        "the customer told: not only when its day has come."
    ),
    columns=("rule", "announced", "its day", "today", "lost", "why"),
    answers=_lost,
    rows=(
        (
            "full balance",
            "$120.00, made Tue 2026-03-10",
            "Fri 2026-03-20",
            "Tue 2026-03-10",
            "no",
            "just announced",
        ),
        (
            "full balance",
            "$120.00, made Tue 2026-03-10",
            "Fri 2026-03-20",
            "Fri 2026-03-13",
            "no",
            "not sent for three days: charged on the last day of grace, if it is sent now",
        ),
        (
            "full balance",
            "$120.00, made Tue 2026-03-10",
            "Fri 2026-03-20",
            "Sat 2026-03-14",
            "yes",
            "not sent for four days: seven days are left to pay otherwise",
        ),
        (
            "full balance",
            "$120.00, sent Fri 2026-03-13",
            "Fri 2026-03-20",
            "Fri 2026-03-13",
            "no",
            "charged on Monday the 23rd",
        ),
        (
            "full balance",
            "$120.00, sent Sat 2026-03-14",
            "Fri 2026-03-20",
            "Sat 2026-03-14",
            "yes",
            "a day after the grace",
        ),
        (
            "full balance, max $200.00",
            "$120.00, made Tue 2026-03-10",
            "Fri 2026-03-20",
            "Fri 2026-03-20",
            "no",
            "no notice is owed",
        ),
    ),
)

CHAPTER = Chapter(
    title="The notice",
    text=(
        "Regulation E, 12 CFR 1005.10(d): ten days before a transfer that varies in amount (1), or "
        "a range agreed with the customer (2). A city may give more days, never fewer. The notice "
        "is always sent; where it is owed, nothing is charged without it."
    ),
    tables=(ANNOUNCED, CEILINGS, LOST),
)

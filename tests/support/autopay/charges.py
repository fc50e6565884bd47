"""What becomes of a charge on its day, and what may become of it at all: the examples."""

from datetime import UTC, datetime

from tests.support.autopay.amounts import decision_in_words, limits_of
from tests.support.autopay.notices import announced
from tests.support.autopay.tables import (
    GRACE_DAYS,
    LEAST_CENTS,
    LIMIT_CENTS,
    NOTHING,
    NOTICE,
    Cells,
    Chapter,
    Table,
    cents,
    cents_or_none,
    day,
)

from autopay_scheduler.domain.amounts import Owed
from autopay_scheduler.domain.charges import (
    OPEN,
    TRANSITIONS,
    Status,
    decide,
    valid_until,
)

_TOLD = "$120.00, sent Mon 2026-03-02"


def _decide(cells: Cells) -> Cells:
    marks = cells["besides"]
    owed = cents(cells["owed"])
    found = decide(
        limits=limits_of(cells["rule"]),
        owed=Owed(statement_cents=owed, paid_since_cents=0, balance_cents=owed, open_cents=0),
        announcements=announced(cells["announced"]),
        is_paused="paused" in marks,
        has_old_draft="drafted by the old portal" in marks,
        charge_on=day(cells["its day"]),
        due_date=day(cells["due date"]),
        today=day(cells["today"]),
        notice=NOTICE,
        late_grace_days=GRACE_DAYS,
        least_cents=LEAST_CENTS,
        limit_cents=LIMIT_CENTS,
        asked_cents=cents_or_none(marks.removeprefix("asked before: "))
        if marks.startswith("asked before: ")
        else None,
    )
    return {"decision": decision_in_words(found)}


_COLUMNS = (
    "rule",
    "owed",
    "announced",
    "besides",
    "its day",
    "due date",
    "today",
    "decision",
    "why",
)


def _on_20_march(
    rule: str,
    owed: str,
    announcements: str,
    besides: str,
    today: str,
    decision: str,
    why: str,
) -> tuple[str, ...]:
    march = "Fri 2026-03-20"
    return (rule, owed, announcements, besides, march, march, today, decision, why)


DECISIONS = Table(
    title="The decision on the day",
    text=(
        "Made when the charge's day has come, and on every day after it until it is charged or "
        "ends. The grace is three days. A charge that was slept through is made as soon as the "
        "scheduler runs again, on whichever day that is: closed days count while it is late."
    ),
    columns=_COLUMNS,
    answers=_decide,
    rows=(
        _on_20_march(
            "full balance",
            "$120.00",
            _TOLD,
            NOTHING,
            "Fri 2026-03-20",
            "charge $120.00",
            "its day",
        ),
        _on_20_march(
            "full balance",
            "$120.00",
            _TOLD,
            NOTHING,
            "Thu 2026-03-19",
            "wait: day_not_come",
            "never before its day",
        ),
        _on_20_march(
            "full balance",
            "$120.00",
            _TOLD,
            NOTHING,
            "Sat 2026-03-21",
            "charge $120.00",
            "a day late, on a closed day",
        ),
        _on_20_march(
            "full balance",
            "$120.00",
            _TOLD,
            NOTHING,
            "Mon 2026-03-23",
            "charge $120.00",
            "the last day of grace",
        ),
        _on_20_march(
            "full balance",
            "$120.00",
            _TOLD,
            NOTHING,
            "Tue 2026-03-24",
            "miss: late",
            "a day after the grace",
        ),
        _on_20_march(
            "full balance",
            "$0.00",
            _TOLD,
            NOTHING,
            "Tue 2026-03-24",
            "skip: paid",
            "late, and nobody is harmed",
        ),
        _on_20_march(
            "full balance",
            "$100.00",
            _TOLD,
            NOTHING,
            "Fri 2026-03-20",
            "charge $100.00",
            "partly paid since it was announced",
        ),
        _on_20_march(
            "full balance",
            "$0.00",
            _TOLD,
            NOTHING,
            "Fri 2026-03-20",
            "skip: paid",
            "paid otherwise",
        ),
        _on_20_march(
            "full balance",
            "-$5.00",
            _TOLD,
            NOTHING,
            "Fri 2026-03-20",
            "skip: in_credit",
            "paid too much",
        ),
        _on_20_march(
            "full balance",
            "$150.00",
            _TOLD,
            NOTHING,
            "Fri 2026-03-20",
            "charge $120.00",
            "never above what was announced",
        ),
        _on_20_march(
            "full balance",
            "$150.00",
            f"{_TOLD}; $150.00, sent Thu 2026-03-12",
            NOTHING,
            "Fri 2026-03-20",
            "charge $120.00",
            "the rise is too young, and the due date does not wait",
        ),
        (
            "full balance",
            "$150.00",
            f"{_TOLD}; $150.00, sent Mon 2026-03-09",
            NOTHING,
            "Wed 2026-03-18",
            "Fri 2026-03-20",
            "Wed 2026-03-18",
            "wait: notice_of_rise",
            "the rise may be charged on the 19th, before it is due",
        ),
        (
            "full balance",
            "$150.00",
            f"{_TOLD}; $150.00, sent Mon 2026-03-09",
            NOTHING,
            "Wed 2026-03-18",
            "Fri 2026-03-20",
            "Thu 2026-03-19",
            "charge $150.00",
            "all of it, a day later",
        ),
        (
            "full balance",
            "$150.00",
            f"{_TOLD}; $150.00, sent Mon 2026-03-09",
            NOTHING,
            "Fri 2026-03-13",
            "Fri 2026-03-20",
            "Fri 2026-03-13",
            "charge $120.00",
            "the rest's notice is kept in time, but not within the grace",
        ),
        (
            "full balance",
            "$120.00",
            f"{_TOLD}; $150.00, sent Mon 2026-03-09",
            NOTHING,
            "Wed 2026-03-18",
            "Fri 2026-03-20",
            "Wed 2026-03-18",
            "charge $120.00",
            "it fell back: nothing to wait for",
        ),
        _on_20_march(
            "full balance",
            "$120.00",
            "$120.00, sent Thu 2026-03-12",
            NOTHING,
            "Fri 2026-03-20",
            "wait: notice_not_kept",
            "sent late: charged on the 22nd",
        ),
        _on_20_march(
            "full balance",
            "$120.00",
            "$120.00, sent Thu 2026-03-12",
            NOTHING,
            "Sun 2026-03-22",
            "charge $120.00",
            "ten days after the notice",
        ),
        _on_20_march(
            "full balance",
            "$120.00",
            "$120.00, sent Sat 2026-03-14",
            NOTHING,
            "Fri 2026-03-20",
            "miss: notice_not_kept",
            "ten days end after the grace: said at once",
        ),
        _on_20_march(
            "full balance",
            "$120.00",
            "$120.00, made Mon 2026-03-02",
            NOTHING,
            "Fri 2026-03-20",
            "miss: notice_not_kept",
            "nobody knows whether it was told",
        ),
        _on_20_march(
            "full balance, max $200.00",
            "$120.00",
            "$120.00, made Thu 2026-03-19",
            NOTHING,
            "Fri 2026-03-20",
            "charge $120.00",
            "a maximum was agreed",
        ),
        _on_20_march(
            "full balance, max $200.00",
            "$250.00",
            _TOLD,
            NOTHING,
            "Fri 2026-03-20",
            "hold $250.00 above $200.00",
            "it rose above the maximum",
        ),
        _on_20_march(
            "full balance, max $200.00",
            "$250.00",
            _TOLD,
            NOTHING,
            "Tue 2026-03-24",
            "miss: above_maximum",
            "the customer did not answer",
        ),
        _on_20_march(
            "full balance, max $300.00",
            "$250.00",
            f"{_TOLD}, void; $250.00, made Sat 2026-03-21",
            NOTHING,
            "Sat 2026-03-21",
            "charge $250.00",
            "the customer raised the maximum a day later",
        ),
        _on_20_march(
            "full balance, max $300.00",
            "$250.00",
            f"{_TOLD}, void",
            NOTHING,
            "Sat 2026-03-21",
            "wait: notice_not_kept",
            "released, and not told yet",
        ),
        _on_20_march(
            "full balance, min $10.00",
            "$5.00",
            _TOLD,
            NOTHING,
            "Fri 2026-03-20",
            "skip: below_minimum",
            "paid but for a little",
        ),
        _on_20_march(
            "full balance, min $130.00",
            "$150.00",
            _TOLD,
            NOTHING,
            "Fri 2026-03-20",
            "skip: below_minimum",
            "what may be charged counts",
        ),
        _on_20_march(
            "full balance",
            "$120.00",
            _TOLD,
            "paused",
            "Fri 2026-03-20",
            "skip: paused_by_customer",
            "the customer wants no charge",
        ),
        _on_20_march(
            "full balance",
            "$120.00",
            _TOLD,
            "paused",
            "Thu 2026-03-19",
            "wait: day_not_come",
            "the pause may end before its day",
        ),
        _on_20_march(
            "full balance",
            "$120.00",
            _TOLD,
            "drafted by the old portal",
            "Fri 2026-03-20",
            "skip: drafted_by_old_portal",
            "never drafted twice",
        ),
        (
            "full balance",
            "$120.00",
            _TOLD,
            "asked before: $120.00",
            "Mon 2026-03-23",
            "Fri 2026-03-20",
            "Mon 2026-03-23",
            "charge $120.00",
            "presented again",
        ),
        (
            "full balance",
            "$70.00",
            _TOLD,
            "asked before: $120.00",
            "Mon 2026-03-23",
            "Fri 2026-03-20",
            "Mon 2026-03-23",
            "charge $70.00",
            "partly paid since the decline",
        ),
        (
            "full balance",
            "$120.00",
            _TOLD,
            "asked before: $70.00",
            "Mon 2026-03-23",
            "Fri 2026-03-20",
            "Mon 2026-03-23",
            "charge $70.00",
            "never for more than the attempt before",
        ),
        (
            "full balance",
            "$0.00",
            _TOLD,
            "asked before: $120.00",
            "Mon 2026-03-23",
            "Fri 2026-03-20",
            "Mon 2026-03-23",
            "skip: paid",
            "paid otherwise since the decline",
        ),
        (
            "full balance",
            "$120.00",
            _TOLD,
            "asked before: $120.00",
            "Fri 2026-03-27",
            "Fri 2026-03-20",
            "Mon 2026-03-30",
            "charge $120.00",
            "a retry has its own day and its own grace",
        ),
        (
            "full balance",
            "$120.00",
            _TOLD,
            "asked before: $120.00",
            "Fri 2026-03-27",
            "Fri 2026-03-20",
            "Tue 2026-03-31",
            "miss: late",
            "after a retry's grace",
        ),
    ),
)


def _valid_until(cells: Cells) -> Cells:
    at = datetime.strptime(cells["charged at (UTC)"], "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
    found = valid_until(charge_at=at, late_grace_days=int(cells["grace"].removesuffix(" days")))
    return {"valid until (UTC)": f"{found:%Y-%m-%d %H:%M}"}


VALIDITY = Table(
    title="How long a request holds",
    text=(
        "What payment-intake has not sent by then is not charged any more. A day and two hours "
        "after the last day of grace, so that a request of that day's last minute has an hour."
    ),
    columns=("charged at (UTC)", "grace", "valid until (UTC)", "why"),
    answers=_valid_until,
    rows=(
        ("2026-03-20 11:00", "3 days", "2026-03-24 13:00", "charged at 06:00 in Chicago"),
        ("2026-03-20 11:00", "0 days", "2026-03-21 13:00", "no grace: its own day"),
        (
            "2026-10-29 05:00",
            "3 days",
            "2026-11-02 07:00",
            "charged at midnight; clocks go back on 1 November: 01:00 of the 2nd",
        ),
    ),
)


def _transitions(cells: Cells) -> Cells:
    before = None if cells["from"] == "(new)" else Status(cells["from"])
    after = [to for (origin, to) in TRANSITIONS if origin is before]
    return {
        "may become": ", ".join(sorted(after)) or NOTHING,
        "is": "new" if before is None else "open" if before in OPEN else "an end",
    }


STATUSES = Table(
    title="What may become of a charge",
    text=(
        "Whatever is not here cannot happen. An end may still be followed by another one: the "
        "bank, and the customer in person, have the last word on money."
    ),
    columns=("from", "may become", "is"),
    answers=_transitions,
    rows=(
        ("(new)", "held, missed, planned, skipped", "new"),
        ("planned", "announced, cancelled, held, missed, planned, skipped", "open"),
        ("announced", "cancelled, held, missed, planned, requested, skipped", "open"),
        ("held", "cancelled, held, missed, planned, skipped", "open"),
        (
            "requested",
            "cancelled, failed, missed, paid, pending, refunded, retrying",
            "open",
        ),
        ("pending", "cancelled, failed, paid, refunded, retrying", "open"),
        ("retrying", "cancelled, held, missed, paid, refunded, requested, skipped", "open"),
        ("paid", "failed, refunded", "an end"),
        ("failed", "paid, refunded", "an end"),
        ("skipped", "held, paid, planned, refunded, skipped", "an end"),
        ("missed", "paid, refunded", "an end"),
        ("cancelled", "paid, refunded", "an end"),
        ("refunded", "paid", "an end"),
    ),
)

CHAPTER = Chapter(
    title="The charge",
    text=(
        "One charge for each enrolment and due date. Its id is derived from both: whatever runs "
        "twice makes the same charge."
    ),
    tables=(DECISIONS, VALIDITY, STATUSES),
)

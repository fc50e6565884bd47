"""Worked examples as text: one table is read by people, run by the unit tests and kept in the docs.

A row is written by hand, its results too. `Table.answers` reads the cells of a row, asks the rule
and says its results in the same words, so that the page in the docs can be run as well.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time
from zoneinfo import ZoneInfo

from autopay_scheduler.domain.days import BusinessDays, Calendar
from autopay_scheduler.domain.notices import NoticeRule

Cells = Mapping[str, str]
NOTHING = "-"

GRACE_DAYS = 3
NOTICE = NoticeRule(days=10, charge_unnotified=False)
LEAST_CENTS = 50
LIMIT_CENTS = 1_000_000

CLOSED_WEEKDAYS = (
    # New Year, King, Washington, Memorial, Juneteenth, Independence, Labor, Columbus, Veterans,
    # Thanksgiving and the day after it, Christmas; and the days on which they are observed.
    *("2026-01-01", "2026-01-19", "2026-02-16", "2026-05-25", "2026-06-19", "2026-07-03"),
    *("2026-09-07", "2026-10-12", "2026-11-11", "2026-11-26", "2026-11-27", "2026-12-25"),
    *("2027-01-01", "2027-01-18", "2027-02-15", "2027-05-31", "2027-06-18", "2027-07-05"),
    *("2027-09-06", "2027-10-11", "2027-11-11", "2027-11-25", "2027-11-26", "2027-12-24"),
    *("2027-12-31", "2028-01-17", "2028-02-21", "2028-05-29", "2028-06-19", "2028-07-04"),
    *("2028-09-04", "2028-10-09", "2028-11-10", "2028-11-23", "2028-11-24", "2028-12-25"),
)
"""Closed from Monday to Friday, 2026 to 2028, as the federal government prints them; the day after
Thanksgiving is the city's own. Written by hand."""
_CLOSED = frozenset(date.fromisoformat(day) for day in CLOSED_WEEKDAYS)


def is_closed(day: date) -> bool:
    """Return whether the city of the examples is closed."""
    return day.weekday() >= 5 or day in _CLOSED


def city_calendar(
    business_days: str = "before",
    *,
    zone: str = "America/Chicago",
    charge_time: time = time(6, 0),
) -> Calendar:
    return Calendar(
        zone=ZoneInfo(zone),
        is_closed=is_closed,
        business_days=BusinessDays(business_days),
        charge_time=charge_time,
    )


@dataclass(frozen=True, kw_only=True)
class Table:
    """Worked examples of one rule."""

    title: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    answers: Callable[[Cells], Cells]
    """Given a row, what the rule says: by column, in the table's words."""

    def cells(self) -> Iterator[dict[str, str]]:
        for row in self.rows:
            yield dict(zip(self.columns, row, strict=True))

    def as_markdown(self) -> str:
        lines = [f"### {self.title}", "", self.text, ""]
        lines.append(_line(self.columns))
        lines.append("|" + "---|" * len(self.columns))
        lines.extend(_line(row) for row in self.rows)
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """The tables of one part of the rules."""

    title: str
    text: str
    tables: tuple[Table, ...]

    def as_markdown(self) -> str:
        tables = "\n".join(table.as_markdown() for table in self.tables)
        return f"## {self.title}\n\n{self.text}\n\n{tables}"


def tables_of(markdown: str) -> dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """Return the tables of a page by their headings: columns and rows."""
    found: dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]] = {}
    title = ""
    for line in markdown.splitlines():
        if line.startswith("#"):
            title = line.lstrip("# ")
        elif line.startswith("|---"):
            continue
        elif line.startswith("|"):
            row = tuple(cell.strip() for cell in line.strip("|").split("|"))
            if title in found:
                found[title][1].append(row)
            else:
                found[title] = (row, [])
    return found


def examples(*tables: Table) -> list[tuple[Table, dict[str, str]]]:
    """Return each row with its table, for `parametrize`."""
    return [(table, cells) for table in tables for cells in table.cells()]


def example_id(value: object) -> str:
    if isinstance(value, Table):
        return value.title.replace(" ", "-")
    return "-".join(value.values()) if isinstance(value, dict) else str(value)


def check(table: Table, cells: Cells) -> None:
    """Assert that the rule says what the row says."""
    answers = table.answers(cells)
    assert answers, "a table without results proves nothing"
    assert {name: cells[name] for name in answers} == answers, cells.get("why")


def day(text: str) -> date:
    """Read `Fri 2026-03-20`; the weekday has to be that day's."""
    name, _, written = text.partition(" ")
    found = date.fromisoformat(written)
    if f"{found:%a}" != name:
        raise ValueError(f"{written} is a {found:%a}")
    return found


def in_words(found: date | None) -> str:
    return NOTHING if found is None else f"{found:%a %Y-%m-%d}"


def cents(text: str) -> int:
    """Read `$120.00`; a credit is `-$120.00`."""
    sign, _, amount = text.partition("$")
    whole, _, part = amount.replace(",", "").partition(".")
    if len(part) != 2 or sign not in ("", "-"):
        raise ValueError(f"{text!r} is no amount")
    found = int(whole) * 100 + int(part)
    return -found if sign else found


def cents_or_none(text: str) -> int | None:
    return None if text == NOTHING else cents(text)


def money(amount_cents: int | None) -> str:
    if amount_cents is None:
        return NOTHING
    sign = "-" if amount_cents < 0 else ""
    whole, part = divmod(abs(amount_cents), 100)
    return f"{sign}${whole:,}.{part:02d}"


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"

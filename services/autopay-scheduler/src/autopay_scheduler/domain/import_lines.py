"""What a line of an import may say, and every reason why one is not taken.

Invariant: no reason and no message repeats what a cell holds, so that nothing that was pasted into
the wrong column is stored, logged or answered.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal, cast

from pydantic import TypeAdapter, ValidationError

from autopay_scheduler.domain.payment_data import (
    NumberShape,
    holds_payment_data,
    may_hold_payment_data,
    names_payment_data,
    shape_of,
)
from shared.contracts.enrolments import AutopayRule
from shared.contracts.portal import EmailAddress, Locale
from shared.errors import PermanentError
from shared.money import AMOUNT_CENTS_MAX

ENROLMENT_COLUMNS = (
    "old_account",
    "account",
    "name",
    "email",
    "charge_on",
    "days_before",
    "day_of_month",
    "amount",
    "fixed_cents",
    "minimum_cents",
    "maximum_cents",
    "locale",
)
"""The columns of a list of old enrolments: each once, in any order, no others."""
DRAFT_COLUMNS = ("account", "draft_date", "due_date", "amount_cents")
"""The columns of a list of scheduled drafts; one of the two dates may be left out."""

CELL_CHARACTERS_MAX = 254
"""The longest cell that means something is an e-mail address."""
NAME_CHARACTERS_MAX = 200
DRAFT_DAYS_PAST_MAX = 31
"""A draft of longer ago can be for no due date that is to come."""
DRAFT_DAYS_AHEAD_MAX = 400

_ACCOUNT = re.compile(r"[\x21-\x7e]{1,64}")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_COLUMN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9 _./-]{0,39}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_EMAIL: TypeAdapter[str] = TypeAdapter(EmailAddress)


class Reason(StrEnum):
    """Why a line is not imported."""

    TOO_LONG = "too_long"
    WRONG_QUOTING = "wrong_quoting"
    WRONG_CELL_COUNT = "wrong_cell_count"
    CONTROL_CHARACTER = "control_character"
    PAYMENT_DATA = "payment_data"
    MISSING = "missing"
    INVALID = "invalid"
    INVALID_RULE = "invalid_rule"
    ABOVE_CITY_LIMIT = "above_city_limit"
    DATE_OUT_OF_RANGE = "date_out_of_range"
    UNKNOWN_ACCOUNT = "unknown_account"
    DUPLICATE = "duplicate"
    ALREADY_ENROLLED = "already_enrolled"
    AUTOPAY_STOPPED = "autopay_stopped"
    ALREADY_DECLINED = "already_declined"
    ALREADY_PAST = "already_past"


_MESSAGES = {
    Reason.TOO_LONG: "longer than {} characters",
    Reason.WRONG_QUOTING: "a quoted cell begins and ends with a quote, and holds quotes doubled",
    Reason.WRONG_CELL_COUNT: "{}",
    Reason.CONTROL_CHARACTER: "holds a control character or a line break",
    Reason.PAYMENT_DATA: "looks like a card or bank number; none may be imported",
    Reason.MISSING: "must not be empty",
    Reason.INVALID: "{}",
    Reason.INVALID_RULE: "{}",
    Reason.ABOVE_CITY_LIMIT: "above the most that the city charges at once",
    Reason.DATE_OUT_OF_RANGE: "{}",
    Reason.UNKNOWN_ACCOUNT: "neither the CIS nor the portal has named this account",
    Reason.DUPLICATE: "the same as line {}, which is the one that counts",
    Reason.ALREADY_ENROLLED: "autopay is on for this account on the new portal",
    Reason.AUTOPAY_STOPPED: "autopay was on for this account on the new portal, and was stopped",
    Reason.ALREADY_DECLINED: "the customer has declined the invitation; the change is not taken",
    Reason.ALREADY_PAST: "the invitations to this account are over; the change is not taken",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LineProblem:
    """Why one line of a file is not imported."""

    line: int
    """As an editor counts: the header is line 1."""
    field: str
    reason: Reason
    detail: str = ""
    """What completes the message; never out of a cell."""

    @property
    def message(self) -> str:
        return _MESSAGES[self.reason].format(self.detail)


Refusal = Literal[
    "empty_file",
    "no_lines",
    "wrong_header",
    "payment_data_column",
    "wrong_encoding",
    "too_many_lines",
]


class FileRefusedError(PermanentError):
    """Nothing of a file is imported: it is not what it should be as a whole."""

    def __init__(
        self, *, reason: Refusal, message: str, line: int | None = None, field: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.line = line
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentLine:
    """One enrolment of the old portal. It has no payment method: it can charge nobody."""

    line: int
    old_account: str
    account_id: str
    name: str
    email: str | None
    locale: Locale
    rule: AutopayRule
    number_shape: NumberShape = NumberShape.NONE
    """Of the old account's number, which nothing else here can vouch for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftLine:
    """One draft that the old portal has still scheduled."""

    line: int
    account_id: str
    draft_date: date | None
    due_date: date | None
    """Which due date it is for, where the old portal says so."""
    amount_cents: int


def enrolment_header(cells: Sequence[str]) -> tuple[int, ...]:
    """Return where each of `ENROLMENT_COLUMNS` stands.

    Raises:
        FileRefusedError: a column is unknown, missing, twice, or named like payment data.
    """
    return _header(cells, allowed=ENROLMENT_COLUMNS, required=ENROLMENT_COLUMNS)


def draft_header(cells: Sequence[str]) -> tuple[int, ...]:
    """Return where each of `DRAFT_COLUMNS` stands, -1 for a date that is left out.

    Raises:
        FileRefusedError: a column is unknown, missing, twice, or named like payment data.
    """
    places = _header(cells, allowed=DRAFT_COLUMNS, required=("account", "amount_cents"))
    if places[1] < 0 and places[2] < 0:
        raise _wrong_header("a column draft_date or due_date is missing", field="draft_date")
    return places


def enrolment_line(
    cells: Sequence[str], *, line: int, limit_cents: int
) -> EnrolmentLine | Sequence[LineProblem]:
    """Return what a line says, or everything that is wrong with it.

    Args:
        cells: in the order of `ENROLMENT_COLUMNS`.
        line: its number in the file.
        limit_cents: the most that the city charges at once.
    """
    old_account, account, name, email = cells[:4]
    locale = cells[11] or "en"
    problems = _unfit(cells, ENROLMENT_COLUMNS, line=line, accounts=2)
    if problems:
        return problems
    problems += _account_problems(old_account, field="old_account", line=line)
    problems += _account_problems(account, field="account", line=line)
    if not name:
        problems.append(LineProblem(line=line, field="name", reason=Reason.MISSING))
    elif len(name) > NAME_CHARACTERS_MAX:
        problems.append(_too_long(line, "name", NAME_CHARACTERS_MAX))
    if email and not _is_email(email):
        problems.append(_invalid(line, "email", "is no e-mail address"))
    if locale not in ("en", "es"):
        problems.append(_invalid(line, "locale", "is en or es"))
    rule = _rule(tuple(cells[4:11]), limit_cents)
    if not isinstance(rule, AutopayRule):
        problems += [
            LineProblem(line=line, field=field, reason=reason, detail=detail)
            for field, reason, detail in rule
        ]
        return problems
    if problems:
        return problems
    return EnrolmentLine(
        line=line,
        old_account=old_account,
        account_id=account,
        name=name,
        email=email or None,
        locale=cast("Locale", locale),
        rule=rule,
        number_shape=NumberShape.NONE if old_account == account else shape_of(old_account),
    )


def draft_line(
    cells: Sequence[str], *, line: int, limit_cents: int, today: date
) -> DraftLine | Sequence[LineProblem]:
    """Return what a line says, or everything that is wrong with it.

    Args:
        cells: in the order of `DRAFT_COLUMNS`, empty for a column that the file has not.
        line: its number in the file.
        limit_cents: the most that the city charges at once.
        today: the city's date.
    """
    account, draft_text, due_text, amount_text = cells
    problems = _unfit(cells, DRAFT_COLUMNS, line=line, accounts=1)
    if problems:
        return problems
    problems += _account_problems(account, field="account", line=line)
    draft_date = _date(draft_text, "draft_date", line, today, problems)
    due_date = _date(due_text, "due_date", line, today, problems)
    if not draft_text and not due_text:
        problems.append(LineProblem(line=line, field="draft_date", reason=Reason.MISSING))
    amount_cents = int(amount_text) if _NUMBER.fullmatch(amount_text) else 0
    if not amount_text:
        problems.append(LineProblem(line=line, field="amount_cents", reason=Reason.MISSING))
    elif not 0 < amount_cents <= AMOUNT_CENTS_MAX:
        problems.append(_invalid(line, "amount_cents", "is a whole number of cents above 0"))
    elif amount_cents > limit_cents:
        problems.append(
            LineProblem(line=line, field="amount_cents", reason=Reason.ABOVE_CITY_LIMIT)
        )
    if problems:
        return problems
    return DraftLine(
        line=line,
        account_id=account,
        draft_date=draft_date,
        due_date=due_date,
        amount_cents=amount_cents,
    )


def _header(
    cells: Sequence[str], *, allowed: Sequence[str], required: Sequence[str]
) -> tuple[int, ...]:
    names = [cell.strip() for cell in cells]
    if len(names) == 1 and re.search(r"[;\t|]", names[0]):
        raise _wrong_header("cells are separated by commas", field="header")
    for number, name in enumerate(names, start=1):
        if name in allowed:
            continue
        # A file without a header begins with a customer's data: none of that is told again.
        can_be_told = _COLUMN_NAME.fullmatch(name) and not holds_payment_data(name)
        told = f"{name!r}" if can_be_told else f"number {number}"
        if names_payment_data(name) or holds_payment_data(name):
            raise FileRefusedError(
                reason="payment_data_column",
                message=f"column {told} looks like payment data; none may be imported",
                line=1,
                field=name if can_be_told else f"column {number}",
            )
        raise _wrong_header(
            f"column {told} is not known; the columns are {', '.join(allowed)}",
            field=name if can_be_told else f"column {number}",
        )
    for name in allowed:
        if names.count(name) > 1:
            raise _wrong_header(f"column {name!r} is there twice", field=name)
        if name in required and name not in names:
            raise _wrong_header(f"column {name!r} is missing", field=name)
    return tuple(names.index(name) if name in names else -1 for name in allowed)


def _wrong_header(message: str, *, field: str) -> FileRefusedError:
    return FileRefusedError(reason="wrong_header", message=message, line=1, field=field)


def _unfit(
    cells: Sequence[str], columns: Sequence[str], *, line: int, accounts: int
) -> list[LineProblem]:
    """Return what is wrong with cells whatever their column means.

    The first `accounts` columns hold account numbers. Looks at the line as a whole first: nearly
    all lines are right, and cell by cell costs five times as much.
    """
    text = ",".join(cells)
    if (
        len(text) <= CELL_CHARACTERS_MAX
        and not _CONTROL.search(text)
        and not any(map(may_hold_payment_data, cells[accounts:]))
    ):
        return []
    problems = []
    for number, (field, cell) in enumerate(zip(columns, cells, strict=True)):
        if _CONTROL.search(cell):
            problems.append(LineProblem(line=line, field=field, reason=Reason.CONTROL_CHARACTER))
        elif len(cell) > CELL_CHARACTERS_MAX:
            problems.append(_too_long(line, field, CELL_CHARACTERS_MAX))
        elif number >= accounts and holds_payment_data(cell):
            problems.append(LineProblem(line=line, field=field, reason=Reason.PAYMENT_DATA))
    return problems


def _account_problems(text: str, *, field: str, line: int) -> list[LineProblem]:
    if not text:
        return [LineProblem(line=line, field=field, reason=Reason.MISSING)]
    if not _ACCOUNT.fullmatch(text):
        return [_invalid(line, field, "is 1 to 64 visible ASCII characters without spaces")]
    return []


def _is_email(text: str) -> bool:
    try:
        _EMAIL.validate_python(text)
    except ValidationError:
        return False
    return True


_RuleProblems = tuple[tuple[str, Reason, str], ...]


@lru_cache(maxsize=8192)
def _rule(cells: tuple[str, ...], limit_cents: int) -> AutopayRule | _RuleProblems:
    """Return the rule that seven cells state; a city's customers share a few."""
    names = ENROLMENT_COLUMNS[4:11]
    given: dict[str, Any] = {}
    problems: list[tuple[str, Reason, str]] = []
    for name, cell in zip(names, cells, strict=True):
        if not cell:
            continue
        if name in ("charge_on", "amount"):
            given[name] = cell
        elif _NUMBER.fullmatch(cell):
            given[name] = int(cell)
        else:
            problems.append((name, Reason.INVALID_RULE, "is a whole number of 1 or more"))
    if problems:
        return tuple(problems)
    try:
        rule = AutopayRule.model_validate(given)
    except ValidationError as error:
        return tuple(
            (_field_of(entry), Reason.INVALID_RULE, entry["msg"].removeprefix("Value error, "))
            for entry in error.errors(include_url=False, include_input=False)
        )
    above = [
        (name, Reason.ABOVE_CITY_LIMIT, "")
        for name in ("fixed_cents", "minimum_cents", "maximum_cents")
        if (getattr(rule, name) or 0) > limit_cents
    ]
    return tuple(above) if above else rule


def _field_of(entry: Any) -> str:
    """Return which column an error is about; one about the whole rule begins with its column."""
    if entry["loc"]:
        return str(entry["loc"][0])
    first = entry["msg"].removeprefix("Value error, ").partition(" ")[0]
    return first if first in ENROLMENT_COLUMNS else "charge_on"


def _date(
    text: str, field: str, line: int, today: date, problems: list[LineProblem]
) -> date | None:
    if not text:
        return None
    try:
        found = date.fromisoformat(text) if _DATE.fullmatch(text) else None
    except ValueError:
        found = None
    if found is None:
        problems.append(_invalid(line, field, "is a day as YYYY-MM-DD"))
        return None
    earliest = today - timedelta(days=DRAFT_DAYS_PAST_MAX)
    latest = today + timedelta(days=DRAFT_DAYS_AHEAD_MAX)
    if not earliest <= found <= latest:
        detail = f"is neither past for more than {DRAFT_DAYS_PAST_MAX} days nor more than"
        problems.append(
            LineProblem(
                line=line,
                field=field,
                reason=Reason.DATE_OUT_OF_RANGE,
                detail=f"{detail} {DRAFT_DAYS_AHEAD_MAX} days ahead",
            )
        )
        return None
    return found


def _invalid(line: int, field: str, detail: str) -> LineProblem:
    return LineProblem(line=line, field=field, reason=Reason.INVALID, detail=detail)


def _too_long(line: int, field: str, characters_max: int) -> LineProblem:
    return LineProblem(line=line, field=field, reason=Reason.TOO_LONG, detail=str(characters_max))

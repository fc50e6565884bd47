"""NACHA files: debits written for a bank, returns read from it.

A record is 94 ASCII characters, a file whole blocks of ten. A return is the entry of the debit as
it comes back (`6`), followed by an addenda `799`: the return code in columns 4 to 6, the trace
number of the original entry in columns 7 to 21. Sources: moov-io/ach, `docs` and `test/testdata`;
Nacha's "Valid Characters for ACH Records".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

RECORD_LENGTH = 94
BLOCK_RECORDS = 10
DEBIT_OF_CHECKING = "27"
ENTRY_AMOUNT_MAX = 10**10 - 1
MODIFIERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class MalformedReturnFileError(Exception):
    """A return file cannot be read.

    Attributes:
        line_number: counted from 1.
    """

    def __init__(self, *, line_number: int, reason: str) -> None:
        super().__init__(f"line {line_number} of the return file {reason}")
        self.line_number = line_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Originator:
    """Who collects, and through which bank."""

    name: str = "CITY UTILITIES"
    company_id: str = "0000000001"
    """What the bank knows its customer by; ten characters."""
    bank_routing_number: str = "999999992"


@dataclass(frozen=True, slots=True, kw_only=True)
class Debit:
    """One debit; the amount in cents."""

    trace: str
    """Fifteen digits: the first eight of the originating bank's routing number, and a number."""
    reference: str
    """The originator's own name for it, up to 15 characters; comes back with a return."""
    routing_number: str
    account_number: str
    amount_cents: int
    name: str
    again: bool = False
    """Whether it was returned before: Nacha wants such entries to say `RETRY PYMT`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """One debit that came back."""

    code: str
    original_trace: str
    amount_cents: int


def render_debits(
    debits: Sequence[Debit],
    *,
    originator: Originator,
    created_at: datetime,
    modifier: str,
    effective_on: date,
) -> str:
    """Return a file of WEB debits: a batch of first presentments, and one of repeated ones.

    A bank tells two files apart by origin, minute of creation and modifier.
    """
    records = [_file_header(originator, created_at, modifier)]
    batches = [
        (description, batch)
        for description, batch in (
            ("UTIL PMT", [debit for debit in debits if not debit.again]),
            ("RETRY PYMT", [debit for debit in debits if debit.again]),
        )
        if batch
    ]
    for number, (description, batch) in enumerate(batches, start=1):
        head = f"{originator.bank_routing_number[:8]}{number:07d}"
        records.append(
            f"5225{_text(originator.name, 16)}{'':20}{_text(originator.company_id, 10)}WEB"
            f"{description:10}{'':6}{effective_on:%y%m%d}   1{head}"
        )
        records += [_entry(debit) for debit in batch]
        records.append(
            f"8225{len(batch):06d}{_hash(batch)}{_total(batch):012d}{0:012d}"
            f"{_text(originator.company_id, 10)}{'':25}{head}"
        )
    blocks = -(-(len(records) + 1) // BLOCK_RECORDS)
    records.append(
        f"9{len(batches):06d}{blocks:06d}{len(debits):08d}{_hash(debits)}"
        f"{_total(debits):012d}{0:012d}{'':39}"
    )
    records += ["9" * RECORD_LENGTH] * (blocks * BLOCK_RECORDS - len(records))
    return "".join(f"{record}\n" for record in records)


def parse_returns(text: str) -> list[Return]:
    """Return what a return file brings back; notifications of change (`798`) bring nothing.

    Raises MalformedReturnFileError.
    """
    if not text.startswith("101"):
        raise MalformedReturnFileError(line_number=1, reason="is no file header")
    returns = []
    entry: str | None = None
    # Some banks leave the spaces at the end of a record out.
    for line_number, record in enumerate(text.splitlines(), start=1):
        line = record.ljust(RECORD_LENGTH)
        if line.startswith("799"):
            if entry is None:
                raise MalformedReturnFileError(
                    line_number=line_number, reason="has an addenda without its entry"
                )
            returns.append(_return(line_number, line, entry))
        # An addenda 98 tells of a change, 05 of the payment itself: neither brings money back.
        entry = line if line.startswith("6") else entry if line.startswith("7") else None
    return returns


def _return(line_number: int, line: str, entry: str) -> Return:
    code, trace, amount = line[3:6], line[6:21], entry[29:39]
    if not (code[0] == "R" and code[1:].isdecimal()):
        raise MalformedReturnFileError(line_number=line_number, reason=f"has no code: {code!r}")
    if not trace.isdecimal() or not amount.isdecimal():
        raise MalformedReturnFileError(
            line_number=line_number, reason="names no original entry or no amount"
        )
    return Return(code=code, original_trace=trace, amount_cents=int(amount))


def modifier_of(number: int) -> str:
    """Return the modifier of the file of this number, counted from 0: no two in 36 are alike."""
    return MODIFIERS[number % len(MODIFIERS)]


def _file_header(originator: Originator, created_at: datetime, modifier: str) -> str:
    origin = originator.company_id[-9:]
    return (
        f"101 {originator.bank_routing_number:9} {origin:9}{created_at:%y%m%d%H%M}{modifier}094101"
        f"{_text('BANK', 23)}{_text(originator.name, 23)}{'':8}"
    )


def _entry(debit: Debit) -> str:
    if not 0 < debit.amount_cents <= ENTRY_AMOUNT_MAX:
        raise ValueError(f"an entry cannot carry {debit.amount_cents} cents")
    return (
        f"6{DEBIT_OF_CHECKING}{debit.routing_number}{_text(debit.account_number, 17)}"
        f"{debit.amount_cents:010d}{_text(debit.reference, 15)}{_text(debit.name, 22)}R 0"
        f"{debit.trace}"
    )


def _hash(debits: Iterable[Debit]) -> str:
    return f"{sum(int(debit.routing_number[:8]) for debit in debits) % 10**10:010d}"


def _total(debits: Iterable[Debit]) -> int:
    return sum(debit.amount_cents for debit in debits)


def _text(text: str, width: int) -> str:
    plain = "".join(one if " " <= one <= "~" else "?" for one in text)
    return f"{plain[:width]:{width}}"

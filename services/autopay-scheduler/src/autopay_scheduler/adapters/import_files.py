"""CSV as it is uploaded: UTF-8, commas, one physical line for each record, in bounded memory.

Invariant: at most one chunk and one line are held. A line that cannot be read costs that line and
no other: a quote that is never closed does not swallow what follows it, since no cell may hold a
line break. (RFC 4180 allows that; no column here has a use for it.)
"""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import date
from typing import TypeVar

from autopay_scheduler.domain.import_lines import (
    DraftLine,
    EnrolmentLine,
    FileRefusedError,
    LineProblem,
    Reason,
    draft_header,
    draft_line,
    enrolment_header,
    enrolment_line,
)

LINE_BYTES_MAX = 4096
"""Twice what the longest cells of all columns make together."""
BATCH_LINES = 2000
"""What is handed on at once: as much as the database takes in some milliseconds."""

_CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",]*))(,|$)')
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"

Line = TypeVar("Line")
Parse = Callable[[Sequence[str], int], Line | Sequence[LineProblem]]


class CsvImportFiles:
    """See `autopay_scheduler.ports.reenrolment.ImportFiles`."""

    def __init__(self, *, lines_max: int, limit_cents: int) -> None:
        self._lines_max = lines_max
        self._limit_cents = limit_cents

    def enrolments(
        self, chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[Sequence[EnrolmentLine | LineProblem]]:
        limit_cents = self._limit_cents

        def parse(cells: Sequence[str], line: int) -> EnrolmentLine | Sequence[LineProblem]:
            return enrolment_line(cells, line=line, limit_cents=limit_cents)

        return _read(chunks, enrolment_header, parse, self._lines_max)

    def drafts(
        self, chunks: AsyncIterator[bytes], *, today: date
    ) -> AsyncIterator[Sequence[DraftLine | LineProblem]]:
        limit_cents = self._limit_cents

        def parse(cells: Sequence[str], line: int) -> DraftLine | Sequence[LineProblem]:
            return draft_line(cells, line=line, limit_cents=limit_cents, today=today)

        return _read(chunks, draft_header, parse, self._lines_max)


async def _read(
    chunks: AsyncIterator[bytes],
    header: Callable[[Sequence[str]], tuple[int, ...]],
    parse: Parse[Line],
    lines_max: int,
) -> AsyncIterator[Sequence[Line | LineProblem]]:
    places: tuple[int, ...] | None = None
    width, records = 0, 0
    batch: list[Line | LineProblem] = []
    async for number, raw in _lines(chunks):
        if raw == b"":
            # Nothing is said, so nothing is left out; many programs end a file like this.
            continue
        if places is None:
            cells = _header_cells(raw, number)
            places, width = header(cells), len(cells)
            continue
        records += 1
        if records > lines_max:
            raise FileRefusedError(
                reason="too_many_lines",
                message=f"more than {lines_max} lines; import it in parts",
                line=number,
            )
        found = _record(raw, number, places, width, parse)
        if isinstance(found, Sequence):
            batch.extend(found)
        else:
            batch.append(found)
        if len(batch) >= BATCH_LINES:
            yield batch
            batch = []
    if places is None:
        raise FileRefusedError(reason="empty_file", message="the file is empty")
    if records == 0:
        raise FileRefusedError(
            reason="no_lines", message="the file has a header and no lines", line=1
        )
    if batch:
        yield batch


def _record(
    raw: bytes | None,
    number: int,
    places: tuple[int, ...],
    width: int,
    parse: Parse[Line],
) -> Line | Sequence[LineProblem]:
    if raw is None:
        return [
            LineProblem(
                line=number, field="line", reason=Reason.TOO_LONG, detail=str(LINE_BYTES_MAX)
            )
        ]
    cells = _cells(_decoded(raw, number))
    if cells is None:
        return [LineProblem(line=number, field="line", reason=Reason.WRONG_QUOTING)]
    if len(cells) != width:
        detail = f"has {len(cells)} cells where the header has {width}"
        return [
            LineProblem(line=number, field="line", reason=Reason.WRONG_CELL_COUNT, detail=detail)
        ]
    in_order = [cells[place].strip(" ") if place >= 0 else "" for place in places]
    return parse(in_order, number)


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes | None]]:
    """Yield the lines with their numbers, without line ends; None for one that is too long."""
    number, rest, is_long, is_first = 0, b"", False, True
    async for chunk in chunks:
        rest += chunk
        if is_first and len(rest) >= len(_UTF8_MARK):
            rest, is_first = _without_mark(rest), False
        *whole, rest = rest.split(b"\n")
        for line in whole:
            number += 1
            yield (
                number,
                None if is_long or len(line) > LINE_BYTES_MAX else line.removesuffix(b"\r"),
            )
            is_long = False
        if len(rest) > LINE_BYTES_MAX:
            # Of a line that is too long nothing is kept but that it is.
            rest, is_long = b"", True
    if is_first:
        rest = _without_mark(rest)
    if rest or is_long:
        yield number + 1, None if is_long else rest.removesuffix(b"\r")


def _without_mark(beginning: bytes) -> bytes:
    if beginning.startswith(_UTF16):
        raise FileRefusedError(
            reason="wrong_encoding",
            message="the file is UTF-16; save it as CSV in UTF-8",
            line=1,
        )
    return beginning.removeprefix(_UTF8_MARK)


def _header_cells(raw: bytes | None, number: int) -> Sequence[str]:
    cells = None
    if raw is not None:
        if b"\x00" in raw:
            raise FileRefusedError(
                reason="wrong_encoding",
                message="the header holds NUL bytes; save the file as CSV in UTF-8",
                line=number,
            )
        if b"\r" in raw:
            raise FileRefusedError(
                reason="wrong_header",
                message="lines end with LF or CRLF, not with CR alone",
                line=number,
                field="header",
            )
        cells = _cells(_decoded(raw, number))
    if cells is None:
        raise FileRefusedError(
            reason="wrong_header",
            message="the first line is no header: too long, or not rightly quoted",
            line=number,
            field="header",
        )
    return cells


def _decoded(raw: bytes, number: int) -> str:
    """Return a line's text.

    Raises:
        FileRefusedError: it is not UTF-8; then nor is the file, and what else it says is a guess.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise FileRefusedError(
            reason="wrong_encoding",
            message=f"byte {error.start + 1} of line {number} is not UTF-8; save the file in UTF-8",
            line=number,
        ) from None


def _cells(text: str) -> Sequence[str] | None:
    """Return a line's cells by RFC 4180; None where its quotes are wrong."""
    if '"' not in text:
        return text.split(",")
    cells, place = [], 0
    while True:
        found = _CELL.match(text, place)
        if found is None:
            return None
        quoted, plain, end = found.groups()
        cells.append(plain if quoted is None else quoted.replace('""', '"'))
        place = found.end()
        if not end:
            return cells

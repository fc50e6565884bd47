from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.reenrolment import HEADER, TODAY, a_file, a_reader, a_row, in_chunks

from autopay_scheduler.adapters.import_files import LINE_BYTES_MAX
from autopay_scheduler.domain.import_lines import (
    DraftLine,
    EnrolmentLine,
    FileRefusedError,
    LineProblem,
    Reason,
)
from autopay_scheduler.domain.payment_data import NumberShape
from shared.contracts.enrolments import AutopayRule

FIXTURES = Path(__file__).parents[2] / "fixtures" / "reenrolment"
VISA = "4242424242424242"
DRAFTS = "account,draft_date,due_date,amount_cents"


async def read(content: bytes, *, size: int = 65_536, lines_max: int = 10_000) -> list[Any]:
    batches = a_reader(lines_max=lines_max).enrolments(in_chunks(content, size=size))
    return [each async for batch in batches for each in batch]


async def read_drafts(content: bytes) -> list[Any]:
    batches = a_reader().drafts(in_chunks(content), today=TODAY)
    return [each async for batch in batches for each in batch]


async def refusal(content: bytes, **options: Any) -> FileRefusedError:
    with pytest.raises(FileRefusedError) as refused:
        await read(content, **options)
    return refused.value


def problems(found: list[Any]) -> list[tuple[int, str, str]]:
    return [(e.line, e.field, str(e.reason)) for e in found if isinstance(e, LineProblem)]


def accounts(found: list[Any]) -> list[str]:
    return [each.account_id for each in found if isinstance(each, EnrolmentLine)]


class TestReading:
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65_536])
    async def test_is_the_same_however_the_bytes_arrive(self, size: int) -> None:
        content = a_file(a_row("A-1", name="José Ñandú"), a_row("A-2", name='"Byron, ""Ada"""'))
        first, second = await read(content, size=size)
        assert (first.line, first.name) == (2, "José Ñandú")
        assert (second.line, second.name) == (3, 'Byron, "Ada"')

    async def test_takes_a_mark_and_windows_line_ends(self) -> None:
        content = b"\xef\xbb\xbf" + a_file(a_row("A-1"), a_row("A-2")).replace(b"\n", b"\r\n")
        for size in (1, 2, 65_536):
            assert accounts(await read(content, size=size)) == ["A-1", "A-2"]

    async def test_takes_a_last_line_without_an_end_and_counts_empty_ones(self) -> None:
        content = a_file(a_row("A-1"), "", a_row("A-2"), "", "")
        found = await read(content.rstrip(b"\n"))
        assert [(each.line, each.account_id) for each in found] == [(2, "A-1"), (4, "A-2")]

    async def test_takes_the_columns_in_any_order(self) -> None:
        names = HEADER.split(",")
        cells = a_row("A-1", locale="es").split(",")
        content = a_file(",".join(reversed(cells)), header=" , ".join(reversed(names)))
        [line] = await read(content)
        assert (line.account_id, line.old_account, line.locale) == ("A-1", "OLD-A-1", "es")

    async def test_takes_quotes_around_every_cell_and_spaces_around_them(self) -> None:
        quoted = ",".join(f'"{cell}"' for cell in a_row("A-1", charge_on="due_date").split(","))
        [line] = await read(a_file(quoted, header=",".join(f'"{n}"' for n in HEADER.split(","))))
        assert line.rule == AutopayRule()

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ('"never closed', "wrong_quoting"),
            ('closed" before', "wrong_quoting"),
            ('"closed" twice"', "wrong_quoting"),
            ("one, more", "wrong_cell_count"),
            ("a\x00b", "control_character"),
            ("a\tb", "control_character"),
            ("a\x85b", "control_character"),
            ("a\u2028b", "control_character"),
            ("x" * 5000, "too_long"),
            ("x" * 300, "too_long"),
            ("x" * 201, "too_long"),
        ],
    )
    async def test_loses_one_line_and_no_other_to_what_is_wrong_in_it(
        self, name: str, reason: str
    ) -> None:
        content = a_file(a_row("A-1"), a_row("A-2", name=name), a_row("A-3"))
        for size in (100, 65_536):
            found = await read(content, size=size)
            assert accounts(found) == ["A-1", "A-3"]
            assert [(line, why) for line, _, why in problems(found)] == [(3, reason)]

    async def test_says_how_many_cells_there_are(self) -> None:
        [problem] = await read(a_file("one,two"))
        assert problem.message == "has 2 cells where the header has 12"

    async def test_holds_no_more_of_a_line_without_end_than_a_chunk(self) -> None:
        consumed = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal consumed
            yield f"{HEADER}\n".encode()
            for _ in range(200):
                consumed += 1
                yield b"x" * 65_536
            yield f"\n{a_row('A-1')}\n".encode()

        batches = a_reader().enrolments(endless())
        found = [each async for batch in batches for each in batch]
        assert (consumed, problems(found)) == (200, [(2, "line", "too_long")])
        assert [(e.line, e.account_id) for e in found[1:]] == [(3, "A-1")]

    async def test_takes_a_line_as_long_as_the_longest_and_none_longer(self) -> None:
        row = a_row("A-1")
        padded = row + " " * (LINE_BYTES_MAX - len(row))
        assert problems(await read(a_file(padded))) == []
        assert problems(await read(a_file(padded + " "))) == [(2, "line", "too_long")]

    @settings(max_examples=200, deadline=None)
    @given(rows=st.lists(st.binary(max_size=200), max_size=8), size=st.integers(1, 300))
    async def test_says_something_of_every_line_of_any_file(
        self, rows: list[bytes], size: int
    ) -> None:
        content = f"{HEADER}\n".encode() + b"\n".join(rows)
        lines = [line.removesuffix(b"\r") for line in b"\n".join(rows).split(b"\n")]
        said = {n for n, line in enumerate(lines, start=2) if line}
        try:
            found = await read(content, size=size)
        except FileRefusedError as refused:
            assert refused.reason in ("wrong_encoding", "no_lines")
            return
        assert {each.line for each in found} == said


class TestRefusing:
    @pytest.mark.parametrize("content", [b"", b"\n\r\n\n", b"\xef\xbb\xbf"])
    async def test_an_empty_file(self, content: bytes) -> None:
        assert (await refusal(content)).reason == "empty_file"

    async def test_a_header_alone(self) -> None:
        assert (await refusal(a_file())).reason == "no_lines"
        assert (await refusal(a_file("", ""))).reason == "no_lines"

    @pytest.mark.parametrize(
        ("header", "field", "says"),
        [
            (HEADER + ",phone", "phone", "column 'phone' is not known"),
            (HEADER.replace("email", "e-mail"), "e-mail", "column 'e-mail' is not known"),
            (HEADER.replace("email", "Email"), "Email", "column 'Email' is not known"),
            (HEADER.replace(",locale", ""), "locale", "column 'locale' is missing"),
            (HEADER + ",name", "name", "column 'name' is there twice"),
            (HEADER.replace(",", ";"), "header", "cells are separated by commas"),
            (HEADER.replace(",", "\t"), "header", "cells are separated by commas"),
            (HEADER + ",", "column 13", "column number 13 is not known"),
            ('old_account,"account', "header", "the first line is no header"),
            ("x" * 5000, "header", "the first line is no header"),
        ],
    )
    async def test_another_header(self, header: str, field: str, says: str) -> None:
        refused = await refusal(a_file(a_row(), header=header))
        assert (refused.reason, refused.line, refused.field) == ("wrong_header", 1, field)
        assert refused.message.startswith(says)

    async def test_a_file_without_header_and_tells_nothing_of_it(self) -> None:
        refused = await refusal(a_file(header=a_row("A-1", old_account="7-1")))
        assert refused.reason == "wrong_header"
        assert "7-1" not in refused.message
        refused = await refusal(a_file(header=f"{VISA},Ada"))
        assert (refused.reason, refused.field) == ("payment_data_column", "column 1")
        assert VISA not in refused.message

    @pytest.mark.parametrize("column", ["card_number", "IBAN", "routing", "token", "CVV"])
    async def test_a_column_of_payment_data(self, column: str) -> None:
        refused = await refusal(a_file(a_row() + ",x", header=f"{HEADER},{column}"))
        assert (refused.reason, refused.field) == ("payment_data_column", column)
        assert refused.message == (
            f"column '{column}' looks like payment data; none may be imported"
        )

    async def test_another_encoding_with_line_and_byte(self) -> None:
        content = a_file(a_row("A-1")) + a_row("A-2", name="José").encode("latin-1") + b"\n"
        refused = await refusal(content)
        assert (refused.reason, refused.line) == ("wrong_encoding", 3)
        # "OLD-A-2,A-2,Jos" stands before it.
        assert refused.message == "byte 16 of line 3 is not UTF-8; save the file in UTF-8"

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    async def test_wide_characters(self, encoding: str) -> None:
        for size in (1, 2, 65_536):
            refused = await refusal(a_file(a_row()).decode().encode(encoding), size=size)
            assert refused.reason == "wrong_encoding"

    async def test_line_ends_of_old(self) -> None:
        refused = await refusal(b"a\rb")
        assert refused.message == "lines end with LF or CRLF, not with CR alone"

    async def test_too_many_lines(self) -> None:
        content = a_file(*(a_row(f"A-{n}") for n in range(4)))
        assert len(await read(content, lines_max=4)) == 4
        refused = await refusal(content, lines_max=3)
        assert (refused.reason, refused.line) == ("too_many_lines", 5)


class TestEnrolmentLine:
    @pytest.mark.parametrize(
        ("cells", "field", "reason"),
        [
            ({"account": ""}, "account", "missing"),
            ({"account": "A 1"}, "account", "invalid"),
            ({"account": "Ä-1"}, "account", "invalid"),
            ({"account": "A" * 65}, "account", "invalid"),
            ({"old_account": ""}, "old_account", "missing"),
            ({"name": ""}, "name", "missing"),
            ({"email": "ada"}, "email", "invalid"),
            ({"email": "a@b.org;c@d.org"}, "email", "invalid"),
            ({"email": "<a@b.org>"}, "email", "invalid"),
            ({"locale": "de"}, "locale", "invalid"),
            ({"charge_on": "whenever"}, "charge_on", "invalid_rule"),
            ({"charge_on": "days_before_due"}, "days_before", "invalid_rule"),
            ({"charge_on": "days_before_due", "days_before": "0"}, "days_before", "invalid_rule"),
            ({"charge_on": "days_before_due", "days_before": "29"}, "days_before", "invalid_rule"),
            ({"charge_on": "day_of_month", "day_of_month": "32"}, "day_of_month", "invalid_rule"),
            ({"day_of_month": "5"}, "day_of_month", "invalid_rule"),
            ({"amount": "all"}, "amount", "invalid_rule"),
            ({"amount": "fixed"}, "fixed_cents", "invalid_rule"),
            ({"amount": "fixed", "fixed_cents": "0"}, "fixed_cents", "invalid_rule"),
            ({"amount": "fixed", "fixed_cents": "-5"}, "fixed_cents", "invalid_rule"),
            ({"amount": "fixed", "fixed_cents": "12.50"}, "fixed_cents", "invalid_rule"),
            ({"amount": "fixed", "fixed_cents": "1e3"}, "fixed_cents", "invalid_rule"),
            ({"amount": "fixed", "fixed_cents": "999999999"}, "fixed_cents", "invalid_rule"),
            ({"amount": "fixed", "fixed_cents": "1000001"}, "fixed_cents", "above_city_limit"),
            ({"maximum_cents": "1000001"}, "maximum_cents", "above_city_limit"),
            ({"minimum_cents": "9", "maximum_cents": "8"}, "minimum_cents", "invalid_rule"),
            ({"name": f"Ada {VISA}"}, "name", "payment_data"),
            ({"email": f"{VISA}@example.org"}, "email", "payment_data"),
            ({"fixed_cents": VISA}, "fixed_cents", "payment_data"),
            ({"name": "021000021 123456789"}, "name", "payment_data"),
            ({"locale": "DE89370400440532013000"}, "locale", "payment_data"),
        ],
    )
    async def test_names_what_is_wrong(
        self, cells: dict[str, str], field: str, reason: str
    ) -> None:
        found = await read(a_file(a_row("A-1", **cells)))
        assert problems(found) == [(2, field, reason)]
        [problem] = found
        # Nothing of a cell is told again.
        words = ("fixed", "days_before_due", "day_of_month")
        told = [cell for cell in cells.values() if cell not in words and len(cell) > 4]
        assert not any(cell in problem.message for cell in told)
        assert problem.message

    async def test_names_everything_that_is_wrong(self) -> None:
        row = a_row("", email="x", locale="y", days_before="z", maximum_cents="0")
        assert problems(await read(a_file(row))) == [
            (2, "account", "missing"),
            (2, "email", "invalid"),
            (2, "locale", "invalid"),
            (2, "days_before", "invalid_rule"),
            (2, "maximum_cents", "invalid_rule"),
        ]

    async def test_knows_every_rule(self) -> None:
        rows = [
            a_row("A-1", charge_on="days_before_due", days_before="5", amount="statement_balance"),
            a_row("A-2", amount="fixed", fixed_cents="2500", maximum_cents="2500"),
            a_row("A-3", charge_on="day_of_month", day_of_month="31", minimum_cents="1"),
        ]
        assert [line.rule for line in await read(a_file(*rows))] == [
            AutopayRule(charge_on="days_before_due", days_before=5, amount="statement_balance"),
            AutopayRule(amount="fixed", fixed_cents=2500, maximum_cents=2500),
            AutopayRule(charge_on="day_of_month", day_of_month=31, minimum_cents=1),
        ]

    async def test_leaves_account_numbers_that_look_like_cards_to_be_judged_together(self) -> None:
        rows = [
            a_row(VISA, old_account="7001", email=""),
            a_row("A-1", old_account=VISA),
            a_row(VISA, old_account=VISA, email=""),
            a_row("A-2", old_account="4242424242424241"),
        ]
        found = await read(a_file(*rows))
        assert [line.number_shape for line in found] == [
            NumberShape.NONE,
            NumberShape.FITTING,
            # The same number on both portals, and known to the CIS or refused for that.
            NumberShape.NONE,
            NumberShape.POSSIBLE,
        ]


class TestDraftLine:
    async def test_has_one_date_or_both(self) -> None:
        content = a_file("A-1,2026-03-10,,8000", "A-2,,2026-03-15,1", header=DRAFTS)
        assert await read_drafts(content) == [
            DraftLine(
                line=2,
                account_id="A-1",
                draft_date=date(2026, 3, 10),
                due_date=None,
                amount_cents=8000,
            ),
            DraftLine(
                line=3,
                account_id="A-2",
                draft_date=None,
                due_date=date(2026, 3, 15),
                amount_cents=1,
            ),
        ]

    @pytest.mark.parametrize("column", ["draft_date", "due_date"])
    async def test_may_come_without_one_of_the_columns(self, column: str) -> None:
        [line] = await read_drafts(
            a_file("A-1,2026-03-10,8000", header=f"account,{column},amount_cents")
        )
        assert getattr(line, column) == date(2026, 3, 10)

    async def test_needs_one_of_them(self) -> None:
        with pytest.raises(FileRefusedError) as refused:
            await read_drafts(a_file("A-1,8000", header="account,amount_cents"))
        assert refused.value.message == "a column draft_date or due_date is missing"

    @pytest.mark.parametrize(
        ("row", "field", "reason"),
        [
            ("A-1,,,8000", "draft_date", Reason.MISSING),
            ("A-1,10.03.2026,,8000", "draft_date", Reason.INVALID),
            ("A-1,2026-02-30,,8000", "draft_date", Reason.INVALID),
            ("A-1,20260310,,8000", "draft_date", Reason.INVALID),
            ("A-1,2026-01-29,,8000", "draft_date", Reason.DATE_OUT_OF_RANGE),
            ("A-1,,2027-04-07,8000", "due_date", Reason.DATE_OUT_OF_RANGE),
            ("A-1,2026-03-10,,", "amount_cents", Reason.MISSING),
            ("A-1,2026-03-10,,0", "amount_cents", Reason.INVALID),
            ("A-1,2026-03-10,,80.00", "amount_cents", Reason.INVALID),
            ("A-1,2026-03-10,,1000001", "amount_cents", Reason.ABOVE_CITY_LIMIT),
            (",2026-03-10,,1", "account", Reason.MISSING),
        ],
    )
    async def test_names_what_is_wrong(self, row: str, field: str, reason: Reason) -> None:
        [problem] = await read_drafts(a_file(row, header=DRAFTS))
        assert (problem.line, problem.field, problem.reason) == (2, field, reason)
        assert problem.message

    @pytest.mark.parametrize("day", ["2026-01-30", "2027-04-06"])
    async def test_reaches_a_month_back_and_a_year_ahead(self, day: str) -> None:
        [line] = await read_drafts(a_file(f"A-1,{day},,8000", header=DRAFTS))
        assert line.draft_date == date.fromisoformat(day)


class TestSamples:
    async def test_enrolments_are_as_the_documentation_says(self) -> None:
        found = await read((FIXTURES / "enrolments.csv").read_bytes())
        assert accounts(found) == ["100-0001", "100-0002", "100-0003", "100-0004"]
        assert problems(found) == []

    async def test_enrolments_with_problems_are_told_line_by_line(self) -> None:
        found = await read((FIXTURES / "enrolments-with-problems.csv").read_bytes())
        assert problems(found) == [
            (3, "email", "invalid"),
            (4, "days_before", "invalid_rule"),
            (5, "name", "payment_data"),
            (6, "line", "wrong_cell_count"),
        ]
        assert accounts(found) == ["100-0001", "100-0001", "999-9999"]

    async def test_drafts_are_as_the_documentation_says(self) -> None:
        found = await read_drafts((FIXTURES / "drafts.csv").read_bytes())
        assert [(each.account_id, each.amount_cents) for each in found] == [
            ("100-0001", 8450),
            ("100-0002", 12000),
        ]

    @pytest.mark.parametrize(
        ("file", "reason"),
        [
            ("payment-data-column.csv", "payment_data_column"),
            ("latin-1.csv", "wrong_encoding"),
            ("semicolons.csv", "wrong_header"),
        ],
    )
    async def test_that_are_no_such_list_are_refused(self, file: str, reason: str) -> None:
        assert (await refusal((FIXTURES / file).read_bytes())).reason == reason

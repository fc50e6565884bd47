from importlib import resources

import pytest

from paypost.simulators.processor.nacha import MalformedReturnFileError, Return, parse_returns


def fixture(name: str) -> str:
    folder = resources.files("paypost.simulators") / "fixtures" / "ach"
    return (folder / f"{name}.ach").read_text("ascii")


class TestParseReturns:
    """On files of moov-io/ach."""

    def test_reads_each_return_of_each_batch(self) -> None:
        assert parse_returns(fixture("return-WEB")) == [
            Return(code="R01", original_trace="091400600000001", amount_cents=12_354),
            Return(code="R03", original_trace="091400600000003", amount_cents=4_565),
        ]

    def test_reads_codes_of_a_banks_own(self) -> None:
        assert parse_returns(fixture("return-PPD-custom-reason-code")) == [
            Return(code="R97", original_trace="092221172022300", amount_cents=106_161)
        ]

    def test_reads_the_return_of_a_return(self) -> None:
        returns = parse_returns(fixture("dishonored-return"))
        assert [one.code for one in returns] == ["R68", "R68"]
        assert [one.amount_cents for one in returns] == [25_000, 23_000]

    @pytest.mark.parametrize("name", ["cor-example", "web-credit"])
    def test_takes_nothing_else_for_a_return(self, name: str) -> None:
        assert parse_returns(fixture(name)) == []

    def test_reads_records_without_their_last_spaces(self) -> None:
        text = "\n".join(line.rstrip() for line in fixture("return-WEB").splitlines())
        assert [one.code for one in parse_returns(text)] == ["R01", "R03"]

    @pytest.mark.parametrize(
        ("text", "line_number"),
        [
            ("", 1),
            ("not a file\n", 1),
            ("101 \n799R01091400600000001", 2),
            ("101 \n626\n799X01091400600000001", 3),
            ("101 \n626\n799R01ABCDEFGHIJKLMNO", 3),
        ],
    )
    def test_says_where_it_cannot_read(self, text: str, line_number: int) -> None:
        with pytest.raises(MalformedReturnFileError) as raised:
            parse_returns(text)
        assert raised.value.line_number == line_number

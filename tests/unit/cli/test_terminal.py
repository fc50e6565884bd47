from pathlib import Path

import pytest

from paypost.commands.terminal import DoesNotHoldError, UsageError, known_errors, parse_cents
from paypost.remote import RefusedRequestError, refusal_of
from paypost.stack.state import StackNotRunningError


class TestParseCents:
    @pytest.mark.parametrize(
        ("text", "cents"),
        [("84.50", 8_450), ("84.5", 8_450), ("84", 8_400), ("0", 0), ("1,234.56", 123_456)],
    )
    def test_reads_amounts_as_people_write_them(self, text, cents):
        assert parse_cents(text, option="--amount") == cents

    @pytest.mark.parametrize("text", ["", "eighty", "84.505", "-1", "NaN", "Infinity", "1e-9"])
    def test_refuses_what_is_no_amount_and_names_the_option(self, text):
        with pytest.raises(UsageError, match="--amount"):
            parse_cents(text, option="--amount")


class TestKnownErrors:
    @pytest.mark.parametrize(
        ("error", "code", "says"),
        [
            (UsageError("--amount 'x' is not an amount"), 2, "is not an amount"),
            (
                StackNotRunningError(name="s", directory=Path("s"), reason="nobody runs it"),
                3,
                "start one with `paypost up`",
            ),
            (RefusedRequestError(status=404, title="No such payment", url="u"), 1, "404"),
            (ConnectionRefusedError("refused"), 1, "see `paypost status`"),
        ],
    )
    def test_become_one_line_and_an_exit_code(self, capsys, error, code, says):
        with pytest.raises(SystemExit) as ended, known_errors():
            raise error
        printed = capsys.readouterr()
        assert ended.value.code == code
        assert says in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""

    def test_a_no_is_an_exit_code_alone(self, capsys):
        with pytest.raises(SystemExit) as ended, known_errors():
            raise DoesNotHoldError
        assert ended.value.code == 1
        assert capsys.readouterr() == ("", "")

    def test_a_defect_keeps_its_traceback(self):
        with pytest.raises(ZeroDivisionError), known_errors():
            1 / 0  # noqa: B018


class TestRefusalOf:
    def test_says_what_the_problem_says(self):
        body = b'{"title": "Malformed", "detail": "foo is not a switch"}'
        refusal = refusal_of(status=400, body=body, url="http://cis")
        assert refusal.title == "Malformed (foo is not a switch)"

    def test_says_the_body_where_it_is_no_problem(self):
        assert refusal_of(status=502, body=b"Bad gateway", url="u").title == "Bad gateway"

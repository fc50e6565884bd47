import json

import pytest
from typer.testing import CliRunner

from paypost.__main__ import build_app, main

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def no_stack(monkeypatch, tmp_path):
    monkeypatch.setenv("PAYPOST_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("PAYPOST_STACK", "none")


class TestCommandLine:
    def test_lists_its_commands_and_exit_codes(self):
        shown = RUNNER.invoke(build_app(), ["--help"])
        assert shown.exit_code == 0
        for command in ("up", "down", "status", "demo", "trigger", "trace", "verify", "autopay"):
            assert f"  {command} " in shown.output
        assert "3 no stack is up" in shown.output

    @pytest.mark.parametrize(
        "arguments",
        [
            ["status"],
            ["verify"],
            ["trace", "pi_1"],
            ["trigger", "stripe", "card"],
            ["trigger", "portal", "captured"],
            ["trigger", "enrol", "1001"],
            ["trigger", "bill", "1001", "--amount", "84.50", "--due", "2026-03-20"],
            ["trigger", "autopay", "cancelled", "1001"],
            ["autopay", "preview", "--date", "2026-03-20"],
            ["autopay", "pause", "--all", "--note", "wrong bills"],
            ["autopay", "resume", "--note", "put right"],
            ["autopay", "switch"],
            ["autopay", "report"],
            ["autopay", "report", "--lapsing"],
            ["autopay", "show", "1001"],
            ["autopay", "import", "old.csv"],
            ["autopay", "drafts", "old.csv", "--dry-run"],
            ["autopay", "stop", "enrolment", "--note", "called"],
            ["suspense", "list"],
            ["dead", "list"],
            ["mail", "list"],
            ["cis", "switches"],
        ],
    )
    def test_says_in_one_line_that_no_stack_is_up(self, monkeypatch, capsys, arguments):
        monkeypatch.setattr("sys.argv", ["paypost", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == 3
        assert "start one with `paypost up`" in printed.err
        assert printed.out == ""

    @pytest.mark.parametrize(
        "arguments",
        [
            ["trigger", "stripe", "card", "--amount", "x"],
            ["trigger", "stripe", "nothing_of_the_kind"],
            ["trigger", "stripe", "ach", "--events", "minimal"],
            ["trigger", "stripe", "card", "--accounts", "5", "--account", "1001"],
            ["trigger", "portal", "captured", "--account", "with space"],
            ["trigger", "enrol", "1001", "--on", "day_of_month"],
            ["trigger", "enrol", "1001", "--amount", "fixed"],
            ["trigger", "enrol", "1001", "--fixed", "50.00"],
            ["trigger", "enrol", "1001", "--minimum", "90", "--maximum", "80"],
            ["trigger", "enrol", "1001", "--token", "4242424242424242"],
            ["trigger", "enrol", "1001", "--accounts", "2"],
            ["trigger", "enrol", "with space"],
            ["trigger", "bill", "1001", "--amount", "x", "--due", "2026-03-20"],
            ["trigger", "bill", "1001", "--amount", "84.50", "--due", "soon"],
            ["trigger", "autopay", "cancelled", "1001", "--resume-on", "2026-03-20"],
            ["autopay", "pause", "--note", "without --all"],
            ["autopay", "pause", "--all"],
            ["autopay", "report", "--lapsing", "--move"],
            ["autopay", "report", "--until", "2026-03-20"],
            ["cis", "set", "down"],
            ["dead", "replay"],
        ],
    )
    def test_calls_wrong_usage_2(self, monkeypatch, capsys, arguments):
        monkeypatch.setattr("sys.argv", ["paypost", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert capsys.readouterr().out == ""

    def test_down_says_that_nothing_was_up(self):
        shown = RUNNER.invoke(build_app(), ["down", "--json"])
        assert json.loads(shown.stdout) == {"stack": "none", "was_running": False}

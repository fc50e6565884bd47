"""A real Prometheus beside the running product: no panel is empty, no metric misspelt.

The short form of `make sre-check`: without the exporters of Kafka and PostgreSQL, and without
the outages. Where Prometheus cannot be had it fails, and says so.
"""

from pathlib import Path

import pytest
from deploy.observability.check import check
from deploy.observability.tools import ToolsUnavailableError, find_tools


@pytest.mark.stack
class TestPrometheus:
    def test_gets_an_answer_to_every_panel_and_rule_under_the_demos_load(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PAYPOST_STATE_DIR", str(tmp_path))
        try:
            tools = find_tools()
        except ToolsUnavailableError as error:
            pytest.fail(f"NOT CHECKED: {error}", pytrace=False)
        checked = check(tools=tools, directory=tmp_path, is_short=True, render=None)
        assert checked.wrong == []
        assert any("0 without an answer" in line for line in checked.lines)

"""Rules and dashboards: taken by Prometheus' own tool, fired and silenced, and told to people."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from deploy.observability.queries import (
    DASHBOARDS,
    EXPORTERS,
    RULES,
    TESTS,
    panel_queries,
    rule_queries,
    rules,
    selectors,
)
from deploy.observability.tools import ToolsUnavailableError, find_tools

from autopay_scheduler.metrics import Metrics as AutopaySchedulerMetrics
from cis_poster.metrics import Metrics as CisPosterMetrics
from notifier.metrics import Metrics as NotifierMetrics
from payment_intake.metrics import Metrics as PaymentIntakeMetrics
from paypost.verify.exposition import VerifyMetrics

ROOT = Path(__file__).parents[3]
RUNBOOKS = ROOT / "docs" / "operating" / "runbooks"
ALERTS = {rule["alert"]: rule for rule in rules("alert")}
SERVICES = (PaymentIntakeMetrics, CisPosterMetrics, AutopaySchedulerMetrics, NotifierMetrics)
RESERVED = {"le", "job", "instance", "service", "slo"}


def promtool(*arguments: str) -> str:
    """What promtool says; fails the test where it refuses, or cannot be had."""
    try:
        tool = find_tools().promtool
    except ToolsUnavailableError as error:
        # Loudly and not skipped: rules that nobody has read are not known to be right.
        pytest.fail(f"NOT CHECKED: {error}", pytrace=False)
    ended = subprocess.run(
        [tool, *arguments], capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def collected() -> dict[str, set[str]]:
    """Every metric of our own code, by the name of its samples, with the names of its labels."""
    found: dict[str, set[str]] = {}
    for registry in (*(build().registry for build in SERVICES), VerifyMetrics().registry):
        for collector in list(registry._collector_to_names):
            labels = set(getattr(collector, "_labelnames", ()))
            for name in registry._collector_to_names[collector]:
                found[name] = labels
    return found


class TestRules:
    def test_are_taken_by_promtool(self):
        told = promtool("check", "rules", *(str(path) for path in sorted(RULES.glob("*.yml"))))
        assert told.count("SUCCESS") == len(list(RULES.glob("*.yml"))) == 3

    @pytest.mark.parametrize("path", sorted(TESTS.glob("*.yml")), ids=lambda path: path.stem)
    def test_fire_and_stay_silent_as_they_should(self, path):
        assert "SUCCESS" in promtool("test", "rules", str(path))

    @pytest.mark.parametrize("alert", sorted(ALERTS))
    def test_are_each_fired_once_and_silenced_once(self, alert):
        cases = {
            case["name"]: case["promql_expr_test"][0]["exp_samples"]
            for path in TESTS.glob("*.yml")
            for case in yaml.safe_load(path.read_text())["tests"]
        }
        assert len(cases[f"{alert} fires"]) == 1
        assert cases[f"{alert} is silent"] == []

    @pytest.mark.parametrize("alert", sorted(ALERTS))
    def test_tell_a_person_what_is_wrong_and_what_to_do(self, alert):
        rule = ALERTS[alert]
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["runbook_url"] == f"docs/operating/runbooks/{alert}.md"
        page = (RUNBOOKS / f"{alert}.md").read_text()
        for heading in ("## Look at", "## Do", "## Do not"):
            assert f"\n{heading}\n" in page, heading
        assert page.startswith(f"# {alert}\n")

    def test_have_no_page_without_an_alert(self):
        assert {path.stem for path in RUNBOOKS.glob("Paypost*.md")} == set(ALERTS)

    @pytest.mark.parametrize("module", ["generate_rules", "generate_dashboards"])
    def test_and_dashboards_are_as_they_are_generated(self, module):
        script = ROOT / "deploy" / "observability" / f"{module}.py"
        ended = subprocess.run(
            [sys.executable, script, "--check"], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


class TestQueries:
    def test_name_metrics_and_labels_that_the_code_has(self):
        known = collected()
        records = {rule["record"] for rule in rules("record")}
        asked = [*panel_queries(), *rule_queries("record"), *rule_queries("alert")]
        for query in asked:
            for selector in selectors(query.expr):
                name = selector.metric
                if name.startswith((*EXPORTERS, "process_")):
                    continue
                if ":" in name:
                    assert name in records, (query.where, name)
                    continue
                assert name in known, (query.where, name)
                assert set(selector.labels) - RESERVED <= known[name], (query.where, selector)

    def test_of_rules_group_by_labels_that_the_metrics_have(self):
        known = {label for labels in collected().values() for label in labels} | RESERVED
        for query in (*panel_queries(), *rule_queries("record"), *rule_queries("alert")):
            if query.needs_exporter:
                continue
            for labels in re.findall(r"by \(([^)]*)\)", query.expr):
                unknown = {label.strip() for label in labels.split(",")} - known - {"fault"}
                assert unknown <= {"", "version"}, (query.where, unknown)


class TestDashboards:
    @pytest.mark.parametrize("path", sorted(DASHBOARDS.glob("*.json")), ids=lambda path: path.stem)
    def test_have_panels_that_do_not_overlap_and_ask_something(self, path):
        dashboard = json.loads(path.read_text())
        assert dashboard["uid"] == path.stem
        taken: set[tuple[int, int]] = set()
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(ids) == len(set(ids))
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells
            if panel["type"] != "row":
                assert panel["targets"]
                assert all(target["expr"] for target in panel["targets"])


class TestExpositions:
    @pytest.mark.parametrize("build", SERVICES)
    def test_are_found_faultless_by_promtool(self, build, tmp_path):
        from prometheus_client import generate_latest

        metrics = build()
        ended = subprocess.run(
            [find_tools().promtool, "check", "metrics"],
            input=generate_latest(metrics.registry),
            capture_output=True,
            check=False,
        )
        told = [
            line
            for line in (ended.stdout + ended.stderr).decode().splitlines()
            # Of the client library's own, and a plural that is no unit.
            if not line.startswith(("python_gc", "process_"))
        ]
        assert told == []

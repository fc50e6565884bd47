"""What dashboards and rules ask: every query, and every selector in it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).parent
DASHBOARDS = HERE / "grafana" / "dashboards"
RULES = HERE / "prometheus" / "rules"
TESTS = HERE / "prometheus" / "tests"
OURS = ("payment_intake", "cis_poster", "autopay_scheduler", "notifier")
EXPORTERS = ("pg", "kafka")
_SELECTOR = re.compile(
    rf"(?<![\w:])((?:{'|'.join((*OURS, *EXPORTERS, 'paypost', 'process'))})[_:][\w:]*)"
    r"(\{[^{}]*\})?"
)
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query and where it stands."""

    where: str
    expr: str
    needs_exporter: bool

    @property
    def runnable(self) -> str:
        """The query as Prometheus takes it: Grafana's own variables are filled in."""
        return self.expr.replace("$__rate_interval", "5m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """A metric in a query, with the labels that it is chosen by."""

    metric: str
    labels: tuple[str, ...]

    @property
    def any_value(self) -> str:
        """A query that finds the metric wherever it has these labels, whatever their values."""
        matchers = ",".join(f'{label}!=""' for label in self.labels)
        return f"{self.metric}{{{matchers}}}"


def selectors(expr: str) -> list[Selector]:
    """Return the selectors of an expression, without repetition."""
    found = {
        Selector(
            metric=match.group(1),
            labels=tuple(sorted({name for name, _, _ in _MATCHER.findall(match.group(2) or "")})),
        )
        for match in _SELECTOR.finditer(expr)
    }
    return sorted(found, key=lambda each: (each.metric, each.labels))


def needs_exporter(expr: str) -> bool:
    """Whether a query asks for what only an exporter of Kafka's or PostgreSQL's tells."""
    return any(each.metric.startswith(EXPORTERS) for each in selectors(expr))


def panel_queries() -> Iterator[Query]:
    """Every query of every panel of every dashboard."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                yield Query(
                    where=f"{dashboard['title']} / {panel['title']}",
                    expr=target["expr"],
                    needs_exporter=needs_exporter(target["expr"]),
                )


def rules(kind: str) -> Iterator[dict]:
    """Every rule of a kind, `record` or `alert`."""
    for path in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                if kind in rule:
                    yield rule


def rule_queries(kind: str) -> Iterator[Query]:
    """The query of every rule of a kind, `record` or `alert`."""
    for rule in rules(kind):
        service = rule.get("labels", {}).get("service", "")
        yield Query(
            where=f"{rule[kind]} {service}".strip(),
            expr=rule["expr"],
            needs_exporter=needs_exporter(rule["expr"]),
        )

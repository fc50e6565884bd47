"""Asks a Prometheus everything that dashboards and rules ask, and says what has no answer.

Invariant: a panel's query and a recording rule have to return a number. An alert returns nothing
while all is well; instead each metric that it reads has to be there, with the labels by which it
reads it. What only a defect brings about has to be declared by its service at least.
"""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from deploy.observability.queries import (
    OURS,
    Query,
    panel_queries,
    rule_queries,
    selectors,
)
from deploy.observability.server import PrometheusServer, QueryRefusedError

ONLY_BY_A_DEFECT = frozenset(
    {
        "autopay_scheduler_undecidable_total",
        "payment_intake_charge_trouble_total",
    }
)
"""No load brings these about: a plan that cannot be decided, a processor that refuses our key."""


@dataclass(kw_only=True)
class Asked:
    """What was asked and what was wrong with the answers."""

    panels: int = 0
    panel_queries: int = 0
    recording_rules: int = 0
    alerts: int = 0
    alert_selectors: int = 0
    declared_only: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def told(self) -> str:
        """One line for people."""
        return (
            f"{self.panels} panels with {self.panel_queries} queries,"
            f" {self.recording_rules} recording rules,"
            f" {self.alerts} alerts with {self.alert_selectors} selectors answered;"
            f" {len(self.declared_only)} declared only ({', '.join(self.declared_only) or '-'});"
            f" {len(self.left_out)} left out; {len(self.wrong)} without an answer"
        )


def ask_everything(*, prometheus: PrometheusServer, has_exporters: bool) -> Asked:
    """Ask it all.

    Args:
        prometheus: has scraped the running product for a while.
        has_exporters: whether it scrapes Kafka's and PostgreSQL's exporters too; else what asks
            for these is left out, and named.
    """
    asked = Asked()

    def wanted(queries: Iterable[Query]) -> list[Query]:
        kept = []
        for query in queries:
            if query.needs_exporter and not has_exporters:
                asked.left_out.append(query.where)
            else:
                kept.append(query)
        return kept

    panels = wanted(panel_queries())
    asked.panels = len({query.where for query in panels})
    asked.panel_queries = len(panels)
    for query in panels:
        _ask(prometheus, query, asked)
    recordings = wanted(rule_queries("record"))
    asked.recording_rules = len(recordings)
    for query in recordings:
        # A ratio of errors has no answer while nothing happens: here something did.
        _ask(prometheus, query, asked, may_be_empty="dead_letters" in query.where)
    alerts = wanted(rule_queries("alert"))
    asked.alerts = len(alerts)
    declared = prometheus.declared()
    for query in alerts:
        _parses(prometheus, query, asked)
        _ask_selectors(prometheus, query, asked, declared)
    asked.wrong += prometheus.unhealthy_rules()
    return asked


def _ask(
    prometheus: PrometheusServer, query: Query, asked: Asked, *, may_be_empty: bool = False
) -> None:
    def look() -> str | None:
        series = prometheus.query(query.runnable)
        numbers = [float(each["value"][1]) for each in series]
        if not numbers:
            return None if may_be_empty else "no series"
        return None if any(not math.isnan(each) for each in numbers) else "only NaN"

    _note(query, asked, look)


def _parses(prometheus: PrometheusServer, query: Query, asked: Asked) -> None:
    def look() -> None:
        prometheus.query(query.runnable)

    _note(query, asked, look)


def _ask_selectors(
    prometheus: PrometheusServer, query: Query, asked: Asked, declared: Collection[str]
) -> None:
    for selector in selectors(query.expr):
        asked.alert_selectors += 1
        if prometheus.query(f"count(last_over_time({selector.any_value}[1h]))"):
            continue
        if selector.metric == "paypost:dead_letters:increase1h":
            continue
        if selector.metric in ONLY_BY_A_DEFECT and (
            selector.metric in declared or selector.metric.removesuffix("_total") in declared
        ):
            asked.declared_only.append(selector.metric)
        else:
            asked.wrong.append(f"{query.where}: no series of {selector.any_value}")


def _note(query: Query, asked: Asked, look: Callable[[], str | None]) -> None:
    try:
        problem = look()
    except QueryRefusedError as error:
        problem = error.reason
    if problem is not None:
        asked.wrong.append(f"{query.where}: {problem}: {query.runnable}")


def scrapes(prometheus: PrometheusServer) -> dict[str, tuple[float, float, float, float]]:
    """Return for each service its scrapes in seconds, and its samples at most.

    The first quartile is what a scrape takes where the processors are not the load's: it, the
    median, and the longest.
    """
    found = {}
    for name in OURS:
        job = name.replace("_", "-")
        numbers = [
            float(prometheus.query(expr.replace("JOB", f'{{job="{job}"}}[1h]'))[0]["value"][1])
            for expr in (
                "quantile_over_time(0.25, scrape_duration_secondsJOB)",
                "quantile_over_time(0.5, scrape_duration_secondsJOB)",
                "quantile_over_time(1, scrape_duration_secondsJOB)",
                "max_over_time(scrape_samples_scrapedJOB)",
            )
        ]
        found[job] = (numbers[0], numbers[1], numbers[2], numbers[3])
    return found

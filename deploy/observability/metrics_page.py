"""Prints docs/operating/metrics.md: every metric, from the collectors themselves.

Usage: python -m deploy.observability.metrics_page
"""

import sys
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Gauge, Histogram, Info
from prometheus_client.metrics import MetricWrapperBase

from autopay_scheduler.metrics import Metrics as AutopaySchedulerMetrics
from cis_poster.metrics import Metrics as CisPosterMetrics
from notifier.metrics import Metrics as NotifierMetrics
from payment_intake.metrics import Metrics as PaymentIntakeMetrics
from paypost.verify.exposition import VerifyMetrics
from shared.runtime.metrics import ServiceMetrics

INTRODUCTION = """\
# Metrics

Written by `make docs` from the collectors; change their help text there. Times are in seconds.
A counter's samples end in `_total`, a histogram's in `_bucket`, `_sum`, `_count`.

Each service answers `GET /metrics` on its operations port (9000), in Prometheus' text format or as
OpenMetrics. Exemplars, which name the trace of a payment, are in the second only. A scrape reads
memory alone: it answers while Kafka and PostgreSQL are away. What is read from the database is
measured every few seconds; `_measured_timestamp_seconds` says when last. An age grows on by the
clock until then.

Labels take values of a bounded set. A value that nobody foresaw is counted like any other until a
metric has 200 series (a histogram: 32), and under `other` from there on.

`process_*` and `python_*` are those of the client library: processor time, memory, open files,
when the process started, garbage collections.
"""


def rows(registry: CollectorRegistry) -> Iterator[tuple[str, str, str]]:
    """Return name with labels, type and help of each metric of our own, in order of definition."""
    for collector in registry._collector_to_names:
        if not isinstance(collector, MetricWrapperBase):
            continue
        family = next(iter(collector.describe()))
        labels = ",".join(collector._labelnames)
        match collector:
            case Info():
                name, kind = f"{family.name}_info", "info"
            case Histogram():
                name, kind = family.name, "histogram"
            case Gauge():
                name, kind = family.name, "gauge"
            case _:
                name, kind = f"{family.name}_total", "counter"
        yield f"`{name}{f'{{{labels}}}' if labels else ''}`", kind, family.documentation


def table(found: list[tuple[str, str, str]]) -> str:
    """Return rows as a Markdown table."""
    lines = ["| metric | type | |", "|---|---|---|"]
    lines += [f"| {name} | {kind} | {text.replace('|', '/')} |" for name, kind, text in found]
    return "\n".join(lines)


def page() -> str:
    """Return the whole page."""
    of_all = [
        (name.replace("PREFIX", ""), kind, text)
        for name, kind, text in rows(ServiceMetrics(prefix="PREFIX").registry)
    ]
    parts = [
        INTRODUCTION,
        "## Every service\n",
        "Each with its prefix: `payment_intake`, `cis_poster`, `autopay_scheduler`, `notifier`.\n",
        table(of_all) + "\n",
    ]
    shared = {name.strip("`").split("{")[0] for name, _, _ in of_all}
    for title, metrics in (
        ("payment-intake", PaymentIntakeMetrics()),
        ("cis-poster", CisPosterMetrics()),
        ("autopay-scheduler", AutopaySchedulerMetrics()),
        ("notifier", NotifierMetrics()),
    ):
        own = [
            row
            for row in rows(metrics.registry)
            if row[0].strip("`").split("{")[0].removeprefix(metrics.prefix) not in shared
        ]
        parts += [f"## {title}\n", table(own) + "\n"]
    parts += [
        "## `paypost verify`\n",
        "By `--serve` or `--metrics-file`: [dashboards and alerts](dashboards.md#verify).\n",
        table(list(rows(VerifyMetrics().registry))),
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())

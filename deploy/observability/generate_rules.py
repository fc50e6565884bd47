"""Writes the recording rules and the rules of the service levels, and says what is not as written.

Usage: generate_rules.py [--check]

An objective is stated once, here. From it follow the error ratios over all windows and the alerts
on how fast the budget burns, after "The Site Reliability Workbook", chapter 5, table 5-8.
"""
# ruff: noqa: T201 - it tells people what it has written

import sys
from dataclasses import dataclass
from pathlib import Path

RULES = Path(__file__).parent / "prometheus" / "rules"
SERVICES = ("payment-intake", "cis-poster", "autopay-scheduler", "notifier")
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
BUDGET_WINDOW = "30d"
# Burn rate, long window, short window, and how long it has to last.
PAGES = ((14.4, "1h", "5m"), (6, "6h", "30m"))
TICKETS = ((3, "1d", "2h"), (1, "3d", "6h"))
RUNBOOKS = "docs/operating/runbooks"
HEADER = "# Written by deploy/observability/generate_rules.py; change it there.\n"


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A service level: which events count, which of them are good, how many have to be."""

    slo: str
    alert: str
    objective: float
    total: str
    good: str
    fast: str
    slow: str


OBJECTIVES = (
    Objective(
        slo="posting",
        alert="PaypostPostingBudget",
        objective=0.999,
        # What was accepted, and not what was observed: a payment that never arrives is never
        # observed. What the CIS refuses waits for an operator and is no lateness of ours.
        total=(
            'sum(rate(payment_intake_movements_total{{kind="payment"}}[{window}]))\n'
            '- (sum(rate(cis_poster_postings_total{{kind="payment",outcome="suspended"}}'
            "[{window}])) or vector(0))"
        ),
        good='sum(rate(payment_intake_accepted_to_posted_seconds_bucket{{le="5.0"}}[{window}]))',
        fast="Payments reach the ledger too late, so many that the month's budget is gone in days.",
        slow="Payments reach the ledger too late, more than 1 in 1,000 over days.",
    ),
    Objective(
        slo="webhooks",
        alert="PaypostWebhookBudget",
        objective=0.9995,
        # 4xx are the sender's: a slow body is answered 408 after a while.
        total='sum(rate(payment_intake_webhook_answer_seconds_count{{status_class!="4xx"}}[{window}]))',
        good=(
            'sum(rate(payment_intake_webhook_answer_seconds_bucket{{status_class="2xx",le="1.0"}}'
            "[{window}]))"
        ),
        fast="Webhooks are answered late or not, so many that the month's budget is gone in days.",
        slow="Webhooks are answered late or not, more than 1 in 2,000 over days.",
    ),
)


def block(text: str, *, indent: int) -> str:
    """Return text as a YAML block scalar."""
    pad = " " * indent
    return "|\n" + "\n".join(f"{pad}{line}" for line in text.splitlines())


def record(*, name: str, expr: str, labels: dict[str, str]) -> str:
    """Return one recording rule."""
    told = ", ".join(f"{key}: {value}" for key, value in labels.items())
    return (
        f"      - record: {name}\n        expr: {block(expr, indent=10)}\n"
        f"        labels: {{{told}}}\n"
    )


def alert(*, objective: Objective, speed: str, severity: str, burns: tuple[tuple, ...]) -> str:
    """Return one alert on a budget's burning."""
    name = objective.alert + ("BurnsFast" if speed == "fast" else "BurnsSlowly")
    budget = round(1 - objective.objective, 6)
    ratio, slo = "paypost:slo_errors:ratio_rate", f'{{slo="{objective.slo}"}}'
    each = [
        f"(max({ratio}{long}{slo}) > {factor} * {budget}\n"
        f" and max({ratio}{short}{slo}) > {factor} * {budget})"
        for factor, long, short in burns
    ]
    summary = objective.fast if speed == "fast" else objective.slow
    return (
        f"      - alert: {name}\n"
        f"        expr: {block(chr(10).join((each[0], 'or', each[1])), indent=10)}\n"
        + ("        for: 2m\n" if speed == "fast" else "        for: 15m\n")
        + f"        labels: {{severity: {severity}, slo: {objective.slo}}}\n"
        f"        annotations:\n          summary: {summary}\n"
        f"          runbook_url: {RUNBOOKS}/{name}.md\n"
    )


def slo_rules() -> str:
    """Return the rules of all service levels."""
    text = [HEADER, "groups:\n"]
    for each in OBJECTIVES:
        text.append(f"  - name: paypost-slo-{each.slo}\n    rules:\n")
        for window in WINDOWS:
            total, good = (part.format(window=window) for part in (each.total, each.good))
            # No events, no ratio: a quiet night neither burns nor earns.
            expr = f"clamp(1 - ({good})\n/ (({total}) > 0), 0, 1)"
            name = f"paypost:slo_errors:ratio_rate{window}"
            text.append(record(name=name, expr=expr, labels={"slo": each.slo}))
        budget = round(1 - each.objective, 6)
        text.append(
            record(
                name="paypost:slo_budget_left:ratio",
                expr=(
                    "1 - avg_over_time(paypost:slo_errors:ratio_rate5m"
                    f'{{slo="{each.slo}"}}[{BUDGET_WINDOW}]) / {budget}'
                ),
                labels={"slo": each.slo},
            )
        )
        text.append(
            record(
                name="paypost:slo_objective:ratio",
                expr=f"vector({each.objective})",
                labels={"slo": each.slo},
            )
        )
        text.append(alert(objective=each, speed="fast", severity="page", burns=PAGES))
        text.append(alert(objective=each, speed="slow", severity="ticket", burns=TICKETS))
    return "".join(text)


COMMON = (
    ("paypost:up:min", 'min(up{{job="{service}"}})'),
    ("paypost:outbox_oldest_age_seconds:max", "max({prefix}_outbox_oldest_age_seconds)"),
    ("paypost:outbox_rows:max", "max({prefix}_outbox_rows)"),
    ("paypost:consumer_lag_records:sum", "sum by (stream) ({prefix}_consumer_lag_records)"),
    (
        "paypost:consumer_heard_age_seconds:max",
        "max by (stream) ({prefix}_consumer_heard_age_seconds)",
    ),
    (
        "paypost:consumed_records:rate1m",
        "sum by (stream) (rate({prefix}_consumed_records_total[1m]))",
    ),
    (
        "paypost:consumers_lost:increase1h",
        "sum by (stream) (increase({prefix}_consumers_lost_total[1h]))",
    ),
    ("paypost:announced_records:rate1m", "sum(rate({prefix}_announced_records_total[1m]))"),
    (
        "paypost:measured_age_seconds:max",
        "time() - max by (what) ({prefix}_measured_timestamp_seconds)",
    ),
    (
        "paypost:database_pool_use:ratio",
        'max({prefix}_database_pool_connections{{state="in_use"}}'
        " / on (instance) {prefix}_database_pool_size_connections)",
    ),
    (
        "paypost:dead_letters:increase1h",
        "sum by (stream, reason) (increase({prefix}_dead_letters_total[1h])) > 0\n"
        "or\nsum by (stream, reason) ({prefix}_dead_letters_total"
        " unless {prefix}_dead_letters_total offset 1h)",
    ),
)
"""What every service has under its own prefix, brought under one name."""


def recording_rules() -> str:
    """Return what every service's metrics come to under one name."""
    text = [HEADER, "groups:\n"]
    for service in SERVICES:
        text.append(f"  - name: paypost-{service}\n    rules:\n")
        for name, expr in COMMON:
            told = expr.format(service=service, prefix=service.replace("-", "_"))
            text.append(record(name=name, expr=told, labels={"service": service}))
    return "".join(text)


def main() -> int:
    """Write every file that has changed, or with --check only say so."""
    is_check = sys.argv[1:] == ["--check"]
    differ = False
    for name, text in (
        ("paypost.recording.yml", recording_rules()),
        ("paypost.slo.yml", slo_rules()),
    ):
        path = RULES / name
        is_same = path.exists() and path.read_text() == text
        differ |= not is_same
        if not is_check:
            path.write_text(text)
        print(f"{name}: {'as it was' if is_same else 'differs' if is_check else 'written'}")
    return int(is_check and differ)


if __name__ == "__main__":
    sys.exit(main())

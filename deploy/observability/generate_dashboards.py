"""Writes the Grafana dashboards, and says which are not as written.

Usage: generate_dashboards.py [--check]

A panel is a question that somebody asks during trouble, then its queries. Layout, colours and
Grafana's JSON follow from that, the same for all. Grafana itself was not to be had where these
were made: each query is run against a real Prometheus by `make sre-check`.
"""
# ruff: noqa: T201 - it tells people what it has written

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DASHBOARDS = Path(__file__).parent / "grafana" / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH = 24


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One question: its queries, each with the legend of its series, and how it is drawn."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    text: str = ""
    exemplars: bool = False
    bad_above: float | None = None
    bad_below: float | None = None


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """A page: a name, what it is for, and its rows of panels."""

    uid: str
    title: str
    text: str
    rows: Sequence[tuple[str, Sequence[Panel]]] = field(default_factory=tuple)


def quantiles(metric: str, by: str = "", selector: str = "") -> list[tuple[str, str]]:
    """Return p50 and p99 of a histogram."""
    labels = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    return [
        (
            f"histogram_quantile({q}, sum by ({labels})"
            f" (rate({metric}_bucket{selector}[$__rate_interval])))",
            f"{legend}p{int(q * 100)}",
        )
        for q in (0.5, 0.99)
    ]


def rate(metric: str, by: str, selector: str = "") -> list[tuple[str, str]]:
    """Return a counter's rate by labels."""
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    return [(f"sum by ({by}) (rate({metric}{selector}[$__rate_interval]))", legend)]


def mean(metric: str) -> list[tuple[str, str]]:
    """Return a histogram's mean."""
    return [
        (
            f"sum(rate({metric}_sum[$__rate_interval]))"
            f" / sum(rate({metric}_count[$__rate_interval]))",
            "mean",
        )
    ]


def service_rows(service: str) -> list[tuple[str, Sequence[Panel]]]:
    """Return what every service is asked about."""
    prefix = service.replace("-", "_")
    only = f'{{service="{service}"}}'
    job = f'{{job="{service}"}}'
    return [
        (
            "Streams and outbox",
            (
                Panel(
                    title="Records taken a second",
                    queries=[(f"paypost:consumed_records:rate1m{only}", "{{stream}}")],
                    unit="ops",
                ),
                Panel(
                    title="Do we keep up? Records that wait in Kafka",
                    queries=[(f"paypost:consumer_lag_records:sum{only}", "{{stream}}")],
                    bad_above=500,
                ),
                Panel(
                    title="Does Kafka answer? Age of its last answer",
                    queries=[(f"paypost:consumer_heard_age_seconds:max{only}", "{{stream}}")],
                    unit="s",
                    bad_above=60,
                ),
                Panel(
                    title="Batches off a stream, until they are kept",
                    queries=quantiles(f"{prefix}_consumer_batch_seconds", by="stream"),
                    unit="s",
                ),
                Panel(
                    title="Facts announced a second",
                    queries=[(f"paypost:announced_records:rate1m{only}", "acknowledged")],
                    unit="ops",
                ),
                Panel(
                    title="Do facts leave? Age of the oldest in the outbox",
                    queries=[(f"paypost:outbox_oldest_age_seconds:max{only}", "oldest")],
                    unit="s",
                    bad_above=30,
                ),
            ),
        ),
        (
            "The process",
            (
                Panel(
                    title="Database sessions",
                    queries=[
                        (
                            f"sum by (state) ({prefix}_database_pool_connections)",
                            "{{state}}",
                        ),
                        (f"sum({prefix}_database_pool_size_connections)", "at most"),
                    ],
                ),
                Panel(
                    title="Age of what is read from the database",
                    queries=[(f"paypost:measured_age_seconds:max{only}", "{{what}}")],
                    unit="s",
                    bad_above=60,
                ),
                Panel(
                    title="CPU",
                    queries=[
                        (f"rate(process_cpu_seconds_total{job}[$__rate_interval])", "{{instance}}")
                    ],
                    unit="percentunit",
                ),
                Panel(
                    title="Memory",
                    queries=[(f"process_resident_memory_bytes{job}", "{{instance}}")],
                    unit="bytes",
                ),
                Panel(
                    title="Started",
                    queries=[(f"time() - process_start_time_seconds{job}", "{{instance}}")],
                    unit="s",
                    kind="stat",
                ),
                Panel(
                    title="Version",
                    queries=[(f"count by (version) ({prefix}_build_info)", "{{version}}")],
                    kind="stat",
                ),
            ),
        ),
    ]


def overview() -> Dashboard:
    """The first page to look at: are the promises kept, and if not, where does it hang?"""
    budgets = [
        Panel(
            title=f"{name}: budget left of 30 days",
            queries=[(f'paypost:slo_budget_left:ratio{{slo="{slo}"}}', name)],
            unit="percentunit",
            kind="stat",
            width=6,
            bad_below=0,
            text=text,
        )
        for slo, name, text in (
            ("posting", "Posted within 5 s", "99.9 % of accepted payments."),
            ("webhooks", "Webhooks within 1 s", "99.95 % of webhooks."),
        )
    ]
    return Dashboard(
        uid="paypost-overview",
        title="Paypost: overview",
        text="Are the promises kept, and if not, where does it hang?",
        rows=(
            (
                "The promises",
                (
                    *budgets,
                    Panel(
                        title="Lost, twice or with another amount, by `paypost verify`",
                        queries=[
                            (
                                'sum(paypost_verify_faults{fault=~"lost|twice|invented|amount"})',
                                "faults",
                            )
                        ],
                        kind="stat",
                        width=6,
                        bad_above=0,
                    ),
                    Panel(
                        title="Age of the last comparison of the books",
                        queries=[("time() - max(paypost_verify_last_run_timestamp_seconds)", "")],
                        unit="s",
                        kind="stat",
                        width=6,
                        bad_above=7200,
                    ),
                    Panel(
                        title="Errors of the budgets over the last hour",
                        queries=[("paypost:slo_errors:ratio_rate1h", "{{slo}}")],
                        unit="percentunit",
                    ),
                    Panel(
                        title="Accepted → posted",
                        queries=quantiles("payment_intake_accepted_to_posted_seconds"),
                        unit="s",
                        exemplars=True,
                        bad_above=5,
                    ),
                    Panel(
                        title="Accepted → customer told",
                        queries=quantiles("payment_intake_accepted_to_confirmed_seconds"),
                        unit="s",
                        exemplars=True,
                    ),
                ),
            ),
            (
                "The flow, in the order of a payment's way",
                (
                    Panel(
                        title="Payments a second",
                        queries=[
                            (
                                "sum(rate(payment_intake_movements_total"
                                '{kind="payment"}[$__rate_interval]))',
                                "accepted",
                            ),
                            (
                                "sum(rate(cis_poster_postings_total"
                                '{kind="payment",outcome="posted"}[$__rate_interval]))',
                                "posted",
                            ),
                            (
                                "sum(rate(notifier_notifications_total"
                                '{kind="posted",outcome="sent"}[$__rate_interval]))',
                                "told",
                            ),
                        ],
                        unit="ops",
                    ),
                    Panel(
                        title="Payments that are not through, by what they wait for",
                        queries=[
                            ("max by (status) (payment_intake_unfinished_movements)", "{{status}}")
                        ],
                    ),
                    Panel(
                        title="… and the age of the oldest of them",
                        queries=[
                            (
                                "max by (status) (payment_intake_unfinished_oldest_age_seconds)",
                                "{{status}}",
                            )
                        ],
                        unit="s",
                        bad_above=120,
                    ),
                    Panel(
                        title="Outboxes: age of the oldest fact",
                        queries=[("paypost:outbox_oldest_age_seconds:max", "{{service}}")],
                        unit="s",
                        bad_above=30,
                    ),
                    Panel(
                        title="Records that wait in Kafka",
                        queries=[("paypost:consumer_lag_records:sum", "{{service}} {{stream}}")],
                        bad_above=500,
                    ),
                    Panel(
                        title="Breakers: 1 while nothing is sent",
                        queries=[
                            ("max(cis_poster_breaker_open)", "CIS"),
                            ("max(notifier_breaker_open)", "mail server"),
                            ("max(payment_intake_charge_breaker_open)", "processor"),
                        ],
                        bad_above=0,
                    ),
                ),
            ),
            (
                "Exceptions",
                (
                    Panel(
                        title="Webhooks by the class of their answer",
                        queries=rate("payment_intake_webhook_answer_seconds_count", "status_class"),
                        unit="ops",
                    ),
                    Panel(
                        title="Conflicts in the last hour",
                        queries=[
                            (
                                "sum by (kind) (increase(payment_intake_conflicts_total[1h]))",
                                "{{kind}}",
                            ),
                            (
                                "sum(increase(cis_poster_amount_conflicts_total[1h]))",
                                "amount at the CIS",
                            ),
                        ],
                        bad_above=0,
                    ),
                    Panel(
                        title="Services that answer",
                        queries=[("paypost:up:min", "{{service}}")],
                        bad_below=1,
                    ),
                ),
            ),
        ),
    )


def payment_intake() -> Dashboard:
    """The page of payment-intake."""
    return Dashboard(
        uid="paypost-payment-intake",
        title="Paypost: payment-intake",
        text="What comes in, what becomes of it, and what is charged.",
        rows=(
            (
                "Doors",
                (
                    Panel(
                        title="Requests a second, by door and status",
                        queries=rate("payment_intake_webhook_requests_total", "door, status"),
                        unit="ops",
                    ),
                    Panel(
                        title="Time to the answer, commit included",
                        queries=quantiles("payment_intake_webhook_answer_seconds"),
                        unit="s",
                        bad_above=1,
                    ),
                    Panel(
                        title="Refused, by reason",
                        queries=rate("payment_intake_refused_requests_total", "reason"),
                        unit="ops",
                    ),
                    Panel(
                        title="Events by outcome",
                        queries=rate("payment_intake_events_total", "source, outcome"),
                        unit="ops",
                    ),
                    Panel(
                        title="Events in one transaction",
                        queries=mean("payment_intake_take_batch_size"),
                    ),
                    Panel(
                        title="Card numbers masked",
                        queries=[
                            (
                                "sum by (source)"
                                " (increase(payment_intake_masked_card_numbers_total[1h]))",
                                "{{source}}",
                            )
                        ],
                        bad_above=0,
                    ),
                ),
            ),
            (
                "Chains",
                (
                    Panel(
                        title="Movements announced a second",
                        queries=rate("payment_intake_movements_total", "kind"),
                        unit="ops",
                    ),
                    Panel(
                        title="Announced again, and delayed, in the last hour",
                        queries=[
                            ("sum(increase(payment_intake_announced_again_total[1h]))", "again"),
                            ("sum(increase(payment_intake_delayed_total[1h]))", "delayed"),
                        ],
                    ),
                    Panel(
                        title="Conflicts, by kind",
                        queries=[
                            (
                                "sum by (kind) (increase(payment_intake_conflicts_total[1h]))",
                                "{{kind}}",
                            )
                        ],
                        bad_above=0,
                    ),
                    Panel(
                        title="Accepted → posted",
                        queries=quantiles("payment_intake_accepted_to_posted_seconds"),
                        unit="s",
                        exemplars=True,
                    ),
                    Panel(
                        title="Accepted → customer told",
                        queries=quantiles("payment_intake_accepted_to_confirmed_seconds"),
                        unit="s",
                        exemplars=True,
                    ),
                    Panel(
                        title="Not ended, by status",
                        queries=[
                            ("max by (status) (payment_intake_unfinished_movements)", "{{status}}")
                        ],
                    ),
                ),
            ),
            (
                "Charges",
                (
                    Panel(
                        title="Requests and cancellations of autopay",
                        queries=rate("payment_intake_charge_requests_total", "kind, outcome"),
                        unit="ops",
                    ),
                    Panel(
                        title="Charges by the status they came to",
                        queries=rate("payment_intake_charges_total", "status"),
                        unit="ops",
                    ),
                    Panel(
                        title="Calls of the processor",
                        queries=quantiles("payment_intake_charge_call_seconds", by="operation"),
                        unit="s",
                    ),
                    Panel(
                        title="Not settled: age of the oldest",
                        queries=[
                            (
                                "max by (status)"
                                " (payment_intake_unsettled_charges_oldest_age_seconds)",
                                "{{status}}",
                            )
                        ],
                        unit="s",
                    ),
                    Panel(
                        title="Paused, possible, breaker",
                        queries=[
                            ("max(payment_intake_charges_paused)", "paused"),
                            ("max(payment_intake_charges_possible)", "possible"),
                            ("max(payment_intake_charge_breaker_open)", "breaker open"),
                        ],
                    ),
                    Panel(
                        title="Not settled, by status",
                        queries=[
                            ("max by (status) (payment_intake_unsettled_charges)", "{{status}}")
                        ],
                    ),
                ),
            ),
            *service_rows("payment-intake"),
        ),
    )


def cis_poster() -> Dashboard:
    """The page of cis-poster."""
    return Dashboard(
        uid="paypost-cis-poster",
        title="Paypost: cis-poster",
        text="Does the CIS answer, and what does it say?",
        rows=(
            (
                "The CIS",
                (
                    Panel(
                        title="Calls a second, by what came of them",
                        queries=rate("cis_poster_cis_call_seconds_count", "operation, outcome"),
                        unit="ops",
                    ),
                    Panel(
                        title="Time of a call",
                        queries=quantiles("cis_poster_cis_call_seconds", by="operation"),
                        unit="s",
                    ),
                    Panel(
                        title="Postings in one call",
                        queries=mean("cis_poster_cis_batch_size"),
                    ),
                    Panel(
                        title="Breaker: 1 while nothing is sent",
                        queries=[("max(cis_poster_breaker_open)", "open")],
                        bad_above=0,
                    ),
                    Panel(
                        title="Calls that may be in flight",
                        queries=[("sum(cis_poster_cis_concurrency_limit_calls)", "limit")],
                    ),
                    Panel(
                        title="Postings in memory",
                        queries=[("sum(cis_poster_held_postings)", "held")],
                    ),
                ),
            ),
            (
                "Postings",
                (
                    Panel(
                        title="Taken a second",
                        queries=rate("cis_poster_taken_total", "outcome"),
                        unit="ops",
                    ),
                    Panel(
                        title="Attempts by what became of the posting",
                        queries=rate("cis_poster_postings_total", "kind, outcome"),
                        unit="ops",
                    ),
                    Panel(
                        title="Accepted → acknowledged by the CIS",
                        queries=quantiles("cis_poster_accepted_to_posted_seconds"),
                        unit="s",
                        exemplars=True,
                    ),
                    Panel(
                        title="Not settled, by status",
                        queries=[("max by (status) (cis_poster_backlog_postings)", "{{status}}")],
                    ),
                    Panel(
                        title="Not settled: age of the oldest",
                        queries=[
                            (
                                "max by (status) (cis_poster_backlog_oldest_age_seconds)",
                                "{{status}}",
                            )
                        ],
                        unit="s",
                        bad_above=120,
                    ),
                    Panel(
                        title="Amount conflicts in the last hour",
                        queries=[("sum(increase(cis_poster_amount_conflicts_total[1h]))", "")],
                        bad_above=0,
                    ),
                ),
            ),
            *service_rows("cis-poster"),
        ),
    )


def notifier() -> Dashboard:
    """The page of notifier."""
    return Dashboard(
        uid="paypost-notifier",
        title="Paypost: notifier",
        text="Are customers told, and does the mail server take it?",
        rows=(
            (
                "Mails",
                (
                    Panel(
                        title="Notifications taken a second",
                        queries=rate("notifier_taken_total", "outcome"),
                        unit="ops",
                    ),
                    Panel(
                        title="Attempts and skips, by what became of them",
                        queries=rate("notifier_notifications_total", "outcome"),
                        unit="ops",
                    ),
                    Panel(
                        title="What customers are told",
                        queries=rate(
                            "notifier_notifications_total", "kind", selector='{outcome="sent"}'
                        ),
                        unit="ops",
                    ),
                    Panel(
                        title="Accepted → told",
                        queries=quantiles("notifier_accepted_to_confirmed_seconds"),
                        unit="s",
                        exemplars=True,
                    ),
                    Panel(
                        title="Waiting: age of the oldest",
                        queries=[
                            ("max by (status) (notifier_backlog_oldest_age_seconds)", "{{status}}")
                        ],
                        unit="s",
                        bad_above=600,
                    ),
                    Panel(
                        title="Waiting, by status",
                        queries=[
                            ("max by (status) (notifier_backlog_notifications)", "{{status}}")
                        ],
                    ),
                ),
            ),
            (
                "The mail server",
                (
                    Panel(
                        title="Time of a call",
                        queries=quantiles("notifier_smtp_call_seconds"),
                        unit="s",
                    ),
                    Panel(title="Mails in one call", queries=mean("notifier_smtp_batch_size")),
                    Panel(
                        title="Connections opened in the last hour, by what came of it",
                        queries=[
                            (
                                "sum by (outcome) (increase(notifier_smtp_connections_total[1h]))",
                                "{{outcome}}",
                            )
                        ],
                    ),
                    Panel(
                        title="Breaker: 1 while nothing is sent",
                        queries=[("max(notifier_breaker_open)", "open")],
                        bad_above=0,
                    ),
                    Panel(
                        title="Sent again under one Message-ID, in the last hour",
                        queries=[("sum(increase(notifier_repeats_total[1h]))", "")],
                    ),
                    Panel(
                        title="Contacts stated by the portal, in the last hour",
                        queries=[
                            (
                                "sum by (outcome) (increase(notifier_contacts_total[1h]))",
                                "{{outcome}}",
                            )
                        ],
                    ),
                ),
            ),
            *service_rows("notifier"),
        ),
    )


def autopay_scheduler() -> Dashboard:
    """The page of autopay-scheduler."""
    day = "[1d]"
    return Dashboard(
        uid="paypost-autopay-scheduler",
        title="Paypost: autopay-scheduler",
        text="Who is charged in time, who not, and why.",
        rows=(
            (
                "Charges",
                (
                    Panel(
                        title="Charges of the last day, by the status they came to",
                        queries=[
                            (
                                f"sum by (status) (increase(autopay_scheduler_charges_total{day}))",
                                "{{status}}",
                            )
                        ],
                    ),
                    Panel(
                        title="Asked for in the last day, by attempt",
                        queries=[
                            (
                                "sum by (attempt)"
                                f" (increase(autopay_scheduler_requests_total{day}))",
                                "attempt {{attempt}}",
                            )
                        ],
                    ),
                    Panel(
                        title="Asked for after their moment",
                        queries=quantiles("autopay_scheduler_request_lateness_seconds"),
                        unit="s",
                    ),
                    Panel(
                        title="Declines of the last day",
                        queries=[
                            (
                                "sum by (category, next_step)"
                                f" (increase(autopay_scheduler_declines_total{day}))",
                                "{{category}}: {{next_step}}",
                            )
                        ],
                    ),
                    Panel(
                        title="Due now, by kind",
                        queries=[("max by (kind) (autopay_scheduler_backlog)", "{{kind}}")],
                    ),
                    Panel(
                        title="Due now: age of the oldest",
                        queries=[
                            (
                                "max by (kind) (autopay_scheduler_backlog_oldest_age_seconds)",
                                "{{kind}}",
                            )
                        ],
                        unit="s",
                    ),
                ),
            ),
            (
                "Customers",
                (
                    Panel(
                        title="Words of customers in the last day",
                        queries=[
                            (
                                "sum by (kind, outcome)"
                                f" (increase(autopay_scheduler_words_total{day}))",
                                "{{kind}}: {{outcome}}",
                            )
                        ],
                    ),
                    Panel(
                        title="Notices in the last day",
                        queries=[
                            (
                                "sum by (outcome)"
                                f" (increase(autopay_scheduler_notices_total{day}))",
                                "{{outcome}}",
                            ),
                            (
                                "sum by (kind)"
                                f" (increase(autopay_scheduler_announcements_total{day}))",
                                "asked for, {{kind}}",
                            ),
                        ],
                    ),
                    Panel(
                        title="Paused: 1 while nothing is asked for",
                        queries=[("max(autopay_scheduler_paused)", "paused")],
                    ),
                    Panel(
                        title="Bills taken in the last day",
                        queries=[
                            (
                                f"sum by (outcome) (increase(autopay_scheduler_bills_total{day}))",
                                "{{outcome}}",
                            )
                        ],
                    ),
                    Panel(
                        title="The move from the old portal, by status",
                        queries=[
                            ("max by (status) (autopay_scheduler_reenrolments)", "{{status}}")
                        ],
                    ),
                    Panel(
                        title="Accounts planned a second",
                        queries=[
                            (
                                "sum(rate(autopay_scheduler_planned_accounts_total"
                                "[$__rate_interval]))",
                                "planned",
                            )
                        ],
                        unit="ops",
                    ),
                ),
            ),
            *service_rows("autopay-scheduler"),
        ),
    )


def kafka() -> Dashboard:
    """The page of the brokers: what the services see of them, and what they say of themselves."""
    return Dashboard(
        uid="paypost-kafka",
        title="Paypost: Kafka",
        text="The first row is what the services see. The second needs the JMX exporter.",
        rows=(
            (
                "As the services see it",
                (
                    Panel(
                        title="Records that wait, by reader and stream",
                        queries=[("paypost:consumer_lag_records:sum", "{{service}} {{stream}}")],
                        bad_above=500,
                    ),
                    Panel(
                        title="Age of Kafka's last answer",
                        queries=[
                            ("paypost:consumer_heard_age_seconds:max", "{{service}} {{stream}}")
                        ],
                        unit="s",
                        bad_above=60,
                    ),
                    Panel(
                        title="Facts acknowledged a second",
                        queries=[("paypost:announced_records:rate1m", "{{service}}")],
                        unit="ops",
                    ),
                ),
            ),
            (
                "As the brokers say (JMX exporter)",
                (
                    Panel(
                        title="Partitions offline, or short of a copy",
                        queries=[
                            ("sum(kafka_controller_offline_partitions)", "offline"),
                            ("sum(kafka_server_under_replicated_partitions)", "short of a copy"),
                        ],
                        bad_above=0,
                    ),
                    Panel(
                        title="Records in a second, by topic",
                        queries=rate("kafka_server_records_in_total", "topic"),
                        unit="ops",
                    ),
                    Panel(
                        title="Bytes a second",
                        queries=rate("kafka_server_bytes_total", "direction"),
                        unit="Bps",
                    ),
                    Panel(
                        title="Request handlers idle",
                        queries=[
                            ("kafka_server_request_handler_idle_ratio", "{{instance}}"),
                        ],
                        unit="percentunit",
                        bad_below=0.2,
                    ),
                    Panel(
                        title="99th percentile of requests",
                        queries=[
                            ("max by (request) (kafka_network_request_p99_seconds)", "{{request}}")
                        ],
                        unit="s",
                    ),
                    Panel(
                        title="Log size, by topic",
                        queries=[("sum by (topic) (kafka_log_size_bytes)", "{{topic}}")],
                        unit="bytes",
                    ),
                ),
            ),
        ),
    )


def postgres() -> Dashboard:
    """The page of the database: sessions, transactions, dead rows."""
    of = '{datname="paypost"}'
    return Dashboard(
        uid="paypost-postgres",
        title="Paypost: PostgreSQL",
        text="The first row is what the services see. The second needs postgres_exporter.",
        rows=(
            (
                "As the services see it",
                (
                    Panel(
                        title="Sessions in use, of those the pool may have",
                        queries=[("paypost:database_pool_use:ratio", "{{service}}")],
                        unit="percentunit",
                        bad_above=0.99,
                    ),
                    Panel(
                        title="Age of what was last read",
                        queries=[
                            ("paypost:measured_age_seconds:max", "{{service}} {{what}}"),
                        ],
                        unit="s",
                        bad_above=60,
                    ),
                    Panel(
                        title="Outbox rows",
                        queries=[("paypost:outbox_rows:max", "{{service}}")],
                    ),
                ),
            ),
            (
                "As the server says (postgres_exporter)",
                (
                    Panel(title="Answers", queries=[("pg_up", "{{instance}}")], bad_below=1),
                    Panel(
                        title="Sessions, by state",
                        queries=[(f"sum by (state) (pg_stat_activity_count{of})", "{{state}}")],
                    ),
                    Panel(
                        title="Longest transaction",
                        queries=[(f"max(pg_stat_activity_max_tx_duration{of})", "longest")],
                        unit="s",
                        bad_above=300,
                    ),
                    Panel(
                        title="Transactions a second",
                        queries=[
                            (
                                f"sum(rate(pg_stat_database_xact_commit{of}[$__rate_interval]))",
                                "committed",
                            ),
                            (
                                f"sum(rate(pg_stat_database_xact_rollback{of}[$__rate_interval]))",
                                "rolled back",
                            ),
                        ],
                        unit="ops",
                    ),
                    Panel(
                        title="Rows read and written a second",
                        queries=[
                            (
                                f"sum(rate(pg_stat_database_tup_{what}{of}[$__rate_interval]))",
                                what,
                            )
                            for what in ("fetched", "inserted", "updated", "deleted")
                        ],
                        unit="ops",
                    ),
                    Panel(
                        title="Read from disk, of all blocks",
                        queries=[
                            (
                                f"sum(rate(pg_stat_database_blks_read{of}[$__rate_interval]))"
                                f" / (sum(rate(pg_stat_database_blks_read{of}[$__rate_interval]))"
                                f" + sum(rate(pg_stat_database_blks_hit{of}[$__rate_interval])))",
                                "read",
                            )
                        ],
                        unit="percentunit",
                    ),
                    Panel(
                        title="Size of the database",
                        queries=[(f"pg_database_size_bytes{of}", "{{datname}}")],
                        unit="bytes",
                    ),
                    Panel(
                        title="Deadlocks in the last hour",
                        queries=[(f"sum(increase(pg_stat_database_deadlocks{of}[1h]))", "")],
                        bad_above=0,
                    ),
                    Panel(
                        title="Locks, by mode",
                        queries=[(f"sum by (mode) (pg_locks_count{of})", "{{mode}}")],
                    ),
                ),
            ),
        ),
    )


ALL = (overview, payment_intake, cis_poster, autopay_scheduler, notifier, kafka, postgres)


def steps(panel: Panel) -> list[dict[str, Any]]:
    """Return where a panel turns red."""
    if panel.bad_above is not None:
        return [
            {"color": "green", "value": None},
            {"color": "red", "value": panel.bad_above + 1e-9},
        ]
    if panel.bad_below is not None:
        return [{"color": "red", "value": None}, {"color": "green", "value": panel.bad_below}]
    return [{"color": "green", "value": None}]


def panel_json(*, panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """Return a panel as Grafana has it."""
    has_limit = panel.bad_above is not None or panel.bad_below is not None
    custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
    if has_limit:
        custom["thresholdsStyle"] = {"mode": "dashed"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "gridPos": {"h": 7, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "thresholds": {"mode": "absolute", "steps": steps(panel)},
                "custom": custom if panel.kind == "timeseries" else {},
            },
            "overrides": [],
        },
        "options": (
            {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}}
            if panel.kind == "timeseries"
            else {"reduceOptions": {"calcs": ["lastNotNull"]}}
        ),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": expr,
                "legendFormat": legend,
                "exemplar": panel.exemplars,
            }
            for index, (expr, legend) in enumerate(panel.queries)
        ],
    }


def dashboard_json(dashboard: Dashboard) -> dict[str, Any]:
    """Return a dashboard as Grafana has it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in dashboard.rows:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y},
                "panels": [],
            }
        )
        y += 1
        x = 0
        for panel in row:
            if x + panel.width > WIDTH:
                x, y = 0, y + 7
            panels.append(panel_json(panel=panel, number=len(panels) + 1, x=x, y=y))
            x += panel.width
        y += 7
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.text,
        "tags": ["paypost"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "tags": ["paypost"],
                "title": "Paypost",
                "asDropdown": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": []},
        "annotations": {"list": []},
        "panels": panels,
    }


def main() -> int:
    """Write every dashboard that has changed, or with --check only say so."""
    is_check = sys.argv[1:] == ["--check"]
    differ = False
    for build in ALL:
        dashboard = build()
        path = DASHBOARDS / f"{dashboard.uid}.json"
        text = json.dumps(dashboard_json(dashboard), indent=2, ensure_ascii=False) + "\n"
        is_same = path.exists() and path.read_text() == text
        differ |= not is_same
        if not is_check:
            path.write_text(text)
        print(f"{path.name}: {'as it was' if is_same else 'differs' if is_check else 'written'}")
    return int(is_check and differ)


if __name__ == "__main__":
    sys.exit(main())

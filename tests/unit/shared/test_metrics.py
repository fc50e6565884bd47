"""What every service's metrics promise of themselves, whatever they are fed."""

import re
import time

import pytest
from prometheus_client import Counter
from prometheus_client.exposition import choose_encoder

from autopay_scheduler.metrics import Metrics as AutopaySchedulerMetrics
from cis_poster.metrics import Metrics as CisPosterMetrics
from notifier.metrics import Metrics as NotifierMetrics
from payment_intake.metrics import Metrics as PaymentIntakeMetrics
from shared.runtime.metrics import Labelled, ServiceMetrics

SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = SAMPLED[:-2] + "00"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
ALL = (PaymentIntakeMetrics, CisPosterMetrics, AutopaySchedulerMetrics, NotifierMetrics)


def read(metrics: ServiceMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def exposed(metrics: ServiceMetrics) -> str:
    encode, _ = choose_encoder(OPENMETRICS)
    return encode(metrics.registry).decode()


class TestLabels:
    def test_of_any_value_are_counted_and_never_more_than_a_bound(self):
        counter = Counter("things", "Of a test.", ["kind"], registry=None)
        series = Labelled(counter, series_max=3)
        for number in range(1000):
            series.labels(f"kind {number}").inc()
        found = {
            sample.labels["kind"]: sample.value
            for metric in counter.collect()
            for sample in metric.samples
            if sample.name == "things_total"
        }
        assert found == {"kind 0": 1, "kind 1": 1, "kind 2": 1, "other": 997}

    def test_that_nobody_foresaw_neither_fail_nor_fill_a_scrape(self):
        metrics = PaymentIntakeMetrics()
        for number in range(5000):
            odd = f'{number}"\n\\{{}}'
            metrics.answered(door=odd, status=number, seconds=0.1)
            metrics.refused(door=odd, reason=odd)
            metrics.taken(source=odd, outcome=odd)
            metrics.gateway_called(operation=odd, outcome=odd, seconds=0.1)
            metrics.dead_lettered(stream=odd, reason=odd)
        lines = [line for line in exposed(metrics).splitlines() if not line.startswith("#")]
        # Beyond the 2,000 of foreseen values, and bounded all the same.
        assert len(lines) < 3500
        assert (
            read(metrics, "payment_intake_refused_requests_total", door="other", reason="other")
            == 5000 - 200
        )


class TestAges:
    def test_grow_on_while_nobody_can_measure(self, monkeypatch):
        now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: now)
        metrics = CisPosterMetrics()
        metrics.backlog([("due", 3, 20.0), ("unknown", 0, 0.0)])
        metrics.outbox(depth=1, oldest_age_seconds=5.0)
        now += 60.0
        name = "cis_poster_backlog_oldest_age_seconds"
        assert read(metrics, name, status="due") == 80.0
        assert read(metrics, name, status="unknown") == 0.0
        assert read(metrics, "cis_poster_outbox_oldest_age_seconds") == 65.0

    def test_end_with_what_waited(self):
        metrics = CisPosterMetrics()
        metrics.backlog([("due", 3, 20.0)])
        metrics.backlog([])
        assert read(metrics, "cis_poster_backlog_postings", status="due") == 0.0
        assert read(metrics, "cis_poster_backlog_oldest_age_seconds", status="due") == 0.0

    def test_say_when_they_were_measured(self):
        metrics = CisPosterMetrics()
        before = time.time()
        metrics.backlog([])
        measured = read(metrics, "cis_poster_measured_timestamp_seconds", what="postings")
        assert measured is not None
        assert before <= measured <= time.time()
        assert read(metrics, "cis_poster_measured_timestamp_seconds", what="outbox") is None

    def test_of_the_last_fetch_grow_until_kafka_answers(self, monkeypatch):
        now = 5000.0
        monkeypatch.setattr(time, "time", lambda: now)
        metrics = NotifierMetrics()
        metrics.consuming(stream="postings.v1", lag_records=None, heard_at=4999.0)
        now += 30.0
        name = "notifier_consumer_heard_age_seconds"
        assert read(metrics, name, stream="postings.v1") == 31.0
        assert read(metrics, "notifier_consumer_lag_records", stream="postings.v1") is None
        metrics.consuming(stream="postings.v1", lag_records=7, heard_at=now)
        assert read(metrics, name, stream="postings.v1") == 0.0
        assert read(metrics, "notifier_consumer_lag_records", stream="postings.v1") == 7.0


class TestExemplars:
    def test_name_the_trace_of_a_sampled_payment(self):
        metrics = CisPosterMetrics()
        metrics.posted_after(0.2, traceparent=SAMPLED)
        assert (
            'cis_poster_accepted_to_posted_seconds_bucket{le="0.25"} 1.0 '
            '# {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} 0.2' in exposed(metrics)
        )

    @pytest.mark.parametrize("traceparent", [None, UNSAMPLED])
    def test_name_no_trace_that_nobody_kept(self, traceparent):
        metrics = CisPosterMetrics()
        metrics.posted_after(0.2, traceparent=traceparent)
        assert "trace_id" not in exposed(metrics)
        assert read(metrics, "cis_poster_accepted_to_posted_seconds_count") == 1.0

    def test_are_left_by_few_of_many_and_by_each_slow_one(self, monkeypatch):
        monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
        metrics = CisPosterMetrics()
        metrics.posted_after(0.2, traceparent=SAMPLED)
        metrics.posted_after(0.04, traceparent=SAMPLED)
        metrics.posted_after(3.0, traceparent=SAMPLED)
        left = re.findall(r'le="([0-9.]+)"} [0-9.]+ # \{trace_id', exposed(metrics))
        assert left == ["0.25", "5.0"]


class TestEveryService:
    @pytest.mark.parametrize("build", ALL)
    def test_calls_its_metrics_after_itself_and_by_base_units(self, build):
        metrics = build()
        for family in metrics.registry.collect():
            if family.name.startswith(("process_", "python_")):
                continue
            assert family.name.startswith(f"{metrics.prefix}_"), family.name
            assert not re.search(r"_(ms|millis|minutes|hours|kb|percent)\b", family.name)
            assert family.documentation.endswith((".", ")")), family.name
            if family.type == "histogram":
                assert family.name.endswith(("_seconds", "_size")), family.name

    @pytest.mark.parametrize("build", ALL)
    def test_says_what_runs(self, build):
        metrics = build()
        assert read(metrics, f"{metrics.prefix}_build_info", version="0.1.0") == 1.0

    @pytest.mark.parametrize("build", ALL)
    def test_exposes_without_asking_anything(self, build):
        metrics = build()
        started = time.perf_counter()
        text = exposed(metrics)
        assert time.perf_counter() - started < 0.5
        assert text.endswith("# EOF\n")

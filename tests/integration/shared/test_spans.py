"""Spans as a collector gets them over the wire, and what a bad one does to us: nothing."""

import os
import subprocess
import sys
import time

import pytest
from deploy.observability.collector import collecting
from tests.support.intake_service import eventually_async

from shared.contracts.wire import OutboundRecord
from shared.runtime.metrics import ServiceMetrics
from shared.runtime.settings import ServiceSettings
from shared.runtime.spans import CLOSE_SECONDS_MAX, QUEUE_SPANS_MAX, open_spans

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = f"00-{TRACE}-00f067aa0ba902b7-01"
ANOTHER = "00-" + "a" * 32 + "-00f067aa0ba902b7-01"
UNSAMPLED = SAMPLED[:-2] + "00"


@pytest.fixture
def collector():
    with collecting() as running:
        yield running


@pytest.fixture
async def metrics():
    return ServiceMetrics(prefix="test")


class OneSetting(ServiceSettings):
    model_config = ServiceSettings.model_config | {"env_prefix": "TEST_SPANS_"}


def spans_to(url: str | None, metrics: ServiceMetrics, *, ratio: float = 1.0):
    settings = OneSetting(
        environment="local",
        database_url="postgresql+asyncpg://localhost/none",
        kafka_bootstrap_servers="localhost:1",
        traces_otlp_endpoint=url,
        traces_sampled_ratio=ratio,
    )
    return open_spans(settings=settings, service="test", version="1", metrics=metrics)


def counted(metrics: ServiceMetrics, outcome: str) -> float:
    return metrics.registry.get_sample_value("test_spans_total", {"outcome": outcome}) or 0


async def request(app, headers=(), status=200, method="POST"):
    """Call an ASGI application; return the `traceparent` that it saw."""
    seen = []

    async def inner(scope, receive, send):
        seen.append(dict(scope["headers"]).get(b"traceparent"))
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(_):
        pass

    scope = {
        "type": "http",
        "method": method,
        "path": "/webhooks/stripe",
        "headers": list(headers),
    }
    await app(inner)(scope, None, send)
    return seen[0].decode() if seen[0] else None


class TestDoor:
    async def test_begins_a_trace_that_others_go_on_with(self, collector, metrics):
        spans = spans_to(collector.url, metrics)
        seen = await request(spans.door, status=503)
        spans.batch(
            name="later", kind="CLIENT", traceparents=[seen], started_ns=time.time_ns() - 10**9
        )
        await spans.close()
        door, later = sorted(collector.taken, key=lambda span: span.name)
        assert (door.name, door.kind, door.service) == ("POST /webhooks/stripe", 2, "test")
        assert door.attributes["http.response.status_code"] == 503
        assert seen == f"00-{door.trace_id}-{door.span_id}-01"
        assert (later.trace_id, later.parent_id) == (door.trace_id, door.span_id)
        assert later.seconds == pytest.approx(1, abs=0.2)
        assert door.parent_id == ""

    async def test_goes_on_with_a_callers_trace_and_keeps_its_decision(self, collector, metrics):
        spans = spans_to(collector.url, metrics, ratio=0.0)
        going_on = await request(spans.door, [(b"traceparent", SAMPLED.encode())])
        left_alone = await request(spans.door, [(b"traceparent", UNSAMPLED.encode())])
        await spans.close()
        assert left_alone == UNSAMPLED
        [door] = collector.taken
        assert (door.trace_id, door.parent_id) == (TRACE, SAMPLED.split("-")[2])
        assert going_on == f"00-{TRACE}-{door.span_id}-01"

    async def test_samples_as_many_as_it_is_told(self, collector, metrics):
        spans = spans_to(collector.url, metrics, ratio=0.5)
        seen = [await request(spans.door) for _ in range(400)]
        await spans.close()
        kept = [each for each in seen if each.endswith("-01")]
        assert 120 < len(kept) < 280
        assert {span.trace_id for span in collector.taken} == {each[3:35] for each in kept}

    async def test_of_a_malformed_header_begins_anew(self, collector, metrics):
        spans = spans_to(collector.url, metrics)
        seen = await request(spans.door, [(b"traceparent", b"00-garbage\xff-01")])
        await spans.close()
        assert collector.taken[0].trace_id == seen[3:35]


class TestBatches:
    async def test_are_linked_with_those_that_joined_them(self, collector, metrics):
        spans = spans_to(collector.url, metrics)
        handled = []

        async def call(items):
            handled.append(list(items))
            return "done"

        act = spans.act(call, name="post", kind="CLIENT", traceparent_of=lambda item: item)
        assert await act([SAMPLED, UNSAMPLED, ANOTHER, None]) == "done"
        await spans.close()
        assert handled == [[SAMPLED, UNSAMPLED, ANOTHER, None]]
        whole = next(span for span in collector.taken if span.name == "post (batch)")
        each = {span.trace_id: span for span in collector.taken if span.name == "post"}
        assert set(each) == {TRACE, "a" * 32}
        assert {trace for trace, _ in whole.links} == set(each)
        assert all(span.links == ((whole.trace_id, whole.span_id),) for span in each.values())
        assert whole.attributes["paypost.batch_size"] == 4

    async def test_of_what_nobody_sampled_leave_nothing(self, collector, metrics):
        spans = spans_to(collector.url, metrics)
        spans.batch(
            name="post", kind="CLIENT", traceparents=[UNSAMPLED, None], started_ns=time.time_ns()
        )
        await spans.close()
        assert collector.taken == []

    async def test_that_fail_say_so_and_fail(self, collector, metrics):
        spans = spans_to(collector.url, metrics)

        async def call(items):
            raise ValueError("4242424242424242")

        act = spans.act(call, name="post", kind="CLIENT", traceparent_of=lambda item: item)
        with pytest.raises(ValueError, match="4242"):
            await act([SAMPLED])
        await spans.close()
        assert [span.name for span in collector.taken] == ["post"]

    async def test_of_records_are_recorded_once_kafka_has_them(self, collector, metrics):
        spans = spans_to(collector.url, metrics)
        published = []

        class Publisher:
            async def publish(self, records):
                published.extend(records)

        record = OutboundRecord(
            topic="payments.v1",
            key=b"k",
            value=b"{}",
            headers=(("ce_id", b"1"), ("traceparent", SAMPLED.encode())),
        )
        bare = OutboundRecord(topic="payments.v1", key=b"k", value=b"{}", headers=(("a", b"1"),))
        await spans.publisher(Publisher()).publish([record, bare])
        await spans.close()
        assert published == [record, bare]
        named = [span for span in collector.taken if span.trace_id == TRACE]
        assert [span.name for span in named] == ["publish payments.v1"]


class TestBadCollectors:
    async def test_that_hang_hold_up_nothing_and_are_left_behind(self, collector, metrics):
        collector.hanging.set()
        spans = spans_to(collector.url, metrics)
        started = time.perf_counter()
        for _ in range(QUEUE_SPANS_MAX + 2000):
            spans.batch(name="post", kind="CLIENT", traceparents=[SAMPLED], started_ns=1)
        assert time.perf_counter() - started < 5
        assert counted(metrics, "dropped") >= 1000
        started = time.perf_counter()
        await spans.close()
        assert time.perf_counter() - started < CLOSE_SECONDS_MAX + 1

    @pytest.mark.parametrize("status", [400, 503])
    async def test_that_refuse_are_counted(self, collector, metrics, status):
        collector.status = status
        spans = spans_to(collector.url, metrics)
        spans.batch(name="post", kind="CLIENT", traceparents=[SAMPLED], started_ns=1)

        async def refused() -> bool:
            return counted(metrics, "refused") == 1

        await eventually_async(refused)
        await spans.close()

    async def test_that_are_not_there_are_counted(self, metrics):
        spans = spans_to("http://127.0.0.1:9/v1/traces", metrics)
        spans.batch(name="post", kind="CLIENT", traceparents=[SAMPLED], started_ns=1)

        async def refused() -> bool:
            return counted(metrics, "refused") == 1

        await eventually_async(refused)
        await spans.close()


class TestOff:
    def test_imports_nothing_of_opentelemetry(self):
        program = (
            "import sys\n"
            "import cis_poster.app, payment_intake.app, notifier.app, autopay_scheduler.app\n"
            # FastStream imports the API where it is installed; nothing of it is used.
            "loaded = [m for m in sys.modules if m.startswith("
            "('opentelemetry.sdk', 'opentelemetry.exporter', 'opentelemetry.proto'))]\n"
            "print(loaded)"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ,
            capture_output=True,
            text=True,
            check=True,
        )
        assert ended.stdout.strip() == "[]"

    def test_makes_no_spans(self, metrics):
        assert spans_to(None, metrics) is None

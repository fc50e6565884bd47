"""An OTLP collector of the checks' own: takes spans over HTTP, or hangs, or refuses."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, kw_only=True)
class TakenSpan:
    """A span as it came over the wire."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, object]
    seconds: float


@dataclass(kw_only=True)
class Collector:
    """Where it listens, what it took, and how it behaves."""

    url: str = ""
    taken: list[TakenSpan] = field(default_factory=list)
    status: int = 200
    hanging: threading.Event = field(default_factory=threading.Event)
    """Requests are answered only while this is not set."""
    released: threading.Event = field(default_factory=threading.Event)

    def traces(self) -> dict[str, list[TakenSpan]]:
        """The spans by trace."""
        found: dict[str, list[TakenSpan]] = {}
        for span in self.taken:
            found.setdefault(span.trace_id, []).append(span)
        return found


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free loopback port."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if collector.hanging.is_set():
                collector.released.wait(60)
                return
            if collector.status == 200:
                collector.taken.extend(spans_of(body))
            self.send_response(collector.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield collector
    finally:
        collector.released.set()
        server.shutdown()
        server.server_close()


def spans_of(body: bytes) -> list[TakenSpan]:
    """The spans of one export request."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        TakenSpan(
            service=next(
                each.value.string_value
                for each in resource.resource.attributes
                if each.key == "service.name"
            ),
            name=span.name,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            kind=span.kind,
            links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
            attributes={
                each.key: each.value.string_value or each.value.int_value
                for each in span.attributes
            },
            seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]

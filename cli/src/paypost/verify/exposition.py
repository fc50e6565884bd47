"""What `verify` finds, as metrics: the only alarm for what no service can see of itself."""

from __future__ import annotations

import time
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    start_http_server,
    write_to_textfile,
)

from paypost.verify.compare import Fault
from paypost.verify.report import Report


class VerifyMetrics:
    """The last comparison of the books, and when it was."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._faults = Gauge(
            "paypost_verify_faults",
            "Differences between the books at the last comparison, by fault.",
            ["fault"],
            registry=self.registry,
        )
        self._last_run = Gauge(
            "paypost_verify_last_run_timestamp_seconds",
            "When all books could last be compared.",
            registry=self.registry,
        )
        self._seconds = Gauge(
            "paypost_verify_duration_seconds",
            "How long the last comparison took.",
            registry=self.registry,
        )
        self._compared = Gauge(
            "paypost_verify_compared_postings",
            "Entries of each book at the last comparison, by kind.",
            ["book", "kind"],
            registry=self.registry,
        )
        self._failures = Counter(
            "paypost_verify_failed_runs",
            "Comparisons that could not be made: a book could not be read.",
            registry=self.registry,
        )

    def compared(self, report: Report) -> None:
        """Take what a comparison found; a fault that is gone goes to 0."""
        for fault in Fault:
            self._faults.labels(fault).set(report.count(fault))
        for (book, kind, _), found in report.tally.sums.items():
            self._compared.labels(book, kind).set(found.count)
        self._seconds.set(report.seconds)
        self._last_run.set(time.time())

    def failed(self) -> None:
        """Note that the books could not be compared; what was found last stands, and ages."""
        self._failures.inc()

    def write(self, *, path: Path) -> None:
        """Write a file for node_exporter's textfile collector, in one step.

        Raises:
            OSError: it cannot be written.
        """
        write_to_textfile(str(path), self.registry)

    def serve(self, *, host: str, port: int) -> None:
        """Answer `/metrics` from now on, in a thread of its own.

        Raises:
            OSError: the address is taken.
        """
        start_http_server(port, addr=host, registry=self.registry)

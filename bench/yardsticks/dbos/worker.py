"""A process that takes workflows from the queue; there are as many as `worker_processes` says."""

from __future__ import annotations

import os
import signal
import threading

from dbos import DBOS

from bench.yardsticks.dbos.workflow import QUEUE, configuration, tuning
from bench.yardsticks.peer import say_ready


def main() -> None:
    """Until SIGTERM."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    DBOS(config=configuration(executor=os.environ["PEER_EXECUTOR"]))
    DBOS.launch()
    DBOS.register_queue(
        QUEUE,
        worker_concurrency=int(tuning["concurrency"]),
        polling_interval_sec=float(tuning["polling_seconds"]),
    )
    say_ready()
    stopped.wait()
    DBOS.destroy()


if __name__ == "__main__":
    main()

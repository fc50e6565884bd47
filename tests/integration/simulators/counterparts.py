"""The counterparts as processes, as the stack runs them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import Request, urlopen

START_SECONDS = 15


class Counterpart:
    """One process that can be ended, killed and started again."""

    def __init__(self, *, module: str, arguments: Sequence[str], ready_url: str) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._ready_url = ready_url
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, env=os.environ.copy())
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._process.poll() is None, f"ended with {self._process.returncode}"
            try:
                with urlopen(self._ready_url, timeout=1):
                    return
            except (URLError, OSError):
                assert time.monotonic() < deadline, f"{self._ready_url} did not answer"
                time.sleep(0.05)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=10)

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=10)


@contextmanager
def running(*, module: str, arguments: Sequence[str], ready_url: str) -> Iterator[Counterpart]:
    counterpart = Counterpart(module=module, arguments=arguments, ready_url=ready_url)
    counterpart.start()
    try:
        yield counterpart
    finally:
        counterpart.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def request_text(url: str, *, method: str = "GET", body: object = None) -> str:
    """Return the answer's body; urllib raises HTTPError for anything but 2xx."""
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data=data, method=method), timeout=5) as answer:
        text: str = answer.read().decode()
        return text

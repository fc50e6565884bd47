"""`mock-bank` as a process: a bank that nobody here wrote, which takes NACHA files and returns."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

ACCOUNT = "ACME"
"""Whose account number is the originator's company id."""
START_SECONDS = 20.0


class MockBankProcess:
    """One bank with one dollar account that banks in NACHA; it forgets everything when it ends."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; returns when it answers."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mockbank", "--port", str(self._port), "--quiet"]
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._process.poll() is None, f"ended with {self._process.returncode}"
            try:
                self.call("GET", "/_mock/health")
                break
            except (URLError, OSError):
                assert time.monotonic() < deadline, "the mock bank did not start"
                time.sleep(0.05)
        self.call("PATCH", f"/_mock/accounts/{ACCOUNT}", {"format": "nacha", "currency": "USD"})

    def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None

    def collections(self) -> list[dict[str, Any]]:
        """The debits that it decided on, newest first."""
        listed: list[dict[str, Any]] = self.call("GET", "/_mock/collections")
        return listed

    def refuse(self, reference: str, *, reason: str) -> None:
        """Lets the debtor's bank refuse the debit of this reference, with a NACHA code."""
        self.call("POST", f"/_mock/collections/{reference}/refuse", {"reason": reason})

    def validate(self, file: str) -> tuple[int, str]:
        """What it thinks of a file: HTTP status and findings. Nothing is stored."""
        request = Request(f"{self.url}/_mock/validate", data=file.encode("ascii"), method="POST")
        try:
            with urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Its control; urllib raises HTTPError for anything but 2xx."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = Request(self.url + path, data=data, method=method, headers=headers)
        with urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())


@contextmanager
def running_mock_bank() -> Iterator[MockBankProcess]:
    """One for the length of a test."""
    bank = MockBankProcess()
    bank.start()
    try:
        yield bank
    finally:
        bank.stop()

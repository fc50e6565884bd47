"""The reference CIS as a process, its switches, and what stands in its journal."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from tests.support.backends import TestDatabase

from paypost.simulators.cis.journal import read_journal

API_KEY = "key-of-the-tests"
START_SECONDS = 20.0


class ReferenceCis:
    """One reference CIS on a database of its own; can be killed and started again."""

    def __init__(self, *, database: TestDatabase, directory: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.journal_path = directory / "cis-journal.jsonl"
        self._database_url = database.dsns["reference_cis"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "paypost.simulators.cis"),
                *("--port", str(self.port), "--journal", str(self.journal_path)),
            ],
            env=os.environ | {"CIS_DATABASE_URL": self._database_url, "CIS_API_KEY": API_KEY},
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._process.poll() is None, f"ended with {self._process.returncode}"
            try:
                with urlopen(f"{self.url}/readyz", timeout=1):
                    return
            except (URLError, OSError):
                assert time.monotonic() < deadline, "the reference CIS did not start"
                time.sleep(0.05)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def switch(self, **switches: object) -> None:
        """Set these switches, after everything else was switched off."""
        self.call("POST", "/_switches/reset")
        if switches:
            self.call("PUT", "/_switches", switches)

    def open_accounts(self, accounts: Sequence[str], **members: object) -> None:
        body = [{"account": account, "name": "Ann", **members} for account in accounts]
        for first in range(0, len(body), 5_000):
            self.call("POST", "/v1/accounts", {"accounts": body[first : first + 5_000]})

    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = self.call("GET", "/_counts")
        return counts

    def journal(self) -> list[dict[str, Any]]:
        return list(read_journal(self.journal_path)) if self.journal_path.exists() else []

    def posted(self, account: str) -> list[str]:
        """The keys on an account, in the order of the ledger."""
        return [line["key"] for line in self.journal() if line["account"] == account]

    def is_proven(self) -> bool:
        return bool(self.call("GET", "/v1/ledger/proof")["proven"])

    def call(self, method: str, path: str, body: object = None) -> Any:
        request = Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Authorization": f"Bearer {API_KEY}"},
        )
        with urlopen(request, timeout=15) as answer:
            return json.loads(answer.read())

    def _end(self, signal_number: int) -> None:
        if self._process is not None:
            self._process.send_signal(signal_number)
            self._process.wait(timeout=15)
            self._process = None


@contextmanager
def running_cis(*, database: TestDatabase, directory: Path) -> Iterator[ReferenceCis]:
    cis = ReferenceCis(database=database, directory=directory)
    cis.start()
    try:
        yield cis
    finally:
        cis.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

"""toxiproxy: a TCP proxy for each way to a server, each of which can be made bad.

The program is built once for each user (`tests/support/go_tools.py`). It ends with its owner, and
with the process that started it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tests.faults.tools.machine import UnavailableError
from tests.support.go_tools import GoTool, GoToolUnavailableError

from paypost.stack.ports import PortBlock
from paypost.stack.supervisor import ChildProcess
from paypost.stack.watchdog import Watchdog

TOXIPROXY = GoTool(
    name="toxiproxy-server",
    package="github.com/Shopify/toxiproxy/v2/cmd/server",
    version="2.5.0",
)
START_SECONDS_MAX = 15.0
CALL_SECONDS_MAX = 10.0
HOST = "127.0.0.1"

Direction = Literal["upstream", "downstream"]


class ToxiproxyError(Exception):
    """toxiproxy refused what it was asked for.

    Attributes:
        asked: method and path.
        status: its answer.
        said: its words.
    """

    def __init__(self, *, asked: str, status: int, said: str) -> None:
        super().__init__(f"toxiproxy answered {status} to {asked}: {said}")
        self.asked = asked
        self.status = status
        self.said = said


@dataclass(frozen=True, kw_only=True)
class Toxic:
    """One way of being bad, as toxiproxy knows it.

    Attributes:
        kind: `latency`, `bandwidth`, `slow_close`, `timeout`, `reset_peer`, `slicer`, `limit_data`.
        attributes: of its kind; milliseconds, kB/s, bytes.
        direction: towards the server, or towards the client.
        toxicity: the share of connections that get it, 0 to 1.
    """

    kind: str
    attributes: Mapping[str, int] = field(default_factory=dict)
    direction: Direction = "downstream"
    toxicity: float = 1.0


def latency(*, milliseconds: int, jitter_milliseconds: int = 0) -> Toxic:
    """Every answer comes later by this, give or take the jitter."""
    attributes = {"latency": milliseconds, "jitter": jitter_milliseconds}
    return Toxic(kind="latency", attributes=attributes)


def bandwidth(*, kilobytes_per_second: int, direction: Direction = "downstream") -> Toxic:
    """No more than this goes through a connection."""
    return Toxic(kind="bandwidth", attributes={"rate": kilobytes_per_second}, direction=direction)


def black_hole() -> Toxic:
    """What is sent by either side vanishes; connections stay open, and nothing is said."""
    return Toxic(kind="timeout", attributes={"timeout": 0})


def resets(*, after_milliseconds: int) -> Toxic:
    """Every connection is reset after so long."""
    return Toxic(kind="reset_peer", attributes={"timeout": after_milliseconds})


def slow_close(*, milliseconds: int) -> Toxic:
    """The end of a connection is told so much later."""
    return Toxic(kind="slow_close", attributes={"delay": milliseconds})


class Toxiproxy:
    """A running toxiproxy and its proxies, by name; a context manager."""

    def __init__(self, *, watchdog: Watchdog, log_path: Path, host: str = HOST) -> None:
        """Find or build the program; starts nothing yet.

        Args:
            watchdog: ends it when this process dies.
            log_path: where its output goes.
            host: the address on which its proxies listen.

        Raises:
            UnavailableError: the program cannot be had.
        """
        self._binary = self.probe()
        self._watchdog = watchdog
        self._log_path = log_path
        self._host = host
        self._ports = PortBlock.claim()
        self._child: ChildProcess | None = None
        self._making = threading.Lock()

    @staticmethod
    def probe() -> Path:
        """Find or build the program; where it is. Raises UnavailableError where there is none."""
        try:
            return TOXIPROXY.find_or_build()
        except GoToolUnavailableError as error:
            raise UnavailableError(tool="toxiproxy", reason=str(error)) from error

    def __enter__(self) -> Self:
        self._child = ChildProcess(
            name="toxiproxy",
            command=[
                *(str(self._binary), "-host", HOST, "-port", str(self._ports.port("control"))),
            ],
            log_path=self._log_path,
            watchdog=self._watchdog,
        )
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                self._call("GET", "/version")
                return self
            except (OSError, HTTPException):
                if time.monotonic() > deadline or not self._child.running:
                    self.close()
                    raise
                time.sleep(0.05)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, and with it every proxy."""
        if self._child is not None:
            self._child.terminate(drain_timeout_seconds=5)
        self._ports.release()

    def port(self, name: str) -> int:
        """The port on which the proxy of this name listens, or will."""
        return self._ports.port(name)

    def proxy(self, name: str, *, upstream: str, listen: str | None = None) -> str:
        """Lead connections to a server through a proxy; where it listens, as ``host:port``.

        Args:
            name: of the proxy; one that exists is left as it is.
            upstream: the server, as ``host:port``.
            listen: where to listen, as ``host:port``; by default on a port of its own.
        """
        where = listen or f"{self._host}:{self.port(name)}"
        with self._making:
            if name not in self._call("GET", "/proxies"):
                wanted = {"name": name, "listen": where, "upstream": upstream, "enabled": True}
                self._call("POST", "/proxies", wanted)
        return where

    def poison(self, name: str, *toxics: Toxic) -> None:
        """Add toxics to a proxy, for connections there are and for those to come."""
        for number, toxic in enumerate(toxics):
            wanted = {
                "name": f"{toxic.kind}-{toxic.direction}-{number}",
                "type": toxic.kind,
                "stream": toxic.direction,
                "toxicity": toxic.toxicity,
                "attributes": dict(toxic.attributes),
            }
            self._call("POST", f"/proxies/{name}/toxics", wanted)

    def cut(self, name: str) -> None:
        """End every connection of a proxy and refuse new ones."""
        self._call("POST", f"/proxies/{name}", {"enabled": False})

    def heal(self) -> None:
        """Take every toxic away and let every proxy work."""
        self._call("POST", "/reset")

    @property
    def names(self) -> tuple[str, ...]:
        """The proxies there are."""
        return tuple(self._call("GET", "/proxies"))

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        port = self._ports.port("control")
        connection = HTTPConnection(HOST, port, timeout=CALL_SECONDS_MAX)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, body=content)
            answer = connection.getresponse()
            said = answer.read().decode(errors="replace")
        finally:
            connection.close()
        if answer.status >= 300:
            raise ToxiproxyError(asked=f"{method} {path}", status=answer.status, said=said)
        try:
            return json.loads(said) if said else None
        except ValueError:
            return said

"""`stripe-mock`: Stripe's own server that checks requests against Stripe's OpenAPI.

It is found on PATH, or built once for each user (`tests/support/go_tools.py`); on a machine where
it cannot be had, the test that needs it fails and says why.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from tests.support.go_tools import GoTool, GoToolUnavailableError

STRIPE_MOCK = GoTool(name="stripe-mock", package="github.com/stripe/stripe-mock", version="0.203.0")
START_SECONDS = 30.0


@contextmanager
def running_stripe_mock() -> Iterator[str]:
    """Run one; yields its address, for `api_base`.

    Raises:
        GoToolUnavailableError: it cannot be found, built or started.
    """
    binary = STRIPE_MOCK.find_or_build()
    port, tls_port = _free_port(), _free_port()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [
                *(str(binary), "-http-addr", f"127.0.0.1:{port}"),
                # Without it, it listens on a fixed port of every interface as well.
                *("-https-addr", f"127.0.0.1:{tls_port}"),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _await_start(process, url)
            yield url
        except TimeoutError:
            output.seek(0)
            said = output.read().decode(errors="replace")
            raise GoToolUnavailableError(
                name=STRIPE_MOCK.name, step="the start", output=said[-2_000:]
            ) from None
        finally:
            process.terminate()
            process.wait(timeout=10)


def _await_start(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urlopen(url, timeout=1):
                return
        except HTTPError:
            return  # it asks for a key, so it is there
        except (URLError, OSError):
            time.sleep(0.05)
    raise TimeoutError


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

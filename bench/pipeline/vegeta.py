"""vegeta as a cross-check: a generator that nobody here wrote, at a constant rate.

It cannot sign each webhook as it leaves, so that its targets are signed beforehand; the receiver's
tolerance of five minutes allows that. It is built once for each user, by the Go that is installed;
where there is none, the cross-check is reported as not run.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench.pipeline.generator import Outgoing
from paypost.simulators.processor.signatures import sign_stripe
from paypost.stack.kafka import cache_dir

MODULE = "github.com/tsenart/vegeta/v12"
VERSION = "v12.13.0"
BUILD_SECONDS_MAX = 600.0
GO_ELSEWHERE = Path("/usr/local/go/bin/go")


class VegetaAbsentError(Exception):
    """It is not here and cannot be built; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """What vegeta reports.

    Attributes:
        requests: how many it sent.
        rate: requests a second that it sent.
        p50_ms, p99_ms: from the time at which it sent.
        success: the share that was answered 2xx.
    """

    requests: int
    rate: float
    p50_ms: float
    p99_ms: float
    success: float


def find_go() -> str | None:
    """The Go that is installed; None where there is none."""
    return shutil.which("go") or shutil.which(GO_ELSEWHERE)


async def build() -> Path:
    """The program, built now if this user has not built it before.

    Raises:
        VegetaAbsentError: there is no Go, or it cannot build it.
    """
    program = cache_dir() / f"vegeta-{VERSION}" / "vegeta"
    go = find_go()
    if shutil.which(program):
        return program
    if go is None:
        raise VegetaAbsentError("go is not installed, which would build it")
    process = await asyncio.create_subprocess_exec(
        *(go, "install", f"{MODULE}@{VERSION}"),
        env={**os.environ, "GOBIN": str(program.parent), "GOFLAGS": "-mod=mod"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    said = await _end_of(process, seconds=BUILD_SECONDS_MAX)
    if process.returncode:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise VegetaAbsentError(f"go install {MODULE}@{VERSION} failed: {last}")
    return program


async def attack(
    *, program: Path, load: Iterable[Outgoing], url: str, secret: str, per_second: float
) -> Attack:
    """Send the first event of each payment once, at a constant rate.

    Raises:
        VegetaAbsentError: it does not run.
    """
    with tempfile.TemporaryDirectory(prefix="paypost-vegeta-") as scratch:
        targets, results = Path(scratch) / "targets", Path(scratch) / "results"
        count = await asyncio.to_thread(_write_targets, targets, load, url, secret)
        # vegeta takes a rate as a whole number of requests in a time.
        process = await asyncio.create_subprocess_exec(
            *(str(program), "attack", "-format=json", f"-targets={targets}"),
            *(f"-rate=1000/{1000 / per_second:.6f}s", f"-duration={count / per_second:.3f}s"),
            f"-output={results}",
            stderr=asyncio.subprocess.PIPE,
        )
        said = await _end_of(process, seconds=count / per_second + 60)
        if process.returncode:
            raise VegetaAbsentError(f"vegeta attack: {said.decode(errors='replace').strip()}")
        reporter = await asyncio.create_subprocess_exec(
            *(str(program), "report", "-type=json", str(results)),
            stdout=asyncio.subprocess.PIPE,
        )
        report, _ = await reporter.communicate()
    return read_report(report)


def read_report(report: bytes) -> Attack:
    """What `vegeta report -type=json` says; its times are nanoseconds."""
    found = orjson.loads(report)
    return Attack(
        requests=found["requests"],
        rate=found["rate"],
        p50_ms=found["latencies"]["50th"] / 1e6,
        p99_ms=found["latencies"]["99th"] / 1e6,
        success=found["success"],
    )


def _write_targets(path: Path, load: Iterable[Outgoing], url: str, secret: str) -> int:
    count = 0
    with path.open("wb") as file:
        for outgoing in load:
            body = outgoing.bodies[0]
            signature = sign_stripe(body=body, secrets=[secret], timestamp=int(time.time()))
            target = {
                "method": "POST",
                "url": url,
                "body": base64.b64encode(body).decode(),
                "header": {
                    "Content-Type": ["application/json; charset=utf-8"],
                    "Stripe-Signature": [signature],
                },
            }
            file.write(orjson.dumps(target, option=orjson.OPT_APPEND_NEWLINE))
            count += 1
    return count


async def _end_of(process: asyncio.subprocess.Process, *, seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            _, said = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise
    return said or b""

"""Writes docs/asyncapi, docs/openapi and the table of metrics anew from the code itself.

Usage: documents.py
"""
# ruff: noqa: S603, T201 - it runs commands of our own and tells people what it does

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

DOCUMENTS = {
    "docs/asyncapi/payment-intake.json": ("payment_intake", "asyncapi"),
    "docs/asyncapi/cis-poster.json": ("cis_poster", "asyncapi"),
    "docs/asyncapi/autopay-scheduler.json": ("autopay_scheduler", "asyncapi"),
    "docs/asyncapi/notifier.json": ("notifier", "asyncapi"),
    "docs/openapi/payment-intake.json": ("payment_intake", "openapi"),
    "docs/openapi/cis-poster.json": ("cis_poster", "openapi"),
    "docs/openapi/autopay-scheduler.json": ("autopay_scheduler", "openapi"),
    "docs/operating/metrics.md": ("deploy.observability.metrics_page",),
}
"""Which file holds what which package prints."""


def printed(command: tuple[str, ...]) -> bytes:
    """Return what a service prints of itself. Raises CalledProcessError when it fails."""
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, check=True, stdout=subprocess.PIPE
    ).stdout


def main() -> int:
    """Write every document that has changed."""
    with ThreadPoolExecutor() as threads:
        for name, text in zip(DOCUMENTS, threads.map(printed, DOCUMENTS.values()), strict=True):
            path = ROOT / name
            path.parent.mkdir(parents=True, exist_ok=True)
            is_same = path.exists() and path.read_bytes() == text
            if not is_same:
                path.write_bytes(text)
            print(f"{name}: {'as it was' if is_same else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

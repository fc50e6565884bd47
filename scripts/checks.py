"""Runs the project's checks one after the other, stops at the first that fails, prints the times.

Usage: checks.py lint | test
"""
# ruff: noqa: S603, T201 - it runs commands of our own and tells people what it does

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

LINT = (
    ("format", ("ruff", "format", "--check", ".")),
    ("lint", ("ruff", "check", ".")),
    ("types", ("mypy",)),
    ("import rules", ("lint-imports",)),
)
TESTS = (("tests", ("pytest", "--durations=10")),)


def run(*, checks: tuple[tuple[str, tuple[str, ...]], ...]) -> int:
    """Runs them in order; the exit code of the first that fails, or 0."""
    times = []
    for name, command in checks:
        print(f"== {name}: {' '.join(command)}", flush=True)
        started = time.monotonic()
        returncode = subprocess.run(
            [BIN / command[0], *command[1:]], cwd=ROOT, check=False
        ).returncode
        times.append(f"{name} {time.monotonic() - started:.1f} s")
        if returncode:
            print(f"== FAILED: {name} (exit code {returncode}) after {', '.join(times)}")
            return returncode
    print(f"== all good: {', '.join(times)}")
    return 0


def main() -> int:
    """Reads which checks to run."""
    if sys.argv[1:] not in (["lint"], ["test"]):
        print(__doc__, file=sys.stderr)
        return 2
    return run(checks=LINT if sys.argv[1] == "lint" else LINT + TESTS)


if __name__ == "__main__":
    sys.exit(main())

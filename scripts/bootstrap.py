"""Builds .venv from requirements.lock on a machine that has no more than Python >= 3.11 with venv.

With --bench it builds .venv-bench instead, from bench/requirements.lock: the same versions, and
beside them what only the benchmark needs. With --lock it resolves both locks anew.

Uses the uv on PATH, else one that it installs into .venv/uv. Everything from outside is checked
against the hashes of a lock file; our own packages are linked, not copied. A stamp in .venv names
what it was built from, so that a call with nothing to do costs next to nothing and needs no
network.

Only the standard library, and syntax that an older Python still reads, so that it can say what is
missing instead of failing to start.
"""
# ruff: noqa: S603, T201 - it runs commands of our own and tells people what it does

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
OWN_UV = VENV / "uv"
LOCK = ROOT / "requirements.lock"
BENCH_VENV = ROOT / ".venv-bench"
BENCH_LOCK = ROOT / "bench" / "requirements.lock"
UV_LOCK = ROOT / "scripts" / "uv-requirements.txt"
UV_MIN = (0, 8)
PYTHON_MIN = (3, 11)
EDITABLES = (
    *("shared", "services/payment-intake", "services/cis-poster"),
    *("services/autopay-scheduler", "services/notifier", "cli"),
)
COMPILE = (
    *("pip", "compile", "--quiet", "--universal", "--generate-hashes", "--python-version", "3.11"),
    *("--no-emit-package", "paypost-shared", "--no-emit-package", "payment-intake"),
    *("--no-emit-package", "cis-poster", "--no-emit-package", "autopay-scheduler"),
    *("--no-emit-package", "notifier"),
    *("--no-emit-index-url", "--no-header"),
)
OURS = (
    *("cli/pyproject.toml", "services/payment-intake/pyproject.toml"),
    *("services/cis-poster/pyproject.toml", "services/autopay-scheduler/pyproject.toml"),
    "services/notifier/pyproject.toml",
    *("shared/pyproject.toml", "--group", "dev"),
)
LOCK_COMMAND = (*COMPILE, "-o", "requirements.lock", *OURS)
# The benchmark measures the versions that are tested and shipped, hence the constraint.
BENCH_LOCK_COMMAND = (
    *(*COMPILE, "-o", "bench/requirements.lock", "-c", "requirements.lock"),
    *(*OURS, "bench/requirements.in"),
)


class MissingError(Exception):
    """What this machine lacks, as one line."""


def check_python():
    """Raises MissingError where this Python is too old or cannot make environments."""
    found = sys.version_info[:2]
    if found < PYTHON_MIN:
        raise MissingError(
            f"Python >= 3.11 is needed, {sys.executable} is {found[0]}.{found[1]}; "
            "where there is a newer one, name it: make PYTHON=/path/to/python3.11"
        )
    for module in ("venv", "ensurepip"):
        try:
            __import__(module)
        except ImportError as error:
            raise MissingError(
                f"{sys.executable} lacks the module {module}; "
                f"on Debian and Ubuntu: apt-get install python{found[0]}.{found[1]}-venv"
            ) from error


def find_uv():
    """The uv to use: the one on PATH if it is new enough, or our own, installed now if need be."""
    found = shutil.which("uv")
    if found and uv_version(found) >= UV_MIN:
        return found
    own = OWN_UV / "bin" / "uv"
    wanted = re.search(r"uv==(\S+)", UV_LOCK.read_text()).group(1)
    if uv_version(own) != tuple(map(int, wanted.split("."))):
        print(f"installing uv {wanted} into {OWN_UV.relative_to(ROOT)}", flush=True)
        shutil.rmtree(OWN_UV, ignore_errors=True)
        run(sys.executable, "-m", "venv", OWN_UV)
        pip = (OWN_UV / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
        run(*pip, "install", "--require-hashes", "--no-deps", "-r", UV_LOCK)
    return own


def uv_version(program):
    """The version of this uv as numbers; empty where it does not run."""
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ()
    return tuple(map(int, re.findall(r"\d+", told.stdout)[:3]))


def run(*command):
    """Runs a command in the checkout; leaves with a line that names it when it fails."""
    environ = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    # The Python that runs this is the one to use; another one is never fetched.
    environ["UV_PYTHON_DOWNLOADS"] = "never"
    if subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode:
        raise SystemExit(f"bootstrap: failed: {' '.join(map(str, command))}")


def fingerprint(lock):
    """What an environment is built from: its lock, our packages' metadata, where they lie."""
    digest = hashlib.sha256(f"{ROOT}\n{sys.version_info[:2]}\n".encode())
    for path in (lock, Path(__file__), *(ROOT / name / "pyproject.toml" for name in EDITABLES)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def stamp_of(venv):
    """The file in an environment that names what it was built from."""
    return venv / "paypost.stamp"


def is_built(venv, lock):
    """Whether this environment was built from just what is there now."""
    stamp = stamp_of(venv)
    return stamp.exists() and stamp.read_text() == fingerprint(lock)


def build(venv, lock):
    """Makes or renews an environment."""
    check_python()
    uv = find_uv()
    python = venv / "bin" / "python"
    # The stamp goes first: an interrupted build is not taken for a finished one.
    if stamp_of(venv).exists():
        stamp_of(venv).unlink()
    if not python.exists():
        run(uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, venv)
    print(f"installing the locked packages into {venv.name}", flush=True)
    # Compiled once here: else each start of a service compiles, where nobody may write bytecode.
    sync = ("pip", "sync", "--quiet", "--compile-bytecode", "--require-hashes")
    run(uv, *sync, "--python", python, lock)
    own = [part for name in EDITABLES for part in ("-e", name)]
    link = ("pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
    run(uv, *link, "--python", python, *own)
    stamp_of(venv).write_text(fingerprint(lock))


def bring(venv, lock):
    """Builds an environment unless it is there already; one caller at a time does."""
    if is_built(venv, lock):
        return
    # Both use the uv in .venv, so they take turns at one lock.
    VENV.mkdir(exist_ok=True)
    with (VENV / "paypost.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not is_built(venv, lock):
            build(venv, lock)


def main():
    """Builds what is missing, or with --lock resolves the dependencies anew."""
    try:
        if sys.argv[1:] == ["--lock"]:
            check_python()
            uv = find_uv()
            run(uv, *LOCK_COMMAND)
            run(uv, *BENCH_LOCK_COMMAND)
        elif sys.argv[1:] == ["--bench"]:
            bring(BENCH_VENV, BENCH_LOCK)
        else:
            bring(VENV, LOCK)
    except MissingError as missing:
        raise SystemExit(f"bootstrap: {missing}") from None


if __name__ == "__main__":
    main()

"""Processes that tests look for: those of a stack in another process, and what is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

# Ctrl-C counts even where the tests run in a shell's background, which ignores it for them.
OWNER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from paypost.stack.local import LocalStack
from paypost.stack.supervisor import exit_on_signals
with exit_on_signals(), LocalStack(name=sys.argv[1], parts=set(sys.argv[2].split(","))):
    print("up", flush=True)
    time.sleep(600)
"""


def eventually(holds: Callable[[], bool], *, timeout_seconds: float = 10.0) -> None:
    """Waits until it holds; fails when it does not in time."""
    deadline = time.monotonic() + timeout_seconds
    while not holds():
        assert time.monotonic() < deadline, f"did not come true in {timeout_seconds:g} s"
        time.sleep(0.02)


def said_by(code: str) -> str:
    """What a fresh interpreter prints that runs this code and nothing else."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def start_owner(
    *, name: str, parts: str, state_dir: Path, wait: bool = True
) -> subprocess.Popen[str]:
    """A process that runs a stack, as the command line would."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, name, parts],
        env=os.environ | {"PAYPOST_STATE_DIR": str(state_dir)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if wait:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
    return owner


def mentioning(text: str) -> list[psutil.Process]:
    """Every live process whose command line has this text in it, and their descendants."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and text in " ".join(process.cmdline()):
                for one in (process, *process.children(recursive=True)):
                    found[one.pid] = one
        except psutil.Error:
            continue
    return [one for one in found.values() if alive(one)]


def alive(process: psutil.Process) -> bool:
    """Whether this very process still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

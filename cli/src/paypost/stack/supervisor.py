"""Child processes: one (`ChildProcess`), and several that are restarted and awaited (`Supervisor`).

Each child leads a session and process group of its own, so that Ctrl-C reaches only the parent,
which then stops its children in order; each is registered with the watchdog, so that none is left
when the parent could not.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn, Self
from urllib.parse import urlsplit

from paypost.stack.watchdog import Watchdog

LOG_TAIL_LINES = 15


class ProcessFailedError(Exception):
    """A process ended, or did not become ready, where it had to be up.

    Attributes:
        name: the process.
        reason: what was waited for in vain.
        returncode: its exit code, negative for a signal; None while it runs.
        log_path: its log.
        log_tail: the last lines of that.
    """

    def __init__(self, *, name: str, reason: str, returncode: int | None, log_path: Path) -> None:
        self.name = name
        self.reason = reason
        self.returncode = returncode
        self.log_path = log_path
        self.log_tail = tail(path=log_path)
        ended = "still running" if returncode is None else f"exit code {returncode}"
        super().__init__(f"{name}: {reason} ({ended}); log {log_path}:\n{self.log_tail}")


class UnknownProcessError(LookupError):
    """No process of this name was ever started here.

    Attributes:
        name: the name asked for.
        known: the names there are.
    """

    def __init__(self, *, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"no process {name!r}; there are: {', '.join(known) or 'none'}")
        self.name = name
        self.known = known


@dataclass(frozen=True)
class ProcessIdentity:
    """A process that cannot be taken for a later one with the same number.

    Attributes:
        pid: its number.
        started: its start as the kernel states it; a text to compare, with no meaning of its own.
    """

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The identity of a live process; None where there is none (or only a zombie)."""
        started = _started(pid)
        return None if started is None else cls(pid=pid, started=started)

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return _started(self.pid) == self.started

    def kill_group(self, *, timeout_seconds: float = 5.0) -> bool:
        """Kills the group that this process leads, if it still runs, and waits for its end.

        Returns whether there was anything to kill.
        """
        if not self.alive():
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + timeout_seconds
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        return True


def _started(pid: int) -> str | None:
    stat_path = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            # The name, in brackets, may hold anything: what follows its last bracket is regular.
            fields = stat_path.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else fields[19]
    found = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


def tail(*, path: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log; empty where there is none."""
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 16_384))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


class ChildProcess:
    """One running child in a group of its own, with its output in a log.

    Started on creation. When it ends, whatever it left in its group is killed as well.
    """

    def __init__(
        self,
        *,
        name: str,
        command: Sequence[str],
        log_path: Path,
        watchdog: Watchdog,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        orphan_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._watchdog = watchdog
        self._ended = threading.Event()
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                watchdog.wrap(command=list(command), orphan_signal=orphan_signal),
                stdin=watchdog.descriptor,
                stdout=log,
                stderr=log,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        self.identity = ProcessIdentity.of(self._process.pid) or ProcessIdentity(
            pid=self._process.pid, started="ended"
        )
        threading.Thread(target=self._reap, name=f"reap-{name}", daemon=True).start()

    def _reap(self) -> None:
        pid = self._process.pid
        # Seen but not yet reaped, so the number is still its own: the only time at which its
        # group can be killed and forgotten without hitting a stranger.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._watchdog.forget(pid=pid)
        self._process.wait()
        self._ended.set()

    @property
    def pid(self) -> int:
        """The process id, which is the group's too."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._ended.is_set()

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for the signal that ended it; None while it runs."""
        return self._process.returncode if self._ended.is_set() else None

    def wait(self, *, timeout_seconds: float | None = None) -> int | None:
        """Waits for its end; the exit code, or None when the time is up first."""
        self._ended.wait(timeout_seconds)
        return self.returncode

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process itself; does nothing where it has ended."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(
        self, *, drain_timeout_seconds: float, number: signal.Signals = signal.SIGTERM
    ) -> int:
        """Asks it to end, kills its group when it does not in time; its exit code."""
        self.send(number)
        if self.wait(timeout_seconds=drain_timeout_seconds) is None:
            self.kill()
        return self._process.returncode

    def kill(self) -> int:
        """SIGKILL to the whole group; returns when it is gone."""
        if self.running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self._ended.wait()
        return self._process.returncode


@dataclass(frozen=True)
class RestartPolicy:
    """How a process that ended by itself is started again.

    The delay doubles with each start that did not last `steady_after_seconds`, up to the maximum.
    An exit code among `hopeless_returncodes` says that a restart will not help (78 is `EX_CONFIG`:
    the settings are wrong), and the process stays down.
    """

    delay_seconds: float = 0.2
    delay_seconds_max: float = 5.0
    steady_after_seconds: float = 10.0
    hopeless_returncodes: frozenset[int] = frozenset({78})

    def delay_after(self, *, failures: int) -> float:
        """The wait before the next start after this many short-lived ones in a row."""
        return float(
            min(self.delay_seconds_max, self.delay_seconds * 2 ** max(0, min(failures, 32) - 1))
        )


@dataclass(frozen=True)
class ProcessSpec:
    """What to run and how to tell that it is ready.

    Attributes:
        name: unique within a supervisor; also the log's name.
        command: program and arguments.
        env: the complete environment.
        ready_url: ready when this answers 2xx; or
        ready_port: ready when this loopback port accepts. Neither: ready once started.
        drain_timeout_seconds: from SIGTERM to SIGKILL.
        restart: None leaves it down once it has ended.
        failures_before_ready_max: short-lived starts after which waiting for readiness gives up.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    ready_url: str | None = None
    ready_port: int | None = None
    drain_timeout_seconds: float = 15.0
    restart: RestartPolicy | None = RestartPolicy()
    failures_before_ready_max: int = 3

    def gives_up(self, *, returncode: int | None) -> bool:
        """Whether the process stays down after this end."""
        return self.restart is None or returncode in self.restart.hopeless_returncodes


class _Supervised:
    """One spec and the thread that keeps it running."""

    def __init__(
        self,
        *,
        spec: ProcessSpec,
        log_path: Path,
        watchdog: Watchdog,
        on_start: Callable[[str, ProcessIdentity], None],
    ) -> None:
        self.spec = spec
        self.log_path = log_path
        self.failures = 0
        self.starts = 0
        self.child: ChildProcess | None = None
        self._watchdog = watchdog
        self._on_start = on_start
        self._stopping = threading.Event()
        self._changing = threading.Lock()
        self._spawn()
        self._thread = threading.Thread(target=self._keep, name=f"keep-{spec.name}", daemon=True)
        self._thread.start()

    def _spawn(self) -> None:
        with self._changing:
            if self._stopping.is_set():
                return
            self.starts += 1
            self.child = ChildProcess(
                name=self.spec.name,
                command=self.spec.command,
                env=self.spec.env,
                log_path=self.log_path,
                watchdog=self._watchdog,
            )
        self._on_start(self.spec.name, self.child.identity)

    def _keep(self) -> None:
        while not self._stopping.is_set() and self.child is not None:
            started = time.monotonic()
            returncode = self.child.wait()
            if self.spec.gives_up(returncode=returncode):
                return
            assert self.spec.restart is not None
            lasted = time.monotonic() - started
            self.failures = (
                1 if lasted >= self.spec.restart.steady_after_seconds else self.failures + 1
            )
            if self._stopping.wait(self.spec.restart.delay_after(failures=self.failures)):
                return
            self._spawn()

    @property
    def wanted(self) -> bool:
        return not self._stopping.is_set()

    def end(self, *, kill: bool) -> int | None:
        with self._changing:
            self._stopping.set()
        if self.child is None:
            return None
        if kill:
            return self.child.kill()
        return self.child.terminate(drain_timeout_seconds=self.spec.drain_timeout_seconds)

    def is_ready(self) -> bool:
        if self.child is None or not self.child.running:
            return False
        if self.spec.ready_url is not None:
            return answers(url=self.spec.ready_url)
        if self.spec.ready_port is not None:
            return accepts(port=self.spec.ready_port)
        return True


class Supervisor:
    """Keeps named processes running until it is closed.

    Safe to use from several threads. `on_start` hears of every start, restarts included.
    """

    def __init__(
        self,
        *,
        log_dir: Path,
        watchdog: Watchdog,
        on_start: Callable[[str, ProcessIdentity], None] | None = None,
    ) -> None:
        self._log_dir = log_dir
        self._watchdog = watchdog
        self._on_start = on_start or (lambda _name, _identity: None)
        self._all: dict[str, _Supervised] = {}

    def start(self, spec: ProcessSpec) -> None:
        """Starts a process, in place of one of this name that runs already."""
        previous = self._all.get(spec.name)
        if previous is not None:
            previous.end(kill=False)
        self._all[spec.name] = _Supervised(
            spec=spec,
            log_path=self.log_path(name=spec.name),
            watchdog=self._watchdog,
            on_start=self._on_start,
        )

    def resume(self, *, name: str) -> None:
        """Starts a stopped process again as it was; does nothing where it runs."""
        supervised = self._get(name)
        if not supervised.wanted or not self.running(name=name):
            self.start(supervised.spec)

    def stop(self, *, name: str) -> int | None:
        """SIGTERM, time to drain, SIGKILL; it stays down. Its exit code."""
        return self._get(name).end(kill=False)

    def kill(self, *, name: str, restart: bool = True) -> None:
        """SIGKILL to the process and its group, as a crash would end it.

        Args:
            name: the process.
            restart: whether its restart policy then applies; False leaves it down.
        """
        supervised = self._get(name)
        if not restart:
            supervised.end(kill=True)
        elif supervised.child is not None:
            supervised.child.kill()

    def wait_ready(self, *, name: str, timeout_seconds: float) -> None:
        """Waits until the process is ready as its spec tells it.

        Raises:
            ProcessFailedError: it is not in time, ended for good, or keeps ending.
        """
        supervised = self._get(name)
        deadline = time.monotonic() + timeout_seconds
        while not supervised.is_ready():
            child = supervised.child
            returncode = None if child is None else child.returncode
            reason = None
            if supervised.failures >= supervised.spec.failures_before_ready_max:
                reason = f"ended {supervised.failures} times before it was ready"
            elif returncode is not None and supervised.spec.gives_up(returncode=returncode):
                reason = "ended before it was ready"
            elif not supervised.wanted:
                reason = "was stopped before it was ready"
            elif time.monotonic() >= deadline:
                reason = f"not ready after {timeout_seconds:g} s"
            if reason is not None:
                raise ProcessFailedError(
                    name=name, reason=reason, returncode=returncode, log_path=supervised.log_path
                )
            time.sleep(0.03)

    def running(self, *, name: str) -> bool:
        """Whether the process is up now."""
        child = self._get(name).child
        return child is not None and child.running

    def pid(self, *, name: str) -> int | None:
        """The id of the running process; None while it is down."""
        child = self._get(name).child
        return child.pid if child is not None and child.running else None

    @property
    def pids(self) -> dict[str, int]:
        """The ids of the processes that are running, by name."""
        found = {name: self.pid(name=name) for name in self.names}
        return {name: pid for name, pid in found.items() if pid is not None}

    def starts(self, *, name: str) -> int:
        """How often the process was started since `start`."""
        return self._get(name).starts

    def log_path(self, *, name: str) -> Path:
        """Where the output of this process goes."""
        return self._log_dir / f"{name}.log"

    @property
    def names(self) -> tuple[str, ...]:
        """Every process there is, in the order of first start."""
        return tuple(self._all)

    def close(self) -> None:
        """Stops everything, all at once, each with its own time to drain."""
        threads = [
            threading.Thread(target=supervised.end, kwargs={"kill": False})
            for supervised in self._all.values()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _get(self, name: str) -> _Supervised:
        try:
            return self._all[name]
        except KeyError:
            raise UnknownProcessError(name=name, known=self.names) from None


def answers(*, url: str, timeout_seconds: float = 1.0) -> bool:
    """Whether a GET of this http URL is answered with 2xx."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_seconds)
    try:
        connection.request("GET", parts.path or "/")
        return 200 <= connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def accepts(*, port: int, host: str = "127.0.0.1", timeout_seconds: float = 1.0) -> bool:
    """Whether somebody accepts TCP connections there."""
    try:
        with socket.create_connection((host, port), timeout=timeout_seconds):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """Within it, SIGTERM and SIGHUP end the main thread as Ctrl-C does: every `with` is left.

    Raises SystemExit with 128 plus the signal's number. Only for the main thread.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        def end() -> NoReturn:
            raise SystemExit(128 + number)

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            end()
        # Raised wherever the loop is just now, it is lost where that is a transport's callback
        # (seen: inside uvloop's reading of a socket). A callback of the loop's own ends it.
        loop.call_soon_threadsafe(end)

    previous = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

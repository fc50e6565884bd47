"""Where a stack lives, what it keeps to itself, and how other commands find it.

One folder for each stack name, never in the checkout:
``${PAYPOST_STATE_DIR or XDG_STATE_HOME or ~/.local/state}/paypost/<name>``.
Its `lock` is held by the process that runs the stack, for as long as that lives; `stack.json`
(mode 0600, it holds secrets) describes what runs. A `stack.json` without a held lock is what a
killed owner left: it is never taken for a running stack, and the next start cleans up after it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from paypost.stack.locks import FileLock, LockHeldError, is_locked
from paypost.stack.supervisor import ProcessIdentity

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class StackNotRunningError(Exception):
    """No stack of this name is up.

    Attributes:
        name: the stack's name.
        directory: where its state would be.
        reason: how one can tell.
    """

    def __init__(self, *, name: str, directory: Path, reason: str) -> None:
        super().__init__(f"stack {name!r} is not up: {reason} (state in {directory})")
        self.name = name
        self.directory = directory
        self.reason = reason


class StackRunningError(Exception):
    """A stack of this name is up already.

    Attributes:
        name: the stack's name.
        owner_pid: the process that runs it, where known.
    """

    def __init__(self, *, name: str, owner_pid: int | None) -> None:
        super().__init__(f"stack {name!r} is up already, run by process {owner_pid or 'unknown'}")
        self.name = name
        self.owner_pid = owner_pid


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


_KEPT_SECRETS = TypeAdapter(dict[str, str | dict[str, str]])


class StackSecrets(_Frozen):
    """What was made up for one stack and is known to nobody else; kept over its restarts.

    Attributes:
        stripe_webhook_secret: signs the processor's webhooks.
        standard_webhook_secrets: by source, for Standard Webhooks.
        portal_api_key: the portal's bearer key at payment-intake and autopay-scheduler.
        operator_key: the operator's bearer key at every service that has an operator's API.
        cis_api_key: cis-poster's key at the CIS.
        processor_api_key: payment-intake's key at the processor.
        postgres_superuser_password: of the role `postgres`.
        postgres_passwords: of the other roles, by name.
    """

    stripe_webhook_secret: str = Field(repr=False)
    standard_webhook_secrets: dict[str, str] = Field(repr=False)
    portal_api_key: str = Field(repr=False)
    operator_key: str = Field(repr=False)
    cis_api_key: str = Field(repr=False)
    processor_api_key: str = Field(repr=False)
    postgres_superuser_password: str = Field(repr=False)
    postgres_passwords: dict[str, str] = Field(repr=False)

    @classmethod
    def generate(cls, *, sources: tuple[str, ...], roles: tuple[str, ...]) -> Self:
        """New random ones for these webhook sources and database roles."""
        return cls(
            stripe_webhook_secret=f"whsec_{secrets.token_urlsafe(32)}",
            standard_webhook_secrets={
                # Standard Webhooks: base64 of 24 to 64 bytes behind the prefix.
                source: f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
                for source in sources
            },
            portal_api_key=f"portal_{secrets.token_urlsafe(32)}",
            operator_key=f"operator_{secrets.token_urlsafe(32)}",
            cis_api_key=f"cis_{secrets.token_urlsafe(32)}",
            # As Stripe's test mode has it, so that nobody takes it for a key that moves money.
            processor_api_key=f"sk_test_{secrets.token_urlsafe(32)}",
            postgres_superuser_password=secrets.token_urlsafe(24),
            postgres_passwords={role: secrets.token_urlsafe(24) for role in roles},
        )

    def filled_from(self, *, kept: bytes) -> Self:
        """What is kept, and these where it lacks one: an older version knew of fewer.

        Args:
            kept: an object of secrets as JSON, perhaps without some of them.

        Raises:
            ValidationError: it is no such object, or holds something that is no secret.
        """
        values = self.model_dump()
        for name, value in _KEPT_SECRETS.validate_json(kept).items():
            made = values.get(name)
            if isinstance(made, dict) and isinstance(value, dict):
                values[name] = made | value
            else:
                values[name] = value
        return type(self).model_validate(values)


class StackState(_Frozen):
    """What runs, and how to reach it.

    Attributes:
        name: the stack's name.
        ready: False while it is still starting.
        started_at: when its owner began.
        owner: the process that runs it.
        kafka_bootstrap: ``host:port``, separated by commas where there are several brokers.
        postgres_host, postgres_port: the server.
        superuser_dsn: the project's database, as superuser (``postgresql://``).
        dsns: the same for each role, by its name.
        http_urls: base addresses by process name, of those that serve HTTP.
        ops_urls: of each service, where /metrics, /livez and /readyz are.
        smtp_host, smtp_port: the mail sink.
        processes: every running process by name, `kafka` and `postgres` included.
        secrets: see there.
        log_paths: by process name.
        cis_journal_path: the reference CIS's own record of what it applied.
        mail_store_path: the folder in which the mail sink keeps what it got.
        processor_journal_path: every attempt of the processor to deliver an event.
        charges_journal_path: the processor's own record of its charges, read again at its start.
    """

    name: str
    ready: bool
    started_at: datetime
    owner: ProcessIdentity
    kafka_bootstrap: str
    postgres_host: str
    postgres_port: int
    superuser_dsn: str = Field(repr=False)
    dsns: dict[str, str] = Field(repr=False)
    http_urls: dict[str, str]
    ops_urls: dict[str, str]
    smtp_host: str
    smtp_port: int
    processes: dict[str, ProcessIdentity]
    secrets: StackSecrets
    log_paths: dict[str, Path]
    cis_journal_path: Path
    mail_store_path: Path
    processor_journal_path: Path
    charges_journal_path: Path

    @classmethod
    def load(cls, name: str | None = None, *, require_ready: bool = True) -> Self:
        """The description of a running stack.

        Args:
            name: the stack's; by default `default_stack_name()`.
            require_ready: False also takes one that is still starting.

        Raises:
            StackNotRunningError: there is none, it is starting, or its owner died.
        """
        directory = StackDirectory.of(name=name)
        state = cls.read(path=directory.state_path)
        reason = None
        if not is_locked(path=directory.lock_path):
            reason = "nobody runs it" if state is None else "whoever ran it was killed"
        elif state is None or (require_ready and not state.ready):
            reason = "it is still starting"
        if reason is not None or state is None:
            raise StackNotRunningError(
                name=directory.name, directory=directory.path, reason=reason or "it is gone"
            )
        return state

    @classmethod
    def read(cls, *, path: Path) -> Self | None:
        """What a file describes, running or not; None where it is missing or of another form."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def save(self, *, path: Path) -> None:
        """Writes it for this user alone; readers see the old or the new one, never a part."""
        _write_closed(path=path, text=self.model_dump_json(indent=2) + "\n")


@dataclass(frozen=True)
class StackDirectory:
    """The folder of one stack, and the places in it."""

    name: str
    path: Path

    @classmethod
    def of(cls, *, name: str | None = None) -> Self:
        """The folder of this name; made by nobody yet.

        Raises:
            ValueError: the name is not a plain file name.
        """
        name = name or default_stack_name()
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a plain name for a stack: {name!r}")
        return cls(name=name, path=state_root() / name)

    @property
    def lock_path(self) -> Path:
        """Held by the owner."""
        return self.path / "lock"

    @property
    def state_path(self) -> Path:
        """The description, `stack.json`."""
        return self.path / "stack.json"

    @property
    def secrets_path(self) -> Path:
        """The secrets, kept while the data live."""
        return self.path / "secrets.json"

    @property
    def logs(self) -> Path:
        """One log for each process."""
        return self.path / "logs"

    @property
    def data(self) -> Path:
        """What Kafka, PostgreSQL, the CIS and the mail sink keep."""
        return self.path / "data"

    def acquire(self) -> FileLock:
        """Makes the folder and becomes its owner.

        Raises:
            StackRunningError: somebody else is.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.chmod(0o700)
        try:
            # A reader that only looks whether the lock is held has it for a moment itself.
            return FileLock(path=self.lock_path).acquire(timeout_seconds=0.3)
        except LockHeldError as error:
            raise StackRunningError(name=self.name, owner_pid=error.owner_pid) from error

    def clean_up(self) -> tuple[str, ...]:
        """Kills what a dead owner left running; the names of what was.

        Only for the holder of the lock. Processes are told from later ones with the same number
        by their start.
        """
        state = StackState.read(path=self.state_path)
        killed: tuple[str, ...] = ()
        if state is not None:
            killed = tuple(
                name for name, process in state.processes.items() if process.kill_group()
            )
        self.state_path.unlink(missing_ok=True)
        return killed

    def turn_logs(self) -> None:
        """Begins with empty logs; those of the run before are kept beside them, older ones not.

        Only for the holder of the lock.
        """
        previous = self.logs.with_name("logs.previous")
        if self.logs.exists():
            shutil.rmtree(previous, ignore_errors=True)
            self.logs.rename(previous)
        self.logs.mkdir()

    def wipe(self) -> None:
        """Deletes data, logs and secrets. Only for the holder of the lock."""
        for path in (self.data, self.logs):
            # PostgreSQL's folder may be a link to one that its own user may enter.
            for link in path.glob("*"):
                if link.is_symlink():
                    shutil.rmtree(link.resolve(), ignore_errors=True)
            shutil.rmtree(path, ignore_errors=True)
        self.secrets_path.unlink(missing_ok=True)

    def secrets(self, *, sources: tuple[str, ...], roles: tuple[str, ...]) -> StackSecrets:
        """The secrets of this stack: those kept, with what they lack made up; stored at once."""
        made = StackSecrets.generate(sources=sources, roles=roles)
        with contextlib.suppress(FileNotFoundError, ValidationError):
            made = made.filled_from(kept=self.secrets_path.read_bytes())
        _write_closed(path=self.secrets_path, text=made.model_dump_json(indent=2) + "\n")
        return made


def state_root(*, environ: Mapping[str, str] | None = None) -> Path:
    """The folder above all stacks of this user."""
    environ = os.environ if environ is None else environ
    base = environ.get("PAYPOST_STATE_DIR") or environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "paypost"


def default_stack_name(*, environ: Mapping[str, str] | None = None) -> str:
    """``$PAYPOST_STACK``, or a name of its own for each checkout."""
    environ = os.environ if environ is None else environ
    if environ.get("PAYPOST_STACK"):
        return environ["PAYPOST_STACK"]
    # This file lies five folders below the checkout; in an installed package that is no checkout,
    # but still a path of its own.
    checkout = Path(__file__).resolve().parents[4]
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", checkout.name).lstrip("._-")[:40] or "stack"
    return f"{plain}-{hashlib.sha256(str(checkout).encode()).hexdigest()[:8]}"


def stop_stack(*, name: str | None = None, timeout_seconds: float = 60.0) -> bool:
    """Ends a stack from outside: asks its owner to, kills it when it does not in time.

    Returns whether it was running. What a killed owner left is cleaned up either way.
    """
    directory = StackDirectory.of(name=name)
    if not directory.path.is_dir():
        return False
    running = False
    try:
        lock = directory.acquire()
    except StackRunningError as error:
        running = True
        owner = ProcessIdentity.of(error.owner_pid) if error.owner_pid else None
        if owner is None:
            raise
        with contextlib.suppress(ProcessLookupError):
            os.kill(owner.pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout_seconds
        while owner.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        if owner.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(owner.pid, signal.SIGKILL)
        lock = FileLock(path=directory.lock_path).acquire(timeout_seconds=10)
    try:
        directory.clean_up()
    finally:
        lock.release()
    return running


def _write_closed(*, path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)

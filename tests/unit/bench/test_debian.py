"""Server programs out of Debian packages: apt-get and dpkg are stood in for by scripts."""

from pathlib import Path

import pytest
from bench.yardsticks.celery.debian import PackagesUnavailableError, Tree, can_be_had, unpacked

PACKAGE, PROGRAM = "some-server", "usr/bin/some-server-that-is-not-here"

APT_GET = """#!/bin/sh
echo "apt-get $*" >> "$CALLS"
case "$*" in
*update*) touch "$LISTS" ;;
*--simulate*)
    [ -e "$LISTS" ] || { echo "E: Unable to locate package some-server" >&2; exit 100; }
    echo "Inst libsome1 (1:2.0-1 Debian:12/stable [amd64])"
    echo "Inst some-server [1.0] (3.1-2+deb12u1 Debian:12/stable [amd64])" ;;
*download*) touch libsome1.deb some-server.deb ;;
esac
"""
DPKG = """#!/bin/sh
mkdir -p "$3/usr/bin" && echo program > "$3/usr/bin/some-server-that-is-not-here"
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("apt-get", APT_GET), ("dpkg", DPKG)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("LISTS", str(tmp_path / "lists"))
    return tmp_path


def calls(machine: Path) -> list[str]:
    return (machine / "calls").read_text().splitlines()


class TestUnpacked:
    def test_fetches_the_package_and_what_it_needs_once(self, machine: Path) -> None:
        (machine / "lists").touch()
        first = unpacked(package=PACKAGE, program=PROGRAM)
        assert first.path(PROGRAM).read_text() == "program\n"
        assert calls(machine)[-1] == "apt-get download libsome1=1:2.0-1 some-server=3.1-2+deb12u1"
        before = len(calls(machine))
        assert unpacked(package=PACKAGE, program=PROGRAM) == first
        assert len(calls(machine)) == before

    def test_fetches_the_lists_of_packages_where_there_are_none(self, machine: Path) -> None:
        unpacked(package=PACKAGE, program=PROGRAM)
        assert [line.split()[-1] for line in calls(machine)][:2] == [PACKAGE, "update"]
        assert "Dir::State::Lists=" in calls(machine)[1]

    def test_says_what_apt_get_said_and_leaves_nothing(self, machine: Path) -> None:
        (machine / "bin" / "apt-get").write_text("#!/bin/sh\necho 'E: no network' >&2; exit 100\n")
        with pytest.raises(PackagesUnavailableError, match="E: no network"):
            unpacked(package=PACKAGE, program=PROGRAM)
        left = [path.name for path in (machine / "cache/paypost/debian").iterdir()]
        assert left == [f"{PACKAGE}.lock"]

    def test_says_that_the_tools_are_missing(
        self, machine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(machine / "nothing"))
        assert not can_be_had(package=PACKAGE, program=PROGRAM)
        with pytest.raises(PackagesUnavailableError, match="apt-get and dpkg"):
            unpacked(package=PACKAGE, program=PROGRAM)

    def test_takes_the_machines_own_program_as_it_is(self, machine: Path) -> None:
        tree = unpacked(package="dash", program="bin/sh")
        assert tree == Tree(Path("/"))
        assert tree.environment(path="/usr/bin") == {"PATH": "/usr/bin"}
        assert not (machine / "calls").exists()

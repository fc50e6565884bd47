import importlib
import sys

import pytest
from tests.support.processes import said_by

from shared.imports import absent, postponed

SERVICES = ("payment_intake", "cis_poster", "autopay_scheduler", "notifier")


class TestAbsent:
    def test_is_missing_inside_and_there_afterwards(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "rich", raising=False)
        with absent("rich"), pytest.raises(ModuleNotFoundError):
            import rich
        import rich

        assert rich.__name__ in sys.modules

    def test_leaves_alone_what_is_in_use_already(self):
        with absent("pytest"):
            import pytest as found
        assert found is pytest

    def test_lets_go_also_of_what_could_not_be_imported(self):
        with pytest.raises(ZeroDivisionError), absent("no_such_package"):
            _ = 1 // 0
        assert "no_such_package" not in sys.modules


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that counts what it imports, with one module that it imports and one not."""
    folder = tmp_path / "parent" / "heavy"
    folder.mkdir(parents=True)
    (tmp_path / "parent" / "__init__.py").touch()
    (folder / "__init__.py").write_text("from parent.heavy.used import USED\nOWN = 'own'\n")
    (folder / "used.py").write_text("USED = 'used'\n")
    (folder / "light.py").write_text("from parent.heavy import used\nLIGHT = used.USED\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "parent.heavy"
    for name in [name for name in sys.modules if name.partition(".")[0] == "parent"]:
        del sys.modules[name]


class TestPostponed:
    def test_runs_nothing_of_the_package_for_one_of_its_modules(self, package):
        postponed(package)
        light = importlib.import_module(f"{package}.light")
        assert light.LIGHT == "used"
        assert "OWN" not in vars(sys.modules[package])

    def test_runs_the_package_for_a_name_of_its_own(self, package):
        postponed(package)
        from parent.heavy import OWN

        assert OWN == "own"
        assert sys.modules[package].USED == "used"
        with pytest.raises(AttributeError):
            _ = sys.modules[package].unknown

    def test_leaves_alone_what_is_in_use_already(self, package):
        imported = importlib.import_module(package)
        postponed(package)
        assert sys.modules[package] is imported

    def test_says_which_package_there_is_none_of(self):
        with pytest.raises(ModuleNotFoundError, match="no_such_package"):
            postponed("no_such_package")

    def test_takes_nothing_away_from_sqlalchemy(self):
        from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
        from sqlalchemy.ext.asyncio.engine import AsyncEngine as Same

        assert AsyncEngine is Same
        assert AsyncSession.__module__ == "sqlalchemy.ext.asyncio.session"


class TestServices:
    @pytest.mark.parametrize("package", SERVICES)
    def test_hold_no_library_that_none_of_them_uses(self, package):
        code = (
            f"import sys, {package}.settings, {package}.app\n"
            "unused = {'rich', 'pygments', 'requests', 'urllib3', 'sqlalchemy.orm'}\n"
            "print(sorted(unused & sys.modules.keys()))"
        )
        assert said_by(code) == "[]\n"

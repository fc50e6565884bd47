import subprocess
import sys

import pytest

from shared.absent import absent

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


class TestServices:
    @pytest.mark.parametrize("package", SERVICES)
    def test_hold_no_library_that_none_of_them_uses(self, package):
        told = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import sys, {package}.settings, {package}.app\n"
                "print(sorted({'rich', 'pygments', 'requests', 'urllib3'} & sys.modules.keys()))",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout == "[]\n"

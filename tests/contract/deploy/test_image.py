"""What `make sbom` and `make audit` look at is what the Dockerfile puts into the images."""

import importlib.util
import re
import sys
from typing import Any

import pytest
from tests.support.kubernetes import ROOT


@pytest.fixture(scope="module")
def image() -> Any:
    scripts = str(ROOT / "scripts")
    spec = importlib.util.spec_from_file_location("image", f"{scripts}/image.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, scripts)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(scripts)
    return module


class TestImages:
    def test_are_those_of_the_dockerfile_with_the_same_roots(self, image: Any) -> None:
        text = (ROOT / "Dockerfile").read_text()
        found = {}
        for names, roots in re.findall(r'^ +([a-z| -]+)\) roots="([^"]+)"', text, re.MULTILINE):
            for name in names.split(" | "):
                found[name] = tuple(roots.replace("$SERVICE", name).split())
        assert found == image.IMAGES

    def test_are_looked_at_with_tools_that_are_locked_by_hash(self) -> None:
        lines = (ROOT / "scripts" / "image-requirements.txt").read_text()
        for tool in ("cyclonedx-bom", "pip-audit"):
            assert re.search(rf"^{tool}==\S+ \\\n    --hash=sha256:", lines, re.MULTILINE)


class TestLicences:
    @pytest.mark.parametrize(
        ("stated", "read"),
        [
            ([{"license": {"id": "MIT"}}], "MIT"),
            ([{"expression": "MIT OR Apache-2.0"}], "MIT OR Apache-2.0"),
            ([{"license": {"name": "BSD\n\nCopyright"}}, {"license": {"name": "BSD"}}], "BSD"),
            ([], ""),
        ],
    )
    def test_are_read_in_each_of_their_forms(self, image: Any, stated: Any, read: str) -> None:
        assert image.licence_of({"licenses": stated}) == read

    def test_that_are_not_stated_are_said_to_be_missing(self, image: Any) -> None:
        table = image.licence_list({("some", "1.0", ""): ["notifier"]})
        assert "| some | 1.0 | **not stated** | notifier |" in table

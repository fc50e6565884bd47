"""`make k8s-check` fails, and says why, where it has nothing to run on."""

import re
from pathlib import Path

import pytest
from deploy.k8s.check import binaries
from tests.support.kubernetes import ROOT

from paypost.stack.kafka import parse_lock


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A user with an empty cache, on a machine without Go; what is said meanwhile."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    return []


class TestPreparing:
    def test_fails_without_go_and_names_what_is_missing(self, nothing: list[str]) -> None:
        with pytest.raises(binaries.UnavailableError) as missing:
            binaries.prepare(say=nothing.append)
        assert missing.value.part in str(missing.value)
        assert "no `go` on PATH" in str(missing.value)
        assert nothing == ["building kube-apiserver"]

    def test_leaves_nothing_that_would_be_taken_for_built(
        self, nothing: list[str], tmp_path: Path
    ) -> None:
        for _attempt in range(2):
            with pytest.raises(binaries.UnavailableError):
                binaries.prepare(say=nothing.append)
        left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        assert {path.name for path in left} <= {"build.lock"}


class TestDefinitions:
    def test_are_of_every_custom_kind_that_is_used(self) -> None:
        kinds = {
            Path(path).stem.partition("_")[2]
            for paths in binaries.DEFINITIONS.values()
            for path in paths
        } | {f"{name}s" for name in binaries.STRIMZI_KINDS}
        assert kinds == {
            *("kafkas", "kafkanodepools", "kafkatopics", "kafkausers"),
            *("scaledobjects", "triggerauthentications", "prometheusrules"),
            *("servicemonitors", "podmonitors"),
            *("clusters", "databases", "externalsecrets"),
        }

    def test_are_of_the_versions_that_the_page_says(self) -> None:
        page = (ROOT / "docs" / "operating" / "kubernetes.md").read_text()
        page = re.sub(r"\s+", " ", page)
        names = {"keda": "KEDA", "cloudnative-pg": "CloudNativePG"}
        names |= {"external-secrets": "External Secrets"}
        for module, version in binaries.DEFINITIONS:
            project = module.removesuffix("/v2").rpartition("/")[2]
            assert f"{names.get(project, project)} {version[1:]}" in page
        assert f"Strimzi {binaries.STRIMZI}" in page

    def test_of_strimzi_come_from_jars_that_are_locked(self) -> None:
        artifacts = parse_lock(text=binaries.LOCK.read_text())
        of_strimzi = {each.artifact for each in artifacts if each.version == binaries.STRIMZI}
        assert {"api", "crd-generator"} <= of_strimzi

"""The one cluster of the check, and the list of what was checked."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from deploy.k8s.check.binaries import prepare
from deploy.k8s.check.cluster import Cluster

CHECKED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CHECKED] = []


@pytest.fixture(scope="session")
def checked(request: pytest.FixtureRequest) -> list[str]:
    """What is told at the end, a line for each."""
    return request.config.stash[CHECKED]


@pytest.fixture(scope="session")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, checked: list[str]
) -> Iterator[Cluster]:
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        # A build takes long: it is to be seen while it runs.
        with capture.global_and_fixture_disabled():
            print(f"\nk8s-check: {line}", flush=True)

    binaries = prepare(say=say)
    directory: Path = tmp_path_factory.mktemp("cluster")
    with Cluster(binaries=binaries, directory=directory) as running:
        for path in sorted(binaries.definitions.glob("*.yaml")):
            running.kubectl("apply", "--server-side", "-f", str(path))
        running.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        definitions = running.get("crd")
        checked.append(
            f"API server {running.version()} with etcd, controllers, scheduler and kwok; "
            f"{len(definitions)} definitions of custom resources"
        )
        yield running


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    terminalreporter.section("checked on a real API server")
    for line in config.stash[CHECKED]:
        terminalreporter.line(line)

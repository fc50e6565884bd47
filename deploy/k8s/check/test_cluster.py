"""Each overlay on a real API server: admitted, rolled out, restarted, drained, upgraded.

The control plane is Kubernetes' own. kwok stands in for kubelets: it says that pods run, and runs
none. So this shows what the API server, its controllers and its scheduler make of the manifests,
and nothing of images, volumes or packets.
"""

import collections
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deploy.k8s.check.cluster import NODES, Cluster
from tests.support.kubernetes import (
    NAMESPACE,
    OVERLAYS,
    ROOT,
    End,
    Manifest,
    flows,
    manifests,
    of_kind,
)
from tests.support.kubernetes_flows import NEIGHBOURS, OPERATED, PORTS, SERVICES, STRAY, needed

CUSTOM = (
    *("Kafka", "KafkaNodePool", "KafkaTopic", "KafkaUser"),
    *("ScaledObject", "TriggerAuthentication", "ServiceMonitor", "PodMonitor", "PrometheusRule"),
    *("Cluster", "Database", "ExternalSecret"),
)
RELEASE = ("0.1.0", "0.1.1")


def eventually(holds: Callable[[], bool], what: str, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


class Applied:
    """An overlay in the cluster."""

    def __init__(self, cluster: Cluster, overlay: str) -> None:
        self.cluster = cluster
        self.overlay = overlay
        self.objects = manifests(overlay)
        self.scaled = of_kind(self.objects, "ScaledObject")

    def apply(self, directory: Path = ROOT) -> list[str]:
        """Apply it in one go; a warning is an error. The lines that kubectl prints."""
        place = directory / "deploy" / "k8s" / "overlays" / self.overlay
        answer = self.cluster.kubectl("apply", "-k", str(place), "--warnings-as-errors")
        return answer.stdout.splitlines()

    def kubectl(self, *arguments: str, **options: Any) -> Any:
        return self.cluster.kubectl("-n", NAMESPACE, *arguments, **options)

    def get(self, *arguments: str) -> list[dict[str, Any]]:
        return self.cluster.get("-n", NAMESPACE, *arguments)

    def kept(self) -> list[Manifest]:
        """What the API server holds of each object, in the same order."""
        answer = self.cluster.kubectl(
            *("get", "-f", "-", "-o", "json"),
            given=json.dumps({"apiVersion": "v1", "kind": "List", "items": self.objects}),
        )
        found: list[Manifest] = json.loads(answer.stdout)["items"]
        return found

    def replicas(self) -> dict[str, int]:
        """How many each service is to have."""
        return {
            name: self.scaled[name]["spec"]["minReplicaCount"]
            if name in self.scaled
            else of_kind(self.objects, "Deployment")[name]["spec"]["replicas"]
            for name in SERVICES
        }

    def scale(self) -> None:
        """What KEDA does before anything else: the fewest replicas that are wanted."""
        for name, each in self.scaled.items():
            count = each["spec"]["minReplicaCount"]
            self.kubectl("scale", "deployment", name, f"--replicas={count}")

    def until_ready(self) -> None:
        for kind in ("deployment", "statefulset"):
            for each in self.get(kind):
                name = each["metadata"]["name"]
                self.kubectl("rollout", "status", kind, name, "--timeout=180s")
        self.kubectl("wait", "--for=condition=Complete", "job", "--all", "--timeout=180s")

    def available(self) -> dict[str, int]:
        return {
            each["metadata"]["name"]: each["status"].get("availableReplicas", 0)
            for each in self.get("deployment")
        }

    def remove(self) -> None:
        self.cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")
        volumes = self.cluster.get("pv")
        for volume in volumes:
            if "claimRef" in volume["spec"]:
                patch = '[{"op": "remove", "path": "/spec/claimRef"}]'
                name = volume["metadata"]["name"]
                self.cluster.kubectl("patch", "pv", name, "--type=json", "-p", patch)


@pytest.fixture(scope="module", params=OVERLAYS)
def applied(
    request: pytest.FixtureRequest, cluster: Cluster, checked: list[str]
) -> Iterator[Applied]:
    one = Applied(cluster, request.param)
    lines = one.apply()
    try:
        assert len(lines) == len(one.objects)
        assert all(line.endswith(" created") for line in lines), lines
        one.scale()
        one.until_ready()
        kinds = collections.Counter(each["kind"] for each in one.objects)
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        checked.append(
            f"{one.overlay}: {len(lines)} objects accepted without a warning ({counted})"
        )
        yield one
    finally:
        one.remove()


class TestOverlay:
    def test_is_ready(self, applied: Applied, checked: list[str]) -> None:
        available = applied.available()
        assert applied.replicas().items() <= available.items()
        assert all(available.values())
        pods = applied.get("pod")
        phases = collections.Counter(pod["status"]["phase"] for pod in pods)
        assert phases.keys() == {"Running", "Succeeded"}
        checked.append(
            f"{applied.overlay}: {len(available)} Deployments ready under the restricted standard, "
            f"{len(applied.get('job'))} Jobs complete, {len(pods)} pods"
        )

    def test_changes_nothing_when_it_is_applied_again(self, applied: Applied) -> None:
        """kubectl says "configured" of some for its own bookkeeping: what is kept is compared."""

        def kept() -> list[Manifest]:
            return [
                {key: value for key, value in each.items() if key not in ("metadata", "status")}
                for each in applied.kept()
            ]

        before = kept()
        applied.apply()
        assert kept() == before

    def test_is_held_as_it_was_sent(self, applied: Applied) -> None:
        """A field that the server does not know, or does not keep, would be missing."""
        for sent, kept in zip(applied.objects, applied.kept(), strict=True):
            kind, name = sent["kind"], sent["metadata"]["name"]
            assert (kept["kind"], kept["metadata"]["name"]) == (kind, name)
            wanted = {key: value for key, value in sent.items() if key != "stringData"}
            if kind == "Secret":
                # Kustomize breaks long values into lines.
                data = wanted.get("data", {})
                wanted |= {"data": {key: "".join(value.split()) for key, value in data.items()}}
            if kind == "Deployment" and name in applied.scaled:
                assert "replicas" not in wanted["spec"]
            assert missing(wanted, kept) == [], (kind, name)

    def test_refuses_a_field_that_does_not_exist(
        self, applied: Applied, checked: list[str]
    ) -> None:
        refused = []
        for sent in {each["kind"]: each for each in applied.objects}.values():
            if "spec" not in sent:
                continue
            wrong = sent | {"spec": sent["spec"] | {"thatDoesNotExist": 1}}
            answer = applied.kubectl(
                "apply", "--dry-run=server", "-f", "-", given=json.dumps(wrong), check=False
            )
            assert answer.returncode != 0, sent["kind"]
            assert 'unknown field "spec.thatDoesNotExist"' in answer.stderr, answer.stderr
            refused.append(sent["kind"])
        assert {"Deployment", "Job", "NetworkPolicy"} <= {*refused}
        checked.append(f"{applied.overlay}: a wrong field refused in {', '.join(sorted(refused))}")

    def test_refuses_pods_below_the_restricted_standard(self, applied: Applied) -> None:
        sent = of_kind(applied.objects, "Deployment")["notifier"]
        wrong = json.loads(json.dumps(sent))
        [its] = wrong["spec"]["template"]["spec"]["containers"]
        its["securityContext"]["allowPrivilegeEscalation"] = True
        answer = applied.kubectl(
            *("apply", "--dry-run=server", "--warnings-as-errors", "-f", "-"),
            given=json.dumps(wrong),
            check=False,
        )
        assert answer.returncode != 0
        assert 'would violate PodSecurity "restricted:latest"' in answer.stderr

    def test_lets_through_what_is_needed_and_nothing_else(
        self, applied: Applied, checked: list[str]
    ) -> None:
        """By the labels of the pods that controllers made, and the policies as they are kept."""
        inside = [*ends(applied), *OPERATED[applied.overlay], STRAY]
        policies = applied.get("networkpolicy")
        found = flows(policies, [*inside, *NEIGHBOURS], PORTS)
        expected = needed(applied.overlay, tuple(end.name for end in inside))
        assert not expected - found, "needed, and held back"
        assert not found - expected, "let through, and not needed"
        checked.append(
            f"{applied.overlay}: {len(policies)} NetworkPolicies let through the {len(found)} "
            f"flows that are needed, of {len(inside) + len(NEIGHBOURS)} ends and {len(PORTS)} ports"
        )

    def test_keeps_its_custom_resources(self, applied: Applied, checked: list[str]) -> None:
        kept = collections.Counter(
            each["kind"] for each in applied.kept() if each["kind"] in CUSTOM
        )
        if applied.overlay == "local":
            assert not kept
            return
        assert {"KafkaTopic", "KafkaUser", "ScaledObject"} <= kept.keys()
        assert {"ServiceMonitor", "PodMonitor"} <= kept.keys()
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kept.items()))
        checked.append(f"{applied.overlay}: custom resources kept: {counted}")

    def test_restarts_without_an_unavailable_replica(
        self, applied: Applied, checked: list[str]
    ) -> None:
        wanted = applied.replicas()
        with Watch(applied) as watch:
            for name in SERVICES:
                applied.kubectl("rollout", "restart", "deployment", name)
            for name in SERVICES:
                applied.kubectl("rollout", "status", "deployment", name, "--timeout=180s")
        assert watch.changes > 2 * len(wanted)
        assert {name: watch.lowest[name] for name in SERVICES} == wanted
        checked.append(
            f"{applied.overlay}: rolling restart of {len(SERVICES)} Deployments, never below "
            f"{sorted({*wanted.values()})} available in {watch.changes} changes"
        )


class TestDraining:
    def test_waits_for_a_replica_to_be_back_elsewhere(
        self, applied: Applied, checked: list[str]
    ) -> None:
        if applied.overlay == "local":
            return  # One replica each: there, a drain may take it.
        nodes = {name: [*NODES] for name in SERVICES}
        for name in SERVICES:
            nodes[name] = [
                pod["spec"]["nodeName"] for pod in applied.get("pod", "-l", selector(name))
            ]
            assert len({*nodes[name]}) == 2, "replicas are spread over nodes"
        with Watch(applied) as watch:
            # No room elsewhere: whoever is evicted waits.
            for node in NODES:
                applied.cluster.kubectl("cordon", node)
            answers = [drain(applied, node, seconds=5) for node in NODES]
        try:
            held = [answer for answer in answers if answer.returncode]
            assert held, "each node was emptied"
            assert all(
                "Cannot evict pod as it would violate the pod's disruption budget" in answer.text
                for answer in held
            )
            assert {watch.lowest[name] for name in SERVICES} == {1}
        finally:
            for node in NODES:
                applied.cluster.kubectl("uncordon", node)
        applied.until_ready()
        for node in NODES:
            answer = drain(applied, node, seconds=60)
            assert answer.returncode == 0, answer.text
            applied.cluster.kubectl("uncordon", node)
            applied.until_ready()
        checked.append(
            f"{applied.overlay}: drains held by the PodDisruptionBudgets on {len(held)} of "
            f"{len(NODES)} nodes while there was no room elsewhere, one replica of each left; "
            "with room, each node was drained"
        )


class TestUpgrade:
    def test_brings_migrations_of_its_own_and_new_replicas(
        self, applied: Applied, checked: list[str], tmp_path: Path
    ) -> None:
        if applied.overlay == "local":
            return  # Its images have one tag only.
        shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
        place = tmp_path / "deploy" / "k8s" / "overlays" / "production" / "kustomization.yaml"
        old, new = RELEASE
        text = place.read_text()
        assert text.count(old) == len(SERVICES)
        dashed = text.replace(old, new).replace(
            f"release={old.replace('.', '-')}", f"release={new.replace('.', '-')}"
        )
        place.write_text(dashed)
        with Watch(applied) as watch:
            applied.apply(tmp_path)
            applied.until_ready()
        images = {
            each["spec"]["template"]["spec"]["containers"][0]["image"].rpartition(":")[2]
            for each in applied.get("deployment")
            if each["metadata"]["name"] in SERVICES
        }
        assert images == {new}
        jobs = collections.Counter(
            job["metadata"]["labels"]["app.kubernetes.io/name"] for job in applied.get("job")
        )
        assert jobs == dict.fromkeys(SERVICES, 2)
        assert {name: watch.lowest[name] for name in SERVICES} == applied.replicas()
        checked.append(
            f"{applied.overlay}: upgrade {old} to {new}: {len(SERVICES)} new migrations, "
            "Deployments replaced without an unavailable replica, their number left as KEDA set it"
        )


def selector(service: str) -> str:
    return f"app.kubernetes.io/name={service},app.kubernetes.io/component=service"


def drain(applied: Applied, node: str, *, seconds: int) -> Any:
    return applied.cluster.kubectl(
        *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data"),
        f"--timeout={seconds}s",
        check=False,
    )


class Watch:
    """Hears of every change of how many replicas are available for as long as it is open."""

    def __init__(self, applied: Applied) -> None:
        self._following = applied.cluster.follow(
            *("-n", NAMESPACE, "get", "deployment", "--watch"),
            *("-o", 'jsonpath={.metadata.name} {.status.availableReplicas}{"\\n"}'),
        )
        self._thread = threading.Thread(target=self._listen)
        self.lowest: dict[str, int] = {}
        self.changes = 0

    def __enter__(self) -> "Watch":
        self._thread.start()
        # It has begun once it has told how things are.
        eventually(lambda: {*SERVICES} <= self.lowest.keys(), "the watch has begun")
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._following.terminate()
        self._thread.join()

    def _listen(self) -> None:
        assert self._following.stdout is not None
        for line in self._following.stdout:
            name, _, count = line.strip().partition(" ")
            number = int(count or 0)
            self.lowest[name] = min(number, self.lowest.get(name, number))
            self.changes += 1


def ends(applied: Applied) -> list[End]:
    """An end for each kind of pod that runs, or has run."""
    found = {}
    for pod in applied.get("pod"):
        labels = pod["metadata"]["labels"]
        name = labels["app.kubernetes.io/name"]
        is_job = "batch.kubernetes.io/job-name" in labels
        end = f"{name}-migrate" if is_job else name
        found[end] = End(
            name=end,
            namespace=NAMESPACE,
            labels=labels,
            ports={
                port["name"]: port["containerPort"]
                for container in pod["spec"]["containers"]
                for port in container.get("ports", [])
            },
        )
    return list(found.values())


def missing(wanted: Any, kept: Any, path: str = "") -> list[str]:
    """The paths of what was sent and is not kept; quantities are compared by what they say."""
    match wanted:
        case dict():
            if not isinstance(kept, dict):
                return [path]
            return [
                lost
                for key, value in wanted.items()
                for lost in (
                    missing(value, kept[key], f"{path}.{key}")
                    if key in kept
                    # Empty says the same as absent.
                    else [f"{path}.{key}"] * (value not in ({}, [], None, ""))
                )
            ]
        case list():
            if not isinstance(kept, list) or len(kept) != len(wanted):
                return [path]
            return [
                lost
                for index, value in enumerate(wanted)
                for lost in missing(value, kept[index], f"{path}[{index}]")
            ]
        case _:
            return [] if wanted == kept else [f"{path}: {wanted!r} is kept as {kept!r}"]

"""The manifests of deploy/k8s as Kustomize builds them, and whom their policies let through."""

import functools
import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = ("local", "production", "production-complete")
NAMESPACE = "paypost"
WORKLOADS = ("Deployment", "StatefulSet", "Job")

Manifest = dict[str, Any]


def kubectl() -> Path:
    """The kubectl of the locked environment."""
    return Path(sys.executable).parent / "kubectl"


@functools.cache
def built(overlay: str) -> str:
    """What `kubectl kustomize` makes of an overlay."""
    found = subprocess.run(
        [kubectl(), "kustomize", ROOT / "deploy" / "k8s" / "overlays" / overlay],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
    )
    assert found.returncode == 0, found.stderr
    assert not found.stderr, found.stderr
    return found.stdout


def manifests(overlay: str) -> list[Manifest]:
    """The objects of an overlay, fresh for each caller."""
    return [json.loads(each) for each in _parsed(overlay)]


@functools.cache
def _parsed(overlay: str) -> tuple[str, ...]:
    # Read as YAML once: that takes a second, and JSON next to nothing.
    loaded = yaml.load_all(built(overlay), Loader=yaml.CSafeLoader)
    return tuple(json.dumps(each) for each in loaded)


def of_kind(objects: Iterable[Manifest], *kinds: str) -> dict[str, Manifest]:
    """The objects of some kinds, by name."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] in kinds}


def containers(workload: Manifest) -> list[Manifest]:
    """All containers of a workload's pods, those that run first included."""
    spec = workload["spec"]["template"]["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes these labels; an empty one takes all."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for term in selector.get("matchExpressions", []):
        value = labels.get(term["key"])
        match term["operator"]:
            case "In":
                taken = value in term["values"]
            case "NotIn":
                taken = value not in term["values"]
            case "Exists":
                taken = value is not None
            case "DoesNotExist":
                taken = value is None
            case other:
                raise AssertionError(f"no selector has the operator {other}")
        if not taken:
            return False
    return True


@dataclass(frozen=True, kw_only=True)
class End:
    """One end of a connection: a kind of pod, or an address outside."""

    name: str
    namespace: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    address: str | None = None


def pods(objects: Iterable[Manifest]) -> Iterator[End]:
    """An end for each workload, named as it is; of a Job without its release."""
    for name, workload in of_kind(objects, *WORKLOADS).items():
        template = workload["spec"]["template"]
        named = {
            port["name"]: port["containerPort"]
            for container in containers(workload)
            for port in container.get("ports", [])
        }
        is_job = workload["kind"] == "Job"
        yield End(
            name=f"{name.partition('-migrate-')[0]}-migrate" if is_job else name,
            namespace=NAMESPACE,
            labels=template["metadata"]["labels"],
            ports=named,
        )


def _is_peer(peer: Manifest, end: End) -> bool:
    if "ipBlock" in peer:
        if end.address is None:
            return False
        address = ipaddress.ip_address(end.address)
        block = peer["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(each) for each in block.get("except", [])
        )
    if end.namespace is None:
        return False
    if "namespaceSelector" in peer:
        of_namespace = {"kubernetes.io/metadata.name": end.namespace}
        if not selects(peer["namespaceSelector"], of_namespace):
            return False
    elif end.namespace != NAMESPACE:
        return False
    return selects(peer.get("podSelector", {}), end.labels)


def _lets_through(rule: Manifest, side: str, other: End, to: End, port: int, protocol: str) -> bool:
    if side in rule and not any(_is_peer(peer, other) for peer in rule[side]):
        return False
    if "ports" not in rule:
        return True
    for each in rule["ports"]:
        assert "endPort" not in each, "a range of ports is not evaluated here"
        wanted = each["port"]
        number = to.ports.get(wanted) if isinstance(wanted, str) else wanted
        if number == port and each.get("protocol", "TCP") == protocol:
            return True
    return False


def _side(
    policies: Sequence[Manifest], direction: str, here: End, there: End, port: int, protocol: str
) -> bool:
    """Whether what holds at `here` lets a connection in this direction through."""
    if here.namespace != NAMESPACE:
        return True
    holding = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], here.labels)
    ]
    side = "from" if direction == "Ingress" else "to"
    to = here if direction == "Ingress" else there
    return not holding or any(
        _lets_through(rule, side, there, to, port, protocol)
        for spec in holding
        for rule in spec.get(direction.lower(), [])
    )


def flows(
    policies: Sequence[Manifest], ends: Sequence[End], ports: Iterable[tuple[int, str]]
) -> set[tuple[str, str, int, str]]:
    """Every connection that the policies let through, of those that touch the namespace."""
    wanted = list(ports)
    return {
        (source.name, target.name, port, protocol)
        for source in ends
        for target in ends
        if NAMESPACE in (source.namespace, target.namespace)
        for port, protocol in wanted
        if _side(policies, "Egress", source, target, port, protocol)
        and _side(policies, "Ingress", target, source, port, protocol)
    }

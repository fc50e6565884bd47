"""Writes the rules of deploy/observability as PrometheusRules, which prometheus-operator reads.

Usage: generate_rules.py

Kustomize cannot put a file into a field, so what it is given is written beside it. A test holds the
two together.
"""
# ruff: noqa: T201 - it tells people what it has written

import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "observability" / "prometheus" / "rules"
TARGET = ROOT / "deploy" / "k8s" / "components" / "monitoring" / "rules.yaml"


def prometheus_rules() -> str:
    """Return every file of rules as an object called as the file is, dots as dashes."""
    objects = [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": file.stem.replace(".", "-")},
            "spec": yaml.safe_load(file.read_text()),
        }
        for file in sorted(RULES.glob("*.yml"))
    ]
    head = "# Written by deploy/k8s/generate_rules.py from deploy/observability/prometheus/rules.\n"
    return head + yaml.safe_dump_all(objects, sort_keys=False, width=100, allow_unicode=True)


def main() -> int:
    """Write the file where it has changed."""
    text = prometheus_rules()
    is_same = TARGET.exists() and TARGET.read_text() == text
    if not is_same:
        TARGET.write_text(text)
    print(f"{TARGET.relative_to(ROOT)}: {'as it was' if is_same else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

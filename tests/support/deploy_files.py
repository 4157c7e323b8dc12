"""The files of infra/deploy and the manifests rendered from the chart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "infra" / "deploy"
CHART = DEPLOY / "chart"
ALERTS = CHART / "files" / "alerts.yaml"
SAMPLES = ROOT / "tests" / "samples" / "chart"
TOOLS = ROOT / ".cache" / "deploy-tools"
WORKLOADS = ("Deployment", "StatefulSet", "Job")

Manifest = dict[str, Any]


def manifests(case: str) -> list[Manifest]:
    """The checked-in manifests of `default` or `production`."""
    return parsed((SAMPLES / f"{case}.yaml").read_text())


def parsed(text: str) -> list[Manifest]:
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def workloads(found: Sequence[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Each workload's component and its pod's spec."""
    for manifest in found:
        if manifest["kind"] in WORKLOADS:
            yield manifest["metadata"]["labels"]["app.kubernetes.io/component"], manifest["spec"]["template"]["spec"]


def environment_of(container: Mapping[str, Any], found: Sequence[Manifest]) -> dict[str, str]:
    """A container's variables. Those from a secret have a text made from the secret's name and key, and the pod's name is `pod-0`."""
    maps = {manifest["metadata"]["name"]: manifest["data"] for manifest in found if manifest["kind"] == "ConfigMap"}
    variables: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        variables |= maps[source["configMapRef"]["name"]]
    for entry in container["env"]:
        if "value" in entry:
            variables[entry["name"]] = entry["value"]
        elif "secretKeyRef" in entry["valueFrom"]:
            variables[entry["name"]] = hashlib.sha256(repr(entry["valueFrom"]).encode()).hexdigest()
        else:
            variables[entry["name"]] = "pod-0"
    return variables

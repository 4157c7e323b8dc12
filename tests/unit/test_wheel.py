"""The files that ship are package data: an installed wheel works from any working directory."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FIND = """
from infra.checkpoints.location import checkpoint_folder
from infra.local.kafka_jars import checksums
from infra.settings import Settings
from trainer.promotion.api import PAGE

settings = Settings()
for folder in (settings.base.checkpoint, settings.reflection.checkpoint):
    print((checkpoint_folder(folder) / "model.safetensors").resolve(strict=True))
print((PAGE / "index.html").resolve(strict=True))
assert checksums()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of the project's wheel, unpacked as an installer does."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_holds_every_file_that_ships(site: Path) -> None:
    for folder in ("pico/checkpoints", "trainer/promotion/page", "infra/deploy"):
        assert {path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*")} == {
            path.relative_to(site / folder) for path in (site / folder).rglob("*")
        }


def test_an_installed_wheel_finds_its_files_from_any_folder(site: Path, tmp_path: Path) -> None:
    paths = subprocess.run(
        [sys.executable, "-c", FIND], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert len(paths) == 3 and all(Path(path).is_relative_to(site.resolve()) for path in paths)

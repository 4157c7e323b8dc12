from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from infra.settings import Settings, load
from trainer.folders import UNTOUCHED_S, checkpoints_dir, remove_unused

OLD, NEEDED = "a" * 64, "b" * 64


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(stack={"dir": tmp_path}, promotion={"gate_timeout_s": UNTOUCHED_S})


def put(folder: Path, name: str, days: float) -> None:
    """A folder with a file, both last modified `days` ago."""
    (folder / name).mkdir(parents=True)
    (folder / name / "file").write_text("x")
    for path in (folder / name / "file", folder / name):
        os.utime(path, (time.time() - days * 86_400,) * 2)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_unused_versions_and_snapshots_are_removed_and_others_stay(settings: Settings) -> None:
    checkpoints, snapshots = checkpoints_dir(settings), settings.stack.dir / "snapshots"
    for version in ("1", "2", "3", ".4-download", ".unused-killed", "notes"):
        put(checkpoints, version, days=3)
    for digest in (OLD, NEEDED, "by-hand"):
        put(snapshots, digest, days=3)
    remove_unused(settings, {"1", "3"}, {NEEDED})
    assert names(checkpoints) == {"1", "3", "notes"} and names(snapshots) == {NEEDED, "by-hand"}


def test_files_that_a_gate_may_read_and_running_downloads_stay(settings: Settings) -> None:
    checkpoints = checkpoints_dir(settings)
    put(checkpoints, "1", days=1.9)  # a gate has a day by the settings
    put(checkpoints, ".2-download", days=3)
    os.utime(checkpoints / ".2-download" / "file")
    remove_unused(settings, set(), set())
    assert names(checkpoints) == {"1", ".2-download"}


def test_without_fetched_versions_nothing_is_removed(settings: Settings) -> None:
    remove_unused(settings, set(), set())
    assert not checkpoints_dir(settings).exists()

from __future__ import annotations

from pathlib import Path

import pytest

from infra.checkpoints.pruning import mark_used, prune
from tests.support.untouched_folders import untouched

HOUR_S = 3600.0
DIGEST = "a" * 64


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_only_versions_digests_and_killed_downloads_are_removed(tmp_path: Path) -> None:
    for name in ("1", "2", DIGEST, ".4-download", ".unused-killed", "notes", ".git"):
        untouched(tmp_path / name)
    prune(tmp_path, {"2"}, HOUR_S)
    assert names(tmp_path) == {"2", "notes", ".git"}


def test_recently_used_folders_stay(tmp_path: Path) -> None:
    for name in ("1", "2"):
        untouched(tmp_path / name)
    mark_used(tmp_path, {"1", "missing"})
    prune(tmp_path, (), HOUR_S)
    assert names(tmp_path) == {"1"}


def test_a_running_download_stays(tmp_path: Path) -> None:
    (tmp_path / ".7-x" / "files").mkdir(parents=True)
    untouched(tmp_path / ".7-x")
    prune(tmp_path, (), HOUR_S)
    assert names(tmp_path) == {".7-x"}


def test_a_missing_folder_is_empty(tmp_path: Path) -> None:
    prune(tmp_path / "missing", (), HOUR_S)
    assert not (tmp_path / "missing").exists()


def test_a_folder_that_cannot_be_removed_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    untouched(tmp_path / "1")
    monkeypatch.setattr("shutil.move", refuse)
    prune(tmp_path, (), HOUR_S)
    assert (names(tmp_path), [record.message for record in caplog.records]) == ({"1"}, ["an unused folder stays on disk"])

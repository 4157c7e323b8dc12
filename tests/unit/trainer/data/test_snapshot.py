from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from infra.errors import CannotContinue
from infra.settings import Settings
from infra.settings import load as settings_of
from tests.support.collected_records import MESSAGES, make_snapshot
from trainer.data.snapshot import Snapshot, load_snapshot, write_snapshot


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(stack={"dir": tmp_path})


@pytest.fixture
def written(settings: Settings) -> Snapshot:
    snapshot = make_snapshot(MESSAGES)
    write_snapshot(snapshot, settings, "1.2.3")
    return snapshot


def test_a_snapshot_is_loaded_as_it_was_written(settings: Settings, written: Snapshot) -> None:
    loaded = load_snapshot(settings, written.digest)
    assert loaded.digest == written.digest and loaded.counts == written.counts and loaded.ranges == written.ranges
    assert (
        list(loaded.training) == list(written.training)
        and list(loaded.sft_examples) == list(written.sft_examples)
        and list(loaded.heldout) == list(written.heldout)
    )
    assert loaded.judged_share == written.judged_share and loaded.heldout_users == written.heldout_users == 1


def test_a_truncated_file_is_named(settings: Settings, written: Snapshot) -> None:
    path = settings.stack.dir / "snapshots" / written.digest / "rows.parquet"
    content = path.read_bytes()
    for end in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(CannotContinue, match=r"rows\.parquet: not the Parquet file of a snapshot, or truncated"):
            load_snapshot(settings, written.digest)


def test_rows_of_another_snapshot_are_refused(settings: Settings, written: Snapshot) -> None:
    other = write_snapshot(make_snapshot(MESSAGES[2:]), settings, "1.2.3")
    directory = settings.stack.dir / "snapshots" / written.digest
    shutil.copy(other / "rows.parquet", directory / "rows.parquet")
    with pytest.raises(CannotContinue, match=rf"rows\.parquet: its rows have the digest {other.name}, not {written.digest}"):
        load_snapshot(settings, written.digest)
    shutil.copy(other / "manifest.json", directory / "manifest.json")
    with pytest.raises(CannotContinue, match=rf"manifest\.json: describes the snapshot {other.name}"):
        load_snapshot(settings, written.digest)


def test_a_missing_or_broken_file_is_named(settings: Settings, written: Snapshot) -> None:
    directory = settings.stack.dir / "snapshots" / written.digest
    (directory / "rows.parquet").unlink()
    with pytest.raises(CannotContinue, match=r"rows\.parquet: missing"):
        load_snapshot(settings, written.digest)
    for broken in ("", "[]", json.dumps({"digest": written.digest})):
        (directory / "manifest.json").write_text(broken)
        with pytest.raises(CannotContinue, match=r"manifest\.json: not the manifest of a snapshot"):
            load_snapshot(settings, written.digest)
    with pytest.raises(CannotContinue, match=r"manifest\.json: cannot be read"):
        load_snapshot(settings, "0" * 64)

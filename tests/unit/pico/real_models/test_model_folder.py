from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.checkpoints.verification import checkpoint_digest
from infra.errors import CannotContinue
from pico.real_models.model_folder import ensure_model
from tests.support.tiny_model import make_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny", seed=0)


def copier(model: Path) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        shutil.copytree(model, folder, dirs_exist_ok=True)

    return write


def test_a_model_is_written_once(model: Path, tmp_path: Path) -> None:
    target, digest = tmp_path / "models" / "tiny", checkpoint_digest(model)
    written: list[Path] = []

    def write(folder: Path) -> None:
        shutil.copytree(model, folder, dirs_exist_ok=True)
        written.append(folder)

    assert [ensure_model(target, digest, write) for _ in range(2)] == [True, False]
    assert (checkpoint_digest(target), len(written)) == (digest, 1)


def test_a_conversion_that_fails_leaves_no_folder(model: Path, tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        shutil.copytree(model, folder, dirs_exist_ok=True)
        raise CannotContinue("the file ends early")

    with pytest.raises(CannotContinue, match="ends early"):
        ensure_model(tmp_path / "tiny", checkpoint_digest(model), write)
    assert [path.name for path in tmp_path.iterdir()] == [".tiny.lock"]


def test_the_folder_of_a_killed_conversion_is_removed(model: Path, tmp_path: Path) -> None:
    (tmp_path / ".tiny-unfinished-x" / "model").mkdir(parents=True)
    ensure_model(tmp_path / "tiny", checkpoint_digest(model), copier(model))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tiny.lock", "tiny"]


def test_another_result_than_the_recorded_one_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotContinue, match=r"expected 1111.*locked packages"):
        ensure_model(tmp_path / "tiny", "1" * 64, copier(model))
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize("name", ["config.json", "notes.py"])
def test_a_folder_with_other_content_is_refused_and_stays(model: Path, tmp_path: Path, name: str) -> None:
    target = Path(shutil.copytree(model, tmp_path / "tiny"))
    (target / name).write_text("{}")
    with pytest.raises(CannotContinue, match="remove it to convert the model again"):
        ensure_model(target, checkpoint_digest(model), lambda folder: None)
    assert (target / name).read_text() == "{}"


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotContinue, match="cannot write"):
        ensure_model(tmp_path / "file" / "tiny", "1" * 64, lambda folder: None)

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.file_size_limit import file_size_limit
from trainer.learn.saved_state import FACTS, TENSORS, SavedState, disk_errors, newest_state, save_state

PURPOSE = {"seed": 1, "steps": 40}


def saved(directory: Path, *numbers: int) -> None:
    for number in numbers:
        tensors = {"weight": torch.full((3, 2), float(number)), "rng": torch.arange(4, dtype=torch.uint8)}
        save_state(directory, SavedState(number, {"step": number, "curve": [0.5, None]}, tensors), PURPOSE)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_state_is_loaded_as_it_was_saved_and_the_one_before_it_is_kept(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20, 30)
    state = newest_state(tmp_path, PURPOSE)
    assert state is not None and state.number == 30 and state.facts == {"step": 30, "curve": [0.5, None]}
    assert torch.equal(state.tensors["weight"], torch.full((3, 2), 30.0)) and state.tensors["rng"].dtype == torch.uint8
    assert names(tmp_path) == ["00000020", "00000030"]


def test_an_empty_directory_has_no_state(tmp_path: Path) -> None:
    assert newest_state(tmp_path / "nowhere", PURPOSE) is None and newest_state(tmp_path, PURPOSE) is None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def change_a_fact(path: Path) -> None:
    path.write_text(path.read_text().replace('"step": 20', '"step": 99'))


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        (TENSORS, truncate, "tensors.safetensors differs from its digest"),
        (TENSORS, flip, "tensors.safetensors differs from its digest"),
        (TENSORS, Path.unlink, "unreadable: FileNotFoundError"),
        (FACTS, truncate, "unreadable: JSONDecodeError"),
        (FACTS, change_a_fact, "state.json differs from its digest"),
        (FACTS, lambda path: path.write_text("[]"), "unreadable: TypeError"),
    ],
)
def test_a_broken_state_falls_back_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, damage: Any, reason: str) -> None:
    saved(tmp_path, 10, 20)
    damage(tmp_path / "00000020" / file)
    state = newest_state(tmp_path, PURPOSE)
    assert state is not None and state.number == 10
    assert [vars(record)["reason"] for record in caplog.records] == [reason]
    saved(tmp_path, 20)
    repaired = newest_state(tmp_path, PURPOSE)
    assert repaired is not None and repaired.number == 20 and names(tmp_path) == ["00000010", "00000020"]


def test_a_state_of_another_purpose_is_ignored(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    assert newest_state(tmp_path, PURPOSE | {"seed": 2}) is None


def test_a_half_written_state_is_ignored(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    (tmp_path / ".new").mkdir()
    (tmp_path / ".new" / TENSORS).write_bytes(b"half")
    state = newest_state(tmp_path, PURPOSE)
    assert state is not None and state.number == 10
    saved(tmp_path, 20)
    assert names(tmp_path) == ["00000010", "00000020"]


def test_a_full_disk_is_an_os_error_and_the_state_before_is_kept(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    with file_size_limit(10_000), pytest.raises(OSError, match=str(tmp_path)):
        save_state(tmp_path, SavedState(20, {}, {"weight": torch.zeros(100_000)}), PURPOSE)
    state = newest_state(tmp_path, PURPOSE)
    assert state is not None and state.number == 10


def test_a_write_error_of_torch_is_an_os_error_and_other_errors_are_not(tmp_path: Path) -> None:
    with file_size_limit(10_000), pytest.raises(OSError, match=str(tmp_path)), disk_errors(tmp_path):
        torch.save(torch.zeros(100_000), tmp_path / "optimizer.pt")
    with pytest.raises(RuntimeError, match="shape"), disk_errors(tmp_path):
        raise RuntimeError("shape mismatch")

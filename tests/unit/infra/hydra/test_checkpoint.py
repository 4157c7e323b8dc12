"""A saved HYDRA checkpoint is the same after it is loaded, names no user, and is refused if it was changed."""

import json
from pathlib import Path

import pytest

from infra.checkpoints.verification import BadCheckpoint
from infra.hydra.checkpoint import HydraCheckpoint, inspect_hydra, load_hydra, save_hydra, user_digest, verify_hydra
from infra.hydra.model import HydraModel
from tests.support.tiny_encoder import USERS, Item, make_hydra


@pytest.fixture
def checkpoint(tmp_path: Path) -> HydraCheckpoint:
    return make_hydra(tmp_path / "encoder")


@pytest.fixture
def saved(tmp_path: Path, checkpoint: HydraCheckpoint) -> Path:
    save_hydra(tmp_path / "saved", checkpoint)
    return tmp_path / "saved"


def test_a_loaded_checkpoint_answers_as_the_saved_one(saved: Path, checkpoint: HydraCheckpoint) -> None:
    items = [Item(f"film {number}") for number in range(5)]
    before, after = HydraModel(checkpoint), HydraModel.load(saved)
    for user in (*USERS, "t/none"):
        assert after.rank(user, "a film", items) == before.rank(user, "a film", items)
        assert after.choose(user, "tag : a film", ["right", "wrong", "sea"]) == before.choose(user, "tag : a film", ["right", "wrong", "sea"])
    assert len({tuple(before.rank(user, "a film", items)) for user in (*USERS, "t/none")}) == 3


def test_the_folder_names_no_user(saved: Path) -> None:
    content = b"".join(path.read_bytes() for path in saved.iterdir())
    assert not any(name in content for name in (b"anna", b"ben"))
    assert user_digest(USERS[0]).encode() in content


def test_the_digest_covers_heads_and_their_owners(saved: Path) -> None:
    digest = verify_hydra(saved)
    assert verify_hydra(saved, digest) == digest
    heads = json.loads((saved / "heads.json").read_text())
    first, second = heads["reranker"]
    heads["reranker"] |= {first: heads["reranker"][second], second: heads["reranker"][first]}
    (saved / "heads.json").write_text(json.dumps(heads))
    with pytest.raises(BadCheckpoint, match="digest is"):
        verify_hydra(saved, digest)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("heads.json", b"{", r"heads\.json: not JSON"),
        ("heads.json", b'{"format": 2, "max_length": 48, "item_text": "content", "reranker": {}, "scorer": {}}', r"heads\.json: .*less than or equal to 1"),
        ("heads.json", b'{"max_length": 48, "item_text": "content", "reranker": {"anna": 1}, "scorer": {}}', r"heads\.json: .*pattern"),
        (
            "heads.json",
            b'{"max_length": 48, "item_text": "content", "reranker": {"%s": 2}, "scorer": {}}' % (b"a" * 64),
            r"the rows of reranker are not 1 to 1",
        ),
        ("scorer_heads.safetensors", None, r"scorer_heads\.safetensors: missing"),
        ("scorer_heads.safetensors", b"PK", r"scorer_heads\.safetensors: truncated"),
        ("heads.pkl", b"", r"heads\.pkl: a file of this kind is not allowed"),
    ],
)
def test_a_broken_checkpoint_is_refused_by_name(saved: Path, name: str, content: bytes | None, problem: str) -> None:
    if content is None:
        (saved / name).unlink()
    else:
        (saved / name).write_bytes(content)
    with pytest.raises(BadCheckpoint, match=problem) as refused:
        inspect_hydra(saved)
    assert "anna" not in str(refused.value).removeprefix(str(saved))


def test_tensors_of_another_number_of_users_are_refused(saved: Path) -> None:
    heads = json.loads((saved / "heads.json").read_text())
    heads["scorer"] = {}
    (saved / "heads.json").write_text(json.dumps(heads))
    with pytest.raises(BadCheckpoint, match=r"scorer_heads\.safetensors: its tensors do not fit"):
        load_hydra(saved)

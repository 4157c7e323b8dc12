from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.checkpoints import BadCheckpoint, checkpoint_digest, compatible, differences, verify_checkpoint
from tests.unit.infra.checkpoint_files import write_checkpoint


def test_the_same_files_have_the_same_digest_wherever_they_lie(tmp_path: Path) -> None:
    assert checkpoint_digest(write_checkpoint(tmp_path / "a")) == checkpoint_digest(write_checkpoint(tmp_path / "b"))


def test_one_changed_byte_or_name_changes_the_digest(tmp_path: Path) -> None:
    original = checkpoint_digest(write_checkpoint(tmp_path / "a"))
    other = write_checkpoint(tmp_path / "b", weights=b"\x00" * 15 + b"\x01")
    renamed = write_checkpoint(tmp_path / "c")
    (renamed / "model.safetensors").rename(renamed / "weights.safetensors")
    assert len({original, checkpoint_digest(other), checkpoint_digest(renamed)}) == 3


def test_the_model_card_may_be_edited(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "a")
    digest = verify_checkpoint(checkpoint)
    (checkpoint / "README.md").write_text(f"digest: {digest}")
    assert verify_checkpoint(checkpoint, digest) == digest


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "../other/model.safetensors"}}))


def _auto_map(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"text_config": {"auto_map": {"AutoModel": "code.Model"}}}))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle": (lambda f: (f / "pytorch_model.bin").write_bytes(b""), r"pytorch_model\.bin: a file of this kind"),
    "training arguments": (lambda f: (f / "training_args.pt").write_bytes(b""), r"training_args\.pt: a file of this kind"),
    "code": (lambda f: (f / "modeling.py").write_text(""), r"modeling\.py: a file of this kind"),
    "a link": (lambda f: (f / "vocab.json").symlink_to("/etc/hostname"), r"vocab\.json: a symbolic link"),
    "a linked folder": (lambda f: (f / "more").symlink_to(f.parent), "more: a symbolic link"),
    "code by name": (_auto_map, r"config\.json: auto_map"),
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json: missing"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json: missing"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"no \.safetensors"),
    "cut-off weights": (_cut, r"model\.safetensors: \d+ bytes, its header promises"),
    "a cut-off header": (lambda f: (f / "model.safetensors").write_bytes(b"\xff\x00"), r"model\.safetensors: cut off"),
    "weights that are none": (lambda f: (f / "model.safetensors").write_bytes(b"\x04" + b"\x00" * 7 + b"oops"), "not a safetensors file"),
    "an index that leaves the folder": (_index, r"points to '\.\./other"),
    "a config that is not JSON": (lambda f: (f / "config.json").write_text("{"), r"config\.json: not JSON"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_checkpoint_is_refused_with_file_and_reason(tmp_path: Path, name: str) -> None:
    spoil, reason = BROKEN[name]
    checkpoint = write_checkpoint(tmp_path / "a")
    spoil(checkpoint)
    with pytest.raises(BadCheckpoint, match=reason):
        verify_checkpoint(checkpoint)


def test_another_digest_than_the_registrys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="the registry says 0000"):
        verify_checkpoint(write_checkpoint(tmp_path / "a"), "0000")


def test_other_weights_are_compatible_and_notes_do_not_matter(tmp_path: Path) -> None:
    serving, candidate = write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b", weights=b"\x01" * 16)
    config = json.loads((candidate / "config.json").read_text())
    (candidate / "config.json").write_text(json.dumps(config | {"transformers_version": "9", "dtype": "float16"}))
    tokenizer = json.loads((candidate / "tokenizer.json").read_text())
    (candidate / "tokenizer.json").write_text(json.dumps(tokenizer | {"padding": {"strategy": "BatchLongest"}}))
    assert compatible(serving, candidate)


def test_another_architecture_vocabulary_or_template_is_not_compatible(tmp_path: Path) -> None:
    serving, candidate = write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b", hidden_size=16)
    (candidate / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"b": 0}}, "padding": None}))
    (candidate / "chat_template.jinja").write_text("{{ messages }}")
    assert differences(serving, candidate) == ("config.json: hidden_size differs", "tokenizer.json: model differs", "chat_template.jinja differs")


def test_a_missing_tensor_is_not_compatible(tmp_path: Path) -> None:
    serving, candidate = write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b", weights=b"\x00" * 8)
    assert differences(serving, candidate) == ("tensors differ in name or shape: w",)

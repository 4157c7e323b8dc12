from __future__ import annotations

import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from infra.checkpoints.verification import BadCheckpoint, checkpoint_digest, differences, inspect_checkpoint, verify_checkpoint
from tests.support.checkpoint_files import write_checkpoint


def test_the_digest_does_not_depend_on_the_folder(tmp_path: Path) -> None:
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


def _json(folder: Path, name: str, **content: object) -> None:
    path = folder / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | content))


CODE = "{{ ''.__class__ }}"

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
    "truncated weights": (_cut, r"model\.safetensors: \d+ bytes, its header says"),
    "a truncated header": (lambda f: (f / "model.safetensors").write_bytes(b"\xff\x00"), r"model\.safetensors: truncated"),
    "weights that are none": (lambda f: (f / "model.safetensors").write_bytes(b"\x04" + b"\x00" * 7 + b"oops"), "not a safetensors file"),
    "an index that leaves the folder": (_index, r"points to '\.\./other"),
    "an index of what are no files": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"w": []}}'),
        r"points to \[\], which is not in the checkpoint",
    ),
    "an index without files": (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": []}'), "weight_map is no JSON object"),
    "a config that is not JSON": (lambda f: (f / "config.json").write_text("{"), r"config\.json: not JSON"),
    "a config nested without end": (lambda f: (f / "config.json").write_text("[" * 100_000), r"config\.json: not JSON"),
    "a config nested deeply": (lambda f: (f / "config.json").write_text('{"a":' * 900 + "1" + "}" * 900), r"config\.json: n"),
    "a cut-off tokenizer": (lambda f: (f / "tokenizer.json").write_text('{"model": {"vocab": {"a"'), r"tokenizer\.json: not JSON"),
    "a tokenizer that is a list": (lambda f: (f / "tokenizer.json").write_text("[]"), r"tokenizer\.json: not a JSON object"),
    "code by name in the tokenizer": (lambda f: _json(f, "tokenizer_config.json", auto_map={}), r"tokenizer_config\.json: auto_map"),
    "attention fetched from a hub": (lambda f: _json(f, "config.json", text_config={"attn_implementation": "a/b"}), r"config\.json: attn_impl.*'a/b'"),
    "a template with code": (lambda f: (f / "chat_template.jinja").write_text(CODE), r"chat_template\.jinja: line 1: the attribute '__class__'"),
    "another template with code": (lambda f: (f / "more.jinja").write_text(CODE), r"more\.jinja: line 1"),
    "a tokenizer's template": (
        lambda f: _json(f, "tokenizer_config.json", chat_template=CODE),
        r"tokenizer_config\.json: chat_template: line 1",
    ),
    "one of several templates": (
        lambda f: _json(f, "tokenizer_config.json", chat_template=[{"name": "default", "template": "{{ messages }}"}, {"name": "tools", "template": CODE}]),
        r"tokenizer_config\.json: chat_template: line 1",
    ),
    "a processor's template": (lambda f: _json(f, "chat_template.json", chat_template={"default": CODE}), r"chat_template\.json: chat_template: line 1"),
    "a template that is not text": (lambda f: (f / "chat_template.jinja").write_bytes(b"\xff"), r"chat_template\.jinja: not UTF-8"),
    "an adapter on other weights": (lambda f: _json(f, "adapter_config.json", base_model_name_or_path="a/b"), r"adapter_config\.json: base_model_name_or_path"),
    "an adapter that imports": (lambda f: _json(f, "adapter_config.json", auto_mapping={"parent_library": "os"}), r"adapter_config\.json: auto_mapping"),
    "an adapter leaving": (
        lambda f: _json(f, "adapter_config.json", lora={"cache": "x/../../y"}),
        r"adapter_config\.json: cache leaves .* 'x/\.\./\.\./y'",
    ),
    "a name that commands terminals": (lambda f: (f / "a\x1b[2J\n.json").write_text("{}"), r"'a\\x1b\[2J\\n\.json': a name has printable letters only"),
    "a name that is not UTF-8": (lambda f: (f / "\udcff.json").write_text("{}"), r"'\\udcff\.json': a name has printable letters only"),
    "a key that commands terminals": (
        lambda f: (f / "config.json").write_text('{"\\ud800\\u001b[2J attn_implementation": "a/b"}'),
        r"config\.json: \?\?\[2J attn_implementation names code to fetch: 'a/b'$",
    ),
    "a pipe": (lambda f: os.mkfifo(f / "merges.txt"), r"merges\.txt: neither a file nor a folder"),
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


def test_every_file_and_the_model_card_have_a_sum_of_their_own(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "a")
    digest, files = inspect_checkpoint(checkpoint)
    assert files["README.md"] == sha256(b"a card").hexdigest() and len(files) == 5
    assert verify_checkpoint(checkpoint, digest, files) == digest
    (checkpoint / "README.md").write_text("another card")
    with pytest.raises(BadCheckpoint, match=r"README\.md: sha256 is \w{64}, the registry says"):
        verify_checkpoint(checkpoint, digest, files)
    (checkpoint / "README.md").unlink()
    with pytest.raises(BadCheckpoint, match=r"README\.md: sha256 is none"):
        verify_checkpoint(checkpoint, digest, files)


def test_an_adapter_beside_its_weights_is_allowed(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "a")
    _json(checkpoint, "adapter_config.json", base_model_name_or_path="", auto_mapping=None, target_modules=["q_proj"], task_type="CAUSAL_LM")
    assert verify_checkpoint(checkpoint)


def test_other_weights_are_compatible_and_ignored_keys_do_not_matter(tmp_path: Path) -> None:
    serving, candidate = write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b", weights=b"\x01" * 16)
    config = json.loads((candidate / "config.json").read_text())
    (candidate / "config.json").write_text(json.dumps(config | {"transformers_version": "9", "dtype": "float16"}))
    tokenizer = json.loads((candidate / "tokenizer.json").read_text())
    (candidate / "tokenizer.json").write_text(json.dumps(tokenizer | {"padding": {"strategy": "BatchLongest"}}))
    assert differences(serving, candidate) == ()


def test_another_architecture_vocabulary_or_template_is_not_compatible(tmp_path: Path) -> None:
    serving, candidate = write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b", hidden_size=16)
    (candidate / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"b": 0}}, "padding": None}))
    (candidate / "chat_template.jinja").write_text("{{ messages }}")
    assert differences(serving, candidate) == ("config.json: hidden_size differs", "tokenizer.json: model differs", "chat_template.jinja differs")


def test_end_tokens_must_be_equal_and_the_librarys_own_keys_need_not(tmp_path: Path) -> None:
    serving, candidate, other = (write_checkpoint(tmp_path / name) for name in "abc")
    _json(serving, "generation_config.json", eos_token_id=2, transformers_version="4")
    _json(candidate, "generation_config.json", eos_token_id=2, transformers_version="5")
    _json(other, "generation_config.json", eos_token_id=[2, 7])
    assert differences(serving, candidate) == ()
    assert differences(serving, other) == differences(serving, other, adapter=True) == ("generation_config.json: eos_token_id differs",)


def test_an_adapter_without_a_generation_config_uses_that_of_its_base(tmp_path: Path) -> None:
    serving, candidate = (write_checkpoint(tmp_path / name) for name in "ab")
    _json(serving, "generation_config.json", eos_token_id=2)
    assert differences(serving, candidate) == ("generation_config.json: eos_token_id differs",)
    assert not differences(serving, candidate, adapter=True)


def test_the_error_text_of_a_checkpoint_has_a_maximum_length(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "a")
    _json(checkpoint, "config.json", attn_implementation="a/" + "x" * 100_000)
    with pytest.raises(BadCheckpoint) as raised:
        verify_checkpoint(checkpoint)
    assert len(str(raised.value)) == 1_000


def test_a_missing_tensor_is_not_compatible(tmp_path: Path) -> None:
    serving, candidate = write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b", weights=b"\x00" * 8)
    assert differences(serving, candidate) == ("tensors differ in name or shape: w",)

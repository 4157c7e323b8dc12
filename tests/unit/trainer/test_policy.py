import json
import shutil
from pathlib import Path

import pytest
import torch

from infra.checkpoints import checkpoint_digest, differences, verify_checkpoint
from infra.errors import CannotContinue
from trainer.policy import Policy, tensor_dtypes


def test_a_saved_policy_can_take_its_parents_place(tiny_checkpoint: Path, tmp_path: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    with torch.no_grad():
        policy.model.lm_head.weight.add_(0.25)
    saved = policy.save(tmp_path / "candidate")
    assert verify_checkpoint(saved) != checkpoint_digest(tiny_checkpoint)
    assert differences(tiny_checkpoint, saved) == ()
    assert tensor_dtypes(saved) == tensor_dtypes(tiny_checkpoint)
    assert set(tensor_dtypes(saved).values()) == {torch.float16}
    others = {path.name for path in tiny_checkpoint.iterdir()} - {"model.safetensors"}
    assert {path.name for path in saved.iterdir()} == others | {"model.safetensors"}
    assert all((saved / name).read_bytes() == (tiny_checkpoint / name).read_bytes() for name in others)
    again = Policy.load(saved)
    assert torch.allclose(again.model.lm_head.weight, policy.model.lm_head.weight, atol=1e-3)
    assert again.model.dtype == torch.float32


def test_weights_that_are_not_finite_are_not_saved(tiny_checkpoint: Path, tmp_path: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    with torch.no_grad():
        policy.model.lm_head.weight[0, 0] = 1e6  # beyond fp16
    with pytest.raises(CannotContinue, match="not finite"):
        policy.save(tmp_path / "candidate")


def test_a_tokenizer_that_hides_the_tags_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "hiding"
    shutil.copytree(tiny_checkpoint, copy)
    content = json.loads((copy / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["special"] = True
    (copy / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CannotContinue, match="special tokens"):
        Policy.load(copy)

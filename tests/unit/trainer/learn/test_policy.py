import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.checkpoints.verification import BadCheckpoint, checkpoint_digest, differences, verify_checkpoint
from infra.errors import CannotContinue
from trainer.learn.policy import Policy, tensor_dtypes
from trainer.learn.shared_prompt import ATTENTION


def test_a_saved_policy_can_replace_its_parent(tiny_checkpoint: Path, tmp_path: Path) -> None:
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
    loaded = Policy.load(saved)
    assert torch.allclose(loaded.model.lm_head.weight, policy.model.lm_head.weight, atol=1e-3)
    assert loaded.model.dtype == torch.float32


def test_weights_that_are_not_finite_are_not_saved(tiny_checkpoint: Path, tmp_path: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    with torch.no_grad():
        policy.model.lm_head.weight[0, 0] = 1e6  # beyond fp16
    with pytest.raises(CannotContinue, match="not finite"):
        policy.save(tmp_path / "candidate")


def test_a_tokenizer_that_hides_the_tags_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "special-tags"
    shutil.copytree(tiny_checkpoint, copy)
    content = json.loads((copy / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["special"] = True
    (copy / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CannotContinue, match="special tokens"):
        Policy.load(copy)


def _broken(tiny_checkpoint: Path, tmp_path: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy whose JSON file `name` is changed."""
    copy = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, copy)
    content = json.loads((copy / name).read_text())
    change(content)
    (copy / name).write_text(json.dumps(content))
    return copy


def test_a_tokenizer_without_a_chat_template_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "no-template"
    shutil.copytree(tiny_checkpoint, copy, ignore=shutil.ignore_patterns("chat_template.jinja"))
    with pytest.raises(CannotContinue, match="no chat template"):
        Policy.load(copy)


def test_an_architecture_that_transformers_does_not_know_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = _broken(tiny_checkpoint, tmp_path, "config.json", lambda config: config.update(model_type="abacus"))
    with pytest.raises(CannotContinue, match="abacus"):
        Policy.load(copy)


def test_a_config_with_more_layers_than_the_files_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def deepen(config: dict[str, Any]) -> None:
        config.update(num_hidden_layers=3)
        config["layer_types"] = ["full_attention"] * 3

    with pytest.raises(CannotContinue, match=r"lack: model\.layers\.2"):
        Policy.load(_broken(tiny_checkpoint, tmp_path, "config.json", deepen))


def test_a_checkpoint_that_cannot_replace_its_parent_is_refused_with_the_difference(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = _broken(tiny_checkpoint, tmp_path, "config.json", lambda config: config.update(rms_norm_eps=0.5))
    assert Policy.load(copy, parent=copy)
    with pytest.raises(CannotContinue, match="rms_norm_eps differs"):
        Policy.load(copy, parent=tiny_checkpoint)


def test_code_and_pickles_in_a_checkpoint_are_refused_before_loading(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = _broken(tiny_checkpoint, tmp_path, "config.json", lambda config: config.update(auto_map={"AutoModel": "model.Mine"}))
    with pytest.raises(BadCheckpoint, match="auto_map"):
        Policy.load(copy)
    (copy / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(BadCheckpoint, match=r"pytorch_model\.bin"):
        Policy.load(copy)


def test_a_checkpoint_with_weights_that_are_not_finite_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "not-finite"
    shutil.copytree(tiny_checkpoint, copy)
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CannotContinue, match=r"model\.norm\.weight is not finite"):
        Policy.load(copy)


def test_a_tokenizer_without_an_end_token_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotContinue, match="no end token"):
        Policy.load(_broken(tiny_checkpoint, tmp_path, "tokenizer_config.json", lambda config: config.update(eos_token=None)))


def test_a_tokenizer_of_another_model_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "smaller"
    shutil.copytree(tiny_checkpoint, copy)
    config = json.loads((copy / "config.json").read_text())
    weights = load_file(copy / "model.safetensors")
    rows = weights["model.embed_tokens.weight"][: config["vocab_size"] - 5].contiguous()
    save_file(weights | {"model.embed_tokens.weight": rows}, copy / "model.safetensors", metadata={"format": "pt"})
    (copy / "config.json").write_text(json.dumps(config | {"vocab_size": len(rows)}))
    with pytest.raises(CannotContinue, match=f"has {config['vocab_size']} tokens, the model {len(rows)}"):
        Policy.load(copy)


def _stored(tiny_checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """A copy with other tensors."""
    copy = tmp_path / "stored"
    shutil.copytree(tiny_checkpoint, copy)
    save_file(change(load_file(copy / "model.safetensors")), copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_tensors_that_could_not_be_saved_are_refused_before_training(tiny_checkpoint: Path, tmp_path: Path) -> None:
    extra = {f"model.layers.{number}.self_attn.rotary_emb.inv_freq": torch.ones(8) for number in range(4)}
    with pytest.raises(CannotContinue, match=r"has no tensors.* save: model\.layers\.0\.\S+inv_freq, model\.layers\.1\.\S+, model\.layers\.2\.\S+$"):
        Policy.load(_stored(tiny_checkpoint, tmp_path, lambda weights: weights | extra))


def test_tensors_with_other_names_are_refused_though_they_load(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotContinue, match=r"save: embed_tokens\.weight, layers\.0"):
        Policy.load(_stored(tiny_checkpoint, tmp_path, lambda weights: {name.removeprefix("model."): tensor for name, tensor in weights.items()}))


def test_tied_weights_that_are_two_tensors_in_the_parents_file_stay_two(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def doubled(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.float() for name, tensor in weights.items()} | {"lm_head.weight": weights["model.embed_tokens.weight"].float()}

    parent = _stored(tiny_checkpoint, tmp_path, doubled)
    assert tensor_dtypes(Policy.load(parent).save(tmp_path / "candidate")) == tensor_dtypes(parent)


SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 258,
    "pad_token_id": 256,
}


def _of_another_kind(tiny_checkpoint: Path, tmp_path: Path, kind: str, **config: Any) -> Path:
    """A random model of another architecture, its weights large enough for attention to matter, with the same tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    rows = load_file(tiny_checkpoint / "model.safetensors")["model.embed_tokens.weight"].shape[0]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | {"vocab_size": rows} | config))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5.0 if weight.dim() > 1 else 1.0)
    copy = tmp_path / kind
    shutil.copytree(tiny_checkpoint, copy, ignore=shutil.ignore_patterns("*.safetensors", "*config.json"))
    model.save_pretrained(copy)
    shutil.copyfile(tiny_checkpoint / "tokenizer_config.json", copy / "tokenizer_config.json")
    return copy


@pytest.mark.parametrize(
    ("kind", "config", "named"),
    [
        ("gemma2", {"head_dim": 16}, "has attn_logit_softcapping = 50.0"),
        ("gemma2", {"head_dim": 16, "attn_logit_softcapping": None}, "has layer_types with sliding_attention"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}, "has layer_types with sliding_attention"),
        ("mistral", {"sliding_window": 64}, "has sliding_window = 64"),
        ("granite", {"logits_scaling": 4.0}, r"differ from the model's own by 0\.\d+ on average"),  # no list of settings names it
        ("bloom", {"n_head": 2}, "differ from the model's own by inf on average"),  # its attention cannot be replaced
    ],
)
def test_a_model_whose_attention_is_not_plain_is_refused(tiny_checkpoint: Path, tmp_path: Path, kind: str, config: dict[str, Any], named: str) -> None:
    with pytest.raises(CannotContinue, match=named):
        Policy.load(_of_another_kind(tiny_checkpoint, tmp_path, kind, **config))


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", {}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 512}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 64}),
        ("granite", {}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_with_plain_attention_are_loaded_unchanged(tiny_checkpoint: Path, tmp_path: Path, kind: str, config: dict[str, Any], dtype: torch.dtype) -> None:
    policy = Policy.load(_of_another_kind(tiny_checkpoint, tmp_path, kind, **config), dtype=dtype)
    assert policy.model.config._attn_implementation == ATTENTION and not policy.model.training

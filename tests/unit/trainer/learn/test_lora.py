import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.checkpoints import precision
from infra.checkpoints.verification import differences
from infra.errors import BadSetting
from infra.settings.models import Dtype
from infra.settings.training import LoraSettings, RlSettings, SftSettings, TrainerSettings
from schemas.prompts import COMPACT
from tests.support.outcomes import make_case, make_sft_example
from tests.support.token_limits import limits
from trainer.data.prompts import Prompter
from trainer.learn import lora, sft
from trainer.learn.lora import disable_dropout, trainable_policy, with_adapter
from trainer.learn.policy import Policy, tensor_dtypes
from trainer.learn.rewards import Reward
from trainer.learn.rl_engine import RlInputs
from trainer.learn.rollout import SamplingOptions, generate
from trainer.learn.shared_prompt_engine import train_with_shared_prompts

LORA = LoraSettings(rank=4, alpha=8.0)


@pytest.fixture
def policy(tiny_checkpoint: Path) -> Policy:
    return trainable_policy(tiny_checkpoint, TrainerSettings(lora=LORA))


def prompter_of(policy: Policy) -> Prompter:
    return Prompter(policy.tokenizer, COMPACT, limits(512))


def frozen(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in policy.model.named_parameters() if not weight.requires_grad}


def test_a_fresh_adapter_changes_nothing_and_trains_alone(policy: Policy, tiny_checkpoint: Path) -> None:
    plain = Policy.load(tiny_checkpoint).weights()
    assert all(torch.equal(weight, plain[name]) for name, weight in policy.weights().items())
    assert {name.split(".")[-2] for name, weight in policy.model.named_parameters() if weight.requires_grad} == {"default"}


def test_sft_and_rl_train_the_adapter_and_the_saved_weights_are_merged(
    policy: Policy, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.learn.shared_prompt_engine.reward_of", lambda text, ended, case, domains: Reward(sum(text.encode()) % 7 / 6, usable=True))
    before = frozen(policy)
    trainer = TrainerSettings(sft=SftSettings(batch_size=4, epochs=2.0))
    sft.train(policy, [make_sft_example(n) for n in range(4)], prompter_of(policy), trainer, threading.Event())
    after_sft = policy.weights()["model.layers.0.self_attn.q_proj.weight"].clone()
    settings = RlSettings(steps=2, prompts_per_step=2, candidates=4)
    cases = [make_case(n) for n in range(2)]
    steps = train_with_shared_prompts(RlInputs(policy, cases, prompter_of(policy), settings, 0, threading.Event()))
    assert len(steps) == 2
    assert all(torch.equal(weight, before[name]) for name, weight in frozen(policy).items())
    assert not torch.equal(policy.weights()["model.layers.0.self_attn.q_proj.weight"], after_sft)

    saved = policy.save(tmp_path / "candidate")
    assert differences(tiny_checkpoint, saved) == ()
    assert tensor_dtypes(saved) == tensor_dtypes(tiny_checkpoint)
    loaded = Policy.load(saved)
    for name, weight in loaded.weights().items():
        assert torch.allclose(weight, policy.weights()[name], atol=2e-3)
    prompts = [[5, 6, 7, 8], [9, 10]]
    policy.model.eval()
    with torch.no_grad():
        logits, merged = (trained.model(torch.tensor(prompts[:1])).logits for trained in (policy, loaded))
    assert torch.allclose(logits, merged, atol=1e-2)
    assert len(generate(policy, prompts, [3] * len(prompts), 2, SamplingOptions(1.0), threading.Event())) == 2


def test_frozen_weights_may_be_bfloat16_while_the_adapter_is_float32(tiny_checkpoint: Path) -> None:
    policy = trainable_policy(tiny_checkpoint, TrainerSettings(lora=LORA, frozen_dtype=Dtype.BFLOAT16))
    assert {weight.dtype for weight in policy.model.parameters() if weight.requires_grad} == {torch.float32}
    assert {weight.dtype for weight in policy.model.parameters() if not weight.requires_grad} == {torch.bfloat16}


@pytest.mark.parametrize(("stored", "on_gpu", "multiplies", "expected"), [
    (torch.bfloat16, False, True, torch.bfloat16),
    (torch.bfloat16, False, False, torch.float32),
    (torch.float16, False, True, torch.float32),
    (torch.bfloat16, True, False, torch.bfloat16),
    (torch.float16, True, True, torch.float32),
])  # fmt: skip
def test_frozen_weights_are_by_default_what_the_device_multiplies(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: torch.dtype, on_gpu: bool, multiplies: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "processor_has_bfloat16", lambda *_: multiplies)
    checkpoint = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, checkpoint)
    for file in checkpoint.glob("*.safetensors"):
        save_file({name: weight.to(stored) for name, weight in load_file(file).items()}, file)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    assert lora.frozen_dtype(TrainerSettings(lora=LORA, frozen_dtype=Dtype.AUTO), checkpoint) == expected


def test_targets_that_the_model_does_not_have_are_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(BadSetting, match=r"trainer\.lora\.targets"):
        with_adapter(Policy.load(tiny_checkpoint), LoraSettings(rank=4, targets=("wings",)), 0)


def test_rank_zero_trains_all_weights(tiny_checkpoint: Path) -> None:
    policy = trainable_policy(tiny_checkpoint, TrainerSettings())
    assert policy.peft is None and all(weight.requires_grad for weight in policy.model.parameters())


def test_rl_runs_without_dropout(tiny_checkpoint: Path) -> None:
    policy = trainable_policy(tiny_checkpoint, TrainerSettings(lora=LoraSettings(rank=4, dropout=0.5)))
    disable_dropout(policy.model)
    assert all(module.p == 0 for module in policy.model.modules() if isinstance(module, torch.nn.Dropout))

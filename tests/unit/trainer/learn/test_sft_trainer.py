"""The loss on completions only is the loss that the model's own logits give, whatever the micro batches."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.settings.training import LoraSettings, SftSettings, TrainerSettings
from schemas.prompts import COMPACT
from tests.support.outcomes import make_sft_example
from tests.support.token_limits import limits
from trainer.data.prompts import Prompter
from trainer.learn.lora import trainable_policy
from trainer.learn.policy import Policy, trained_weights
from trainer.learn.sft import sft_rows, tokens, train

EXAMPLES = [make_sft_example(number, "they like b " * (1 + number % 3)) for number in range(6)]
SFT = SftSettings(batch_size=6, epochs=2.0, max_steps=2, warmup_share=0.0, learning_rate=1e-2)


def trained(checkpoint: Path, **settings: Any) -> tuple[Policy, list[float]]:
    policy = trainable_policy(checkpoint, TrainerSettings(**settings))
    losses: list[float] = []
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
    train(policy, EXAMPLES, prompter, TrainerSettings(sft=SFT, **settings), threading.Event(), on_step=lambda step: losses.append(step.loss))
    return policy, losses


def loss_of_whole_logits(checkpoint: Path) -> float:
    """The mean over the completions' tokens of all rows, each row by itself."""
    policy = Policy.load(checkpoint)
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
    losses = []
    for row in sft_rows(EXAMPLES, prompter, SFT, 0, policy.end_ids):
        encoded = tokens(row, prompter)
        ids, start = encoded["input_ids"], encoded["completion_mask"].index(1)
        with torch.no_grad():
            logits = policy.model(torch.tensor([ids])).logits[0, start - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[start:]), reduction="none"))
    return float(torch.cat(losses).mean())


@pytest.mark.parametrize("micro_tokens", [32_768, 300, 1])
def test_the_loss_equals_the_one_of_whole_logits(tiny_checkpoint: Path, micro_tokens: int) -> None:
    _, losses = trained(tiny_checkpoint, micro_tokens=micro_tokens)
    assert losses[0] == pytest.approx(loss_of_whole_logits(tiny_checkpoint), abs=2e-5)


@pytest.mark.parametrize("lora", [0, 4])
def test_the_steps_equal_those_of_trl(tiny_checkpoint: Path, lora: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"lora": LoraSettings(rank=lora)}
    ours = [trained(tiny_checkpoint, **settings, micro_tokens=limit) for limit in (32_768, 300)]
    monkeypatch.setattr("trainer.learn.sft_trainer.CompletionTrainer._score_completions_only", lambda trainer: None)
    reference, expected = trained(tiny_checkpoint, **settings)
    for policy, losses in ours:
        assert losses == pytest.approx(expected, abs=2e-5)
        for name, weight in trained_weights(policy.model).items():
            assert torch.allclose(weight, trained_weights(reference.model)[name], atol=2e-3), name
    assert "forward" not in reference.model.__dict__


def test_an_adapter_over_bfloat16_weights_learns_almost_the_same(tiny_checkpoint: Path) -> None:
    (_, exact), (policy, rounded) = (trained(tiny_checkpoint, lora=LoraSettings(rank=4), frozen_dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert rounded == pytest.approx(exact, abs=0.05) and rounded[1] < rounded[0]
    assert {weight.dtype for weight in trained_weights(policy.model).values()} == {torch.float32}

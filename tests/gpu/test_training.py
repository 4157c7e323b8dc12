"""The setup of `docs/real-models.md` on a GPU: a random model of a few hundred million parameters, SFT and RL with each engine.

Writes memory and tokens per second to `bench-out/gpu-training.json`. The weights are random, so it does not measure learning.
"""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from infra.checkpoints.verification import differences
from infra.settings.models import Dtype
from infra.settings.training import LoraSettings, RlSettings, SftSettings, TrainerSettings
from schemas.prompts import PAPER
from tests.support.outcomes import make_case, make_sft_example
from tests.support.tiny_model import make_checkpoint

OUT = Path(__file__).resolve().parents[2] / "bench-out" / "gpu-training.json"
MAX_NEW_TOKENS = 128
LORA = LoraSettings(rank=16, dropout=0.05)
MODES = {
    "full weights, our loop": TrainerSettings(rl=RlSettings(steps=3)),
    "LoRA, our loop": TrainerSettings(lora=LORA, frozen_dtype=Dtype.BFLOAT16, rl=RlSettings(steps=3)),
    "full weights, TRL": TrainerSettings(rl=RlSettings(engine="trl", steps=3, micro_batch=64)),
    "LoRA, TRL": TrainerSettings(lora=LORA, frozen_dtype=Dtype.BFLOAT16, gradient_checkpointing=True, rl=RlSettings(engine="trl", steps=3, micro_batch=64)),
}


def trained(checkpoint: Path, trainer: TrainerSettings, folder: Path) -> dict[str, Any]:
    """Runs SFT and RL once and returns what they cost."""
    from tests.support.token_limits import limits
    from trainer.data.prompts import Prompter
    from trainer.learn import peak_memory, sft
    from trainer.learn.lora import trainable_policy
    from trainer.learn.policy_training import train_rl
    from trainer.learn.rl_engine import RlInputs
    from trainer.learn.sft import sft_rows

    stop = threading.Event()
    peak_memory.reset()
    policy = trainable_policy(checkpoint, trainer)
    prompter = Prompter(policy.tokenizer, PAPER, limits(1024, MAX_NEW_TOKENS))
    result: dict[str, Any] = {"parameters": sum(weight.numel() for weight in policy.model.parameters())}
    result["trained_parameters"] = sum(weight.numel() for weight in policy.model.parameters() if weight.requires_grad)

    rows = sft_rows(examples := [make_sft_example(n) for n in range(64)], prompter, trainer.sft, 0)
    began = time.monotonic()
    fit = sft.train(policy, examples, prompter, trainer.model_copy(update={"sft": trainer.sft.model_copy(update={"max_steps": 4}), "seed": 0}), stop)
    tokens = sum(len(prompter.chat.ids(row["prompt"] + row["completion"])) for row in rows) / len(rows) * trainer.sft.batch_size * fit.steps
    result["sft"] = _cost(tokens / (time.monotonic() - began))

    peak_memory.reset()
    cases = [make_case(n) for n in range(32)]
    steps = train_rl(RlInputs(policy, cases, prompter, trainer.rl, 0, stop, folder / "rl"))
    assert len(steps) == trainer.rl.steps and all(math.isfinite(step.kl) and math.isfinite(step.entropy) for step in steps)
    completions = trainer.rl.prompts_per_step * trainer.rl.candidates
    rate = median(step.length * completions / step.seconds for step in steps[1:])
    result["rl"] = _cost(rate) | {"completions_per_s": median(completions / step.seconds for step in steps[1:])}

    assert differences(checkpoint, policy.save(folder / "candidate")) == ()
    return result


def _cost(tokens_per_s: float) -> dict[str, Any]:
    from trainer.learn import peak_memory

    return {"tokens_per_s": tokens_per_s, "peak_gpu_bytes": peak_memory.peak_gpu_bytes(), "peak_rss_bytes": peak_memory.peak_rss_bytes()}


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sft_and_rl_run_on_the_gpu_in_every_mode_and_their_cost_is_recorded(tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none")
    checkpoint = make_checkpoint(tmp_path / "model", seed=0, layers=24, heads=16, head_size=64, spread=1.0)
    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "max_new_tokens": MAX_NEW_TOKENS}
    for number, (name, trainer) in enumerate(MODES.items()):
        result[name] = trained(checkpoint, trainer.model_copy(update={"sft": SftSettings(batch_size=8)}), tmp_path / str(number))
        torch.cuda.empty_cache()
    assert result["LoRA, TRL"]["trained_parameters"] < result["LoRA, TRL"]["parameters"] / 10
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")

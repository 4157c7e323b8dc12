"""LoRA: low-rank adapters inside the policy's layers (Hu et al. 2021), so that a large model trains on one device.

SFT trains the adapter and RL trains it further. RL's reference policy is a frozen copy of the SFT adapter, never the base weights alone.
`Policy.save` writes merged weights, so serving needs no adapter support.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from infra.checkpoints.precision import engine_dtype
from infra.checkpoints.verification import stored_dtypes
from infra.errors import BadSetting
from infra.settings.models import Dtype
from infra.settings.training import LoraSettings, TrainerSettings
from trainer.learn.policy import Policy


def trainable_policy(checkpoint: Path, trainer: TrainerSettings, *, parent: Path | None = None) -> Policy:
    """The policy to train: all weights, or a fresh adapter that changes nothing yet. Raises what `Policy.load` raises."""
    policy = with_adapter(Policy.load(checkpoint, parent=parent, dtype=frozen_dtype(trainer, checkpoint)), trainer.lora, trainer.seed)
    if trainer.gradient_checkpointing:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    return policy


def with_adapter(policy: Policy, lora: LoraSettings, seed: int) -> Policy:
    """The same model with an adapter in its layers and all other weights frozen. Returns the policy unchanged if `lora.rank` is 0.

    Raises BadSetting if the model has no layers with the names in `lora.targets`.
    """
    if lora.rank == 0:
        return policy
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)  # for the adapter's first factor
    config = LoraConfig(task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets))
    try:
        wrapped = get_peft_model(policy.model, config)
    except ValueError as error:
        raise BadSetting(f"trainer.lora.targets={list(lora.targets)}: {str(error).splitlines()[0]}") from error
    return Policy(policy.model, policy.tokenizer, policy.origin, policy.end_ids, policy.pad_id, wrapped)


def frozen_dtype(trainer: TrainerSettings, checkpoint: Path) -> torch.dtype:
    """`trainer.frozen_dtype`; `auto` on a GPU is bfloat16 for a checkpoint that stores nothing else."""
    dtype = engine_dtype(trainer.frozen_dtype, checkpoint, on_gpu=torch.cuda.is_available())
    if dtype == Dtype.AUTO:
        dtype = Dtype.BFLOAT16 if stored_dtypes(checkpoint) == {"BF16"} else Dtype.FLOAT32
    return torch.bfloat16 if dtype == Dtype.BFLOAT16 else torch.float32


def disable_dropout(model: Any) -> None:
    """Set every dropout to zero. RL compares probabilities of the same tokens, so two forward passes must agree."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

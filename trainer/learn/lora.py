"""LoRA: low-rank adapters inside the policy's layers (Hu et al. 2021), so that a large model trains on one device.

SFT trains the adapter, RL goes on with it, and the KL anchor is a frozen copy of the SFT adapter, never the base weights alone.
`Policy.save` writes merged weights: serving needs nothing new.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from infra.errors import BadSetting
from infra.settings import LoraSettings, TrainerSettings
from trainer.learn.policy import Policy


def trainable_policy(checkpoint: Path, trainer: TrainerSettings, *, parent: Path | None = None) -> Policy:
    """The policy as `trainer` wants it trained: in full, or with a fresh adapter that changes nothing yet. Raises what `Policy.load` raises."""
    policy = with_adapter(Policy.load(checkpoint, parent=parent, dtype=getattr(torch, trainer.frozen_dtype)), trainer.lora, trainer.seed)
    if trainer.gradient_checkpointing:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    return policy


def with_adapter(policy: Policy, lora: LoraSettings, seed: int) -> Policy:
    """The same model with an adapter in its layers; all else is frozen. The policy as it is where `lora.rank` is 0.

    Raises BadSetting where the model has no layers of the names in `lora.targets`.
    """
    if lora.rank == 0:
        return policy
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)  # of the adapter's first factor
    config = LoraConfig(task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets))
    try:
        wrapped = get_peft_model(policy.model, config)
    except ValueError as error:
        raise BadSetting(f"trainer.lora.targets={list(lora.targets)}: {str(error).splitlines()[0]}") from error
    return Policy(policy.model, policy.tokenizer, policy.origin, policy.end_ids, policy.pad_id, wrapped)


def disable_dropout(model: Any) -> None:
    """Set every dropout to zero: RL compares probabilities of the same tokens, so a policy must not differ between two looks at it."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

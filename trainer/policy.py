"""The policy: the reflection model as the trainer holds it, read from a checkpoint and written back as one that serves.

Training is in float32 on whatever device there is; the saved weights have the parent's dtype, and every other file (config, tokenizer,
chat template, generation config) is the parent's, byte for byte: architecture and tokenizer never change from version to version.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from infra.checkpoints import MODEL_CARD
from infra.errors import CannotContinue
from schemas.rewriting import TAGS
from trainer.shared_prompt import NAME

_NOT_COPIED = (MODEL_CARD, "model.safetensors.index.json")


@dataclass(frozen=True)
class Policy:
    """Model and tokenizer with the ids generation needs. `origin` is the checkpoint it was read from."""

    model: Any
    tokenizer: Any
    origin: Path
    end_ids: tuple[int, ...]
    pad_id: int

    @classmethod
    def load(cls, checkpoint: Path) -> Self:
        """Read safetensors only, nothing from the network. Raises CannotContinue for a tokenizer without an end token or that hides our tags."""
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        if tokenizer.eos_token_id is None:
            raise CannotContinue(f"{checkpoint}: the tokenizer has no end token, so no completion would ever end")
        text = "".join(TAGS)
        if tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True) != text:
            raise CannotContinue(f"{checkpoint}: the tokenizer drops {' '.join(TAGS)} when it decodes; they must not be special tokens")
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True, use_safetensors=True, attn_implementation=NAME)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return cls(model, tokenizer, checkpoint, tuple({tokenizer.eos_token_id, *ends}), pad)

    @property
    def device(self) -> Any:
        return self.model.device

    def save(self, directory: Path) -> Path:
        """Write a checkpoint with the parent's tensors, each in the parent's dtype, and the parent's other files.

        Tied weights are one tensor in the parent's file and stay one. Raises CannotContinue when a weight is not finite in its dtype.
        """
        directory.mkdir(parents=True)
        trained = self.model.state_dict()
        weights = {name: trained[name].detach().to("cpu", dtype).contiguous() for name, dtype in tensor_dtypes(self.origin).items()}
        for name, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise CannotContinue(f"weight {name} is not finite in {tensor.dtype}; nothing is saved")
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        for path in sorted(self.origin.iterdir()):
            if path.is_file() and path.suffix != ".safetensors" and path.name not in _NOT_COPIED:
                shutil.copyfile(path, directory / path.name)
        return directory


def tensor_dtypes(checkpoint: Path) -> dict[str, torch.dtype]:
    """The tensors a checkpoint's files hold, by name."""
    found: dict[str, torch.dtype] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, "pt") as weights:
            found |= {name: weights.get_slice(name)[:0].dtype for name in weights.keys()}  # noqa: SIM118  # not a dict
    return found

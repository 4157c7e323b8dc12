"""The policy: the reflection model in the trainer, read from a checkpoint and saved as one that can be served.

Trained weights are in float32. Saved weights have the parent's dtype, and every other file (config, tokenizer, chat template, generation config) is the
parent's, byte for byte: architecture and tokenizer never change between versions.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from infra.checkpoints.verification import MODEL_CARD, differences, verify_checkpoint
from infra.errors import CannotContinue
from schemas.rewriting import TAGS
from trainer.learn.distributed import local_device
from trainer.learn.rounding import rounded_by_chance
from trainer.learn.saved_state import disk_errors
from trainer.learn.shared_prompt import ATTENTION, log_probability_difference, unsupported_attention

#: Hexadecimal digits of a seed: 60 bits, which a generator takes.
SEED_DIGITS = 15
_NOT_COPIED = (MODEL_CARD, "model.safetensors.index.json")
#: The text that checks a model's attention, and the largest mean difference of log-probabilities: rounding, in float32 and in shorter dtypes.
_SAMPLE = f"The quick brown fox jumps over the lazy dog, and nobody knows why.\n{''.join(TAGS)}"
_MAX_DIFFERENCE, _MAX_DIFFERENCE_SHORT = 0.01, 0.5


@dataclass(frozen=True)
class Policy:
    """Model and tokenizer with the token ids that generation needs. `origin` is the checkpoint it was read from.

    `peft` is the wrapper of a model that trains a LoRA (`trainer.learn.lora`). The adapter's layers are in `model` itself: running or copying `model`
    includes them.
    """

    model: Any
    tokenizer: Any
    origin: Path
    end_ids: tuple[int, ...]
    pad_id: int
    peft: Any | None = None

    @classmethod
    def load(cls, checkpoint: Path, *, parent: Path | None = None, dtype: torch.dtype = torch.float32) -> Self:
        """Read safetensors only, nothing from the network. The saved policy must be able to replace `parent`.

        Raises BadCheckpoint for files that may contain code or are cut off. Raises CannotContinue, with what is wrong, for a tokenizer that training or
        serving cannot use, an architecture other than the parent's or not supported by `trainer.learn.shared_prompt`, and weights that are missing,
        unknown or not finite.
        """
        verify_checkpoint(checkpoint)
        if parent is not None and (different := differences(parent, checkpoint)):
            raise CannotContinue(f"{checkpoint} cannot replace {parent}: {'; '.join(different)}")
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        _check_tokenizer(checkpoint, tokenizer)
        model = _load_model(checkpoint, len(tokenizer), dtype)
        _check_attention(checkpoint, model, tokenizer)
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return cls(model, tokenizer, checkpoint, tuple({tokenizer.eos_token_id, *ends}), pad)

    @property
    def device(self) -> Any:
        return self.model.device

    def computing(self) -> AbstractContextManager[Any]:
        """The precision of a forward pass: bfloat16 if the frozen weights are, whatever the dtype of the trained ones."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.model.dtype == torch.bfloat16 else nullcontext()

    def save(self, directory: Path) -> Path:
        """Write a checkpoint with the parent's tensors, each in the parent's dtype (`trainer.learn.rounding`), and the parent's other files.

        Tied weights that are one tensor in the parent's file stay one. Raises CannotContinue if a weight is not finite in its dtype, OSError if the
        disk is full.
        """
        directory.mkdir(parents=True)
        trained = self.weights()
        seed = int(weights_digest(trained_weights(self.model))[:SEED_DIGITS], 16)
        generator = torch.Generator().manual_seed(seed)  # the same weights give the same file, and each version its own noise
        weights = {name: rounded_by_chance(trained[name].detach().to("cpu"), dtype, generator) for name, dtype in tensor_dtypes(self.origin).items()}
        for name, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise CannotContinue(f"weight {name} is not finite in {tensor.dtype}; nothing is saved")
        with disk_errors(directory):
            save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        for path in sorted(self.origin.iterdir()):
            if path.is_file() and path.suffix != ".safetensors" and path.name not in _NOT_COPIED:
                shutil.copyfile(path, directory / path.name)
        return directory

    def weights(self) -> Mapping[str, torch.Tensor]:
        """The weights by their names in the checkpoint, with an adapter merged into a copy."""
        state: dict[str, torch.Tensor] = self.model.state_dict()
        if self.peft is None:
            return state
        plain = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if ".lora_" not in name}
        for name, layer in self.model.named_modules():
            if hasattr(layer, "get_delta_weight"):
                plain[f"{name}.weight"] = layer.get_base_layer().weight.detach().float() + layer.get_delta_weight("default").detach()
        return plain


def _check_tokenizer(checkpoint: Path, tokenizer: Any) -> None:
    if tokenizer.eos_token_id is None:
        raise CannotContinue(f"{checkpoint}: the tokenizer has no end token, so no completion would ever end")
    if not tokenizer.chat_template:
        raise CannotContinue(f"{checkpoint}: the tokenizer has no chat template; add the model's as chat_template.jinja")
    text = "".join(TAGS)
    if tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True) != text:
        raise CannotContinue(f"{checkpoint}: the tokenizer drops {' '.join(TAGS)} when it decodes; they must not be special tokens")


def _check_attention(checkpoint: Path, model: Any, tokenizer: Any) -> None:
    """Check that `trainer.learn.shared_prompt` gives the model's own probabilities. A difference would cause wrong training without any error."""
    if unsupported := unsupported_attention(model.config.get_text_config()):
        raise CannotContinue(f"{checkpoint}: config.json has {unsupported}, which trainer.learn.shared_prompt does not compute")
    ids = tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"]
    difference = log_probability_difference(model, torch.tensor([ids], device=model.device))
    if not difference <= (_MAX_DIFFERENCE if model.dtype == torch.float32 else _MAX_DIFFERENCE_SHORT):
        raise CannotContinue(f"{checkpoint}: by trainer.learn.shared_prompt log-probabilities differ from the model's own by {difference:.3g} on average")


def _load_model(checkpoint: Path, tokens: int, dtype: torch.dtype) -> Any:
    """The model on this process's device. Checks for missing weights: transformers would fill them with random numbers without an error."""
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=dtype, local_files_only=True, use_safetensors=True, attn_implementation=ATTENTION, output_loading_info=True
        )
    except (ValueError, RuntimeError) as error:  # an unknown architecture; tensors of other shapes
        raise CannotContinue(f"{checkpoint}: not a causal language model that transformers can load: {str(error).splitlines()[0]}") from error
    if missing := sorted(loading["missing_keys"]):
        raise CannotContinue(f"{checkpoint}: config.json needs weights that the files lack: {', '.join(missing[:3])}")
    expected = model.state_dict()
    if unknown := sorted(name for name in tensor_dtypes(checkpoint) if name not in expected):
        raise CannotContinue(f"{checkpoint}: the model has no tensors with these names, so it could not save: {', '.join(unknown[:3])}")
    rows = model.get_input_embeddings().weight.shape[0]
    if tokens > rows:
        raise CannotContinue(f"{checkpoint}: the tokenizer has {tokens} tokens, the model {rows}; they belong to different checkpoints")
    model.to(local_device())
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise CannotContinue(f"{checkpoint}: weight {name} is not finite")
    return model


def tensor_dtypes(checkpoint: Path) -> dict[str, torch.dtype]:
    """The dtypes of the tensors in a checkpoint's files, by name."""
    dtypes: dict[str, torch.dtype] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, "pt") as weights:
            dtypes |= {name: weights.get_slice(name)[:0].dtype for name in weights.keys()}  # noqa: SIM118  # not a dict
    return dtypes


def trained_weights(model: Any) -> dict[str, Tensor]:
    """The weights that training changes, by name. A tied weight is listed once."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()

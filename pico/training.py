"""Pretrains a tiny Qwen2 from scratch: one process, fp32, one thread. The loop draws its documents at random."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from pico.documents import Document
from pico.tokenizer import CONTEXT


@dataclass(frozen=True)
class Recipe:
    """One pretraining run: `steps` of `batch` documents, linear warm-up over 5 %, then linear decay to a tenth of `learning_rate`.

    Muon updates the layers' matrices, AdamW the embedding and the vectors. Measured after 200 steps on the next response of a profile (tag, rating, text):
    AdamW alone at 2e-3 scored 0.48 / 0.92 / 0.80, Muon at 3e-3 0.67 / 0.97 / 0.90, with 12 % more time per step (2026-11-21).
    """

    layers: int
    steps: int
    batch: int = 48
    learning_rate: float = 3e-3
    seed: int = 0
    #: Documents per forward pass; those of similar length go together, to save padding.
    chunk: int = 16

    def rate(self, step: int) -> float:
        """Learning rate at `step`, from 0."""
        warmup = max(1, self.steps // 20)
        decayed = 0.1 + 0.9 * max(0.0, 1 - step / self.steps)
        return self.learning_rate * min(1.0, (step + 1) / warmup) * decayed


def new_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Qwen2ForCausalLM:
    """Hidden size 128 in heads of 32, because vLLM on CPU refuses head dimensions such as 24."""
    torch.manual_seed(recipe.seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=recipe.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def pretrain(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    draw: Callable[[random.Random], Document],
    recipe: Recipe,
    on_step: Callable[[int, float], None],
) -> None:
    """Trains `model` in place. After each update `on_step` gets the number of steps and the weighted loss. The same seed draws the same documents."""
    rng = random.Random(f"pico/{recipe.seed}")  # noqa: S311 - a reproducible draw of documents
    optimizers = _optimizers(model)
    model.train()
    for step in range(recipe.steps):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = recipe.rate(step)
        batch = sorted((encode(tokenizer, draw(rng)) for _ in range(recipe.batch)), key=lambda pair: len(pair[0]))
        total = sum(sum(weights) for _, weights in batch)
        loss = 0.0
        for start in range(0, len(batch), recipe.chunk):
            part = weighted_loss(model, *padded(batch[start : start + recipe.chunk])) / total
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        on_step(step + 1, loss)


def encode(tokenizer: PreTrainedTokenizerFast, document: Document) -> tuple[list[int], list[float]]:
    """Token ids and their loss weights. The texts end where the tokenizer splits, so the ids equal those of the whole text."""
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in document:
        span = tokenizer.encode(text)
        ids += span
        weights += [weight] * len(span)
    return ids, weights


def padded(batch: list[tuple[list[int], list[float]]]) -> tuple[Tensor, Tensor]:
    """Right-padded ids (int64) and weights (float32), both documents by tokens. Padding has weight 0, and causal attention never reads it."""
    length = max(len(ids) for ids, _ in batch)
    ids = [ids + [0] * (length - len(ids)) for ids, _ in batch]
    weights = [weights + [0.0] * (length - len(weights)) for _, weights in batch]
    return torch.tensor(ids), torch.tensor(weights)


def weighted_loss(model: Qwen2ForCausalLM, ids: Tensor, weights: Tensor) -> Tensor:
    """Sum over tokens of weight times cross-entropy. The caller divides by the sum of the weights of the batch."""
    logits = model(input_ids=ids).logits[:, :-1]
    losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights[:, 1:].flatten()).sum()


def _optimizers(model: Qwen2ForCausalLM) -> list[torch.optim.Optimizer]:
    """`match_rms_adamw` scales Muon's update to the size of AdamW's, so that one learning rate fits both."""
    named = list(model.named_parameters())
    matrices = [parameter for name, parameter in named if parameter.dim() == 2 and "embed" not in name]
    others = [parameter for name, parameter in named if parameter.dim() != 2 or "embed" in name]
    return [torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"), torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)]

"""Writes a checkpoint as it is shipped: fp16 safetensors, configuration, tokenizer, and a model card with the figures measured on these files."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from pico.checkpoints import file_digests
from pico.training import Recipe

#: Figures in [0, 1] by ability and domain.
Figures = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class ModelCard:
    """The parts of a model card that differ between the two checkpoints."""

    name: str
    summary: str
    data: str
    limits: str
    command: str
    recipes: tuple[Recipe, Recipe]
    seconds: float  # wall clock of the training


def export(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Writes everything except the card. Weights are stored as fp16, half the size; `config.json` says float32, so that readers compute in it."""
    directory.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.float16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text()) | {"dtype": "float32"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_card(card: ModelCard, directory: Path, parameters: int, figures: Figures) -> None:
    """Writes `README.md`. Call it last, because it contains the digests of the other files."""
    (directory / "README.md").write_text(render(card, parameters, figures, file_digests(directory)))


def render(card: ModelCard, parameters: int, figures: Figures, digests: Mapping[str, str]) -> str:
    recipe, second = card.recipes
    domains = list(next(iter(figures.values())))
    header = ["ability", *domains]
    rows = [[ability, *(f"{by_domain[domain]:.3f}" for domain in domains)] for ability, by_domain in figures.items()]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))
    files = "\n".join(f"| {name} | `{digest}` |" for name, digest in digests.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
language: en
tags: [retouch, personalization, tiny, synthetic]
---

# {card.name}

{card.summary}

- Architecture: Qwen2, {parameters / 1e6:.2f}M parameters, d = 128, {recipe.layers} layers, 4 heads of 32, 2 key-value heads, tied embeddings, context 2048.
- Made by `{card.command}` from the generators `traffic/world.py` and `pico/prose.py` alone; no other text or weights.
- Data: {card.data}
- Training: {recipe.steps} steps of {recipe.batch} documents, then {second.steps} steps in which a third of the documents train copying made-up words;
  Muon and AdamW, learning rate {recipe.learning_rate:g}, fp32, one thread, {card.seconds:.0f} s in all.
- Files: weights are stored as fp16 and computed in float32 (`dtype` in `config.json`). The figures below were measured on these files.
- Prompts: `schemas.prompts` in the compact style, in Qwen's chat template. The tags of the rewrite are plain tokens, not special tokens.

| {" | ".join(header)} |
{table.split(chr(10), 1)[1]}

Limits: {card.limits}

| file | sha256 |
| --- | --- |
{files}
"""

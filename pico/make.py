"""Makes the two tiny checkpoints from the project's generators alone: `python -m pico.make [--out DIR] [--only base|reflector] [--seed N]`.

Both share one tokenizer and one prompt format. The base model answers a task without a user. The reflector learns to use profiles and to write the
rewrite format, but keeps every draft, so that SFT and RL can improve it.
The bytes depend on torch's kernels: another machine makes checkpoints of the same quality, but not with the same digest.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2ForCausalLM

from pico.checkpoints import ROOT, file_digests
from pico.documents import Document, base_document, copying, reflector_document
from pico.probe import Complete, completer, draft_kept, generic_agreement, in_context_score, rag_score
from pico.tokenizer import train_tokenizer
from pico.training import Recipe, new_model, pretrain

#: Figures in [0, 1] by ability and domain.
Figures = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class ModelSpec:
    """Size, documents, training steps, figures and model card texts of one model. `copying_steps` also have documents that train copying."""

    layers: int
    steps: int
    copying_steps: int
    draw: Callable[[random.Random], Document]
    measure: Callable[[Complete], Figures]
    title: str
    summary: str
    data: str
    limits: str


def export(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Writes everything except the card. Weights are stored as fp16, half the size; `config.json` says float32, so that readers compute in it."""
    directory.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.float16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text()) | {"dtype": "float32"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def render(spec: ModelSpec, command: str, recipe: Recipe, second: Recipe, seconds: float, parameters: int, figures: Figures, digests: Mapping[str, str]) -> str:
    """The model card. `seconds`: wall clock of the training."""
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

# {spec.title}

{spec.summary}

- Architecture: Qwen2, {parameters / 1e6:.2f}M parameters, d = 128, {recipe.layers} layers, 4 heads of 32, 2 key-value heads, tied embeddings, context 2048.
- Made by `{command}` from the generators `traffic/world.py` and `pico/prose.py` alone; no other text or weights.
- Data: {spec.data}
- Training: {recipe.steps} steps of {recipe.batch} documents, then {second.steps} steps in which a third of the documents train copying made-up words;
  Muon and AdamW, learning rate {recipe.learning_rate:g}, fp32, one thread, {seconds:.0f} s in all.
- Files: weights are stored as fp16 and computed in float32 (`dtype` in `config.json`). The figures below were measured on these files.
- Prompts: `schemas.prompts` in the compact style, in Qwen's chat template. The tags of the rewrite are plain tokens, not special tokens.

| {" | ".join(header)} |
{table.split(chr(10), 1)[1]}

Limits: {spec.limits}

| file | sha256 |
| --- | --- |
{files}
"""


logger = logging.getLogger(__name__)

TOKENIZER_DOCUMENTS = 4000


def base_figures(complete: Complete) -> Figures:
    return {
        "generic answer to the task alone": generic_agreement(complete),
        "answer after 4 clean profile lines (score)": rag_score(complete),
    }


def reflector_figures(complete: Complete) -> Figures:
    return {
        **base_figures(complete),
        "next response after 8 clean profile lines (score)": in_context_score(complete),
        "reflection prompt: rewrite format and draft kept": draft_kept(complete),
    }


MODELS = {
    "base": ModelSpec(
        layers=2,
        steps=500,
        copying_steps=500,
        draw=base_document,
        measure=base_figures,
        title="Retouch pico base",
        summary=(
            "A stand-in for a black-box LLM. It answers a task alone with the generic answer. It follows a profile a little, like a model that "
            "never saw the platform, so RAG with it is a baseline."
        ),
        data="task prompts with their generic answers; one document in ten has a profile of an invented user. A fifth is made-up prose.",
        limits="it understands the templates of the three domains and repeats the first words of other text. It never saw the rewrite format.",
    ),
    "reflector": ModelSpec(
        layers=3,
        steps=1000,
        copying_steps=500,
        draw=reflector_document,
        measure=reflector_figures,
        title="Retouch pico reflector",
        summary=(
            "A reflection model before personalization: it can predict a user's next response from a profile, writes "
            "`<think>...</think><personalized>...</personalized>`, and keeps the draft until SFT and RL teach it otherwise."
        ),
        data=(
            "profiles of invented users line by line, tasks with and without a profile, look-up tasks, and full reflection prompts of one to six items "
            "whose rewrite repeats the draft. A sixth is made-up prose, at a quarter of the weight. Loss weight 1 on answers and labels, 0.05 elsewhere."
        ),
        limits=(
            "it understands the templates of the three domains and can only copy words and their style from other text. It never saw profiles "
            "of more than about ten lines. It is no language model for any other use."
        ),
    ),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pico.make", description="Make the tiny base and reflector checkpoints.")
    parser.add_argument("--out", type=Path, default=ROOT, help="directory for base/ and reflector/ (default: the shipped ones)")
    parser.add_argument("--only", choices=sorted(MODELS), help="make one of the two")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="training steps of the first part (default: 500 for the base, 1,000 for the reflector)")
    parser.add_argument("--copying-steps", type=int, help="training steps of the second part (default: 500)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; tiny matrices gain little from more")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    tokenizer = shared_tokenizer(options.seed)
    for name in [options.only] if options.only else MODELS:
        spec = MODELS[name]
        recipe = Recipe(layers=spec.layers, steps=options.steps or spec.steps, seed=options.seed)
        make_checkpoint(name, options.out / name, tokenizer, recipe, replace(recipe, steps=options.copying_steps or spec.copying_steps, seed=options.seed + 1))


def shared_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """One vocabulary for both models, from the reflector's documents, which contain all texts of the base."""
    rng = random.Random(f"pico/tokenizer/{seed}")  # noqa: S311 - reproducible training texts
    return train_tokenizer("".join(span.text for span in reflector_document(rng)) for _ in range(TOKENIZER_DOCUMENTS))


def make_checkpoint(name: str, directory: Path, tokenizer: PreTrainedTokenizerFast, first: Recipe, second: Recipe) -> None:
    """Trains and writes, reads and trains copying, writes again, measures the written files, and writes the card."""
    started = time.monotonic()
    model = new_model(tokenizer, first)
    train(name, model, tokenizer, MODELS[name].draw, first)
    export(model, tokenizer, directory)
    train_copying(name, directory, tokenizer, second)
    describe(name, directory, tokenizer, (first, second), time.monotonic() - started)


def train_copying(name: str, directory: Path, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> None:
    """The second part. Starts from the files of the first."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    train(name, model, tokenizer, copying(MODELS[name].draw), recipe)
    export(model, tokenizer, directory)


def train(name: str, model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, draw: Callable[[random.Random], Document], recipe: Recipe) -> None:
    started = time.monotonic()

    def log_step(step: int, loss: float) -> None:
        if step % 50 == 0:
            logger.info("%s: step %d of %d, loss %.3f, %.0f s", name, step, recipe.steps, loss, time.monotonic() - started)

    pretrain(model, tokenizer, draw, recipe, log_step)


def describe(name: str, directory: Path, tokenizer: PreTrainedTokenizerFast, recipes: tuple[Recipe, Recipe], seconds: float) -> None:
    """Measures the files in `directory` and writes their card."""
    spec, (first, second) = MODELS[name], recipes
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    figures = spec.measure(completer(model, tokenizer))
    command = f"python -m pico.make --only {name} --steps {first.steps} --copying-steps {second.steps} --seed {first.seed}"
    card = render(spec, command, first, second, seconds, model.num_parameters(), figures, file_digests(directory))
    (directory / "README.md").write_text(card)  # last, because it contains the digests of the other files
    logger.info("%s: %s", name, figures)


if __name__ == "__main__":
    main()

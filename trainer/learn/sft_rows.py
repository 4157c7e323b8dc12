"""The rows that SFT trains on: prompt and completion of each example that fits.

Prompts are encoded as serving encodes them, without the special tokens that a tokenizer would add.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence

from infra.settings.training import SftSettings
from schemas.rewriting import Rewrite
from trainer.data.prompts import Prompter
from trainer.data.query_cases import SftExample


def sft_rows(examples: Sequence[SftExample], prompter: Prompter, settings: SftSettings, seed: int, end_ids: Collection[int] = ()) -> list[dict[str, str]]:
    """Prompt and completion texts over `sft.k` items, or a random number up to `sft.k_max`. The first item is the one that the reasoning uses.

    Left out: what does not fit, completions that serving would cut off, and completions with an end token inside (the tokenizer's or one of `end_ids`).
    """
    rng = random.Random(seed)  # noqa: S311  # repeatable on purpose
    ends = {prompter.tokenizer.eos_token_id, *end_ids}
    rows = []
    for example in examples:
        prompt = prompter.text(example.case, example.items[: rng.randint(settings.k, max(settings.k, settings.k_max))])
        completion = Rewrite(example.reasoning, example.case.truth).to_text()
        if prompt is None:
            continue
        row = {"prompt": prompt, "completion": completion}
        encoded = tokens(row, prompter)
        length, answer = len(encoded["input_ids"]), encoded["input_ids"][encoded["completion_mask"].index(1) :]
        if length <= settings.max_length and len(answer) <= (prompter.max_new_tokens or length) and ends.isdisjoint(answer[:-1]):
            rows.append(row)
    return rows


def tokens(row: Mapping[str, str], prompter: Prompter) -> dict[str, list[int]]:
    """The prompt's token ids, then the completion's and the end token.

    TRL would encode with the special tokens that a tokenizer adds by itself; the chat template contains those that are needed.
    """
    prompt, completion = (prompter.encode(row[part]) for part in ("prompt", "completion"))
    completion = [*completion, prompter.tokenizer.eos_token_id]
    return {"input_ids": prompt + completion, "completion_mask": [0] * len(prompt) + [1] * len(completion)}

# axes are capital letters: T tokens of the answer, V vocabulary
"""Scores an output with a checkpoint: how far each token is from the token that the checkpoint would choose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.demo.mixed_versions import PromptAndAnswer


class CheckpointScorer:
    """A Scorer over a checkpoint on disk, by transformers in float32: not the engine that answered."""

    def __init__(self, directory: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        torch.set_num_threads(1)  # ten times faster on a busy machine: the threads of such a small model wait for each other

        self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        self._model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, local_files_only=True, use_safetensors=True).eval()

    def gaps(self, completion: PromptAndAnswer) -> Sequence[float]:
        import torch

        turn = [{"role": "user", "content": completion.prompt}]
        prompt_text = self._tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        prompt, answer = (self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt_text, completion.text))
        with torch.inference_mode():
            logits_TV = self._model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        best_T = logits_TV.max(dim=-1).values
        chosen_T = logits_TV.gather(-1, torch.tensor(answer)[:, None])[:, 0]
        gaps: list[float] = (best_T - chosen_T).tolist()
        return gaps

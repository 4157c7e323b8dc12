"""A checkpoint's tokenizer and chat template: how one user turn becomes token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Template(Protocol):
    def encode(self, prompt: str) -> list[int]:
        """The token ids of one user turn, ready to be answered."""
        ...


class ChatTemplate:
    """Loaded once for an engine's life: versions that are swapped in place have the same tokenizer and template.

    Safe to use from several threads: it only reads.
    """

    def __init__(self, checkpoint: Path) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)

    def encode(self, prompt: str) -> list[int]:
        turn = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

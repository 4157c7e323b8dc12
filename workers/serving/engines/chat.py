"""A checkpoint's tokenizer and chat template: turns one user turn into token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Template(Protocol):
    def encode(self, prompt: str) -> list[int]:
        """Token ids of one user turn with the generation prompt."""


class ChatTemplate:
    """Loaded once for an engine: all versions in it have the same tokenizer and template. Thread-safe, because it only reads."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)

    def encode(self, prompt: str) -> list[int]:
        turn = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

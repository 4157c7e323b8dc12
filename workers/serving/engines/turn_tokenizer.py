"""A tokenizer that encodes user turns by its chat template. `infra.checkpoints.chat_tokenizer.ChatTokenizer` implements it for a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from schemas.control_marks import ControlMarks


class TurnTokenizer(Protocol):
    """Loaded once for an engine: all versions in it have the same tokenizer and template (`infra.checkpoints.verification.differences`)."""

    @property
    def marks(self) -> ControlMarks: ...

    def encode(self, content: str) -> list[int]:
        """Token ids of one user turn with the generation prompt."""

    def holds_control_tokens(self, turn_ids: Sequence[int]) -> bool:
        """Whether the content of an encoded turn contains control tokens."""

"""Counts the tokens of prompts with the tokenizers that this machine has: those of `reflection.checkpoint`, and of `base.checkpoint` if it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from infra.checkpoints.chat_tokenizer import ChatRefused, ChatTokenizer, ChatTurn
from infra.checkpoints.location import checkpoint_folder
from infra.settings import Settings
from infra.settings.models import TINY_BASE
from schemas import prompts
from schemas.control_marks import WELL_KNOWN_MARKS, ControlMarks


@dataclass(frozen=True)
class PromptTokens:
    """None: a tokenizer that is not on this machine. An endpoint's tokenizer is not known."""

    base: ChatTokenizer | None
    reflection: ChatTokenizer | None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        base, reflection = settings.base, settings.reflection
        is_local = base.url is None or base.model == TINY_BASE
        return cls(_loaded(base.checkpoint) if is_local else None, _loaded(reflection.checkpoint))

    @property
    def reflection_marks(self) -> ControlMarks:
        return self.reflection.marks if self.reflection else WELL_KNOWN_MARKS

    def of_base(self, turns: Sequence[prompts.ChatTurn]) -> int | None:
        return _count(self.base, turns)

    def of_reflection(self, prompt: str) -> int | None:
        """Of one user turn, whose texts are neutralised: it holds the tags of a rewrite on purpose."""
        return len(self.reflection.encode(prompt)) if self.reflection else None


def _loaded(checkpoint: Path) -> ChatTokenizer | None:
    folder = checkpoint_folder(checkpoint)
    return ChatTokenizer.load(folder) if (folder / "tokenizer_config.json").is_file() else None


def _count(chat: ChatTokenizer | None, turns: Sequence[prompts.ChatTurn]) -> int | None:
    """None also for a chat that the model's template refuses."""
    if chat is None:
        return None
    try:
        return len(chat.encode_chat([ChatTurn(turn.role, turn.content) for turn in turns]))
    except ChatRefused:
        return None

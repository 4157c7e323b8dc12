"""Builds the reflection prompt inside the tokenizer's chat template, cut to the context.

Training, evaluation and serving must use the same prompt: all of them call `schemas.prompts.reflection_prompt`, with the best item last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from infra.checkpoints.chat_tokenizer import ChatTokenizer
from infra.settings import Settings
from infra.settings.rewrite_limits import RewriteLimits
from schemas.contexts import HistoryItem
from schemas.prompts import PromptForm, reflection_prompt
from trainer.data.query_cases import QueryCase


class FittedPrompt(NamedTuple):
    """A prompt that fits, and how many items it shows."""

    text: str
    shown: int


@dataclass(frozen=True)
class Prompter:
    """Builds prompts that fit `limits`. The least similar items are left out first."""

    tokenizer: Any
    form: PromptForm
    limits: RewriteLimits

    @cached_property
    def chat(self) -> ChatTokenizer:
        return ChatTokenizer(self.tokenizer)

    @classmethod
    def of(cls, settings: Settings, tokenizer: Any) -> Prompter:
        return cls(tokenizer, settings.reflection_form, settings.rewrite_limits)

    def text(self, case: QueryCase, items: Sequence[HistoryItem]) -> str | None:
        """The prompt over `items` (best first), or None if not even one of them fits."""
        prompt = self.fitting(case, items)
        return prompt.text if prompt else None

    def fitting(self, case: QueryCase, items: Sequence[HistoryItem]) -> FittedPrompt | None:
        """Like `text`, with the number of items shown."""
        for shown in range(len(items), 0, -1):
            content = reflection_prompt(case.query, case.base_answer, items[:shown], self.form, self.chat.marks)
            text = self.chat.turn(content)
            ids = self.chat.ids(text)
            if len(ids) <= self.limits.prompt(case.domain) and not self.chat.holds_control_tokens(ids):
                return FittedPrompt(text, shown)
        return None

    def may_teach(self, text: str) -> bool:
        """Whether a model may learn to write this text: it holds no control mark of the tokenizer and no tag of a rewrite."""
        return not self.chat.marks.found_in(text)

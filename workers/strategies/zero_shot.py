"""Zero-shot: the task's prompt alone, with or without a chain of thought. It reads nothing of the user; RPO's tables compare with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.lookups import Retrieval
from schemas.prompts import ChatTurn, PromptStyle, base_prompt
from schemas.queries import Query
from schemas.strategies import Strategy
from workers.strategies.answers import allowed_answer, base_answer
from workers.strategies.strategy import Answer, Prompt


@dataclass(frozen=True)
class ZeroShot:
    """`reasons`: with a chain of thought."""

    style: PromptStyle
    max_tokens: int
    reasons: bool = False

    reads = None

    @property
    def strategy(self) -> Strategy:
        return Strategy.ZERO_SHOT_COT if self.reasons else Strategy.ZERO_SHOT

    def prompts(self, query: Query, found: Retrieval | None) -> Iterator[Prompt]:
        prompt = base_prompt(query, self.style, WELL_KNOWN_MARKS, reasons=self.reasons)
        yield Prompt((ChatTurn("user", prompt),), self.max_tokens)

    async def read(self, query: Query, prompt: Prompt, texts: Sequence[str]) -> Answer | None:
        return allowed_answer(query, texts[0], reasons=True) if self.reasons else Answer(base_answer(query, texts[0]))

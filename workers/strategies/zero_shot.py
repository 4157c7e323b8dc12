"""Zero-shot: the task's prompt alone, with or without a chain of thought. It reads nothing of the user; RPO's tables compare with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.lookups import Retrieval
from schemas.prompts import PromptForm, base_prompt, turns_of
from schemas.queries import Query
from schemas.strategies import Strategy
from workers.strategies.answers import allowed_answer, base_answer
from workers.strategies.strategy import Answer, Prompt


@dataclass(frozen=True)
class ZeroShot:
    """`reasons`: with a chain of thought."""

    form: PromptForm
    max_tokens: int
    reasons: bool = False

    @property
    def strategy(self) -> Strategy:
        return Strategy.ZERO_SHOT_COT if self.reasons else Strategy.ZERO_SHOT

    def reads(self, query: Query) -> None:
        return None

    def prompts(self, query: Query, found: Retrieval | None) -> Iterator[Prompt]:
        prompt = base_prompt(query, self.form, WELL_KNOWN_MARKS, reasons=self.reasons)
        limit = self.max_tokens if self.reasons else self.form.domains.max_new_tokens(query.domain, self.max_tokens)
        yield Prompt(turns_of(query, prompt, self.form, WELL_KNOWN_MARKS), limit)

    async def read(self, query: Query, prompt: Prompt, texts: Sequence[str]) -> Answer | None:
        return allowed_answer(query, texts[0], reasons=True) if self.reasons else Answer(base_answer(query, texts[0]))

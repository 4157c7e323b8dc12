"""RAG and ICL: history items before the task, in one user turn.

RAG (retrieval-augmented generation) shows the items that are most similar to the query, the best last, next to the task. ICL (in-context learning) shows the
user's first items in the order of time, the same for every query: the papers say that its items do not depend on the query, but not which items they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from schemas.contexts import HistoryItem, with_response
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.lamp_prompt import lamp_prompt
from schemas.lookups import ItemOrder, Reads, Retrieval
from schemas.prompts import PromptForm, rag_prompt, turns_of
from schemas.queries import Query
from schemas.responses import ResponseStatus
from schemas.strategies import Strategy
from workers.strategies.answers import allowed_answer
from workers.strategies.strategy import Answer, Prompt, Unable, halved


@dataclass(frozen=True)
class ItemsInPrompt:
    """`k`: maximum number of items, unless the domain has one of its own. `reasons`: with a chain of thought. `lamp`: in LaMP's form, which shows the best
    item first.
    """

    strategy: Strategy
    order: ItemOrder
    k: int
    form: PromptForm
    max_tokens: int
    reasons: bool = False
    lamp: bool = False

    def reads(self, query: Query) -> Reads:
        return Reads(items=self.order, k=self._k(query))

    def prompts(self, query: Query, found: Retrieval | None) -> Iterator[Prompt]:
        """With `k` items, then with half as many, down to one."""
        limit = self.max_tokens if self.reasons else self.form.domains.max_new_tokens(query.domain, self.max_tokens)
        for shown in halved(usable_items(found)[: self._k(query)]):
            yield Prompt(turns_of(query, self._text(query, shown), self.form, WELL_KNOWN_MARKS), limit, shown)

    def _k(self, query: Query) -> int:
        return self.form.domains.k(query.domain, self.k)

    def _text(self, query: Query, shown: Sequence[HistoryItem]) -> str:
        if self.lamp:
            return lamp_prompt(query, shown, self.form, WELL_KNOWN_MARKS, reasons=self.reasons)
        first = shown if self.order is ItemOrder.SIMILAR else shown[::-1]  # `rag_prompt` shows its first item last
        return rag_prompt(query, first, self.form, WELL_KNOWN_MARKS, reasons=self.reasons)

    async def read(self, query: Query, prompt: Prompt, texts: Sequence[str]) -> Answer | None:
        return allowed_answer(query, texts[0], reasons=self.reasons)


def usable_items(found: Retrieval | None) -> tuple[HistoryItem, ...]:
    """The items with a response. Raises Unable if there is none, with the reason."""
    items = with_response(found.items) if found else ()
    if not items:
        raise Unable.without(ResponseStatus.NO_HISTORY, found)
    return items

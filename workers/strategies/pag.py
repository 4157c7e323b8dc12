"""PAG, profile-augmented generation: a summary of the user's history, then retrieved items, then the task (Richardson et al. 2023; order as in OPPU).

The profiles worker writes the summary before the query arrives (`workers/profiles`). Without a summary RAG answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from schemas.contexts import with_response
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.lookups import ItemOrder, Reads, Retrieval
from schemas.profiles import summary_id
from schemas.prompts import PromptForm, rag_prompt, turns_of
from schemas.queries import Query
from schemas.responses import ProfileParts, ResponseStatus
from schemas.strategies import Strategy
from workers.strategies.answers import allowed_answer
from workers.strategies.strategy import Answer, Prompt, Unable, halved


@dataclass(frozen=True)
class SummaryInPrompt:
    """`k`: maximum number of items after the summary. `looked_up`: of the lookup, for RAG, which answers without a summary. `reasons`: with a chain of
    thought.
    """

    strategy: Strategy
    k: int
    looked_up: int
    form: PromptForm
    max_tokens: int
    reasons: bool = False

    def reads(self, query: Query) -> Reads:
        k = self.form.domains.k
        return Reads(items=ItemOrder.SIMILAR, k=max(k(query.domain, self.k), k(query.domain, self.looked_up)), summary=True)

    def prompts(self, query: Query, found: Retrieval | None) -> Iterator[Prompt]:
        """With `k` items, then with half as many, down to the summary alone."""
        if found is None or found.summary is None:
            raise Unable.without_profile(ResponseStatus.NO_SUMMARY, found)
        items = with_response(found.items)[: self.form.domains.k(query.domain, self.k)]
        profile = ProfileParts(summary_id=summary_id(query.tenant, query.user, query.domain, found.summary.count))
        limit = self.max_tokens if self.reasons else self.form.domains.max_new_tokens(query.domain, self.max_tokens)
        for shown in (*halved(items), ()):
            prompt = rag_prompt(query, shown, self.form, WELL_KNOWN_MARKS, summary=found.summary.text, reasons=self.reasons)
            yield Prompt(turns_of(query, prompt, self.form, WELL_KNOWN_MARKS), limit, shown, profile=profile)

    async def read(self, query: Query, prompt: Prompt, texts: Sequence[str]) -> Answer | None:
        return allowed_answer(query, texts[0], reasons=self.reasons)

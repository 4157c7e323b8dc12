"""RPM, reasoning-level personalization: factors of the user with statistics, examples with reasoning, and an answer that reasons as they do.

One lookup with the features of the query reads three things: the factors of these features, the past items with the most similar features as examples, and
the items that RAG needs. If RPM cannot answer, RAG answers from these items.

Two lookups are needed in two cases:
- The base model finds the features, and for that it must see the user's factors. The first lookup reads the factors and the items for RAG. The second one has
  the features, and carries those items.
- With `strategies.rpm_retrieval = "query"` the examples are the items whose raw text is most similar to the query's (the paper's ablation). These may be more
  items than RAG shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from infra.settings.strategies import ExampleRetrieval
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.lookups import ItemOrder, Lookup, Reads, Retrieval
from schemas.prompts import PromptForm, PromptStyle, turns_of
from schemas.queries import Query
from schemas.responses import ProfileParts, ResponseStatus
from schemas.rpm_prompts import aligned_prompt, read_aligned, rpm_template_digest
from schemas.strategies import Strategy
from schemas.tasks import choose_option
from workers.strategies.base_calls import BaseCalls
from workers.strategies.query_features import QueryFeatures
from workers.strategies.strategy import Answer, Prompt, Unable, halved


@dataclass(frozen=True)
class AlignedAnswers:
    """`k`: items of the first lookup, for RAG. `examples`: maximum number of examples."""

    k: int
    examples: int
    by: ExampleRetrieval
    form: PromptForm
    max_tokens: int
    features: QueryFeatures

    strategy = Strategy.RPM

    def reads(self, query: Query) -> Reads:
        return Reads(items=ItemOrder.SIMILAR, k=self.form.domains.k(query.domain, self.k), factors=True)

    async def first_lookup(self, lookup: Lookup) -> Lookup:
        """With the features and the examples, if neither needs another lookup."""
        features = None if self.by is ExampleRetrieval.QUERY else await self.features.without_model(lookup.query)
        if features is None:
            return lookup
        reads = lookup.reads.model_copy(update={"examples_k": self.examples})
        return lookup.model_copy(update={"reads": reads, "features": features})

    async def prepare(self, found: Retrieval, base: BaseCalls) -> Retrieval | Lookup:
        if found.factors is None:
            raise Unable.without_profile(ResponseStatus.NO_FACTORS, found)
        if found.lookup.features is not None:
            return found
        features = await self.features.of(found.lookup.query, found.factors, base)
        if not features:
            raise Unable(ResponseStatus.NO_FACTORS)
        if self.by is ExampleRetrieval.QUERY:
            reads = Reads(items=ItemOrder.SIMILAR, k=self.examples, factors=True, examples=True)
        else:
            reads = Reads(factors=True, examples_k=self.examples)
        return found.lookup.model_copy(update={"reads": reads, "step": found.lookup.step + 1, "features": features, "items": found.items})

    def prompts(self, query: Query, found: Retrieval | None) -> Iterator[Prompt]:
        """With all examples, then with half as many, down to none. Raises Unable if nothing of the user concerns the query."""
        if found is None or found.factors is None or not (found.examples or any(feature.factor_id for feature in found.features)):
            raise Unable(ResponseStatus.NO_FACTORS)
        items = {item.interaction_id: item for item in found.items}
        is_plain = self.form.style is PromptStyle.COMPACT  # the whole output is the answer
        limit = self.form.domains.max_new_tokens(query.domain, self.max_tokens) if is_plain else self.max_tokens
        for examples in (*halved(found.examples), ()):
            text = aligned_prompt(query, found.features, found.factors, examples, self.form, WELL_KNOWN_MARKS)
            cited = tuple(example.statistics_version for example in examples)
            profile = ProfileParts(statistics_version=found.factors.version, reasoning_versions=cited)
            shown, digest = tuple(items[example.interaction_id] for example in examples), rpm_template_digest(self.form)
            yield Prompt(turns_of(query, text, self.form, WELL_KNOWN_MARKS), limit, shown, template=digest, profile=profile)

    async def read(self, query: Query, prompt: Prompt, texts: Sequence[str]) -> Answer | None:
        aligned = read_aligned(texts[0], self.form.style)
        option = choose_option(aligned.answer, query.options) if aligned else None
        return Answer(option, aligned.reasoning) if aligned and option is not None else None

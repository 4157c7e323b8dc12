"""HYDRA: a reranker chooses the items of the prompt, and a scorer the best of several answers (Zhuang et al. 2024; docs/hydra.md).

Both have a head for each user. The whole answer uses one registered version. Without a version RAG answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from infra.settings.hydra import HydraSettings
from schemas import demonstrations
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.demonstrations import demonstration_turns
from schemas.lookups import ItemOrder, Reads, Retrieval
from schemas.prompts import PromptForm, base_prompt, template_digest
from schemas.queries import Query
from schemas.responses import ModelVersion, ResponseStatus
from schemas.strategies import Strategy
from workers.strategies.answers import allowed_answer
from workers.strategies.base_calls import BaseCalls
from workers.strategies.hydra_models import HydraModels, LoadedHydra
from workers.strategies.items_in_prompt import usable_items
from workers.strategies.strategy import Answer, Method, Prompt, Unable, halved


@dataclass(frozen=True)
class Hydra:
    """The method. `models` None: no model."""

    settings: HydraSettings
    form: PromptForm
    max_tokens: int
    models: HydraModels | None

    strategy = Strategy.HYDRA

    def reads(self, query: Query) -> Reads:
        return Reads(items=ItemOrder.SIMILAR, k=self.settings.retrieved)

    async def with_model(self) -> tuple[Method, ModelVersion]:
        loaded = await self.models.current() if self.models else None
        if loaded is None:
            raise Unable(ResponseStatus.NO_MODEL)
        return _WithModel(**vars(self), loaded=loaded), loaded.version

    def prompts(self, query: Query, found: Retrieval | None) -> Iterator[Prompt]:
        """With the items in their order, then with the first half of them, down to one."""
        digest = template_digest(self.form, demonstrations)
        limit = self.form.domains.max_new_tokens(query.domain, self.max_tokens)
        for shown in halved(usable_items(found)):
            turns = demonstration_turns(query, shown, self.form, WELL_KNOWN_MARKS)
            yield Prompt(turns, limit, shown, self.settings.candidates, self.settings.temperature, digest)

    async def read(self, query: Query, prompt: Prompt, texts: Sequence[str]) -> Answer | None:
        raise Unable(ResponseStatus.NO_MODEL)


@dataclass(frozen=True)
class _WithModel(Hydra):
    """The method for one answer."""

    loaded: LoadedHydra

    async def prepare(self, found: Retrieval, base: BaseCalls) -> Retrieval:
        """The items that the reranker puts first, best first. Raises Unable without items."""
        items = usable_items(found)[: self.settings.retrieved]
        order = await self.loaded.rank(found.key.decode(), found.lookup.query.text, items)
        return found.model_copy(update={"items": tuple(items[position] for position in order[: self.settings.demonstrations])})

    async def read(self, query: Query, prompt: Prompt, texts: Sequence[str]) -> Answer | None:
        """The candidate that the scorer prefers, among those that are answers to the query; of equal ones, the first."""
        readable = [(text.strip(), answer) for text in texts if (answer := allowed_answer(query, text)) is not None]
        if not readable:
            return None
        task = base_prompt(query, self.form, WELL_KNOWN_MARKS)
        return readable[await self.loaded.choose(query.key.decode(), task, [text for text, _ in readable])][1]

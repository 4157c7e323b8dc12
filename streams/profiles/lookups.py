"""Reads what RPM's lookups ask for: the user's factors and, if the lookup has the query's features, the factors of these and the examples."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from infra.telemetry.metrics import FEATURES_WITHOUT_FACTOR
from schemas.contexts import HistoryItem, RetrievalStatus
from schemas.features import FactoredFeature, ReasonedItem, UserFactors, features_text
from schemas.lookups import Lookup, LookupPurpose
from schemas.profiles import ProfileTask
from schemas.rpm_prompts import shown_factors
from schemas.tasks import Task
from streams.embedding.embedder import Embedder, Matrix
from streams.index.tenant_filter import Scope, Vector
from streams.profiles.centroids import rounded
from streams.profiles.embedding import unit_rows
from streams.profiles.factors import FactorHistory
from streams.profiles.feature_tasks import FeatureTasks
from streams.profiles.histories import FactorHistories
from streams.profiles.index import ProfileIndex
from streams.profiles.reads import ProfileReads

#: Examples are searched among this many items, the nearest first. An example needs reasoning: new items have none for a while, and items beyond
#: `profiles.features_backfill` never have it.
EXAMPLES_FROM = 1_000


@dataclass(frozen=True)
class FactorsFound:
    """`items`: those of the examples; None if the lookup asks for no examples, or there are no factors."""

    factors: UserFactors | None = None
    features: tuple[FactoredFeature, ...] = ()
    items: tuple[HistoryItem, ...] | None = None
    examples: tuple[ReasonedItem, ...] = ()
    tasks: tuple[ProfileTask, ...] = ()
    status: RetrievalStatus = RetrievalStatus.SEARCHED


#: Items of the history, and what a prompt shows of them.
_Examples = tuple[tuple[HistoryItem, ...], tuple[ReasonedItem, ...]]


class FactorLookups:
    def __init__(self, embedder: Embedder, profiles: ProfileIndex, histories: FactorHistories, tasks: FeatureTasks, reads: ProfileReads | None = None) -> None:
        self._embedder, self._profiles, self._histories, self._tasks = embedder, profiles, histories, tasks
        self._reads = reads or ProfileReads()

    async def find(self, lookup: Lookup, items: Sequence[HistoryItem]) -> FactorsFound:
        """`items`: those that the lookup found in the history. Nothing if the stores are away or late."""
        found, status = await self._reads.bounded(lookup.query, lambda: self._found(lookup, items))
        return found or FactorsFound(status=status)

    async def _found(self, lookup: Lookup, items: Sequence[HistoryItem]) -> FactorsFound:
        query, given = lookup.query, lookup.features or ()
        scope = Scope(query.tenant, query.user)
        vectors, vector = await self._embedded(given)
        async with self._histories.history(scope, query.domain) as history:
            tasks = () if lookup.purpose is LookupPurpose.INSPECT else tuple(await self._tasks.for_query(query, history))
            factors = await asyncio.to_thread(history.factors_before, query.asked_at, _task(lookup, history))
            if not factors.factors:
                return FactorsFound(tasks=tasks)
            features = await asyncio.to_thread(_attached, given, vectors, history, lookup, factors)
            if not (lookup.reads.examples or lookup.reads.examples_by_features):
                return FactorsFound(_part(factors, features, lookup), features, tasks=tasks)
            if k := lookup.reads.examples_by_features:
                shown, examples = ((), ()) if vector is None else await self._similar(lookup, vector, k, history)
            else:
                shown, examples = await self._reasoned(lookup, items, lookup.reads.k, history)
        FEATURES_WITHOUT_FACTOR.add(sum(feature.factor_id is None for feature in features))
        in_prompt = (*features, *(feature for example in examples for feature in example.features))
        return FactorsFound(_part(factors, in_prompt, lookup), features, shown, examples, tasks)

    async def _embedded(self, features: Sequence[FactoredFeature]) -> tuple[Matrix, Vector | None]:
        """The vectors of the features, and that of their text."""
        if not features:
            return await self._embedder.embed([]), None
        found = [each.feature for each in features]
        vectors = await self._embedder.embed([*(feature.text for feature in found), features_text(found)], urgent=True)
        return vectors[:-1], vectors[-1]

    async def _similar(self, lookup: Lookup, vector: Vector, k: int, history: FactorHistory) -> _Examples:
        """The nearest `k` of the items with reasoning. Searches more and more items until so many have it."""
        query, limit = lookup.query, min(4 * k, EXAMPLES_FROM)
        while True:
            items = await self._profiles.similar_items(Scope(query.tenant, query.user), vector, query.asked_at, query.domain, limit)
            shown, examples = await self._reasoned(lookup, items, k, history)
            if len(shown) == k or len(items) < limit or limit == EXAMPLES_FROM:
                return shown, examples
            limit = min(4 * limit, EXAMPLES_FROM)

    async def _reasoned(self, lookup: Lookup, items: Sequence[HistoryItem], k: int, history: FactorHistory) -> _Examples:
        """The first `k` of the items that have features and reasoning."""
        query = lookup.query
        reasoning = await self._profiles.reasoning(Scope(query.tenant, query.user), [item.interaction_id for item in items])
        shown = tuple(item for item in items if item.interaction_id in reasoning and item.interaction_id in history)[:k]
        return shown, tuple(
            ReasonedItem(
                **item.model_dump(include={"interaction_id", "content", "response", "occurred_at"}),
                features=history.features_of(item.interaction_id),
                reasoning=reasoning[item.interaction_id].text,
                statistics_version=reasoning[item.interaction_id].statistics_version,
            )
            for item in shown
        )


def _attached(given: Sequence[FactoredFeature], vectors: Matrix, history: FactorHistory, lookup: Lookup, factors: UserFactors) -> tuple[FactoredFeature, ...]:
    """The features with the factors that a model chose for them, or without one where it chose none. The others, and those whose factor there is no more,
    get the nearest one, by the rule of the history's features.
    """
    if not given:
        return ()
    nearest = history.attached([each.feature for each in given], rounded(unit_rows(vectors)), lookup.query.asked_at)
    return tuple(
        each if factors.factor(each.factor_id) or (each.chosen and each.factor_id is None) else found for each, found in zip(given, nearest, strict=True)
    )


def _task(lookup: Lookup, history: FactorHistory) -> Task:
    """The kind of statistics. A person who looks at a profile names no options, so there the features themselves say it."""
    if lookup.purpose is LookupPurpose.ANSWER:
        return lookup.query.task
    return Task.TEXT if history.is_judged else Task.LABEL


def _part(factors: UserFactors, features: Sequence[FactoredFeature], lookup: Lookup) -> UserFactors:
    """What a prompt may show; everything for a person."""
    if lookup.purpose is LookupPurpose.INSPECT:
        return factors
    return factors.part([*shown_factors(features, factors), *(factor for each in features if (factor := factors.factor(each.factor_id)))])

"""The fields of features and reasoning paths that are the same for a template and an LLM."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.features import Feature, ItemFeatures
from schemas.profiles import ExtractedFeatures, FeaturesWork, Reasoning, ReasoningWork
from schemas.sameness import is_blank


def item_with(features: Sequence[Feature], work: FeaturesWork) -> ExtractedFeatures | None:
    """None for an item without a response, which has no statistic."""
    item = work.item
    if is_blank(item.response):
        return None
    fields = item.model_dump(include={"interaction_id", "content", "response", "occurred_at"})
    return ExtractedFeatures(task=work.task, item=ItemFeatures(**fields, features=tuple(features)), source=item.source)


def reasoning_of(work: ReasoningWork, text: str) -> Reasoning:
    item = work.item
    return Reasoning(interaction_id=item.interaction_id, text=text, statistics_version=work.factors.version, until=item.occurred_at)

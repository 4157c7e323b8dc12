"""Features and reasoning paths without an LLM: key phrases, and fixed sentences that cite the factors' statistics."""

from __future__ import annotations

import asyncio

from schemas.features import Feature, source_text
from schemas.profiles import Author, ExtractedFeatures, FeaturesWork, Reasoning, ReasoningWork
from schemas.rpm_texts import template_reasoning
from schemas.tasks import Task
from workers.features.statistical import StatisticalExtractor
from workers.profiles.items import item_with, reasoning_of


class TemplateFeatures:
    author = Author(name="template")

    def __init__(self, extractor: StatisticalExtractor) -> None:
        self._extractor = extractor

    async def extract(self, work: FeaturesWork, key: bytes) -> ExtractedFeatures | None:
        return item_with(await asyncio.to_thread(self._features, work), work)

    async def reason(self, work: ReasoningWork, key: bytes) -> Reasoning | None:
        return reasoning_of(work, template_reasoning(work.features, work.factors, work.item.response))

    def _features(self, work: FeaturesWork) -> tuple[Feature, ...]:
        features = self._extractor.features_of(source_text(work.item.content, work.item.response))
        return self._extractor.judged(features, work.item.response) if work.task is Task.TEXT else features

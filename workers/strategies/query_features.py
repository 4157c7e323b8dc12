"""Finds the features of a query: as key phrases, or by the base model, which also sees the user's factors and chooses one for each feature."""

from __future__ import annotations

import asyncio
from typing import Protocol

from infra.endpoints.client import PromptRefused
from infra.endpoints.reply import json_object
from infra.telemetry.metrics import FEATURE_ANSWERS_REFUSED
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.feature_extraction import FEATURES_FIELD, RefusedAnswer, query_features_schema, read_query_features
from schemas.features import FactoredFeature, UserFactors
from schemas.prompts import ChatTurn
from schemas.queries import Query
from schemas.responses import ResponseStatus
from schemas.rpm_prompts import query_extraction_prompt, shown_factors
from workers.features.statistical import StatisticalExtractor
from workers.strategies.base_calls import BaseCalls
from workers.strategies.strategy import Unable


class QueryFeatures(Protocol):
    async def without_model(self, query: Query) -> tuple[FactoredFeature, ...] | None:
        """The features; None if the base model finds them."""

    async def of(self, query: Query, factors: UserFactors, base: BaseCalls) -> tuple[FactoredFeature, ...]:
        """The features, with factors if a model was asked for them. Raises Unable, and what `BaseCalls.texts` raises."""


class StatisticalQueryFeatures:
    def __init__(self, extractor: StatisticalExtractor) -> None:
        self._extractor = extractor

    async def without_model(self, query: Query) -> tuple[FactoredFeature, ...]:
        found = await asyncio.to_thread(self._extractor.features_of, query.text)
        return tuple(FactoredFeature(feature=feature, factor_id=None) for feature in found)

    async def of(self, query: Query, factors: UserFactors, base: BaseCalls) -> tuple[FactoredFeature, ...]:
        return await self.without_model(query)


class LlmQueryFeatures:
    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens

    async def without_model(self, query: Query) -> None:
        return None

    async def of(self, query: Query, factors: UserFactors, base: BaseCalls) -> tuple[FactoredFeature, ...]:
        shown = shown_factors((), factors)
        prompt, schema = query_extraction_prompt(query, shown, WELL_KNOWN_MARKS), query_features_schema(len(shown))
        try:
            (text, *_) = await base.texts((ChatTurn("user", prompt),), max_tokens=self._max_tokens, schema=schema)
            return read_query_features(json_object(text, [FEATURES_FIELD]), shown)
        except PromptRefused as error:
            raise Unable.refused(error.cause) from error
        except RefusedAnswer as error:
            FEATURE_ANSWERS_REFUSED.add(flaw=error.flaw)
            raise Unable(ResponseStatus.UNPARSABLE) from error

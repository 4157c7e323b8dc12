"""Features and reasoning paths by an LLM (RPM): the features of an item, for free text a second call that judges them, and later the reasoning path.

An answer that is not JSON of the schema, or breaks its rules, is refused as a whole (`schemas.feature_extraction`), and the LLM is asked again. After TRIES
such answers the item has no features.
"""

from __future__ import annotations

import logging
from typing import Any

from infra.endpoints.client import ChatClient, PromptRefused
from infra.endpoints.reply import clean_text, json_object
from infra.telemetry.metrics import FEATURE_ANSWERS_REFUSED
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.feature_extraction import FEATURES_FIELD, JUDGEMENTS_FIELD, RefusedAnswer, features_schema, judgements_schema, read_features, read_judgements
from schemas.features import source_text
from schemas.profiles import Author, ExtractedFeatures, FeaturesWork, Reasoning, ReasoningWork
from schemas.prompts import PromptForm
from schemas.rpm_prompts import extraction_prompt, judgement_prompt, read_reasoning, reasoning_prompt, rpm_template_digest
from schemas.tasks import Task
from workers.profiles.items import item_with, reasoning_of

log = logging.getLogger(__name__)

#: Tries of one task. The answers differ, because `profiles.parameters` sample by default.
TRIES = 3


class LlmFeatures:
    """`features_tokens`, `reasoning_tokens`: limits of one answer."""

    def __init__(self, endpoint: ChatClient, model: str, form: PromptForm, features_tokens: int, reasoning_tokens: int) -> None:
        self._endpoint, self._features_tokens, self._reasoning_tokens = endpoint, features_tokens, reasoning_tokens
        self.author = Author(name="llm", model=model, prompt_digest=rpm_template_digest(form))

    async def extract(self, work: FeaturesWork, key: bytes) -> ExtractedFeatures | None:
        for _ in range(TRIES):
            try:
                return await self._extracted(work, key)
            except PromptRefused as error:
                log.info("the endpoint finds no features", extra={"reason": str(error)})
                return None
            except RefusedAnswer as error:
                FEATURE_ANSWERS_REFUSED.add(flaw=error.flaw)
                log.info("an answer about features is refused", extra={"reason": str(error)})
        return None

    async def reason(self, work: ReasoningWork, key: bytes) -> Reasoning | None:
        prompt = reasoning_prompt(work.item, work.features, work.factors, work.task, WELL_KNOWN_MARKS)
        for _ in range(TRIES):
            try:
                answer = await self._endpoint.complete(prompt, max_tokens=self._reasoning_tokens, key=key)
            except PromptRefused as error:
                log.info("the endpoint writes no reasoning", extra={"reason": str(error)})
                return None
            if (text := read_reasoning(clean_text(answer.text))) is not None:
                return reasoning_of(work, text)
        return None

    async def _extracted(self, work: FeaturesWork, key: bytes) -> ExtractedFeatures | None:
        prompt = extraction_prompt(source_text(work.item.content, work.item.response), work.task, WELL_KNOWN_MARKS)
        found = item_with(read_features(await self._object(prompt, FEATURES_FIELD, features_schema(), key)), work)
        return await self._judged(found, key) if found and work.task is Task.TEXT and found.item.features else found

    async def _judged(self, found: ExtractedFeatures, key: bytes) -> ExtractedFeatures:
        answer = await self._object(judgement_prompt(found.item, WELL_KNOWN_MARKS), JUDGEMENTS_FIELD, judgements_schema(), key)
        judged = read_judgements(answer, found.item.features)
        return found.model_copy(update={"item": found.item.model_copy(update={"features": judged})})

    async def _object(self, prompt: str, field: str, schema: dict[str, Any], key: bytes) -> dict[str, Any] | None:
        answer = await self._endpoint.complete(prompt, max_tokens=self._features_tokens, schema=schema, key=key)
        return json_object(answer.text, [field])

"""Summaries by an LLM: the entry of a domain says what they hold (PAG: Richardson et al. 2023; for LaMP's tasks the same as in OPPU).

Like OPPU it shows each field of an item up to 200 words. Unlike OPPU's script it shows the joined lines, not a printed Python list.
"""

from __future__ import annotations

import logging
import sys

from infra.endpoints.client import ChatClient, PromptRefused
from infra.endpoints.reply import clean_text
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.profiles import Author, Summary, SummaryWork
from schemas.prompts import PromptForm, item_text, template_digest
from schemas.sameness import is_blank

log = logging.getLogger(__name__)

#: Words of each field of an item in the prompt (OPPU).
FIELD_WORDS = 200


class LlmSummaries:
    def __init__(self, endpoint: ChatClient, model: str, form: PromptForm, max_tokens: int) -> None:
        self._endpoint = endpoint
        self._form = form
        self._max_tokens = max_tokens
        self.author = Author(name="llm", model=model, prompt_digest=template_digest(form, sys.modules[__name__]))

    async def summarize(self, domain: str, work: SummaryWork, key: bytes) -> Summary | None:
        try:
            answer = await self._endpoint.complete(summary_prompt(domain, work, self._form), max_tokens=self._max_tokens, key=key)
        except PromptRefused as error:
            log.info("the endpoint writes no summary", extra={"domain": domain, "reason": str(error)})
            return None
        text = clean_text(answer.text).strip()
        return None if is_blank(text) else Summary(text=text, count=work.count, until=work.until)


def summary_prompt(domain: str, work: SummaryWork, form: PromptForm) -> str:
    """The items, one on each line, and what the summary of this domain or task holds."""
    items = [item.model_copy(update={"content": _clip(item.content), "response": _clip(item.response)}) for item in work.items]
    lines = [item_text(item, domain, work.task, form) for item in items]
    return WELL_KNOWN_MARKS.neutralized("\n".join([*lines, "", form.domains.entry(domain, work.task).summary_instruction or ""]))


def _clip(text: str) -> str:
    words = text.split()
    return text if len(words) <= FIELD_WORDS else " ".join(words[:FIELD_WORDS])

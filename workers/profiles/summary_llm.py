"""Summaries by an LLM: one prompt per task, which says what its summary holds (PAG: Richardson et al. 2023; for LaMP's tasks the same as in OPPU).

Like OPPU it shows each field of an item up to 200 words. Unlike OPPU's script it shows the joined lines, not a printed Python list.
"""

from __future__ import annotations

import hashlib
import logging

from infra.endpoints.client import ChatClient, PromptRefused
from infra.endpoints.reply import clean_text
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.profiles import Author, Summary, SummaryWork
from schemas.prompts import PromptStyle, item_text
from schemas.sameness import is_blank
from schemas.tasks import Task

log = logging.getLogger(__name__)

#: Words of each field of an item in the prompt (OPPU).
FIELD_WORDS = 200

_WANTED = {
    "movie_tag": 'Look at the past movies that this user tagged, and determine the most popular tag. Answer in the following form: "most popular tag: <tag>".',
    "product_rating": (
        "Based on this user's past reviews, what are the most common scores they give for positive and negative reviews? "
        'Answer in the following form: "most common positive score: <score>, most common negative score: <score>".'
    ),
    "scholarly_title": "Given this author's previous publications, describe a template for their titles. Write the template and nothing else.",
    "news_headline": "Given this author's previous articles, describe a template for their headlines. Write the template and nothing else.",
    "tweet_paraphrase": (
        "Given this person's previous tweets, describe a template for their tweets: style, punctuation, capitalization, wording and tone. "
        "Write the template and nothing else."
    ),
}
_WANTED_BY_TASK = {
    Task.LABEL: 'Look at the past choices of this user, and determine the most popular label. Answer in the following form: "most popular label: <label>".',
    Task.RATING: (
        "Based on this user's past scores, what are the most common scores they give for what they like and dislike? "
        'Answer in the following form: "most common positive score: <score>, most common negative score: <score>".'
    ),
    Task.TEXT: (
        "Given this person's previous texts, describe a template for what they write: structure, style, punctuation, capitalization, wording and tone. "
        "Write the template and nothing else."
    ),
}


class LlmSummaries:
    def __init__(self, endpoint: ChatClient, model: str, max_tokens: int) -> None:
        self._endpoint = endpoint
        self._max_tokens = max_tokens
        self.author = Author(name="llm", model=model, prompt_digest=_digest())

    async def summarize(self, domain: str, work: SummaryWork, key: bytes) -> Summary | None:
        try:
            answer = await self._endpoint.complete(summary_prompt(domain, work), max_tokens=self._max_tokens, key=key)
        except PromptRefused as error:
            log.info("the endpoint writes no summary", extra={"domain": domain, "reason": str(error)})
            return None
        text = clean_text(answer.text).strip()
        return None if is_blank(text) else Summary(text=text, count=work.count, until=work.until)


def summary_prompt(domain: str, work: SummaryWork) -> str:
    """The items, one on each line, and what the summary of this domain or task holds."""
    items = [item.model_copy(update={"content": _clip(item.content), "response": _clip(item.response)}) for item in work.items]
    lines = [item_text(item, domain, work.task, PromptStyle.PAPER) for item in items]
    return WELL_KNOWN_MARKS.neutralized("\n".join([*lines, "", _WANTED.get(domain, _WANTED_BY_TASK[work.task])]))


def _clip(text: str) -> str:
    words = text.split()
    return text if len(words) <= FIELD_WORDS else " ".join(words[:FIELD_WORDS])


def _digest() -> str:
    return hashlib.sha256("\n".join([*_WANTED.values(), *_WANTED_BY_TASK.values()]).encode()).hexdigest()

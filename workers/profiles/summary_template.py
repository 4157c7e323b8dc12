"""Summaries without an LLM: statistics of the user's items in the fixed forms that PAG's prompts ask for (OPPU: LaMP-2, LaMP-3), and the style of texts.

- *Labels*: the most popular label.
- *Ratings*: the most common score of positive and of negative reviews: those above and below the middle of the user's scores.
- *Texts*: how the user writes: letter case, ending, length, and the words that open several texts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TypeVar

from schemas.profiles import Author, Summary, SummaryWork
from schemas.sameness import is_blank, normalized
from schemas.tasks import Task
from schemas.words import closing_signs, words_of
from schemas.writing_style import letter_case

T = TypeVar("T")

#: An opening word is a habit if this share of the texts begins with it.
OPENING_SHARE = 0.3


class TemplateSummaries:
    author = Author(name="template")

    async def summarize(self, domain: str, work: SummaryWork, key: bytes) -> Summary | None:
        responses = [item.response.strip() for item in work.items if not is_blank(item.response)]
        text = _TEXTS[work.task](responses) if responses else None
        return Summary(text=text, count=work.count, until=work.until) if text else None


def _label_summary(labels: Sequence[str]) -> str:
    return f"most popular tag: {_most_common(map(normalized, labels))}"


def _rating_summary(scores: Sequence[str]) -> str | None:
    numbers = [number for number in map(_number, scores) if number is not None]
    if not numbers:
        return None
    middle = (min(numbers) + max(numbers)) / 2
    above = [number for number in numbers if number >= middle]
    below = [number for number in numbers if number < middle]
    parts = [f"most common positive score: {_most_common(above):g}"] if above else []
    parts += [f"most common negative score: {_most_common(below):g}"] if below else []
    return ", ".join(parts)


def _text_summary(texts: Sequence[str]) -> str:
    length = round(fmean(len(words_of(text)) for text in texts))
    cased = [text for text in texts if text.lower() != text.upper()]  # not those of scripts without capitals
    parts = [f"letter case: {_most_common(map(letter_case, cased))}"] if cased else []
    parts += [f"ends with: {_most_common(map(closing_signs, texts)) or 'a word'}", f"words: {length}"]
    openings = Counter(words[0] for text in texts if (words := words_of(text)))
    habits = [word for word, count in openings.most_common() if count > 1 and count >= OPENING_SHARE * len(texts)]
    return ", ".join([*parts, *([f"often begins with: {' / '.join(habits)}"] if habits else [])])


_TEXTS = {Task.LABEL: _label_summary, Task.RATING: _rating_summary, Task.TEXT: _text_summary}


def _most_common(values: Iterable[T]) -> T:
    """The first of the most frequent values."""
    return Counter(values).most_common(1)[0][0]


def _number(text: str) -> float | None:
    """None for a text that is no finite number: a score of NaN or infinity has no place among the others."""
    try:
        number = float(normalized(text))
    except ValueError:
        return None
    return number if math.isfinite(number) else None

"""The kind of answer that a query needs: a label out of options, a rating, or free text.

The kind follows from the query's options, so a platform may use any domain without registering it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import lru_cache, partial

from schemas.sameness import folded, is_blank, normalized

#: The 15 movie tags of LaMP-2 in the order of LaMP's own evaluation.
MOVIE_TAGS = (
    "sci-fi",
    "based on a book",
    "comedy",
    "action",
    "twist ending",
    "dystopia",
    "dark comedy",
    "classic",
    "psychology",
    "fantasy",
    "romance",
    "thought-provoking",
    "social commentary",
    "violence",
    "true story",
)
STARS = ("1", "2", "3", "4", "5")

_WHOLE_NUMBER = re.compile(r"-?[0-9]+")


class Task(StrEnum):
    """LaMP's three kinds of answers."""

    LABEL = "label"
    RATING = "rating"
    TEXT = "text"


def task_of(options: Sequence[str]) -> Task:
    """No options: text. Options that are all whole numbers in ASCII digits, which `float` reads: a rating. Otherwise a label."""
    if not options:
        return Task.TEXT
    return Task.RATING if all(_WHOLE_NUMBER.fullmatch(option) for option in options) else Task.LABEL


def option_of(answer: str, options: Sequence[str]) -> str | None:
    """The option that is the same text as `answer`, in the query's spelling, or None. An option with the same quotes around the whole comes first."""
    if answer in options:
        return answer
    return _only_option(answer, options, (_WITH_QUOTES, normalized))


def choose_option(answer: str, options: Sequence[str]) -> str | None:
    """The option that `answer` names, in the query's spelling, or None. Without options the answer itself.

    Like `option_of`. If no option is the same text, letter case is ignored, and exactly one option must match. Data sets, serving, rewards and checks all read
    answers and truths with this function.
    """
    if not options or answer in options:
        return answer
    return _only_option(answer, options, (_WITH_QUOTES, normalized, folded))


def read_answer(text: str, options: Sequence[str]) -> str | None:
    """The answer in a text of the base model: stripped, in the option's spelling. None if it is blank or none of the options."""
    return None if is_blank(text) else choose_option(text.strip(), options)


def is_same_label(answer: str, truth: str, options: Sequence[str]) -> bool:
    """Whether two texts are the same label: the same text, also without quotes around the whole, unless these make them different options."""
    if normalized(answer, keep_quotes=True) == normalized(truth, keep_quotes=True):
        return True
    return normalized(answer) == normalized(truth) and option_of(answer, options) == option_of(truth, options)


_Form = Callable[[str], str]
_WITH_QUOTES: _Form = partial(normalized, keep_quotes=True)


def _only_option(answer: str, options: Sequence[str], forms: Iterable[_Form]) -> str | None:
    """The option that equals `answer` in the first of the forms in which any option does. None if several different ones do."""
    for form in forms:
        text = form(answer)
        matches = {_form_of_option(_WITH_QUOTES, option): option for option in reversed(options) if text and _form_of_option(form, option) == text}
        if matches:
            return next(iter(matches.values())) if len(matches) == 1 else None
    return None


@lru_cache(maxsize=4096)
def _form_of_option(form: _Form, option: str) -> str:
    """Cached: a query has up to 256 options, and queries of one domain often have the same ones."""
    return form(option)

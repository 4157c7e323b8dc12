"""The kind of answer that a query needs: a label out of options, a rating, or free text.

The kind follows from the query's options, so a platform may use any domain without registering it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

from schemas.sameness import folded, normalized

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


def option_of(answer: str, options: Iterable[str]) -> str | None:
    """The option that is the same text as `answer`, in the query's spelling, or None."""
    text = normalized(answer)
    return next((option for option in options if normalized(option) == text), None)


def choose_option(answer: str, options: Sequence[str]) -> str | None:
    """The option that `answer` names, in the query's spelling, or None. Without options the answer itself.

    The same text wins; otherwise letter case is ignored if exactly one option matches. Serving and rewards both use this function.
    """
    if not options:
        return answer
    if (same := option_of(answer, options)) is not None:
        return same
    text = folded(answer)
    matches = {normalized(option): option for option in options if folded(option) == text}
    return next(iter(matches.values())) if len(matches) == 1 else None

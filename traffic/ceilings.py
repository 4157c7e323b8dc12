"""The best simple rule over k of a user's items: a ceiling for what learning can reach in the persona world.

The world gives the floor, the answer without the user (`generic`), and the answer without noise (`ideal`). Learning is measured as the share of the way
from the floor to the rule. For each part of an answer the rule takes what most items show; the item nearest to the query breaks ties:

- *tags*: the most frequent tag among the items of the film's family; without such an item, the generic answer;
- *ratings*: the difference between an item's score and the score of its words, added to the score of the query's words. The highest score for praise and the
  lowest for blame may hide a larger difference; they count only if there are no other items;
- *texts*: opener, intensifier, closer and letter case.

The rules use the world's templates, which a model must learn. They are good rules, not proven optima: a method may score slightly higher.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

from schemas.tasks import STARS
from traffic.world import FAMILIES, MOVIE_TAG, PRODUCT_RATING, Exchange, Note, PersonaQuestion, Style

T = TypeVar("T", bound=Hashable)

_FAMILY_OF = {tag: family for family, tags in FAMILIES.items() for tag in tags}


def best_rule(question: PersonaQuestion, items: Sequence[Exchange]) -> str:
    """The answer of the domain's rule from these items, nearest first. Without items the generic answer."""
    if not items:
        return question.generic
    if question.query.domain == MOVIE_TAG:
        return _tag(question, items)
    return _rating(question, items) if question.query.domain == PRODUCT_RATING else _text(question, items)


def _tag(question: PersonaQuestion, items: Sequence[Exchange]) -> str:
    family = _FAMILY_OF[question.generic]
    return _most([item.response for item in items if _FAMILY_OF[item.response] == family] or [question.generic])


def _rating(question: PersonaQuestion, items: Sequence[Exchange]) -> str:
    shifts = [int(item.response) - int(item.generic) for item in items if not (item.response == item.generic and item.generic in (STARS[0], STARS[-1]))]
    lowest, highest = int(STARS[0]), int(STARS[-1])
    return str(min(highest, max(lowest, int(question.generic) + (_most(shifts) if shifts else 0))))


def _text(question: PersonaQuestion, items: Sequence[Exchange]) -> str:
    styles = [_style(item) for item in items]
    shown = Style(
        _most([style.intensifier for style in styles]),
        _most([style.opener for style in styles]),
        _most([style.closer for style in styles]),
        _most([style.lower for style in styles]),
    )
    subject, _, rest = question.query.text.partition(" is ")
    adjective, _, time = rest.partition(" ")
    return Note(subject, adjective, time).in_style(shown)


def _style(item: Exchange) -> Style:
    """The style of a text: opener, the note's subject, `is`, intensifier, the rest of the note, closer."""
    subject, _, rest = item.content.partition(" is ")
    opener, _, after = item.response.lower().partition(f"{subject} is ")
    intensifier, _, closer = after.partition(rest)
    return Style(intensifier.strip(), opener.strip(), closer.strip(), lower=item.response[0].islower())


def _most(values: Sequence[T]) -> T:
    """The most frequent value; the first of them on a tie."""
    return Counter(values).most_common(1)[0][0]

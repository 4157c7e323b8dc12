"""The best simple rule that sees k of a user's items, as a ceiling of what learning can reach in the persona world.

The world itself knows the floor without the user (`generic`) and the answer without noise (`ideal`); learning is measured by how far it goes from the
floor to the rule. The rule takes, part by part, what most of the seen items show; the item nearest to the query decides a tie:

- *tags*: the tag, among the items of the film's family; without one, anybody's answer;
- *ratings*: the shift between an item's score and what its words are worth, added to what the query's words are worth. Praise that got the highest score, and
  blame that got the lowest, hide a shift beyond the scale and count only where nothing else was seen;
- *texts*: opener, intensifier, closer and letter case.

The rules know the world's templates, as a model has to learn them. They are good rules, not proven optima: a method may do a little better.
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
    """What the domain's rule answers after these items, nearest first; anybody's answer without any."""
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
    return Note(subject, adjective, time).dressed(shown)


def _style(item: Exchange) -> Style:
    """Read off the text: opener, the note's subject, `is`, intensifier, the rest of the note, closer."""
    subject, _, rest = item.content.partition(" is ")
    opener, _, after = item.response.lower().partition(f"{subject} is ")
    intensifier, _, closer = after.partition(rest)
    return Style(intensifier.strip(), opener.strip(), closer.strip(), lower=item.response[0].islower())


def _most(values: Sequence[T]) -> T:
    """The most frequent; of several the one that comes first."""
    return Counter(values).most_common(1)[0][0]

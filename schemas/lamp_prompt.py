"""LaMP's form of a prompt with history items, for the style `paper`: in one sentence before the task, best first (Salemi et al. 2024, LaMP's prompts).

LaMP cuts the items so that prompts of 256 tokens hold them. Here nothing is cut: an endpoint that refuses a prompt as too long gets fewer items.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.control_marks import ControlMarks
from schemas.prompts import Example, PromptStyle, base_prompt
from schemas.queries import Query
from schemas.sameness import is_blank
from schemas.tasks import Task


def lamp_prompt(query: Query, items: Sequence[Example], marks: ControlMarks, *, reasons: bool = False) -> str:
    """`items` are best first, at least one. `reasons`: the task asks for a chain of thought."""
    template = _ITEM.get(query.domain, _ITEM_BY_TASK[query.task])
    texts = [(_BARE if is_blank(item.content) else template).format(content=item.content, response=item.response) for item in items]
    prefix = f"{', and '.join(texts)}{_END.get(query.domain, '. ')}"
    return marks.neutralized(f"{prefix}{base_prompt(query, PromptStyle.PAPER, marks, reasons=reasons)}")


_BARE = '"{response}" '
_SCORE = '{response} is the score for "{content}" '
_ITEM = {
    "movie_tag": 'the tag for the movie: "{content}" is "{response}" ',
    "product_rating": _SCORE,
    "news_headline": '"{response}" is the title for "{content}" ',
    "scholarly_title": '"{response}" is a title for "{content}" ',
    "tweet_paraphrase": _BARE,
}
_ITEM_BY_TASK = {
    Task.LABEL: 'the label for "{content}" is "{response}" ',
    Task.RATING: _SCORE,
    Task.TEXT: '"{response}" is the response to "{content}" ',
}
_END = {
    "scholarly_title": ". Following the given patterns ",
    "tweet_paraphrase": " are written by a person. Following the given patterns ",
}

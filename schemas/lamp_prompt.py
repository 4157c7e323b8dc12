"""LaMP's form of a prompt with history items, for the style `paper`: in one sentence before the task, best first (Salemi et al. 2024, LaMP's prompts).

The items of LaMP's own data sets have its words, those of other domains the words of their entry. LaMP cuts the items so that prompts of 256 tokens hold
them. Here nothing is cut: an endpoint that refuses a prompt as too long gets fewer items.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.control_marks import ControlMarks
from schemas.prompts import Example, PromptForm, base_prompt
from schemas.queries import Query
from schemas.sameness import is_blank
from schemas.tasks import Task


def lamp_prompt(query: Query, items: Sequence[Example], form: PromptForm, marks: ControlMarks, *, reasons: bool = False) -> str:
    """`items` are best first, at least one. `form` has the style `paper`. `reasons`: the task asks for a chain of thought."""
    template = _template(query, form)
    texts = [(_BARE if is_blank(item.content) else template).format(content=item.content, response=item.response) for item in items]
    prefix = f"{', and '.join(texts)}{_END.get(query.domain, '. ')}"
    return marks.neutralized(f"{prefix}{base_prompt(query, form, marks, reasons=reasons)}")


def _template(query: Query, form: PromptForm) -> str:
    own = form.domains.own(query.domain).item_template
    if query.domain in _ITEM or own is None:
        return _ITEM.get(query.domain, _ITEM_BY_TASK[query.task])
    return f"{own} "


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

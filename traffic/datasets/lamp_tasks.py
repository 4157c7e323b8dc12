"""LaMP's tasks: domain, position of the text in the input, fields of a profile item, allowed answers.

Five of the seven are supported. LaMP-1 asks which of two papers is cited, and LaMP-6 needs a corpus that is not public.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.tasks import MOVIE_TAGS, STARS
from traffic.datasets.rows import DataRow


@dataclass(frozen=True)
class LampTask:
    """`content` and `response` name fields of a profile item. The text follows `marker` in the input."""

    name: str
    title: str
    domain: str
    marker: str
    content: tuple[str, ...]
    response: str
    options: tuple[str, ...] = ()
    options_in_input: str | None = None  # a pattern for the bracketed list, if only the input has the options

    def text(self, row: DataRow) -> str:
        """The query's text: the input after the marker."""
        _, found, text = row.text("input").partition(self.marker)
        if not found:
            raise row.bad(f"field 'input' has no {self.marker!r}; expected an input of {self.title}")
        return text.strip()

    def allowed(self, row: DataRow) -> tuple[str, ...]:
        """The allowed answers, sorted: the input shuffles them per question."""
        if not self.options_in_input:
            return self.options
        listed = re.search(self.options_in_input, row.text("input"))
        if not listed:
            raise row.bad(f"field 'input' has no list of options; expected an input of {self.title}")
        return tuple(sorted(option.strip() for option in listed[1].split(",")))


#: By the fields of a profile item, without id and date: nothing else in the files separates movies from news.
BY_PROFILE: Mapping[frozenset[str], LampTask] = {
    frozenset({"description", "tag"}): LampTask("LaMP_2", "LaMP-2, movie tags", "movie_tag", "description:", ("description",), "tag", MOVIE_TAGS),
    frozenset({"text", "title", "category"}): LampTask(
        "LaMP_2",
        "LaMP-2, news categories (the older data; movie tags replaced it)",
        "news_category",
        "article:",
        ("title", "text"),
        "category",
        options_in_input=r"categories: ?\[([^\]]+)\]",
    ),
    frozenset({"text", "score"}): LampTask("LaMP_3", "LaMP-3, product ratings", "product_rating", "review:", ("text",), "score", STARS),
    frozenset({"text", "title"}): LampTask("LaMP_4", "LaMP-4, news headlines", "news_headline", "article:", ("text",), "title"),
    frozenset({"title", "abstract"}): LampTask("LaMP_5", "LaMP-5, scholarly titles", "scholarly_title", "paper:", ("abstract",), "title"),
    frozenset({"text"}): LampTask("LaMP_7", "LaMP-7, tweet paraphrases", "tweet_paraphrase", ":", (), "text"),
}


def task_of_profile(row: DataRow, item: DataRow) -> LampTask:
    fields = frozenset(item.fields) - {"id", "date"}
    if task := BY_PROFILE.get(fields):
        return task
    known = "; ".join(f"{task.title}: {', '.join(sorted(shape))}" for shape, task in BY_PROFILE.items())
    raise row.bad(f"profile items hold {', '.join(sorted(map(str, fields))) or 'nothing'}; expected one of {known}")


def canonical(name: str) -> str:
    """A task's name as LaMP's files write it: `LaMP-2` and `LaMP_2M` are `LaMP_2`."""
    return re.sub(r"^LaMP[-_](\d).*$", r"LaMP_\1", name)

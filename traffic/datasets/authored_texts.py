"""JSON Lines of texts by author. The author's response is the title of an arXiv paper's abstract (LaMP-5's shape) or the headline of a HuffPost article's
short description (LaMP-4's shape)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from traffic.datasets.rows import json_lines, jsonl_with
from traffic.datasets.steps import Step
from traffic.datasets.timelines import Entry, latest_as_questions


@dataclass(frozen=True)
class AuthoredTexts:
    """One text per row. Each author's latest `last` texts are questions."""

    LOOKS_FOR: ClassVar[str]
    FIELDS: ClassVar[tuple[str, ...]]  # of a row; for `entries` in this order: author, id, content, response, date
    DOMAIN: ClassVar[str]
    SOURCE: ClassVar[str]  # first part of the ids of a data set
    EMPTY_CONTENT: ClassVar = False  # whether a row may have an empty content
    title: ClassVar[str]

    file: Path
    last: int = 3

    @classmethod
    def at(cls, path: Path) -> Self | None:
        file = jsonl_with(path, cls.FIELDS)
        return cls(file) if file else None

    def steps(self, tenant: str) -> Iterator[Step]:
        return latest_as_questions(self.entries(), self.last, tenant)

    def entries(self) -> Iterator[Entry]:
        author, text_id, content, response, date = self.FIELDS
        for row in json_lines(self.file):
            source_id = f"{self.SOURCE}/{row.text(text_id, filled=True)}"
            texts = row.text(content, filled=not self.EMPTY_CONTENT), row.text(response, filled=True)
            yield Entry(row, row.user(author), self.DOMAIN, source_id, *texts, row.moment(date))


class ArxivAuthors(AuthoredTexts):
    LOOKS_FOR = "a *.jsonl of papers with user_id, paper_id, date, title and abstract"
    FIELDS = ("user_id", "paper_id", "abstract", "title", "date")
    DOMAIN, SOURCE = "scholarly_title", "arxiv"
    title = "arXiv papers by author"


class HuffPostAuthors(AuthoredTexts):
    LOOKS_FOR = "a *.jsonl of articles with authors, headline, short_description, link and date"
    FIELDS = ("authors", "link", "short_description", "headline", "date")
    DOMAIN, SOURCE, EMPTY_CONTENT = "news_headline", "huffpost", True
    title = "HuffPost articles by journalist"

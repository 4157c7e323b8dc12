"""JSON Lines of texts by author. The author's response is the title of an arXiv paper's abstract (LaMP-5's shape) or the headline of a HuffPost article's
short description (LaMP-4's shape). Both sources write plain text: nothing is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from traffic.datasets.rows import JsonLinesFiles
from traffic.datasets.steps import ReadCounts, Step
from traffic.datasets.timelines import Entry, latest_as_questions


@dataclass(frozen=True)
class AuthoredTexts(JsonLinesFiles):
    """One text per row. Each author's latest `last` texts are questions. `FIELDS` are for `entries` in this order: author, id, content, response, date."""

    DOMAIN: ClassVar[str]
    SOURCE: ClassVar[str]  # first part of the ids of a data set
    EMPTY_CONTENT: ClassVar = False  # whether a row may have an empty content

    last: int = 3

    def steps(self, tenant: str, counts: ReadCounts | None = None) -> Iterator[Step]:
        counts = counts or ReadCounts()
        return latest_as_questions(self.entries(counts), self.last, tenant, counts)

    def entries(self, counts: ReadCounts) -> Iterator[Entry]:
        author, text_id, content, response, date = self.FIELDS
        for row in self.rows():
            source_id = f"{self.SOURCE}/{row.text(text_id, filled=True)}"
            texts = row.text(content, filled=not self.EMPTY_CONTENT), row.text(response, filled=True)
            yield Entry(row.place, row.user(author), self.DOMAIN, source_id, *texts, row.moment(date))


class ArxivAuthors(AuthoredTexts):
    LOOKS_FOR = "*.jsonl of papers with user_id, paper_id, date, title and abstract"
    FIELDS = ("user_id", "paper_id", "abstract", "title", "date")
    DOMAIN, SOURCE = "scholarly_title", "arxiv"
    title = "arXiv papers by author"


class HuffPostAuthors(AuthoredTexts):
    LOOKS_FOR = "*.jsonl of articles with authors, headline, short_description, link and date"
    FIELDS = ("authors", "link", "short_description", "headline", "date")
    DOMAIN, SOURCE, EMPTY_CONTENT = "news_headline", "huffpost", True
    title = "HuffPost articles by journalist"

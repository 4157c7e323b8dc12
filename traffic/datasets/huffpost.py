"""HuffPost articles by journalist: the headline is the journalist's response to the short description (LaMP-4's shape)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from traffic.datasets.rows import DataRow, json_lines, jsonl_with
from traffic.datasets.steps import Step
from traffic.datasets.timelines import Entry, latest_as_questions


@dataclass(frozen=True)
class HuffPostAuthors:
    """One article per row. Each journalist's latest `last` articles are questions: the headline of the description."""

    LOOKS_FOR: ClassVar = "a *.jsonl of articles with authors, headline, short_description, link and date"

    file: Path
    last: int = 3

    @classmethod
    def at(cls, path: Path) -> Self | None:
        file = jsonl_with(path, ("authors", "headline", "short_description", "link", "date"))
        return cls(file) if file else None

    @property
    def title(self) -> str:
        return "HuffPost articles by journalist"

    def steps(self, tenant: str) -> Iterator[Step]:
        return latest_as_questions(map(_entry, json_lines(self.file)), self.last, tenant)


def _entry(row: DataRow) -> Entry:
    return Entry(
        row,
        user=row.user("authors"),
        domain="news_headline",
        source_id=f"huffpost/{row.text('link', filled=True)}",
        content=row.text("short_description"),
        response=row.text("headline", filled=True),
        moment=row.moment("date"),
    )

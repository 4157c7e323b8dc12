"""arXiv papers by author: the title is the author's response to the abstract (LaMP-5's shape)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from traffic.datasets.rows import DataRow, json_lines, jsonl_with
from traffic.datasets.steps import Step
from traffic.datasets.timelines import Entry, latest_as_questions


@dataclass(frozen=True)
class ArxivAuthors:
    """One paper per row. Each author's latest `last` papers are questions: the title of the abstract."""

    LOOKS_FOR: ClassVar = "a *.jsonl of papers with user_id, paper_id, date, title and abstract"

    file: Path
    last: int = 3

    @classmethod
    def at(cls, path: Path) -> Self | None:
        file = jsonl_with(path, ("user_id", "paper_id", "date", "title", "abstract"))
        return cls(file) if file else None

    @property
    def title(self) -> str:
        return "arXiv papers by author"

    def steps(self, tenant: str) -> Iterator[Step]:
        return latest_as_questions(map(_entry, json_lines(self.file)), self.last, tenant)


def _entry(row: DataRow) -> Entry:
    return Entry(
        row,
        user=row.user("user_id"),
        domain="scholarly_title",
        source_id=f"arxiv/{row.text('paper_id', filled=True)}",
        content=row.text("abstract", filled=True),
        response=row.text("title", filled=True),
        moment=row.moment("date"),
    )

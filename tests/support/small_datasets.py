"""Writes small data sets in the formats that the converters read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from schemas.interactions import Interaction
from traffic.datasets.files import DataFile
from traffic.datasets.rows import JsonLinesFiles
from traffic.datasets.steps import Dataset, Question, Step

Rows = Iterable[dict[str, Any]]
R = TypeVar("R", bound=JsonLinesFiles)


def reading(format: type[R], *paths: Path) -> R:
    """The data set of one format in these files."""
    return format(tuple(map(DataFile, paths)))


def write_jsonl(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_lamp(folder: Path, questions: Rows, task: str, golds: dict[str, str] | None, split: str = "dev") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}_questions.json").write_text(json.dumps(list(questions), indent=1), encoding="utf-8")
    if golds is not None:
        outputs = {"task": task, "golds": [{"id": key, "output": value} for key, value in golds.items()]}
        (folder / f"{split}_outputs.json").write_text(json.dumps(outputs), encoding="utf-8")
    return folder


def write_outputs_file(path: Path, task: str, answers: dict[str, Any]) -> Path:
    """A file of golds or predictions, by question id."""
    path.write_text(json.dumps({"task": task, "golds": [{"id": key, "output": value} for key, value in answers.items()]}), encoding="utf-8")
    return path


def paper(author: str, number: int, date: str) -> dict[str, Any]:
    return {"user_id": author, "paper_id": f"{author}-{number}", "date": date, "title": f"Title {number}", "abstract": f"Abstract {number}."}


def interactions(steps: Iterable[Step]) -> list[Interaction]:
    return [step for step in steps if isinstance(step, Interaction)]


def questions(steps: Iterable[Step]) -> list[Question]:
    return [step for step in steps if isinstance(step, Question)]


def visible(dataset: Dataset, question: Question) -> list[str]:
    """The history and feedback texts of the question's user from before `asked_at`, in order of time."""
    steps = list(dataset.steps("t"))
    query = question.query
    history = [(step.occurred_at, step.response) for step in interactions(steps) if step.user == query.user]
    history += [(feedback.occurred_at, feedback.truth or "") for earlier in questions(steps) for feedback in earlier.feedback if feedback.user == query.user]
    return [response for at, response in sorted(history) if at < query.asked_at]

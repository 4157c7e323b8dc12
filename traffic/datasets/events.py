"""JSON Lines of our own messages: interactions, queries and feedback, as `python -m traffic convert` writes them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self
from uuid import UUID

from schemas.feedback import Feedback
from schemas.interactions import Interaction
from schemas.messages import Message
from schemas.queries import Query
from schemas.tasks import Task
from traffic.datasets.rows import DataRow, json_lines, jsonl_with
from traffic.datasets.steps import Question, Step

_KINDS: dict[str, type[Message]] = {kind.ce_type(): kind for kind in (Interaction, Query, Feedback)}


@dataclass(frozen=True)
class Events:
    """A file, or a folder of files in the order of their names. Events carry their own tenant and user.

    Interactions come in the files' order. Questions follow, oldest first, each with all its feedback.
    """

    LOOKS_FOR: ClassVar = f"a *.jsonl with type and data, the type one of {', '.join(sorted(_KINDS))}"

    files: tuple[Path, ...]

    @classmethod
    def at(cls, path: Path) -> Self | None:
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        found = tuple(file for file in files if jsonl_with(file, ("type", "data")))
        return cls(found) if found else None

    @property
    def title(self) -> str:
        return "JSON Lines of events"

    def steps(self, tenant: str) -> Iterator[Step]:
        asked: dict[UUID, tuple[DataRow, Query]] = {}
        feedback: dict[UUID, list[tuple[DataRow, Feedback]]] = defaultdict(list)
        for row in (row for file in self.files for row in json_lines(file)):
            message = _message(row)
            if isinstance(message, Interaction):
                yield message
            elif isinstance(message, Query):
                if message.query_id in asked:
                    raise row.bad(f"query_id {message.query_id} occurs twice; expected one query for it")
                asked[message.query_id] = row, message
            elif isinstance(message, Feedback):
                feedback[message.query_id].append((row, message))
        for row, given in itertools.chain.from_iterable(feedback.values()):
            if given.query_id not in asked or asked[given.query_id][1].key != given.key:
                raise row.bad(f"feedback to query_id {given.query_id}, which no query of that tenant and user has")
        for row, query in sorted(asked.values(), key=lambda pair: pair[1].asked_at):
            yield _question(row, query, feedback.get(query.query_id, []))


def _message(row: DataRow) -> Message:
    kind = _KINDS.get(row.text("type"))
    if kind is None:
        raise row.bad(f"unknown type; expected one of {', '.join(sorted(_KINDS))}")
    return row.message(kind, **row.within(row.fields.get("data"), "field 'data'").fields)


def _question(row: DataRow, query: Query, feedback: list[tuple[DataRow, Feedback]]) -> Question:
    """The truth is that of the line, else that of the first feedback with one."""
    truths = [(row, row.text("truth"))] if "truth" in row.fields else [(place, given.truth) for place, given in feedback if given.truth]
    place, truth = truths[0] if truths else (row, None)
    if truth is not None and query.task is Task.RATING and truth not in query.options:
        raise place.bad(f"the truth is not a score; expected one of {', '.join(query.options)}")
    return Question(query, truth, tuple(given for _, given in feedback))

"""JSON Lines of our own messages: interactions, queries and feedback, as `python -m traffic convert` writes them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self
from uuid import UUID

from schemas.feedback import Feedback
from schemas.history import Interaction
from schemas.messages import Message
from schemas.queries import Query
from traffic.datasets.rows import Row, json_lines, jsonl_with
from traffic.datasets.steps import Question, Step

_KINDS: dict[str, type[Message]] = {kind.ce_type(): kind for kind in (Interaction, Query, Feedback)}


@dataclass(frozen=True)
class Events:
    """A file, or a folder of files in the order of their names. Events carry their own tenant and user.

    Interactions come as they stand; questions follow, oldest first, each with all feedback that the files hold for it.
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
        asked: dict[UUID, tuple[Query, str | None]] = {}
        feedback: dict[UUID, list[tuple[Row, Feedback]]] = defaultdict(list)
        for row in (row for file in self.files for row in json_lines(file)):
            message = _message(row)
            if isinstance(message, Interaction):
                yield message
            elif isinstance(message, Query):
                if message.query_id in asked:
                    raise row.bad(f"query_id {message.query_id} stands twice; expected one query for it")
                asked[message.query_id] = message, row.text("truth") if "truth" in row.fields else None
            elif isinstance(message, Feedback):
                feedback[message.query_id].append((row, message))
        yield from _questions(asked, feedback)


def _message(row: Row) -> Message:
    kind = _KINDS.get(row.text("type"))
    if kind is None:
        raise row.bad(f"unknown type; expected one of {', '.join(sorted(_KINDS))}")
    return row.message(kind, **row.within(row.fields.get("data"), "field 'data'").fields)


def _questions(asked: dict[UUID, tuple[Query, str | None]], feedback: dict[UUID, list[tuple[Row, Feedback]]]) -> Iterator[Question]:
    for query_id, given in feedback.items():
        for row, one in given:
            query = asked.get(query_id, (None, None))[0]
            if query is None or query.key != one.key:
                raise row.bad(f"feedback to query_id {query_id}, which no query of that tenant and user has")
    for query, truth in sorted(asked.values(), key=lambda one: one[0].asked_at):
        own = tuple(one for _, one in feedback.get(query.query_id, ()))
        yield Question(query, truth if truth is not None else next((one.truth for one in own if one.truth), None), own)

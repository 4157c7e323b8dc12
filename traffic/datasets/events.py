"""JSON Lines of our own messages: interactions, queries and feedback, as `python -m traffic convert` writes them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from schemas.feedback import Feedback
from schemas.interactions import Interaction
from schemas.messages import Message, MessageIdentity
from schemas.queries import Query
from traffic.datasets.rows import DataRow, FirstPlaces, JsonLinesFiles, among
from traffic.datasets.steps import Question, ReadCounts, Step

_KINDS: dict[str, type[Message]] = {kind.ce_type(): kind for kind in (Interaction, Query, Feedback)}


@dataclass(frozen=True)
class Events(JsonLinesFiles):
    """Events carry their own tenant and user, and an id that occurs once for this user in all files.

    Interactions come in the files' order. Questions follow, oldest first, each with all its feedback.
    """

    LOOKS_FOR: ClassVar = f"*.jsonl with type and data, the type one of {', '.join(sorted(_KINDS))}"
    FIELDS: ClassVar = ("type", "data")
    title: ClassVar = "JSON Lines of events"

    def steps(self, tenant: str, counts: ReadCounts | None = None) -> Iterator[Step]:
        interactions, questions, given = (FirstPlaces(f"the {name}") for name in ("interaction_id", "query_id", "feedback_id"))
        asked: dict[MessageIdentity, tuple[DataRow, Query]] = {}
        feedback: dict[MessageIdentity, list[tuple[DataRow, Feedback]]] = defaultdict(list)
        for row in self.rows():
            message = _message(row)
            if isinstance(message, Interaction):
                interactions.take(message.identity, row.place)
                yield message
            elif isinstance(message, Query):
                questions.take(message.identity, row.place)
                asked[message.identity] = row, message
            elif isinstance(message, Feedback):
                given.take(message.identity, row.place)
                feedback[MessageIdentity(message.key, message.query_id)].append((row, message))
        for identity, of_query in feedback.items():
            for row, one in of_query:
                _check_feedback(row, one, asked.get(identity))
        for row, query in sorted(asked.values(), key=lambda pair: pair[1].asked_at):
            yield _question(row, query, feedback.get(query.identity, []))


def _message(row: DataRow) -> Message:
    kind = _KINDS.get(row.text("type"))
    if kind is None:
        raise row.bad(f"unknown type; expected one of {', '.join(sorted(_KINDS))}")
    message = row.place.message(kind, **row.object("data").fields)
    if "truth" in row.fields and kind is not Query:
        raise row.bad("field 'truth' belongs to the line of a query; the truth of feedback is inside data")
    return message


def _check_feedback(row: DataRow, feedback: Feedback, asked: tuple[DataRow, Query] | None) -> None:
    if asked is None:
        raise row.bad(f"feedback to query_id {feedback.query_id}, which no query of that tenant and user has")
    place, query = asked[0].place, asked[1]
    if feedback.occurred_at < query.asked_at:
        raise row.bad(f"the feedback's occurred_at is before its query's asked_at. The query is at {place}")
    if feedback.own_text is not None:
        among(row.place, feedback.own_text, query.options)


def _question(row: DataRow, query: Query, feedback: list[tuple[DataRow, Feedback]]) -> Question:
    """The truth is that of the line, else that of the first feedback with one."""
    truths = [row.text("truth", filled=True)] if "truth" in row.fields else [text for _, given in feedback if (text := given.own_text) is not None]
    truth = among(row.place, truths[0], query.options) if truths else None
    return Question(query, truth, tuple(given for _, given in feedback), f"{query.tenant}/{query.user}/{query.query_id}")

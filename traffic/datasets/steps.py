"""The common form of every data set: dated interactions, and questions with known answers.

As text it is JSON Lines of our own messages, one per line: `{"type": <CloudEvents type>, "data": <message>}`; a query may carry `"truth"`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from schemas.feedback import Feedback
from schemas.interactions import Interaction
from schemas.messages import Message
from schemas.queries import Query


@dataclass(frozen=True)
class Question:
    """A query, the user's own answer (for scoring), and the user's feedback (for learning).

    `source_id`: LaMP's own id, else an id that no other question of the data set has.
    """

    query: Query
    truth: str | None = None
    feedback: tuple[Feedback, ...] = ()
    source_id: str = field(default="", compare=False)


Step = Interaction | Question


@dataclass
class ReadCounts:
    """What a reader left out. `skipped`: rows that became no step, by reason. `shortened`: contents that were cut at the maximum of a message."""

    skipped: Counter[str] = field(default_factory=Counter)
    shortened: int = 0


class Dataset(Protocol):
    """A folder of real data."""

    @property
    def title(self) -> str:
        """Name of the recognized format."""

    @property
    def not_read(self) -> tuple[str, ...]:
        """Names in the folder that are not read: they do not look like data, or the format does not need them."""

    def steps(self, tenant: str, counts: ReadCounts | None = None) -> Iterator[Step]:
        """The same steps at each call. Adds to `counts` what it leaves out. Raises BadData at the first bad row."""


def to_lines(step: Step) -> Iterator[str]:
    """A step as JSON Lines, without line ends."""
    if isinstance(step, Interaction):
        yield _line(step)
        return
    yield _line(step.query, truth=step.truth)
    for feedback in step.feedback:
        yield _line(feedback)


def _line(message: Message, truth: str | None = None) -> str:
    line: dict[str, object] = {"type": message.ce_type(), "data": message.model_dump(mode="json", exclude_defaults=True)}
    if truth is not None:
        line["truth"] = truth
    return json.dumps(line, ensure_ascii=False)

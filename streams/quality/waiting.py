"""What of a partition waits for its counterpart, and what is known to have come: bounded, the oldest go first."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection
from typing import NamedTuple, TypeVar
from uuid import UUID

from infra.telemetry.metrics import QUALITY_SHADOWS_GIVEN_UP
from schemas.experiments import Assignment

T = TypeVar("T")


class Whose(NamedTuple):
    """An answer as cells sort it."""

    name: str
    assignment: Assignment
    domain: str
    user: int


class Unjudged(NamedTuple):
    """A shadow answer that waits for its user's word."""

    at: float
    whose: Whose
    answer: str


class Judged(NamedTuple):
    """What a user said of a question that may have a shadow answer, and what it made of the answer shown and of the base answer."""

    at: float
    options: tuple[str, ...]
    truth: str
    shown_reward: float
    base_reward: float


class Pairs:
    """Shadow answers and users' words to the same questions, `most` of either that wait."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._unjudged: OrderedDict[UUID, Unjudged] = OrderedDict()
        self._judged: OrderedDict[UUID, Judged] = OrderedDict()

    def with_answer(self, query_id: UUID, unjudged: Unjudged) -> Judged | None:
        """The word that waits for this answer; without one the answer waits."""
        judged = self._judged.pop(query_id, None)
        if judged is None:
            self._unjudged[query_id] = unjudged
            _give_up(_oldest(self._unjudged, self._most))
        return judged

    def with_word(self, query_id: UUID, judged: Judged, *, is_awaited: bool) -> Unjudged | None:
        """The answer that waits for this word. Without one the word waits, if an answer may still come and no earlier word waits."""
        unjudged = self._unjudged.pop(query_id, None)
        if unjudged is None and is_awaited:
            self._judged.setdefault(query_id, judged)
            _oldest(self._judged, self._most)
        return unjudged

    def drop(self, experiments: Collection[UUID]) -> None:
        """Answers of these wait no longer."""
        given_up = [query_id for query_id, one in self._unjudged.items() if one.whose.assignment.experiment in experiments]
        for query_id in given_up:
            del self._unjudged[query_id]
        _give_up(len(given_up))


class Recent:
    """The ids of the last `most` records."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ids: set[int] = set()
        self._order: deque[int] = deque()

    def __contains__(self, query_id: UUID) -> bool:
        return query_id.int in self._ids

    def add(self, query_id: UUID) -> bool:
        """Whether it is new."""
        if query_id in self:
            return False
        self._ids.add(query_id.int)
        self._order.append(query_id.int)
        if len(self._order) > self._most:
            self._ids.discard(self._order.popleft())
        return True


def _oldest(waiting: OrderedDict[UUID, T], most: int) -> int:
    """Let the oldest beyond `most` go; returns how many. One comes at a time."""
    if len(waiting) <= most:
        return 0
    waiting.popitem(last=False)
    return 1


def _give_up(answers: int) -> None:
    if answers:
        QUALITY_SHADOWS_GIVEN_UP.add(answers)

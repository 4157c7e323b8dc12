"""Joins shadow answers with the users' truths to the same queries. Both wait for each other; the oldest are dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple, TypeVar
from uuid import UUID

from infra.telemetry.metrics import QUALITY_SHADOWS_GIVEN_UP
from schemas.experiments import Assignment

T = TypeVar("T")


class AnswerLabels(NamedTuple):
    """What assigns an answer to cells."""

    name: str
    assignment: Assignment
    domain: str
    user: int


class ShadowAnswer(NamedTuple):
    """A shadow answer that no truth has scored yet."""

    at: float
    labels: AnswerLabels
    answer: str


class UserTruth(NamedTuple):
    """A user's truth to a query that may have a shadow answer, with the rewards of the shown answer and of the base answer."""

    at: float
    options: tuple[str, ...]
    truth: str
    shown_reward: float
    base_reward: float


class ShadowJoin:
    """At most `most` of each side wait."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._answers: OrderedDict[UUID, ShadowAnswer] = OrderedDict()
        self._truths: OrderedDict[UUID, UserTruth] = OrderedDict()

    def add_answer(self, query_id: UUID, answer: ShadowAnswer) -> UserTruth | None:
        """Returns the truth that waits for this answer. Without one the answer waits."""
        truth = self._truths.pop(query_id, None)
        if truth is None:
            self._answers[query_id] = answer
            _count_dropped(_drop_oldest(self._answers, self._most))
        return truth

    def add_truth(self, query_id: UUID, truth: UserTruth, *, is_awaited: bool) -> ShadowAnswer | None:
        """Returns the answer that waits for this truth. Without one the truth waits if `is_awaited` and no earlier truth to the query waits."""
        answer = self._answers.pop(query_id, None)
        if answer is None and is_awaited:
            self._truths.setdefault(query_id, truth)
            _drop_oldest(self._truths, self._most)
        return answer

    def drop(self, experiments: Collection[UUID]) -> None:
        """Drop the waiting answers of these experiments."""
        dropped = [query_id for query_id, answer in self._answers.items() if answer.labels.assignment.experiment in experiments]
        for query_id in dropped:
            del self._answers[query_id]
        _count_dropped(len(dropped))


def _drop_oldest(waiting: OrderedDict[UUID, T], most: int) -> int:
    """Drop the oldest if there are more than `most`. Returns how many, at most one."""
    if len(waiting) <= most:
        return 0
    waiting.popitem(last=False)
    return 1


def _count_dropped(answers: int) -> None:
    if answers:
        QUALITY_SHADOWS_GIVEN_UP.add(answers)

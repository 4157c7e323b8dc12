"""Joins shadow answers with the users' truths to the same queries. Both wait for each other, by the query's identity; the oldest are dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple, TypeVar
from uuid import UUID

from infra.telemetry.metrics import QUALITY_SHADOWS_GIVEN_UP
from schemas.measures import Measure
from schemas.messages import MessageIdentity
from streams.quality.labels import AnswerLabels

T = TypeVar("T")


class ShadowAnswer(NamedTuple):
    """A shadow answer that no truth has scored yet."""

    at: float
    labels: AnswerLabels
    answer: str


class UserTruth(NamedTuple):
    """A user's truth to a query that may have a shadow answer, with the rewards of the shown answer and of the base answer."""

    at: float
    measure: Measure
    options: tuple[str, ...]
    truth: str
    shown_reward: float
    base_reward: float


class ShadowJoin:
    """At most `capacity` of each side wait."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._answers: OrderedDict[MessageIdentity, ShadowAnswer] = OrderedDict()
        self._truths: OrderedDict[MessageIdentity, UserTruth] = OrderedDict()

    def add_answer(self, query: MessageIdentity, answer: ShadowAnswer) -> UserTruth | None:
        """Returns the truth that waits for this answer. If there is none, the answer waits."""
        truth = self._truths.pop(query, None)
        if truth is None:
            self._answers[query] = answer
            _count_dropped(_drop_oldest(self._answers, self._capacity))
        return truth

    def add_truth(self, query: MessageIdentity, truth: UserTruth, *, is_awaited: bool) -> ShadowAnswer | None:
        """Returns the answer that waits for this truth. If there is none, the truth waits, but only if `is_awaited` and no
        earlier truth to the query waits.
        """
        answer = self._answers.pop(query, None)
        if answer is None and is_awaited:
            self._truths.setdefault(query, truth)
            _drop_oldest(self._truths, self._capacity)
        return answer

    def drop(self, experiments: Collection[UUID]) -> None:
        """Drop the waiting answers of these experiments."""
        dropped = [query for query, answer in self._answers.items() if answer.labels.experiment in experiments]
        for query in dropped:
            del self._answers[query]
        _count_dropped(len(dropped))


def _drop_oldest(waiting: OrderedDict[MessageIdentity, T], capacity: int) -> int:
    """Drop the oldest if there are more than `capacity`. Returns the number of dropped ones: 0 or 1."""
    if len(waiting) <= capacity:
        return 0
    waiting.popitem(last=False)
    return 1


def _count_dropped(answers: int) -> None:
    if answers:
        QUALITY_SHADOWS_GIVEN_UP.add(answers)

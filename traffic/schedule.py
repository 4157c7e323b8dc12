"""The order in which questions are asked."""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from traffic.datasets.steps import Question


class AskingSchedule(Protocol):
    """`next` is None while all remaining questions wait for `done`. `over`: no question remains."""

    @property
    def over(self) -> bool: ...
    def next(self) -> Question | None: ...
    def done(self, question: Question) -> None: ...


class OldestFirst:
    """Oldest first, and one open question per user: people read an answer before they ask again."""

    def __init__(self, questions: Iterable[Question]) -> None:
        self._of_user: dict[bytes, deque[Question]] = defaultdict(deque)
        for question in sorted(questions, key=lambda one: one.query.asked_at):
            self._of_user[question.query.key].append(question)
        self._ready = [(waiting[0].query.asked_at, key) for key, waiting in self._of_user.items()]
        heapq.heapify(self._ready)

    @property
    def over(self) -> bool:
        return not self._of_user

    def next(self) -> Question | None:
        if not self._ready:
            return None
        _, key = heapq.heappop(self._ready)
        question = self._of_user[key].popleft()
        if not self._of_user[key]:
            del self._of_user[key]
        return question

    def done(self, question: Question) -> None:
        if waiting := self._of_user.get(question.query.key):
            heapq.heappush(self._ready, (waiting[0].query.asked_at, question.query.key))


class GivenOrder:
    """In the given order, without waiting for answers. The questions may be endless."""

    def __init__(self, questions: Iterable[Question]) -> None:
        self._questions: Iterator[Question] = iter(questions)
        self._ahead: Question | None = next(self._questions, None)

    @property
    def over(self) -> bool:
        return self._ahead is None

    def next(self) -> Question | None:
        question, self._ahead = self._ahead, next(self._questions, None)
        return question

    def done(self, question: Question) -> None:
        pass

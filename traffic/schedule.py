"""The order in which questions are asked, and the rate at which a platform sends."""

from __future__ import annotations

import heapq
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from traffic.datasets.steps import Question


class Pace:
    """At most `per_s` events per second, evenly spaced. None: no limit. Missed events are not made up for."""

    def __init__(self, per_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = 1 / per_s if per_s else 0.0
        self._clock = clock
        self._next_at = clock()

    def wait_s(self) -> float:
        """Seconds until the next event may go; 0 for now."""
        return max(0.0, self._next_at - self._clock())

    def took(self) -> None:
        """Count one event as sent."""
        self._next_at = max(self._next_at, self._clock() - self._interval_s) + self._interval_s


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
        for question in sorted(questions, key=lambda question: question.query.asked_at):
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

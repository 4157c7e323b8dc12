from __future__ import annotations

from itertools import count

import pytest

from tests.support.replay_questions import question
from traffic.schedule import GivenOrder, OldestFirst, Pace


def test_a_user_asks_one_at_a_time_and_in_order() -> None:
    questions = [question(user, number) for number in (2, 0, 1) for user in ("ann", "bob")]
    schedule = OldestFirst(questions)
    first, second = schedule.next(), schedule.next()
    assert first and second
    assert {first.query.text, second.query.text} == {"text 0"}
    assert schedule.next() is None and not schedule.over
    schedule.done(second)
    third = schedule.next()
    assert third and (third.query.user, third.query.text) == (second.query.user, "text 1")
    schedule.done(first)
    schedule.done(third)
    rest = [schedule.next(), schedule.next()]
    assert all(rest) and schedule.next() is None and not schedule.over
    for next_question in rest:
        assert next_question
        schedule.done(next_question)
    assert schedule.next() and schedule.over


def test_endless_questions_are_taken_as_they_come() -> None:
    schedule = GivenOrder(question("ann", number) for number in count())
    texts = [next_question.query.text for _ in range(3) if (next_question := schedule.next())]
    assert texts == ["text 0", "text 1", "text 2"] and not schedule.over


def test_nothing_to_ask_is_over_at_once() -> None:
    assert OldestFirst([]).over and GivenOrder([]).over and OldestFirst([]).next() is None


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_spaces_events_and_does_not_catch_up() -> None:
    clock = Clock()
    pace = Pace(10, clock)
    sent = []
    for now in (0.0, 0.05, 0.1, 0.2, 5.0, 5.05, 5.1):
        clock.now = now
        if pace.wait_s() == 0:
            pace.took()
            sent.append(now)
    assert sent == [0.0, 0.1, 0.2, 5.0, 5.1] or sent == [0.0, 0.1, 0.2, 5.0, 5.05, 5.1]
    assert pace.wait_s() == pytest.approx(0.1, abs=0.06)


def test_no_rate_never_waits() -> None:
    pace = Pace()
    for _ in range(3):
        assert pace.wait_s() == 0
        pace.took()

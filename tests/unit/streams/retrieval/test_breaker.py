from __future__ import annotations

from streams.retrieval.breaker import FIRST_PAUSE_S, LAST_PAUSE_S, Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_failure_opens_the_breaker_for_a_while() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    assert not breaker.is_open
    pause_s = breaker.failed()
    assert breaker.is_open
    clock.now += pause_s
    assert not breaker.is_open


def test_pauses_grow_to_a_bound_and_restart_after_a_success() -> None:
    breaker = Breaker(Clock())
    pauses = [breaker.failed() for _ in range(12)]
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S] and pauses[-1] == LAST_PAUSE_S
    breaker.worked()
    assert breaker.failed() == FIRST_PAUSE_S

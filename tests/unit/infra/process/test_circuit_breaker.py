from __future__ import annotations

import asyncio

import pytest

from infra.errors import RetryLater
from workers.base.breaker import LONGEST, Breaker
from workers.runtime.clock import ManualClock

OPEN_S = 3.0


def made(failures: int = 3) -> tuple[Breaker, ManualClock]:
    clock = ManualClock()
    return Breaker(failures, OPEN_S, clock), clock


def call(breaker: Breaker, error: BaseException | None = None) -> None:
    with breaker.call():
        if error:
            raise error


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(RetryLater, match="away"):
            call(breaker, RetryLater("away"))


def left_alone_s(breaker: Breaker) -> float:
    """For how long a caller is told to stay away."""
    with pytest.raises(RetryLater, match="left alone") as refused:
        call(breaker)
    return refused.value.after_s


def test_failures_in_a_row_open_it_and_callers_are_told_for_how_long() -> None:
    breaker, _ = made()
    fail(breaker, 2)
    assert not breaker.is_open
    fail(breaker)
    assert breaker.is_open
    assert left_alone_s(breaker) == OPEN_S


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker, _ = made()
    for _ in range(5):
        fail(breaker, 2)
        call(breaker)
    assert not breaker.is_open


@pytest.mark.parametrize(("error", "counts"), [(TimeoutError(), True), (ValueError(), False)])
def test_a_call_that_was_cut_off_is_a_failure_and_any_other_error_an_answer(error: Exception, counts: bool) -> None:
    breaker, _ = made()
    fail(breaker, 2)
    with pytest.raises(type(error)):
        call(breaker, error)
    assert breaker.is_open == counts


async def test_when_its_time_is_over_one_call_tries_and_a_success_closes_it() -> None:
    breaker, clock = made()
    fail(breaker, 3)
    await clock.advance(OPEN_S)
    with breaker.call():
        assert left_alone_s(breaker) == OPEN_S / 4, "one at a time"
    assert not breaker.is_open
    call(breaker)


async def test_a_try_that_fails_doubles_the_time_up_to_a_bound() -> None:
    breaker, clock = made()
    fail(breaker, 3)
    waits = []
    for _ in range(6):
        waits.append(left_alone_s(breaker))
        await clock.advance(waits[-1])
        fail(breaker)
    assert waits == [OPEN_S * factor for factor in (1, 2, 4, LONGEST, LONGEST, LONGEST)]


async def test_after_a_success_the_time_begins_small_again() -> None:
    breaker, clock = made()
    fail(breaker, 3)
    await clock.advance(OPEN_S)
    fail(breaker)
    await clock.advance(2 * OPEN_S)
    call(breaker)
    fail(breaker, 3)
    assert left_alone_s(breaker) == OPEN_S


async def test_a_try_that_is_cancelled_says_nothing_and_lets_another_try() -> None:
    breaker, clock = made()
    fail(breaker, 3)
    await clock.advance(OPEN_S)
    with pytest.raises(asyncio.CancelledError):
        call(breaker, asyncio.CancelledError())
    assert breaker.is_open
    call(breaker)
    assert not breaker.is_open


def test_calls_that_were_under_way_when_it_opened_do_not_lengthen_its_time() -> None:
    breaker, _ = made()

    def late() -> None:
        with breaker.call():
            fail(breaker, 3)
            raise RetryLater("late")

    with pytest.raises(RetryLater, match="late"):
        late()
    assert left_alone_s(breaker) == OPEN_S
